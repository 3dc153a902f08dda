"""Whose checkpoint it is, with evidence; and that every layout opens from its outer folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from tests.conftest import GOLDEN, SAMPLES, run_cli

TRUTHS: dict[str, Any] = {
    path: truth
    for path, truth in json.loads((SAMPLES / "expected.json").read_text()).items()
    if truth["metadata"] != [".metadata.tmp"]
}
#: What only that framework writes; the others are told by names of folders and keys.
CERTAIN = {
    "Accelerate",
    "Lightning",
    "Megatron-Core",
    "NeMo (Megatron-Core)",
    "OLMo-core",
    "Transformers",
    "Transformers (Accelerate)",
    "torchtitan",
    "Composer",
}
NAMES = {truth["framework"] for truth in TRUTHS.values()}


def test_there_is_a_sample_of_every_framework() -> None:
    assert CERTAIN | {"torch.distributed.checkpoint", "safetensors"} <= NAMES


@pytest.mark.parametrize("path", TRUTHS)
def test_a_sample_names_its_framework(path: str) -> None:
    framework = open_checkpoint(str(SAMPLES / path)).framework
    assert framework is not None
    assert framework.name == TRUTHS[path]["framework"]
    assert framework.evidence
    if framework.name in CERTAIN:
        assert framework.certain, framework.evidence


@pytest.mark.parametrize(
    "name",
    ["torch.distributed.checkpoint", "safetensors"],
)
def test_what_no_framework_marks_is_not_called_certain(name: str) -> None:
    path = next(p for p, t in TRUTHS.items() if t["framework"] == name)
    framework = open_checkpoint(str(SAMPLES / path)).framework
    assert framework is not None and not framework.certain


def test_golden_checkpoints_are_nobodys() -> None:
    for folder in sorted(GOLDEN.glob("2.*/hsdp2x2")):
        framework = open_checkpoint(str(folder)).framework
        assert framework is not None and framework.name == "torch.distributed.checkpoint"


@pytest.mark.parametrize(
    ("outer", "opens"),
    [
        ("nemo_2", "nemo_2/weights"),
        ("olmo_core_2/step100", "olmo_core_2/step100/model_and_optim"),
        ("lightning_2", "lightning_2"),
        ("lightning_2/meta.pt", "lightning_2"),
        ("megatron_2/iter_0000100", "megatron_2/iter_0000100"),
        ("megatron_2/iter_0000100/common.pt", "megatron_2/iter_0000100"),
        ("megatron_2/iter_0000100/metadata.json", "megatron_2/iter_0000100"),
        ("megatron_2/iter_0000100/__0_1.distcp", "megatron_2/iter_0000100"),
        ("megatron_2/latest_checkpointed_iteration.txt", "megatron_2/iter_0000100"),
        ("hsdp_2x2/.metadata", "hsdp_2x2"),
        ("torchtitan_2/step-20", "torchtitan_2/step-20"),
        ("torchtitan_2/step-20/model.safetensors.index.json", "torchtitan_2/step-20"),
        ("hf_dcp_consolidated_2", "hf_dcp_consolidated_2"),
        ("hf_dcp_consolidated_2/sharded", "hf_dcp_consolidated_2/sharded"),
        ("hf_dcp_sharded_4/shard-00003-model-00001-of-00001.safetensors", "hf_dcp_sharded_4"),
        ("transformers_1/model-00002-of-00002.safetensors", "transformers_1"),
        ("transformers_1/config.json", "transformers_1"),
        ("safetensors_1/model.safetensors", "safetensors_1"),
    ],
)
def test_a_path_opens_what_it_means(outer: str, opens: str) -> None:
    ran = run_cli("show", SAMPLES / outer, "--json")
    assert ran.code == 0, ran.err
    checkpoint = ran.json()["checkpoint"]
    assert checkpoint["path"] == str(SAMPLES / opens)
    assert checkpoint["framework"]["name"] == TRUTHS[opens]["framework"]


@pytest.mark.parametrize(
    ("outer", "parts"),
    [
        ("accelerate_fsdp", {"optimizer_0", "pytorch_model_fsdp_0"}),
        (
            "trainer_2",
            {"checkpoint-2/optimizer_0", "checkpoint-2/pytorch_model_fsdp_0"},
        ),
        ("torchtitan_2", {"step-10", "step-20"}),
        ("megatron_2", {"iter_0000100"}),
        ("composer_2", {"ep1-ba20"}),
    ],
)
def test_a_folder_of_parts_lists_them(outer: str, parts: set[str]) -> None:
    ran = run_cli("show", SAMPLES / outer, "--json")
    assert {c["path"] for c in ran.json()["checkpoints"]} == parts
    judged = run_cli("check", SAMPLES / outer, "--json", "--deep")
    assert judged.code == 0
    assert {c["verdict"] for c in judged.json()["checkpoints"]} == {"sound"}


def test_text_and_screen_say_it_too() -> None:
    text = run_cli("show", SAMPLES / "megatron_2/iter_0000100").out
    assert "framework   Megatron-Core, certain" in text
    assert "metadata.json names its sharded backend: torch_dist, version 1" in text
    from inspector.tui.screens.header import header_lines

    first, _ = header_lines(open_checkpoint(str(SAMPLES / "megatron_2/iter_0000100")), None)
    assert "by Megatron-Core" in first
    first, _ = header_lines(open_checkpoint(str(SAMPLES / "hsdp_2x2")), None)
    assert not any("distributed" in fact for fact in first)


def test_a_renamed_folder_takes_certainty_away(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "accelerate_fsdp/optimizer_0", tmp_path / "optimizer_0")
    framework = open_checkpoint(str(tmp_path / "optimizer_0")).framework
    assert framework is not None
    assert (framework.name, framework.certain) == ("Accelerate", False)
    (tmp_path / "optimizer_0").rename(tmp_path / "mine")
    framework = open_checkpoint(str(tmp_path / "mine")).framework
    assert framework is not None and framework.name == "torch.distributed.checkpoint"


def test_files_that_lie_do_no_harm(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "c"))
    for text in ("{", "[]", '{"sharded_backend": 3}', '{"sharded_backend": "\\u001b[31m"}'):
        (folder / "metadata.json").write_text(text)
        framework = open_checkpoint(str(folder)).framework
        assert framework is not None and "\x1b" not in "".join(framework.evidence)
    (folder / "metadata.json").write_bytes(b"[" * 2_000_000)
    assert open_checkpoint(str(folder)).framework is not None


@pytest.mark.own_readers  # They stand where this process stands.
def test_a_relative_path_knows_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLES / "accelerate_fsdp/optimizer_0")
    framework = open_checkpoint(".").framework
    assert framework is not None and framework.name == "Accelerate"


def test_a_remote_checkpoint_costs_no_request_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    from inspector.checkpoint.dcp import read_dcp
    from inspector.checkpoint.find.locate import read_checkpoint
    from inspector.checkpoint.storage.opening import open_storage

    memory = fsspec.filesystem("memory")
    for file in (SAMPLES / "megatron_2/iter_0000100").iterdir():
        memory.pipe_file(f"/mcore/iter_0000100/{file.name}", file.read_bytes())
    url = "memory://mcore/iter_0000100"
    plain, storage = open_storage(url), open_storage(url)
    read_dcp(plain)
    framework = read_checkpoint(storage).framework
    assert framework is not None and framework.name == "Megatron-Core"
    assert plain.used is not None and storage.used is not None
    assert storage.used.requests == plain.used.requests
