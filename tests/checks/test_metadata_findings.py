"""Findings of the metadata itself, and who can read it."""

from __future__ import annotations

import pathlib
import pickle
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Provenance
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.judge import check, judge
from inspector.checks.metadata.metadata import installed_torch, reading_notes
from tests.checks.editing import Edit, chunk, copy_of, edited, found, key, only, stored
from tests.conftest import GOLDEN, SAMPLES


def test_malformed(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        metadata.state_dict_metadata["model.w"].chunks.append(chunk([0], [1]))

    finding = only(edited(copy_of(tmp_path), edit), "entry-malformed")
    assert finding.fqn == "model.w"
    report = check(str(tmp_path / "ckpt"))
    assert any("malformed" in n.what for n in report.checked.not_checked)


def test_negative_byte_offset(tmp_path: Path) -> None:
    folder = edited(copy_of(tmp_path), lambda m: stored(m, "model.w", 1, offset=-4))
    report = check(str(folder))
    assert {f.code for f in report.findings if f.severity == "error"} == {
        "entry-malformed",
        "chunk-unstored",
    }


def test_unprintable_names(tmp_path: Path) -> None:
    report = check(str(SAMPLES / "names_hostile_1"))
    assert {f.code for f in report.findings} == {"name-unprintable"}
    assert report.verdict == "sound"
    assert all("\x1b" not in f.message for f in report.findings)
    folder = copy_of(tmp_path)
    edited(folder, lambda m: stored(m, "none", relative_path="x\x1b[2J.distcp"))
    assert found(check(str(folder)), "name-unprintable")[0].file == "x\x1b[2J.distcp"


class Unknown:
    """A harmless object in the metadata."""


class Evil:
    def __reduce__(self) -> object:
        return (print, ("run!",))


def test_unknown_class(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        metadata.planner_data["extra"] = Unknown()

    folder = edited(copy_of(tmp_path), edit)
    names = {f.code: f for f in check(str(folder)).findings}
    assert set(names) == {"metadata-unknown-class"}
    assert "Unknown" in names["metadata-unknown-class"].message


def test_unsafe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def edit(metadata: Metadata) -> None:
        metadata.planner_data["extra"] = Evil()

    folder = edited(copy_of(tmp_path), edit)
    report = check(str(folder))
    assert report.verdict == "suspicious"
    assert "print" in found(report, "metadata-unsafe")[0].message
    assert "run!" not in capfd.readouterr().out


@pytest.mark.parametrize(("version", "told"), [("1.0.0", 0), ("1.0.1", 1), ("2", 1), ("new", 1)])
def test_version(tmp_path: Path, version: str, told: int) -> None:
    folder = edited(copy_of(tmp_path), lambda m: setattr(m, "version", version))
    assert len(found(check(str(folder)), "metadata-version")) == told


@pytest.mark.parametrize(
    ("golden", "torch_version", "told"),
    [
        ("2.15.0/fsdp4", "2.14.1", True),
        ("2.15.0/fsdp4", "2.15.0", False),
        ("2.15.0/fsdp4", "3.0", False),
        ("1.13.1/st_flat", "2.13.0+cpu", True),
        ("1.13.1/st_flat", "1.13.1", False),
        ("2.10.0/fsdp4", "2.13.0", False),
        ("2.0.1/st_flat", "2.15.0", False),
    ],
)
def test_which_torch_reads_it(golden: str, torch_version: str, told: bool) -> None:
    folder = str(GOLDEN / golden)
    report = judge(open_checkpoint(folder), open_storage(folder), torch_version=torch_version)
    assert [f.severity for f in found(report, "metadata-version")] == ["note"] * told
    assert report.verdict == "sound"


def test_the_note_agrees_with_the_installed_torch() -> None:
    import torch.distributed.checkpoint as dcp

    for golden in ("2.15.0/fsdp4", "1.13.1/st_flat", "2.10.0/fsdp4"):
        folder = str(GOLDEN / golden)
        noted = bool(found(check(folder), "metadata-version"))
        tensor = open_checkpoint(folder).tensors[0]
        dtype = getattr(torch, tensor.dtype)
        target = {tensor.fqn: torch.zeros(tensor.shape, dtype=dtype)}
        try:
            dcp.load(target, checkpoint_id=folder, planner=dcp.DefaultLoadPlanner())
            loaded = True
        except BaseException:
            loaded = False
        assert loaded != noted, golden


def test_paths_of_another_python_or_system(tmp_path: Path) -> None:
    def notes(classes: tuple[str, ...], **where: object) -> list[str]:
        return [f.message for f in reading_notes(Provenance(classes=classes), **where)]  # type: ignore[arg-type]

    new = ("pathlib._local.PosixPath",)
    assert notes(new, python_version=(3, 12), platform="linux")
    assert not notes(new, python_version=(3, 13), platform="linux")
    assert notes(("pathlib.WindowsPath",), platform="linux")
    assert notes(("pathlib.PosixPath",), platform="win32")
    assert not notes(("pathlib.PosixPath",), platform="linux")
    assert notes(("no_such_package_xyz.Thing",))
    assert not notes(("json.Thing",))


@pytest.mark.parametrize(
    ("dtype", "before", "since"),
    [("bcomplex32", "2.13.0", "2.14.1"), ("float8_e8m0fnu", "2.6.0", "2.7.1")],
)
def test_a_dtype_of_a_later_torch(tmp_path: Path, dtype: str, before: str, since: str) -> None:
    """Measured: 2.6.0 raises AttributeError of float4 and float8_e8m0fnu, 2.13.0 of bcomplex32."""
    w = torch.ones(4, dtype=torch.float32 if dtype == "bcomplex32" else torch.uint8)
    dcp.save({"w": w}, checkpoint_id=tmp_path, no_dist=True)
    path = tmp_path / ".metadata"
    data = pickle.dumps(pickle.loads(path.read_bytes()), protocol=3)
    stored = str(w.dtype).removeprefix("torch.")
    assert data.count(f"ctorch\n{stored}\n".encode()) == 1
    path.write_bytes(data.replace(f"ctorch\n{stored}\n".encode(), f"ctorch\n{dtype}\n".encode()))
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.tensors[0].dtype == dtype
    storage = open_storage(str(tmp_path))
    (told,) = judge(checkpoint, storage, torch_version=before).findings
    assert (told.code, told.severity) == ("metadata-version", "note")
    assert f"a tensor is of {dtype}, which torch {since[:-2]} and later have" in told.message
    assert not judge(checkpoint, storage, torch_version=since).findings


def test_pathlib_of_python_3_13_in_a_pickle(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    metadata.storage_meta.checkpoint_id = pathlib.PosixPath("/x")
    # Unframed (protocol 3 has no frames), so that a name may change its length.
    data = pickle.dumps(metadata, protocol=3)
    data = data.replace(b"cpathlib\nPosixPath\n", b"cpathlib._local\nPosixPath\n")
    assert b"pathlib._local" in data
    path.write_bytes(data)
    checkpoint = open_checkpoint(str(folder))
    assert [f.code for f in reading_notes(checkpoint.provenance, python_version=(3, 11))] == [
        "metadata-version"
    ]
    assert not reading_notes(checkpoint.provenance, python_version=(3, 14))


class Tomorrow:
    """A class that torch does not have yet."""


def test_a_class_of_a_newer_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "torch.distributed.checkpoint.metadata"
    with monkeypatch.context() as patched:
        patched.setattr(Tomorrow, "__module__", module)
        # By sys.modules, as pickle does: torch's aliases make it twice after an old checkpoint.
        patched.setattr(sys.modules[module], "Tomorrow", Tomorrow, raising=False)

        def edit(metadata: Metadata) -> None:
            metadata.planner_data = {**(metadata.planner_data or {}), "new": Tomorrow()}

        folder = edited(copy_of(tmp_path), edit)
    report = check(str(folder))
    (finding,) = found(report, "metadata-unknown-class")
    assert finding.severity == "note"
    assert "metadata.Tomorrow" in finding.message
    assert f"the installed torch ({torch.__version__}) lacks" in finding.message
    with pytest.raises(AttributeError, match="Can't get attribute 'Tomorrow'"):
        pickle.loads((folder / ".metadata").read_bytes())


def keeps_a_later_entry(metadata: Metadata) -> None:
    metadata.state_dict_metadata["model.w"] = Tomorrow()


def keeps_later_chunks(metadata: Metadata) -> None:
    metadata.state_dict_metadata["model.w"].chunks = [Tomorrow()]


def keeps_later_properties(metadata: Metadata) -> None:
    metadata.state_dict_metadata["model.w"].properties = Tomorrow()


def keeps_later_places(metadata: Metadata) -> None:
    metadata.storage_data[key(metadata, "model.w")] = Tomorrow()


@pytest.mark.parametrize(
    "edit",
    [keeps_a_later_entry, keeps_later_chunks, keeps_later_properties, keeps_later_places],
)
def test_an_entry_of_a_newer_torch_is_no_damage(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "torch.distributed.checkpoint.metadata"
    with monkeypatch.context() as patched:
        patched.setattr(Tomorrow, "__module__", module)
        patched.setattr(sys.modules[module], "Tomorrow", Tomorrow, raising=False)
        folder = edited(copy_of(tmp_path), edit)
    report = check(str(folder))
    assert {(f.code, f.severity) for f in report.findings} == {("metadata-unknown-class", "note")}
    assert (report.verdict, report.exit_code) == ("unreadable", 2)
    assert report.findings[0].fqn == "model.w"
    assert any("no torch known here has" in left.why for left in report.checked.not_checked)
    with pytest.raises(AttributeError, match="Can't get attribute 'Tomorrow'"):
        pickle.loads((folder / ".metadata").read_bytes())


def test_a_class_that_the_installed_torch_has(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.planner import LoadPlan

    def edit(metadata: Metadata) -> None:
        metadata.planner_data = {**(metadata.planner_data or {}), "old": LoadPlan([])}

    folder = edited(copy_of(tmp_path), edit)
    assert not found(check(str(folder)), "metadata-unknown-class")
    assert pickle.loads((folder / ".metadata").read_bytes())


def test_the_installed_torch_is_found_as_importlib_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert installed_torch.__wrapped__() == version("torch")
    (tmp_path / "torch-1.99.0+cu999.dist-info").mkdir()
    (tmp_path / "torch_geometric-3.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", ["/nowhere", __file__, str(tmp_path), *sys.path])
    assert installed_torch.__wrapped__() == "1.99.0+cu999"
    (tmp_path / "torch-1.99.0+cu999.dist-info").rmdir()
    # As a build in place leaves it.
    (tmp_path / "torch.egg-info").mkdir()
    (tmp_path / "torch.egg-info" / "PKG-INFO").write_text("Name: torch\nVersion: 1.98.0a0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_torch.__wrapped__() == "1.98.0a0"
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    assert installed_torch.__wrapped__() is None
