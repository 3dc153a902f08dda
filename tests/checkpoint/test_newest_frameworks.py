"""Frameworks of 2026 are told by what their writers leave, and others are not taken for them.

Each case is a checkpoint that DCP or safetensors wrote, in the folders and beside the files that
the framework's own writer makes (read from the packages: nemo-automodel 0.7.0, VeOmni 0.1.12,
LLaMA-Factory 0.9.5, ms-swift 4.6.0, fairchem-core 2.24.0, modalities 0.5.0, verl 0.9.1,
cosmos-rl 0.4.7, transformers 5.24.0, ByteCheckpoint 0.0.2).
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.lookalike import lookalike
from inspector.checkpoint.model import Framework
from inspector.checkpoint.storage.local import LocalStorage
from inspector.errors import MetadataError
from tests.conftest import SAMPLES, run_cli

SWIFT = json.dumps({"swift_version": "4.6.0", "model": "a"})
LLAMA = json.dumps({"transformers_version": "5.24.0"})
SHARD = "shard-00001-model-00001-of-00001.safetensors"
TARGET = "_target_: nemo_automodel.recipes.Train\n"

# name, certain, sample, where it is copied to, files near it with their text
CASES: list[tuple[str, bool, str, str, dict[str, str]]] = [
    ("NeMo AutoModel", True, "hf_dcp_sharded_4", "epoch_0_step_9/model",
     {"epoch_0_step_9/config.yaml": TARGET, "epoch_0_step_9/losses.json": "{}"}),
    ("NeMo AutoModel", False, "fsdp_4", "epoch_0_step_9/optim",
     {"epoch_0_step_9/losses.json": "{}"}),
    ("Transformers", True, "hf_dcp_sharded_4", "ckpt", {"ckpt/config.json": LLAMA}),
    ("VeOmni", False, "fsdp2_adamw_4", "global_step_7",
     {"global_step_7/extra_state/extra_state_rank_0.pt": ""}),
    ("VeOmni", False, "fsdp_4", "global_step_7/model", {"global_step_7/extra_state/a": ""}),
    ("LLaMA-Factory", False, "fsdp_4", "checkpoint-5/model",
     {"checkpoint-5/CHECKPOINT_COMPLETE": "", "checkpoint-5/rng_state/rank_0.pt": ""}),
    ("LLaMA-Factory", False, "safetensors_1", "out", {"out/trainer_log.jsonl": ""}),
    ("LLaMA-Factory (Accelerate)", False, "accelerate_fsdp/optimizer_0",
     "run/checkpoint-5/optimizer_0", {"run/trainer_log.jsonl": ""}),
    ("ms-swift", True, "transformers_1", "out/checkpoint-5", {"out/checkpoint-5/args.json": SWIFT}),
    ("ms-swift (Accelerate)", True, "accelerate_fsdp/optimizer_0", "checkpoint-5/optimizer_0",
     {"checkpoint-5/args.json": SWIFT}),
    ("ms-swift (Megatron-Core)", True, "megatron_2/iter_0000100", "out/iter_0000100",
     {"out/args.json": SWIFT}),
    ("modalities", False, "fsdp_4",
     "eid_2026-1-seen_steps_10-seen_tokens_99-target_steps_20-target_tokens_200",
     {"last_checkpoint_info.json": "{}"}),
    ("verl", False, "transformers_1", "global_step_7/actor/huggingface",
     {"global_step_7/actor/fsdp_config.json": "{}"}),
    ("verl (Megatron-Core)", False, "megatron_2/iter_0000100", "actor/model/dist_ckpt",
     {"actor/model/huggingface/config.json": "{}"}),
    ("cosmos-rl", False, "hf_dcp_whole_1", "run/safetensors/step_20", {"run/checkpoints/a": ""}),
    ("cosmos-rl", False, "fsdp_4", "checkpoints/iter_000000010/model",
     {"checkpoints/latest_checkpoint.txt": "iter_000000010"}),
]  # fmt: skip


def framework_of(path: Path) -> Framework:
    found = open_checkpoint(str(path)).framework
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "certain", "sample", "where", "files"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES]
)
def test_it_is_named_with_evidence_and_only_with_it(
    tmp_path: Path, name: str, certain: bool, sample: str, where: str, files: dict[str, str]
) -> None:
    folder = tmp_path / where
    shutil.copytree(SAMPLES / sample, folder)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = framework_of(folder)
    assert (found.name, found.certain) == (name, certain), found.evidence
    assert found.evidence
    # The same bytes elsewhere, without what lies near them, are nobody's of these.
    shutil.copytree(SAMPLES / sample, tmp_path / "elsewhere/mine")
    nobodys = framework_of(tmp_path / "elsewhere/mine").name
    assert nobodys.split(" (")[0] != name.split(" (")[0]


def test_fairchem_is_told_by_its_resume_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "step_10"
    dcp.save({"unit_state": {"model": {"w": torch.ones(2)}}}, checkpoint_id=folder, no_dist=True)
    assert framework_of(folder).name == "torch.distributed.checkpoint"
    (folder / "resume.yaml").write_text("runner:\n  _target_: fairchem.core.Runner\n")
    found = framework_of(folder)
    assert (found.name, found.certain) == ("fairchem", True)
    # Not by the file's name alone.
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "resume.yaml", tmp_path / "other")
    dcp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path / "other", no_dist=True)
    assert framework_of(tmp_path / "other").name == "torch.distributed.checkpoint"


def test_the_optimizer_beside_shards_of_transformers(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "hf_dcp_sharded_4", tmp_path / "ckpt")
    (tmp_path / "ckpt/config.json").write_text(LLAMA)
    state = {"optimizer": {"state": {"w": {"step": torch.ones(())}}}}
    dcp.save(state, checkpoint_id=tmp_path / "ckpt/optimizer_dcp", no_dist=True)
    found = framework_of(tmp_path / "ckpt/optimizer_dcp")
    assert (found.name, found.certain) == ("Transformers", True)


@dataclass
class Metadata:
    """As ByteCheckpoint's own: its name is the same as torch's, its package is not."""

    state_dict_metadata: dict[str, Any] = field(default_factory=dict)


def test_metadata_of_another_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("bytecheckpoint.meta_type")
    monkeypatch.setattr(Metadata, "__module__", module.__name__)
    monkeypatch.setattr(module, "Metadata", Metadata, raising=False)
    monkeypatch.setitem(sys.modules, "bytecheckpoint", types.ModuleType("bytecheckpoint"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata()))
    (tmp_path / "__0_0.distcp").write_bytes(b"x" * 8)
    with pytest.raises(MetadataError) as caught:
        open_checkpoint(str(tmp_path))
    assert "package bytecheckpoint" in caught.value.hint


def test_cosmos_rls_files_of_each_rank_are_named(tmp_path: Path) -> None:
    for name in ("cosmos_config", ".rank_0_complete", "model_rank_0.pth", "optimizer_rank_0.pth"):
        (tmp_path / name).write_bytes(b"x")
    found = lookalike(LocalStorage(str(tmp_path)).list())
    assert found is not None and "cosmos-rl" in found.what


@pytest.fixture
def items_of_ranks(tmp_path: Path) -> Path:
    """torch_checkpointing 0.1.1's layout: `metadata.pkl`, and a file for each item and rank."""
    from safetensors.torch import save_file

    folder = tmp_path / "ckpt"
    folder.mkdir()
    described = {"metadata": {"model": {"nested_path_to_metadata": {'["w"]': []}}}}
    (folder / "metadata.pkl").write_bytes(pickle.dumps(described))
    for rank in range(2):
        save_file({"w": torch.ones(3, 2)}, folder / f"model_{rank}.safetensors")
        torch.save(7, folder / f"step_{rank}.pt")
    return folder


