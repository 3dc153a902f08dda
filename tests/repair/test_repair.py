"""What is repaired is what was saved; what nothing proves is left alone; what is there stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.checkpoint.find.locate import locate_one, read_checkpoint
from inspector.checkpoint.storage.local import LocalStorage
from inspector.cli.group import run_command
from inspector.errors import UsageError
from inspector.repair.inventory import take_inventory
from inspector.repair.run import RepairReport, RepairRequest, repair
from sample_ckpts.maker import editing as ed
from tests.cases.makers import full, ranks, uneven_from_local, uneven_over_tp
from tests.checks.ranks import StateDict
from tests.conftest import SAMPLES, folders_with_metadata, of_few_versions, some_fast
from tests.helpers.repair_table import (
    BY_NAME,
    DAMAGES,
    MOMENT,
    PAGE,
    attempt,
    check_outcome,
    contents,
    craft,
    loaded,
    page,
    row,
)
from tests.helpers.schemas import DOCUMENTS, fault

FAST = ("metadata-tmp", "box-uneven", "files-twins")


class _Line:
    """A progress that nobody looks at."""

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, progress: object) -> bool:
        return False


def repaired(path: Path, output: Path | None = None, **options: Any) -> RepairReport:
    request = RepairRequest(
        None if output is None else str(output), python=sys.executable, **options
    )
    return repair(str(path), request, _Line)


def sample(tmp_path: Path, name: str, base: str = "broken") -> Path:
    folder = tmp_path / "bad"
    shutil.copytree(SAMPLES / base / name, folder)
    return folder


@pytest.mark.parametrize("name", some_fast(BY_NAME, FAST))
def test_each_kind_of_damage_is_as_the_page_says(name: str, tmp_path: Path) -> None:
    tried = attempt(BY_NAME[name], tmp_path)
    check_outcome(BY_NAME[name], tried)
    assert row(BY_NAME[name], tried) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_each_kind_once() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    about = [line.split(" | ")[0].removeprefix("| ") for line in rows]
    table = about[about.index("damage") + 1 :]
    assert table == [damage.about for damage in DAMAGES] and len(table) >= 30
    assert page(rows[about.index("damage") + 1 :]) == text


@pytest.mark.parametrize("folder", of_few_versions(folders_with_metadata(SAMPLES)))
def test_the_inventory_finds_what_the_metadata_says(folder: Path) -> None:
    storage = locate_one(str(folder))
    checkpoint = read_checkpoint(storage)
    if any(checkpoint.columns.transforms.values()):
        pytest.skip("compressed payloads are not looked into")
    found = take_inventory(storage, [file.path for file in checkpoint.files])
    for tensor in checkpoint.tensors:
        for chunk in range(tensor.num_chunks):
            path = checkpoint.files[int(tensor.file[chunk])].path
            payload = found.beginning(path, int(tensor.byte_offset[chunk]))
            assert payload is not None and payload.length == tensor.byte_length[chunk]
            expected = ("tensor", tensor.dtype, tuple(tensor.sizes[chunk].tolist()))
            assert payload.what == expected
    num = checkpoint.num_chunks + len(checkpoint.bytes_entries)
    assert sum(map(len, found.files.values())) == num


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_archive_inside_a_tensor_is_no_payload(is_damaged: bool, tmp_path: Path) -> None:
    inner = ed.saved(torch.ones(3))
    outer = ed.saved(torch.frombuffer(bytearray(inner), dtype=torch.uint8))
    behind = ed.saved(torch.zeros(2))
    lost = outer[:-22] + bytes(22) if is_damaged else outer
    (tmp_path / "__0_0.distcp").write_bytes(lost + behind)
    found = take_inventory(LocalStorage(str(tmp_path)), ["__0_0.distcp"]).of("__0_0.distcp")
    assert [p.length for p in found] == ([len(behind)] if is_damaged else [len(outer), len(behind)])


@pytest.mark.parametrize(
    ("num_ranks", "make", "rows"), [(2, uneven_from_local, 4), (6, uneven_over_tp, 7)]
)
def test_shards_that_torch_records_with_wrong_boxes(
    num_ranks: int, make: Callable[[int], StateDict], rows: int, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    ranks(num_ranks, make)(bad)
    assert repaired(bad, tmp_path / "out").verdict == "repaired"
    assert torch.equal(loaded(tmp_path / "out")["model.w"], full(rows, 4))


def test_a_payload_whose_entry_is_gone_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    """Of the same dtype and shape, and nobody's: by elimination it would be the damaged one."""
    bad = sample(tmp_path, "step-200", "run")
    ed.patch_payload(bad, MOMENT, 0, lambda payload: bytes(len(payload)))
    ed.patch_payload(bad, MOMENT, 1, lambda payload: bytes(len(payload)))
    ed.drop_entry(bad, f"{MOMENT}_sq")
    report = repaired(bad, tmp_path / "out")
    assert report.verdict == "not-repaired" and not report.plan.steps
    assert not (tmp_path / "out").exists()


