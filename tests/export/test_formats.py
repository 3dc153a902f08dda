"""Every good checkpoint in every format, by its own reader: bit for bit what torch loads."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException

from inspector.errors import UsageError
from inspector.export.formats.files import ExportItem
from inspector.export.formats.numpy_files import npy_header
from inspector.export.formats.safetensors import parse_size
from inspector.export.formats.zips import ZipRecord, zip_file
from tests.conftest import GOLDEN, SAMPLES, folders_with_metadata, run_cli, some_fast
from tests.diff.making import DTYPES, sample, shards, tiling, write
from tests.export.helping import bits, exported, loaded

FOLDERS = [*folders_with_metadata(SAMPLES), *folders_with_metadata(GOLDEN)]
FAST = {"hsdp_2x2", "dtypes_4", "zstd_2", "names_hostile_1"}
FORMS = ("safetensors", "torch", "npz")
# Names that only torch.save's pickle holds.
HOSTILE = {"names_hostile_1": ("safetensors", "npz")}


def full(folder: Path) -> dict[str, torch.Tensor] | None:
    """What `dcp.load` gives as full tensors; None where this torch cannot read it."""
    try:
        metadata = FileSystemReader(str(folder)).read_metadata()
    except Exception:  # of another torch
        return None
    state = {
        name: torch.zeros(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if hasattr(entry, "size")
    }
    if state:
        dcp.load(state, storage_reader=FileSystemReader(str(folder)), no_dist=True)
    return state


@pytest.mark.parametrize(
    "folder",
    some_fast(FOLDERS, [folder for folder in FOLDERS if folder.name in FAST]),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_written_is_what_torch_loads(folder: Path, tmp_path: Path) -> None:
    try:
        want = full(folder)
    except CheckpointException:  # golden files of torch 1.13 that its successor cannot load
        want = None
    for form in FORMS:
        if form in HOSTILE.get(folder.name, ()):
            with pytest.raises(UsageError, match="cannot hold"):
                exported(folder, tmp_path / form, form=form)
            continue
        if want == {}:
            with pytest.raises(UsageError, match="no tensor"):
                exported(folder, tmp_path / form, form=form)
            continue
        report = exported(folder, tmp_path / form, form=form)
        assert (report.verdict, report.exit_code) == ("written", 0)
        assert {item.kind for item in report.left_out} <= {"bytes"}
        found = loaded(tmp_path / form, form)
        assert len(found) == len(report.tensors)
        if want is not None:
            assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in want.items()}
            if form != "npz":
                assert {k: v.dtype for k, v in found.items()} == {
                    k: v.dtype for k, v in want.items()
                }
        assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def every_dtype() -> dict[str, torch.Tensor]:
    state = {f"{dtype}".removeprefix("torch."): sample(dtype, (6, 5, 4)) for dtype in DTYPES}
    state |= {f"scalar.{name}": value[0, 0, 0].clone() for name, value in state.items()}
    return state | {"none": torch.zeros(0, 3), "one": torch.ones(1)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strided", [False, True])
def test_every_dtype_however_it_is_cut(form: str, strided: bool, tmp_path: Path) -> None:
    state = every_dtype()
    if form == "safetensors":
        del state["complex128"], state["scalar.complex128"]
    cuts = {name: tiling((6, 5, 4), n) for n, name in enumerate(state) if state[name].ndim == 3}
    folder = write(tmp_path / "ck", state, cuts, strided=strided)
    assert exported(folder, tmp_path / "out", form=form).verdict == "written"
    if form == "safetensors":
        with safe_open(tmp_path / "out", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            found: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    else:
        found = loaded(tmp_path / "out", form)
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in state.items()}
    if form == "npz":
        assert found["float32"].dtype == np.float32
        assert found["bfloat16"].dtype == np.dtype("V2")
    else:
        assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in state.items()}


def test_a_dtype_that_a_format_lacks_is_refused_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "ck", {"z": torch.zeros(2, dtype=torch.complex128)})
    with pytest.raises(UsageError, match=r"z: it has no dtype complex128"):
        exported(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_f32_is_offered_for_what_it_changes_alone(tmp_path: Path) -> None:
    state = {"c": torch.ones(2, dtype=torch.complex32), "b": torch.ones(2, dtype=torch.bfloat16)}
    for names, says in (("c", "raw bytes\n"), ("b", "f32 writes numbers\n"), ("", "of bfloat16\n")):
        chosen = {name: value for name, value in state.items() if names in name}
        folder = write(tmp_path / f"ck-{names}", chosen)
        ran = run_cli("export", folder, tmp_path / f"{names}.npz", "--format", "npz")
        assert ran.code == 0 and says in ran.out


def test_shards_as_hugging_face_names_them(tmp_path: Path) -> None:
    state = {f"layers.{n}.w": torch.randn(10, 10) for n in range(5)} | {"big": torch.randn(40, 10)}
    folder = write(tmp_path / "ck", state, {"big": shards((40, 10), 0, 4)})
    out = tmp_path / "model"
    report = exported(folder, out, max_shard_bytes=parse_size("1KB", "size"))
    # 400 B each: two of them in a shard, and one of its own for what is larger.
    names = [f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
    index = "model.safetensors.index.json"
    assert [file.name for file in report.files] == [*names, index]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, index])
    written = json.loads((out / index).read_text())
    assert written["metadata"]["total_size"] == sum(v.numel() * 4 for v in state.values())
    places = written["weight_map"]
    assert [places[f"layers.{n}.w"] for n in range(5)] == [names[n // 2] for n in range(5)]
    assert places["big"] == names[3]
    found = {name: load_file(out / places[name])[name] for name in places}
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in state.items()}
    # What all fits is one file, without an index.
    exported(folder, tmp_path / "one", max_shard_bytes=parse_size("5GB", "size"))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]


def test_sizes_are_hugging_faces() -> None:
    sizes = {"5GB": 5 * 10**9, "300MB": 3 * 10**8, "1.5KiB": 1536, "1000": 1000, "2 gib": 2 << 30}
    assert {text: parse_size(text, "size") for text in sizes} == sizes
    for text in ("", "0", "-1GB", "GB", "5XB", "1e9", "nan"):
        with pytest.raises(UsageError):
            parse_size(text, "size")


@pytest.mark.filterwarnings("ignore")
def test_plain_values_go_with_the_tensors_of_a_torch_file(tmp_path: Path) -> None:
    state = {
        "model": {"w": torch.arange(6.0).reshape(2, 3)},
        "opt": {
            "lr": 1e-4, "step": 3, "betas": (0.9, 0.95), "big": 2**70, "none": None, "on": True,
            "list": [torch.ones(2), {"x": torch.zeros(1)}], "set": {1, 2},
        },
    }  # fmt: skip
    dcp.save(state, checkpoint_id=str(tmp_path / "ck"), no_dist=True)
    report = exported(tmp_path / "ck", tmp_path / "nested", form="torch", is_nested=True)
    assert [(item.fqn, item.kind) for item in report.left_out] == [("opt.set", "bytes")]
    found = torch.load(tmp_path / "nested", weights_only=True)
    assert torch.equal(found["model"]["w"], state["model"]["w"])
    assert torch.equal(found["opt"]["list"][1]["x"], torch.zeros(1))
    plain = {k: v for k, v in found["opt"].items() if k != "list"}
    assert plain == {k: v for k, v in state["opt"].items() if k not in ("list", "set")}
    exported(tmp_path / "ck", tmp_path / "flat", form="torch")
    flat = torch.load(tmp_path / "flat", weights_only=True)
    assert flat["opt.step"] == 3
    assert set(flat) >= {"model.w", "opt.list.0", "opt.list.1.x", "opt.betas"}


def test_headers_of_more_than_four_gibibytes() -> None:
    """The places and the directory of a file of 10 GiB, read by zipfile from where they stand."""
    size = 5 << 30
    items = [ExportItem(n, f"t{n}", (size,), "uint8", f"t{n}", "uint8") for n in range(2)]
    records = [ZipRecord(f"a/t{n}", b"head", item, 64) for n, item in enumerate(items)]
    planned = zip_file("", [*records, ZipRecord("a/last", b"x" * 10)])
    parts = dict(planned.frame([1, 2]))

    class Sparse:
        """The file, with zeros for the tensors."""

        at = 0

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset + (0, self.at, planned.num_bytes)[whence]
            return self.at

        def tell(self) -> int:
            return self.at

        def seekable(self) -> bool:
            return True

        def read(self, count: int = -1) -> bytes:
            end = planned.num_bytes if count < 0 else min(self.at + count, planned.num_bytes)
            data = bytearray(end - self.at)
            for offset, part in parts.items():
                low, high = max(offset, self.at), min(offset + len(part), end)
                if low < high:
                    data[low - self.at : high - self.at] = part[low - offset : high - offset]
            self.at = end
            return bytes(data)

    with zipfile.ZipFile(Sparse()) as archive:  # type: ignore[call-overload]
        found = {
            entry.filename: (entry.file_size, entry.header_offset) for entry in archive.filelist
        }
        assert [found[f"a/t{n}"][0] for n in range(2)] == [size + 4] * 2
        assert archive.read("a/last") == b"x" * 10
        for n, region in enumerate(planned.regions):
            with archive.open(f"a/t{n}") as record:
                assert record.read(4) == b"head"
            name_bytes, extra_bytes = struct.unpack_from("<2H", parts[found[f"a/t{n}"][1]], 26)
            begin = found[f"a/t{n}"][1] + 30 + name_bytes + extra_bytes
            assert (begin + 4, begin % 64) == (region.offset, 0)


def test_a_header_of_numpy_is_numpys_own() -> None:
    for shape in ((), (3,), (2, 0, 4), (1,) * 30):
        for dtype in ("bool", "float16", "float64", "int8", "uint64", "complex64"):
            head = npy_header(dtype, shape)
            assert len(head) % 64 == 0
            version = np.lib.format.read_magic(io.BytesIO(head))
            assert version == (1, 0)
            found = np.lib.format.read_array_header_1_0(io.BytesIO(head[8:]))
            assert found == (shape, False, np.dtype(dtype))
