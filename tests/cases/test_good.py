"""The net: of checkpoints that are as they should be nothing is told above a note."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from inspector.checks.findings import Report
from tests.cases.good import GOOD
from tests.checks.editing import judged
from tests.conftest import GOLDEN, ROOT, SAMPLES

_OLD = ("st_flat", "st_nested")
_OPTIM = (*_OLD, "ddp4", "fsdp4", "fsdp4_opt")
_ALL = (*_OPTIM, "hsdp2x2", "tp2d")
#: What each version of torch wrote.
WRITTEN = {
    "1.13.1": _OLD, "2.0.1": _OLD, "2.1.2": _OPTIM, "2.2.2": _ALL, "2.3.1": _ALL, "2.4.1": _ALL,
    "2.6.0": _ALL, "2.8.0": _ALL, "2.10.0": _ALL, "2.14.1": _ALL, "2.15.0": _ALL,
}  # fmt: skip
SAMPLED = (
    "accelerate_fsdp/optimizer_0 accelerate_fsdp/pytorch_model_fsdp_0 composer_2/ep1-ba20 ddp_4 "
    "dtypes_4 file_per_item_2 fsdp1_flat_4 fsdp1_sharded_tensor_4 fsdp2_adamw_4 "
    "fsdp2_hsdp_2x2_adamw fsdp2_hsdp_2x4_adamw fsdp2_tp_2x2 fsdp_4 fsdp_8 fsdp_uneven_4 "
    "fsdp_uneven_8 "
    "ddp_tp_4x2 fsdp_cp_4x2 fsdp_ep_2x4 hsdp_ep_2x2x2 hsdp_tp_uneven_2x2x2 "
    "pp_fsdp_2x2 pp_fsdp_2x2_apart/stage_0 pp_fsdp_2x2_apart/stage_1 pp_hsdp_2x2x2 tp_8 "
    "hf_dcp_consolidated_2 hf_dcp_consolidated_2/sharded hf_dcp_sharded_4 "
    "hf_dcp_sharded_hsdp_2x2 hf_dcp_whole_1 hsdp_2x2 hsdp_2x4 hsdp_shard_group_only_2x2 "
    "hsdp_tp_2x2x2 hsdp_uneven_2x2 hsdp_uneven_2x4 lightning_2 lowest_rank_2x2 "
    "megatron_2/iter_0000100 nemo_2/weights olmo_core_2/step100/model_and_optim "
    "per_rank_metadata_2 run/step-100 run/step-200 safetensors_1 torchtitan_2/step-10 "
    "torchtitan_2/step-20 trainer_2/checkpoint-2/optimizer_0 "
    "trainer_2/checkpoint-2/pytorch_model_fsdp_0 transformers_1 zstd_2"
).split()
#: Good, and told of all the same: its names are hostile; its last save never finished.
OTHERS = {"names_hostile_1", "run/step-300"}
FOLDERS = [
    *(SAMPLES / name for name in SAMPLED),
    *(GOLDEN / version / case for version, cases in WRITTEN.items() for case in cases),
    ROOT / "tests" / "data" / "per_rank_rng_hsdp_2x2",
]


def above_a_note(report: Report) -> list[str]:
    return [f"{f.code}: {f.message}" for f in report.findings if f.severity != "note"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_told_of_what_was_here(folder: Path) -> None:
    report = judged(folder)
    assert above_a_note(report) == []
    assert report.verdict == "sound"


def test_every_folder_is_in_the_net() -> None:

    assert {*SAMPLED, *OTHERS} == set(json.loads((SAMPLES / "expected.json").read_text()))
    there = {p.parent for p in GOLDEN.rglob(".metadata")}
    assert there == {f for f in FOLDERS if f.is_relative_to(GOLDEN)}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_told_of_what_torch_loads(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    GOOD[name](folder)
    loads(folder)
    report = judged(folder)
    assert above_a_note(report) == []
    assert report.verdict == "sound"
    assert not report.checked.not_checked


def loads(folder: Path) -> None:
    """Load every entry whole, with torch alone; it raises if one cannot be."""
    if not (folder / ".metadata").exists():
        return  # Metadata of every rank: it loads in the ranks alone.
    metadata = FileSystemReader(folder).read_metadata()
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        if isinstance(entry, TensorStorageMetadata)
        else None
        for name, entry in metadata.state_dict_metadata.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=folder, no_dist=True)
