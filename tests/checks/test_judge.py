"""Whole reports: unreadable checkpoints, other formats, empty ones, run folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from inspector.checkpoint.find.search import RunListing
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.findings import Coverage, Finding, NotChecked, Report
from inspector.checks.judge import check, merge
from inspector.checks.run import Judged, check_folder
from inspector.checks.steps import Step, newest_sound, steps_of
from inspector.errors import NotACheckpointError, StorageError
from tests.checks.editing import copy_of, edited, found
from tests.conftest import SAMPLES


def codes(folder: Path) -> list[str]:
    return [f.code for f in check(str(folder)).findings]


def test_no_metadata(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / ".metadata").unlink()
    report = check(str(folder))
    assert [f.code for f in report.findings] == ["metadata-missing"]
    assert report.verdict == "unreadable"
    assert report.checked.not_checked[0].what == "everything"


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        check(str(tmp_path / "no"))
    (tmp_path / "x.pt").write_bytes(b"PK")
    with pytest.raises(NotACheckpointError):
        check(str(tmp_path / "x.pt"))


def test_an_unfinished_save_that_renaming_repairs(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / ".metadata").rename(folder / ".metadata.tmp")
    assert codes(folder) == ["metadata-missing", "save-unfinished"]
    finding = found(check(str(folder)), "save-unfinished")[0]
    assert "is complete" in finding.message
    assert ", rename .metadata.tmp to .metadata" in finding.hint
    (folder / ".metadata.tmp").rename(folder / ".metadata")
    assert check(str(folder)).verdict == "sound"


def test_an_unfinished_save_that_cannot_be_repaired(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    data = (folder / ".metadata").read_bytes()
    (folder / ".metadata").unlink()
    (folder / ".metadata.tmp").write_bytes(data[: len(data) // 2])
    finding = found(check(str(folder)), "save-unfinished")[0]
    assert "not complete" in finding.message
    (folder / ".metadata.tmp").write_bytes(data)
    (folder / "__1_0.distcp").unlink()
    finding = found(check(str(folder)), "save-unfinished")[0]
    assert "would not repair" in finding.hint
    assert "__1_0.distcp" in finding.message


def test_a_folder_that_is_named_temporary(tmp_path: Path) -> None:
    folder = tmp_path / "step-5.tmp"
    shutil.copytree(copy_of(tmp_path), folder)
    (folder / ".metadata").unlink()
    assert codes(folder) == ["metadata-missing", "save-unfinished"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x80\x04\x95", "metadata-truncated"),
        (b"<html>", "metadata-unreadable"),
        (b"\x80\x04N.", "metadata-unreadable"),
        (b"cos\nsystem\n(S'touch /tmp/never'\ntR.", "metadata-unsafe"),
    ],
)
def test_metadata_that_cannot_be_read(tmp_path: Path, data: bytes, code: str) -> None:
    folder = copy_of(tmp_path)
    (folder / ".metadata").write_bytes(data)
    report = check(str(folder))
    assert [f.code for f in report.findings] == [code]
    assert report.findings[0].torch_does
    assert report.findings[0].hint
    assert report.verdict == ("suspicious" if code == "metadata-unsafe" else "unreadable")


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["0.metadata", "0_0.distcp", "1_0.distcp"], "PaddlePaddle"),
        (["model_world_size_32_rank_26.pt", "optim_world_size_32_rank_26.pt"], "verl"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"], "DeepSpeed"),
        (["global_step100/", "latest"], "DeepSpeed"),
        (["mp_rank_00/", "mp_rank_01/"], "Megatron-LM"),
        (["checkpoint_rank_0.pt", "checkpoint_rank_1.pt"], "per-rank"),
        (["_CHECKPOINT_METADATA", "manifest.ocdbt"], "Orbax"),
        ([".snapshot_metadata", "0/"], "torchsnapshot"),
        (["model.pt"], "torch.save"),
        (["torch_checkpointing.json", "rank0.bin"], "torch_checkpointing"),
    ],
)
def test_what_looks_like_one_and_is_not(tmp_path: Path, names: list[str], word: str) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"x")
    report = check(str(tmp_path))
    assert [f.code for f in report.findings] == ["metadata-missing"]
    assert word in report.findings[0].message
    assert report.findings[0].hint


def test_data_without_metadata_is_no_other_format(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / "meta.pt").write_bytes(b"x")
    assert "torch.save" not in check(str(tmp_path)).findings[0].message


def emptied(metadata: object) -> None:
    for name in ("state_dict_metadata", "storage_data", "planner_data"):
        setattr(metadata, name, {})


def test_an_empty_state_dict_is_no_error_and_not_silent(tmp_path: Path) -> None:
    folder = edited(copy_of(tmp_path), emptied)
    for path in folder.glob("*.distcp"):
        path.write_bytes(b"")
        os.utime(path, (1_700_000_000, 1_700_000_000))
    report = check(str(folder))
    assert (report.verdict, report.exit_code) == ("suspicious", 2)
    assert not report.findings
    assert [n.what for n in report.checked.not_checked] == ["everything"]
    judged = list(check_folder(open_storage(str(tmp_path))))
    assert newest_sound(steps(judged)) is None


@pytest.mark.parametrize("beside", ["__9_0.distcp", "x.tmp", ".metadata"])
def test_a_note_beside_an_empty_state_dict_makes_it_no_sounder(tmp_path: Path, beside: str) -> None:
    folder = edited(copy_of(tmp_path), emptied)
    for path in folder.glob("*.distcp"):
        path.write_bytes(b"")
    (folder / beside).open("ab").write(b"more")
    report = check(str(folder))
    assert report.findings
    assert (report.verdict, report.exit_code) == ("suspicious", 2)


def test_a_deeper_check_is_merged(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)

    class Part:
        findings = (Finding("payload-corrupt", "x"),)
        checked = Coverage(4, 4, 4, 30, 5000, (NotChecked("one", "slow"),))

    def deep(checkpoint: Checkpoint, storage: Storage) -> Part:
        assert checkpoint.num_tensors == 9
        assert storage.root == str(folder)
        return Part()

    report = check(str(folder), deep=deep)
    assert [f.code for f in report.findings] == ["payload-corrupt"]
    assert report.verdict == "damaged"
    assert (report.checked.tensors, report.checked.payloads) == (9, 30)
    assert [n.what for n in report.checked.not_checked] == ["one"]


def test_merged_findings_are_in_order() -> None:
    report = merge(
        Report("", (Finding("file-newer", ""), Finding("file-leftover", ""))),
        [Finding("payload-corrupt", ""), Finding("values-nan", "")],
        Coverage(),
    )
    assert [f.code for f in report.findings] == [
        "payload-corrupt", "file-newer", "values-nan", "file-leftover",
    ]  # fmt: skip


def steps(judged: Iterable[Judged]) -> list[Step]:
    items = list(judged)
    return steps_of(RunListing(LocalStorage("run"), [item.found for item in items]), items)


def test_a_run_folder() -> None:
    judged = list(check_folder(open_storage(str(SAMPLES / "run"))))
    assert [(j.found.step, j.report.verdict) for j in judged] == [
        (100, "sound"),
        (200, "sound"),
        (300, "unreadable"),
    ]
    newest = newest_sound(steps(judged))
    assert newest is not None
    assert newest.path == "step-200"


def test_the_newest_sound_step_passes_over_a_damaged_one(tmp_path: Path) -> None:
    for step in (5, 10):
        shutil.copytree(copy_of(tmp_path / f"x{step}"), tmp_path / "run" / f"step-{step}")
    (tmp_path / "run" / "step-10" / "__1_0.distcp").unlink()
    judged = list(check_folder(open_storage(str(tmp_path / "run"))))
    newest = newest_sound(steps(judged))
    assert newest is not None
    assert newest.step == 5
    (tmp_path / "run" / "step-5" / ".metadata").write_bytes(b"")
    assert newest_sound(steps(check_folder(open_storage(str(tmp_path / "run"))))) is None


def test_over_fsspec(tmp_path: Path) -> None:
    import fsspec

    folder = copy_of(tmp_path)
    fs = fsspec.filesystem("memory")
    fs.put(str(folder), "/judged/ckpt", recursive=True)
    try:
        report = check("memory://judged/ckpt")
        assert report.verdict == "sound"
        fs.rm("/judged/ckpt/__1_0.distcp")
        assert [f.code for f in check("memory://judged/ckpt").findings] == ["file-missing"]
    finally:
        fs.rm("/judged", recursive=True)