@pytest.mark.parametrize(
    "command",
    [("show",), ("check",), ("stats",), ("seal",), ("plan", "--mesh", "fsdp:2"),
     ("verify", "--mesh", "fsdp:2"), ("diff", "SELF")],
    ids=lambda command: command[0],
)  # fmt: skip
def test_torch_checkpointing_is_refused_in_words(
    items_of_ranks: Path, command: tuple[str, ...]
) -> None:
    rest = [str(items_of_ranks) if word == "SELF" else word for word in command[1:]]
    ran = run_cli(command[0], items_of_ranks, *rest)
    assert ran.code == 2
    assert "torch_checkpointing" in ran.out + ran.err and "Traceback" not in ran.err
    assert "sound" not in ran.out


def test_torch_checkpointing_in_a_run_and_its_files_by_name(items_of_ranks: Path) -> None:
    listed = run_cli("show", items_of_ranks.parent, "--json")
    assert [c["state"] for c in listed.json()["checkpoints"]] == ["unreadable"]
    assert run_cli("stats", items_of_ranks / "model_0.safetensors").code == 0
    # Two models beside somebody's own metadata.pkl are none of it.
    (items_of_ranks / "metadata.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert len(run_cli("show", items_of_ranks, "--json").json()["checkpoints"]) == 2
