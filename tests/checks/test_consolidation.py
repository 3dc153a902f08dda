"""Ranks' shards and what was put together from them, beside each other and in one folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)

from inspector.checkpoint.find.locate import locate
from inspector.checkpoint.find.search import discover
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checks.findings import Report
from inspector.checks.judge import check
from tests.conftest import SAMPLES, run_cli, some_fast

WHOLE = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


def shard(folder: Path, rank: int, tensors: dict[str, tuple[list[int], torch.Tensor]]) -> str:
    """One rank's file, as HuggingFaceStorageWriter(save_distributed=True) names and fills it."""
    folder.mkdir(parents=True, exist_ok=True)
    offsets = {name: {"saved_offsets": where} for name, (where, _) in tensors.items()}
    about = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    path = folder / f"shard-{rank + 1:05}-{WHOLE}"
    save_file({name: t.contiguous() for name, (_, t) in tensors.items()}, path, metadata=about)
    return path.name


def whole(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A consolidated file and its index."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WHOLE)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, WHOLE)}))


TABLE = torch.arange(48.0).reshape(6, 8) + 1


def shards(folder: Path, lost: bool = False) -> None:
    """`table` by columns on two ranks, of each of which the first two may be lost; `norm` too."""
    for rank in range(2):
        first = 4 * rank + (2 if lost else 0)
        part = TABLE[:, first : 4 * rank + 4]
        shard(folder, rank, {"table": ([0, first], part), "norm": ([2 * rank], torch.ones(2))})


def filled(lost: bool = False) -> dict[str, torch.Tensor]:
    """What consolidation makes of those shards."""
    table = TABLE.clone()
    if lost:
        table[:, 0:2] = table[:, 4:6] = 0
    return {"table": table, "norm": torch.ones(4)}


def gaps(report: Report) -> list[Any]:
    return [(f.fqn, f.num_elements) for f in report.findings if f.code == "chunk-gap"]


def layout(tmp_path: Path, kind: str, lost: bool = False) -> Path:
    """The consolidated folder, its shards below or above it."""
    folder = tmp_path / "c"
    if kind == "below":
        shards(folder / "sharded", lost)
    else:
        shards(folder, lost)
        folder /= "consolidated"
    whole(folder, filled(lost))
    return folder


@pytest.mark.parametrize("kind", ["below", "above"])
def test_what_no_shard_holds_is_told_of_the_consolidation(tmp_path: Path, kind: str) -> None:
    report = check(str(layout(tmp_path, kind, lost=True)))
    assert report.verdict == "damaged"
    assert gaps(report) == [("table", 24)]
    (finding,) = (f for f in report.findings if f.code == "chunk-gap")
    assert finding.offsets == (0, 0) and finding.sizes == (6, 2)


@pytest.mark.parametrize("kind", ["below", "above"])
def test_a_whole_one_is_sound(tmp_path: Path, kind: str) -> None:
    report = check(str(layout(tmp_path, kind)))
    assert report.verdict == "sound" and not report.findings


def test_values_in_the_place_of_the_gap_are_not_doubted(tmp_path: Path) -> None:
    folder = layout(tmp_path, "below", lost=True)
    whole(folder, filled())
    assert not gaps(check(str(folder)))


def test_shards_that_cannot_be_read_are_not_checked_and_that_is_said(tmp_path: Path) -> None:
    folder = layout(tmp_path, "below")
    for path in (folder / "sharded").iterdir():
        path.write_bytes(b"x" * 20)
    report = check(str(folder))
    assert report.verdict == "sound"
    assert any("shards" in left.what for left in report.checked.not_checked)


def torch_loads(folder: Path) -> bool:
    """Whether DCP's own reader loads what lies there, whole."""
    state = {name: torch.zeros_like(t) for name, t in filled().items()}
    try:
        dcp.load(state, storage_reader=HuggingFaceStorageReader(path=str(folder)), no_dist=True)
    except dcp.api.CheckpointException:
        return False
    assert all(torch.equal(state[name], t) for name, t in filled().items())
    return True


@pytest.mark.parametrize("last", ["whole", "shards"])
def test_both_in_one_folder_are_judged_as_torch_loads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """torch goes through the files as the disk lists them: the last of one place counts."""
    folder = tmp_path / "c"
    shards(folder)
    whole(folder, filled())
    names = sorted(os.listdir(folder), reverse=last == "whole")
    names.sort(key=lambda name: (name == WHOLE) == (last == "whole"))
    monkeypatch.setattr(os, "listdir", lambda path: names)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / name for name in names]))
    report = check(str(folder))
    assert torch_loads(folder) == (report.verdict == "sound") == (last == "whole")
    (finding,) = (f for f in report.findings if f.code == "chunk-overlap")
    assert finding.severity == ("warning" if last == "whole" else "error")
    assert "file-unreferenced" not in {f.code for f in report.findings}