def test_likely_steps_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_command(["repair", str(SAMPLES / "broken/chunk_gap"), str(out)]) == 1
    assert not out.exists()
    arguments = ["repair", str(SAMPLES / "broken/chunk_gap"), str(out), "--allow-likely"]
    assert run_command(arguments) == 0
    assert "LIKELY, not proven: 1 step" in capsys.readouterr().out


def test_values_of_another_step_are_said_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sample(tmp_path, "step-200", "run")
    ed.patch_payload(bad, MOMENT, 0, lambda payload: bytes(len(payload)))
    older = str(SAMPLES / "run/step-100")
    assert run_command(["repair", str(bad), "--from", older]) == 1
    told = capsys.readouterr().out
    assert "OF AN OLDER STEP, not this one's values: 1 step" in told and MOMENT in told


@pytest.mark.parametrize(
    "name, verdict, code",
    [("range_short", "repairable", 1), ("file_missing", "not-repairable", 1),
     ("metadata_cut", "not-repairable", 2), ("bytes_trailing", "sound", 0)],
)  # fmt: skip
def test_without_out_it_only_says_what_could_be_done(
    name: str, verdict: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sample(tmp_path, name)
    before = contents(tmp_path)
    assert run_command(["repair", str(bad), "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == verdict and fault(document, DOCUMENTS["repair"]) == ""
    assert contents(tmp_path) == before


def test_a_repair_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, out = sample(tmp_path, "range_short"), tmp_path / "out"
    assert run_command(["repair", str(bad), str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert fault(document, DOCUMENTS["repair"]) == ""
    assert (document["verdict"], document["after"]) == ("repaired", "sound")
    assert run_command(["check", str(out), "--deep"]) == 0


@pytest.mark.parametrize("place", ["bad", "bad/new", "full", "file", "nowhere/new", "link/new"])
def test_a_place_that_may_not_be_written(place: str, tmp_path: Path) -> None:
    bad = sample(tmp_path, "range_short")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(bad)
    before = contents(tmp_path)
    with pytest.raises(UsageError):
        run_command(["repair", str(bad), str(tmp_path / place)])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("is_copy", [False, True])
def test_files_are_links_or_copies(is_copy: bool, tmp_path: Path) -> None:
    bad, out = sample(tmp_path, "ranks_swapped"), tmp_path / "out"
    out.mkdir()  # An empty folder is taken.
    report = repaired(bad, out, is_copy=is_copy)
    assert report.verdict == "repaired" and report.carried is not None
    same = os.path.samefile(out / "__0_0.distcp", bad / "__2_0.distcp")
    assert same is not is_copy
    assert (report.carried.num_linked == 0) is is_copy


@pytest.mark.parametrize("moment", ["rename", "link"])
def test_stopped_it_leaves_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = sample(tmp_path, "ranks_swapped")
    before = contents(bad)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, moment, lambda *names: signal.raise_signal(signal.SIGINT))
        repaired(bad, tmp_path / "out")
    assert os.listdir(tmp_path) == ["bad"] and contents(bad) == before


def test_metadata_with_a_class_that_torch_does_not_write_is_not_written_anew(
    tmp_path: Path,
) -> None:
    """Reading it would import the class, which comes from outside."""
    bad = sample(tmp_path, "range_short")
    ed.edit(bad, lambda metadata: metadata.planner_data.update(x=Counter()))
    report = repaired(bad, tmp_path / "out")
    assert report.verdict == "not-repaired" and not (tmp_path / "out").exists()
    assert "collections.Counter" in report.plan.unrepaired[0].why


def test_files_of_another_layout_are_not_like(tmp_path: Path) -> None:
    like, bad = tmp_path / "like", tmp_path / "bad"
    craft(like, (4, 4), [("__0_0.distcp", (0, 0), torch.ones(4, 4))], ("a", "b"))
    craft(bad, (8, 2), [("__0_0.distcp", (0, 0), torch.ones(8, 2))], ("a", "b"))
    (bad / ".metadata").unlink()
    report = repaired(bad, tmp_path / "out", like=str(like))
    assert report.verdict == "not-repaired" and "float32 [4, 4]" in report.plan.unrepaired[0].why


@pytest.mark.parametrize("name", ["transformers_1", "hf_dcp_whole_1"])
def test_safetensors_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="safetensors"):
        run_command(["repair", str(SAMPLES / name)])


@pytest.mark.slow
@pytest.mark.torchrun
def test_the_result_is_proven_by_verify(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["repair", str(SAMPLES / "broken/range_short"), str(tmp_path / "out")]
    assert run_command([*arguments, "--verify", "fsdp:2"]) == 0
    assert "EXACT" in capfd.readouterr().out