def test_shards_of_other_tensors_are_no_second_copy(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shard(folder, 0, {"other": ([0], torch.ones(2))})
    whole(folder, filled())
    report = check(str(folder))
    assert {f.code for f in report.findings} == {"file-unreferenced"}


# -- which of them a path means ----------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """Shards, their consolidation below, and an optimizer that DCP wrote: one step of one model."""
    folder = tmp_path / "step"
    shards(folder)
    whole(folder / "consolidated", filled())
    shutil.copytree(SAMPLES / "fsdp_4", folder / "optimizer_dcp")
    return folder


@pytest.mark.parametrize(
    "command",
    some_fast(
        [
            ("show",),
            ("check",),
            ("stats",),
            ("plan", "--mesh", "fsdp:2"),
            ("seal", "--output", "SEAL"),
        ],
        [("check",)],
    ),
    ids=lambda command: command[0],
)
def test_a_folder_of_shards_opens_as_itself(
    beside: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    rest = [str(tmp_path / "s.json") if word == "SEAL" else word for word in command[1:]]
    ran = run_cli(command[0], beside, *rest)
    assert ran.code == 0, ran.err
    assert "2 tensors" in ran.out or "208 B by all ranks" in ran.out
    assert run_cli("diff", beside, beside / "consolidated", "--values").code == 0


def test_what_lies_below_is_said_to_be_unchecked(beside: Path) -> None:
    left = [item.what for item in check(str(beside)).checked.not_checked]
    assert "consolidated, optimizer_dcp" in left


def test_a_folder_of_steps_stays_one(beside: Path) -> None:
    shutil.copytree(SAMPLES / "fsdp_4", beside / "step-10")
    assert isinstance(locate(str(beside)), list)


def test_a_file_of_a_folder_with_others_below_means_its_own_checkpoint(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    shutil.copytree(SAMPLES / "fsdp_4", tmp_path / "step-10")
    assert isinstance(locate(str(tmp_path)), list)
    ran = run_cli("stats", tmp_path / "model.safetensors")
    assert ran.code == 0 and "1 tensor" in ran.out


def test_a_link_to_a_step_is_no_second_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(SAMPLES / "fsdp_4", run / "step-10")
    shutil.copytree(SAMPLES / "fsdp_4", tmp_path / "elsewhere")
    (run / "LATEST").symlink_to("step-10")
    (run / "step-20").symlink_to(tmp_path / "elsewhere")
    (run / "self").symlink_to(run)
    found = [item.path for item in discover(LocalStorage(str(run)))]
    assert found == ["step-10", "step-20"]
    assert not isinstance(locate(str(run / "LATEST")), list)


def test_a_scalar_that_consolidation_zeroed_is_told(tmp_path: Path) -> None:
    """torch's own writer and consolidation; a zero that was saved as one is none."""
    state = {
        "logit_scale": torch.tensor(2.5),
        "zero": torch.tensor(0.0),
        "w": torch.tensor([2.5, 0.0]),
    }
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        writer = HuggingFaceStorageWriter(
            str(tmp_path / "c"), save_distributed=True, enable_consolidation=True
        )
        dcp.save(state, storage_writer=writer)
    finally:
        dist.destroy_process_group()
    lost = []
    for path in (tmp_path / "c").glob("*.safetensors"):
        lost += [fqn for fqn, t in load_file(path).items() if not torch.equal(t, state[fqn])]
    report = check(str(tmp_path / "c"))
    assert sorted(gaps(report)) == [(fqn, 1) for fqn in sorted(lost)]
    assert (report.verdict == "damaged") == bool(lost)
    shutil.rmtree(tmp_path / "c" / "sharded")
    assert check(str(tmp_path / "c")).verdict == "sound"


@pytest.mark.parametrize("named", [["table"], ["table", "norm"]])
def test_what_the_mapping_lacks_is_told(named: list[str], tmp_path: Path) -> None:
    """torch leaves a tensor out that the mapping lacks, and says nothing."""
    folder = tmp_path / "c"
    shards(folder / "sharded")
    consolidate_safetensors_files(str(folder / "sharded"), str(folder), dict.fromkeys(named, 1))
    assert sorted(load_file(folder / WHOLE)) == sorted(named)
    report = check(str(folder))
    assert report.verdict == "sound"
    assert [(f.code, f.severity) for f in report.findings] == [("index-mismatch", "note")] * (
        2 - len(named)
    )
    if named == ["table"]:
        (finding,) = report.findings
        assert "1 tensor" in finding.message and "norm" in finding.message
        state = {"norm": torch.zeros(4)}
        with pytest.raises(BaseException, match="Missing key"):
            dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
