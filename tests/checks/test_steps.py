"""A step is the sum of its parts: what is sound, what training resumes from, what trackers say."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from inspector.checkpoint.find import search as discovery
from inspector.checkpoint.find.locate import locate
from inspector.checkpoint.find.search import discover
from inspector.checkpoint.find.step_folders import split_step, step_number
from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.run import JudgedRun, check_folder, find_resumable, judge_run
from tests.conftest import SAMPLES, run_cli, several_fast

STEPS = (10, 20, 30)
STATE = {"w": {"step": torch.tensor(3.0), "exp_avg": torch.ones(4, 4)}}
CONTENTS: dict[str, dict[str, Any]] = {
    "model": {"model": {"w": torch.ones(4, 4)}},
    "optimizer": {"optimizer": {"state": STATE}},
    "loader": {"dataloader": {"state": {"pos": 8}}},
    "bare": {"layers": {"0": {"w": torch.ones(4, 4)}}},
    "ema": {"ema": {"w": torch.ones(4, 4)}},
}
CONTENTS["whole"] = {**CONTENTS["bare"], **CONTENTS["optimizer"], "train_state": {"step": 1}}
CONTENTS["actor"] = {**CONTENTS["model"], **CONTENTS["optimizer"]}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each content, saved by torch; and one of safetensors."""
    top = tmp_path_factory.mktemp("contents")
    for name, state in CONTENTS.items():
        dcp.save(state, checkpoint_id=str(top / name), no_dist=True)
    dcp.save({}, checkpoint_id=str(top / "nothing"), no_dist=True)
    (top / "st").mkdir()
    save_file({"w": torch.ones(64, 64)}, top / "st" / "model.safetensors")
    return top


def make(folder: Path, saved: Path, content: str, *, linked: bool = False) -> Path:
    """A checkpoint of a content; its files all of one time."""
    copy = os.link if linked else shutil.copy
    shutil.copytree(saved / content, folder, dirs_exist_ok=True, copy_function=copy)
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def judged(path: Path) -> JudgedRun:
    run = discover(open_storage(str(path)))
    return judge_run(run, check_folder(run.storage, found=run))


def codes(run: JudgedRun) -> list[str]:
    found = [*run.findings, *(f for step in run.steps for f in step.findings)]
    return [finding.code for finding in found]


# -- the layouts of the frameworks -------------------------------------------------------------

#: Steps' folders, and the parts in each with what they hold.
LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "VeOmni": ("global_step_{}", {"model": "model", "optimizer": "optimizer"}),
    "Accelerate": (
        "ckpt/checkpoint_{}",
        {"pytorch_model_fsdp_0": "model", "optimizer_0": "optimizer"},
    ),
    "Trainer": ("checkpoint-{}", {"pytorch_model_fsdp_0": "model", "optimizer_0": "optimizer"}),
    "Trainer, model gathered": ("checkpoint-{}", {"": "st", "optimizer_0": "optimizer"}),
    "lerobot": (
        "checkpoints/{:06d}",
        {"pretrained_model": "st", "training_state/optimizer_0": "optimizer"},
    ),
    "AutoModel": ("epoch_0_step_{}", {"model": "st", "optim": "optimizer"}),
    "verl": ("run/global_step_{}", {"actor/dist_ckpt": "actor", "critic/dist_ckpt": "actor"}),
    "two models": (
        "checkpoint_{}",
        {
            "pytorch_model_fsdp_0": "model",
            "pytorch_model_fsdp_1": "model",
            "optimizer_0": "optimizer",
        },
    ),
    "moving average": ("step_{}", {"model": "model", "optim": "optimizer", "ema": "ema"}),
    "torchtitan": ("checkpoint/step-{}", {"": "whole"}),
    "Megatron": ("iter_{:07d}", {"": "whole"}),
    "NeMo": ("gpt--val_loss=1.50-step={}-consumed_samples=8.0", {"weights": "whole"}),
    "OLMo-core": ("step{}", {"model_and_optim": "whole"}),
    "Lightning": ("epoch=3-step={}.ckpt", {"": "whole"}),
    "Composer": ("ep0-ba{}", {"": "whole"}),
    "modalities": (
        "eid_2026-11-29__10-00-00_ab12-seen_steps_{}-seen_tokens_9-target_steps_1000-target_tokens_9",
        {"": "whole"},
    ),
    "numbers": ("{}", {"model": "model", "optimizer": "optimizer"}),
}  # fmt: skip
SPLIT = [name for name, (_, parts) in LAYOUTS.items() if len(parts) > 1]


def build(top: Path, saved: Path, name: str, steps: Sequence[int] = STEPS) -> list[str]:
    """A run in a framework's layout; the steps' folders."""
    pattern, parts = LAYOUTS[name]
    for step in steps:
        for part, content in parts.items():
            make(top / pattern.format(step) / part, saved, content)
    return [pattern.format(step) for step in steps]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_good_run_is_sound_to_its_newest_step(name: str, saved: Path, tmp_path: Path) -> None:
    folders = build(tmp_path, saved, name)
    run = judged(tmp_path)
    assert [step.step for step in run.steps] == list(STEPS)
    assert [step.path for step in run.steps] == folders
    assert all(step.resumable and step.why_not is None for step in run.steps)
    assert codes(run) == []
    assert run.newest_sound is not None and run.newest_sound.path == folders[-1]
    assert run.newest_resumable == run.newest_sound
    assert run.exit_code == 0


def unfinished(part: Path) -> None:
    for name in (".metadata", "model.safetensors"):
        if (part / name).exists():
            (part / name).rename(part / (".metadata.tmp" if name == ".metadata" else "model.tmp"))


def cut(part: Path) -> None:
    data = next(p for p in sorted(part.iterdir()) if p.suffix in (".distcp", ".safetensors"))
    os.truncate(data, data.stat().st_size - 200)


def unreadable(part: Path) -> None:
    metadata = part / ".metadata"
    target = metadata if metadata.exists() else part / "model.safetensors"
    target.write_bytes(target.read_bytes()[:40])


def absent(part: Path) -> None:
    shutil.rmtree(part)


FAULTS: list[Callable[[Path], None]] = [unfinished, cut, unreadable, absent]
PARTS = [(name, part) for name in SPLIT for part in LAYOUTS[name][1] if part]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("name", "part"), several_fast(PARTS, PARTS[::6]))
def test_a_step_is_no_sounder_than_its_worst_part(
    name: str, part: str, fault: Callable[[Path], None], saved: Path, tmp_path: Path
) -> None:
    folders = build(tmp_path, saved, name)
    fault(tmp_path / folders[-1] / part)
    run = judged(tmp_path)
    newest = run.steps[-1]
    assert (newest.path, newest.is_sound, newest.resumable) == (folders[-1], False, False)
    assert newest.verdict in ("damaged", "unreadable")
    assert newest.why_not
    wanted = "part-damaged" if fault in (cut, unreadable) else "part-missing"
    assert wanted in codes(run), codes(run)
    assert run.newest_sound is not None and run.newest_sound.path == folders[-2]
    assert run.newest_resumable == run.newest_sound
    assert run.exit_code == 1


def test_the_commands_say_it(saved: Path, tmp_path: Path) -> None:
    build(tmp_path / "run", saved, "VeOmni")
    unfinished(tmp_path / "run" / "global_step_30" / "optimizer")
    ran = run_cli("check", tmp_path / "run", "--json")
    document = ran.json()
    assert ran.code == 1
    assert (document["newest_sound"], document["newest_sound_step"]) == ("global_step_20", 20)
    assert document["newest_resumable"] == "global_step_20"
    assert document["is_partial"] is False
    last = document["steps"][-1]
    assert (last["path"], last["step"], last["verdict"]) == ("global_step_30", 30, "damaged")
    assert (last["resumable"], last["why_not"]) == (False, "optimizer: unfinished")
    assert [(p["path"], p["verdict"]) for p in last["parts"]] == [
        ("global_step_30/model", "sound"),
        ("global_step_30/optimizer", "unreadable"),
    ]
    assert [f["code"] for f in document["findings"]] == ["part-missing"]
    assert {c["step_path"] for c in document["checkpoints"]} == {
        f"global_step_{step}" for step in STEPS
    }
    text = run_cli("check", tmp_path / "run")
    assert text.code == 1
    assert text.out.rstrip().endswith("Newest sound checkpoint: global_step_20")
    github = run_cli("check", tmp_path / "run", "--format", "github")
    assert github.code == 1
    assert "title=part-missing" in github.out
    shown = run_cli("show", tmp_path / "run", "--json").json()
    assert (shown["newest"], shown["newest_step"]) == ("global_step_20/model", "global_step_20")
    assert shown["checkpoints"][-1]["step_path"] == "global_step_30"
    # A step's folder that is named is judged whole.
    for step, code in ((20, 0), (30, 1)):
        ran = run_cli("check", tmp_path / "run" / f"global_step_{step}", "--json")
        assert ran.code == code
        assert [s["step"] for s in ran.json()["steps"]] == [step]
        assert len(ran.json()["steps"][0]["parts"]) == 2


@pytest.mark.parametrize("name", ["VeOmni", "Trainer", "lerobot"])
def test_a_steps_folder_is_held_beside_the_step_before_it(
    name: str, saved: Path, tmp_path: Path
) -> None:
    folders = build(tmp_path, saved, name)
    optimizer = list(LAYOUTS[name][1])[-1]
    absent(tmp_path / folders[-1] / optimizer)
    ran = run_cli("check", tmp_path / folders[-1], "--json")
    assert ran.code == 1
    assert [finding["code"] for finding in ran.json()["findings"]] == ["part-missing"]
    assert run_cli("check", tmp_path / folders[0]).code == 0
    # If that before it has none either, there is nothing to say that one is missing.
    absent(tmp_path / folders[-2] / optimizer)
    assert run_cli("check", tmp_path / folders[-1]).code == 0


def test_parts_below_a_step_that_is_a_checkpoint_itself(saved: Path, tmp_path: Path) -> None:
    make(tmp_path / "global_step_20", saved, "model")
    make(tmp_path / "global_step_20" / "hf_ckpt", saved, "st")
    # An export is no part that a training needs: the answer is of the checkpoint.
    assert run_cli("check", tmp_path / "global_step_20", "--json").json()["checked"]["tensors"] == 1
    make(tmp_path / "global_step_20" / "optimizer", saved, "optimizer")
    unfinished(tmp_path / "global_step_20" / "optimizer")
    ran = run_cli("check", tmp_path / "global_step_20", "--json")
    assert (ran.code, ran.json()["verdict"]) == (1, "damaged")
    assert len(ran.json()["steps"][0]["parts"]) == 3


def test_a_flipped_bit_in_a_part_is_the_steps(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "Accelerate")
    data = tmp_path / "ckpt/checkpoint_30/optimizer_0/__0_0.distcp"
    content = bytearray(data.read_bytes())
    at = content.index(torch.ones(4, 4).numpy().tobytes())
    content[at] ^= 1
    data.write_bytes(content)
    assert run_cli("check", tmp_path).code == 0
    ran = run_cli("check", tmp_path, "--deep", "--json")
    assert ran.code == 1
    assert ran.json()["newest_sound"] == "ckpt/checkpoint_20"


# -- what is not resumable ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("bare", "no optimizer: weights only"),
        ("st", "no optimizer: weights only"),
        ("loader", "no model tensor: data loader only"),
        ("optimizer", "no model tensor: optimizer only"),
    ],
)
def test_a_last_step_with_less_is_sound_and_not_resumable(
    content: str, why: str, saved: Path, tmp_path: Path
) -> None:
    build(tmp_path, saved, "torchtitan", (400, 500))
    make(tmp_path / "checkpoint/step-600", saved, content)
    run = judged(tmp_path)
    last = run.steps[-1]
    assert (last.verdict, last.resumable, last.why_not) == ("sound", False, why)
    assert codes(run) == ["not-resumable"]
    assert run.newest_resumable is not None and run.newest_resumable.step == 500
    has_model = content in ("bare", "st")
    assert run.newest_sound is not None and run.newest_sound.step == (600 if has_model else 500)
    assert run.exit_code == 0


@pytest.mark.parametrize("content", ["bare", "st"])
def test_weights_exported_beside_a_run_are_no_fault_and_not_resumable(
    content: str, saved: Path, tmp_path: Path
) -> None:
    folders = build(tmp_path, saved, "torchtitan", (400, 500))
    make(tmp_path / "checkpoint" / "final", saved, content)
    run = judged(tmp_path)
    (final,) = (step for step in run.steps if step.step is None)
    assert (final.resumable, final.why_not) == (False, "no optimizer: weights only")
    assert codes(run) == []
    for folder in folders:  # Then nothing is left that training resumes from.
        os.truncate(tmp_path / folder / "__0_0.distcp", 300)
    assert judged(tmp_path).newest_resumable is None


def test_data_loaders_of_replicas_are_never_the_newest(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "torchtitan", (400, 500))
    for replica in ("ft-replica-0", "ft-replicat-1"):
        for step in (499, 500, 501):
            make(tmp_path / "checkpoint" / replica / f"step-{step}", saved, "loader")
    run = judged(tmp_path)
    assert run.newest_sound is not None and run.newest_sound.path == "checkpoint/step-500"
    assert run.newest_resumable == run.newest_sound
    assert codes(run) == []  # They are as they should be.
    assert run.exit_code == 0


def test_weights_thinned_out_of_older_steps_are_told_and_no_fault(
    saved: Path, tmp_path: Path
) -> None:
    build(tmp_path, saved, "VeOmni")
    absent(tmp_path / "global_step_10" / "optimizer")
    run = judged(tmp_path)
    assert [step.verdict for step in run.steps] == ["sound"] * 3
    assert [step.resumable for step in run.steps] == [False, True, True]
    assert codes(run) == ["not-resumable"]
    assert run.exit_code == 0


# -- what is no fault --------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["model", "bare", "st"])
def test_a_run_of_weights_alone_is_fine(content: str, saved: Path, tmp_path: Path) -> None:
    for step in STEPS:
        make(tmp_path / f"step-{step}", saved, content)
    run = judged(tmp_path)
    assert codes(run) == []
    assert run.newest_resumable is not None and run.newest_resumable.step == 30


def test_one_step_has_nothing_to_be_compared_with(saved: Path, tmp_path: Path) -> None:
    make(tmp_path / "step-10" / "model", saved, "model")
    run = judged(tmp_path)
    assert (codes(run), run.exit_code) == ([], 0)


def test_unrelated_models_are_no_run(saved: Path, tmp_path: Path) -> None:
    make(tmp_path / "llama", saved, "st")
    make(tmp_path / "qwen", saved, "whole")
    make(tmp_path / "old" / "mamba", saved, "bare")
    make(tmp_path / "2026" / "alice", saved, "bare")
    make(tmp_path / "2026" / "bob", saved, "whole")
    cut(tmp_path / "2026" / "bob")
    run = judged(tmp_path)
    assert {step.path for step in run.steps} == {
        "llama", "qwen", "old/mamba", "2026/alice", "2026/bob",
    }  # fmt: skip
    assert codes(run) == []
    assert {step.path for step in run.steps if not step.is_sound} == {"2026/bob"}


def test_a_cache_of_the_hub_is_no_run(saved: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "models--a--b" / "snapshots"
    make(snapshots / "0123abcd", saved, "st")
    make(snapshots / "fedc9876", saved, "st")
    run = judged(tmp_path)
    assert {step.step for step in run.steps} == {None}
    assert (codes(run), run.exit_code) == ([], 0)


@pytest.mark.parametrize("export", ["hf_ckpt", "model/consolidated", "huggingface"])
def test_an_export_in_some_steps_is_missed_in_none(
    export: str, saved: Path, tmp_path: Path
) -> None:
    build(tmp_path, saved, "VeOmni")
    for step in STEPS[:2]:
        make(tmp_path / f"global_step_{step}" / export, saved, "st")
    run = judged(tmp_path)
    assert (codes(run), run.exit_code) == ([], 0)
    assert run.newest_resumable is not None and run.newest_resumable.step == 30


def test_an_optimizer_without_state_is_an_empty_part(saved: Path, tmp_path: Path) -> None:
    for step in STEPS:
        make(tmp_path / f"step_{step}" / "model", saved, "model")
        make(tmp_path / f"step_{step}" / "optimizer", saved, "nothing")
    run = judged(tmp_path)
    assert run.newest_resumable is not None and run.newest_resumable.step == 30
    assert (codes(run), run.exit_code) == ([], 0)


def test_parts_without_a_step_are_one_checkpoint() -> None:
    ran = run_cli("check", SAMPLES / "accelerate_fsdp", "--json")
    (step,) = ran.json()["steps"]
    assert (ran.code, step["verdict"], len(step["parts"])) == (0, "sound", 2)


def test_a_save_that_has_only_begun_is_not_asked_for(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "VeOmni")
    for part in ("model", "optimizer"):
        unfinished(tmp_path / "global_step_30" / part)
    run = judged(tmp_path)
    assert run.newest_sound is not None and run.newest_sound.step == 20
    assert run.exit_code == 0


@pytest.mark.parametrize("lost", ["stage_0", "stage_1"])
def test_of_checkpoints_without_numbers_none_stands_for_another(tmp_path: Path, lost: str) -> None:
    run = shutil.copytree(SAMPLES / "pp_fsdp_2x2_apart", tmp_path / "run")
    assert judged(run).exit_code == 0
    next((run / lost).glob("*.distcp")).unlink()
    assert judged(run).exit_code == 1


def test_a_damaged_one_without_a_number_is_replaced_by_no_numbered_one(tmp_path: Path) -> None:
    for name in ("step-100", "step-200", "final"):
        shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / name)
    ran = run_cli("check", tmp_path)
    assert ran.code == 0
    said = "Newest sound checkpoint: step-200 (by step number; 1 other has none)"
    assert ran.out.rstrip().endswith(said)
    next((tmp_path / "final").glob("*.distcp")).unlink()
    ran = run_cli("check", tmp_path)
    assert (ran.code, ran.out.rstrip().splitlines()[-1]) == (
        1,
        "Newest sound checkpoint: step-200",
    )


def test_what_is_newest_by_time_is_said_to_be(tmp_path: Path) -> None:
    for name, at in (("a", 1e9), ("b", 2e9)):
        folder = shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / name)
        for path in folder.iterdir():
            os.utime(path, (at, at))
    said = "Newest sound checkpoint: b (by the times of its files: none has a step number)"
    assert run_cli("check", tmp_path).out.rstrip().endswith(said)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="links")
def test_a_link_to_the_newest_step_is_not_another_one(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "lerobot")
    os.symlink("000030", tmp_path / "checkpoints" / "last")
    os.symlink("..", tmp_path / "checkpoints" / "000030" / "up")
    # A part may be a link to another step's, which it shares.
    absent(tmp_path / "checkpoints/000020/pretrained_model")
    os.symlink("../000010/pretrained_model", tmp_path / "checkpoints/000020/pretrained_model")
    run = judged(tmp_path)
    paths = {part.found.path for step in run.steps for part in step.parts}
    assert "checkpoints/000020/pretrained_model" in paths
    assert not any(path.startswith("checkpoints/last") for path in paths)
    assert run.newest_sound is not None and run.newest_sound.path == "checkpoints/000030"
    assert codes(run) == []


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="links")
def test_a_link_to_a_step_that_is_a_link_is_not_another_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(SAMPLES / "hsdp_2x4", run / "step-1")
    shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / "disk" / "moved")
    os.symlink("../disk/moved", run / "step-2")
    os.symlink("step-2", run / "latest")
    os.symlink(tmp_path / "disk" / "moved", run / "best")  # Under no other name in the run.
    assert [step.path for step in judged(run).steps] == ["best", "step-1", "step-2"]


# -- trackers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "tracker", "text", "says"),
    [
        ("Megatron", "latest_checkpointed_iteration.txt", "30", ""),
        ("Megatron", "latest_checkpointed_iteration.txt", "40", "iteration 40, which is not there"),
        ("verl", "run/latest_checkpointed_iteration.txt", "30", ""),
        ("verl", "run/latest_checkpointed_iteration.txt", "40", "iteration 40, which is not there"),
        ("VeOmni", "latest", "global_step_30", ""),
        ("VeOmni", "latest", "global_step_40", "global_step_40, which is not there"),
        ("VeOmni", "latest", "what a file of this name says elsewhere", ""),
        ("Trainer", "checkpoint-30/trainer_state.json", '{"global_step": 30}', ""),
        ("Trainer", "checkpoint-30/trainer_state.json", '{"global_step": 25}', "says step 25"),
        ("Trainer", "trainer_state.json", '{"global_step": 35}', ""),
        ("Trainer", "trainer_state.json", "[not json", ""),
        (
            "modalities",
            "last_checkpoint_info.json",
            '{"checkpoint_folder_path": "/a/b"}',
            "b, which",
        ),
    ],
)
def test_a_tracker_is_followed(
    layout: str, tracker: str, text: str, says: str, saved: Path, tmp_path: Path
) -> None:
    build(tmp_path, saved, layout)
    (tmp_path / tracker).write_text(text)
    run = judged(tmp_path)
    assert codes(run) == (["tracker-mismatch"] if says else [])
    assert not says or says in run.findings[0].message
    assert run.newest_sound is not None and run.newest_sound.step == 30


@pytest.mark.parametrize(
    ("layout", "tracker", "text"),
    [
        ("Megatron", "latest_checkpointed_iteration.txt", "30"),
        ("VeOmni", "latest", "global_step_30"),
        ("Trainer", "trainer_state.json", '{"global_step": 30}'),
        ("lerobot", "checkpoints/latest", "000030"),
    ],
)
def test_a_tracker_of_a_step_that_never_finished(
    layout: str, tracker: str, text: str, saved: Path, tmp_path: Path
) -> None:
    folders = build(tmp_path, saved, layout)
    (tmp_path / tracker).write_text(text)
    unfinished(tmp_path / folders[-1] / list(LAYOUTS[layout][1])[-1])
    run = judged(tmp_path)
    (finding,) = run.findings
    assert finding.code == "tracker-mismatch"
    assert "has not finished" in finding.message
    assert folders[-2] in finding.hint


@pytest.mark.parametrize(
    ("layout", "tracker", "text", "folder"),
    [
        ("Megatron", "latest_checkpointed_iteration.txt", "40", "iter_0000040"),
        ("VeOmni", "latest", "global_step_40", "global_step_40"),
    ],
)
def test_a_tracker_of_an_empty_folder(
    layout: str, tracker: str, text: str, folder: str, saved: Path, tmp_path: Path
) -> None:
    """It was written before the save, or the save wrote nothing."""
    build(tmp_path, saved, layout)
    (tmp_path / tracker).write_text(text)
    (tmp_path / folder).mkdir()
    (finding,) = judged(tmp_path).findings
    assert "which is an empty folder" in finding.message


def test_a_tracker_of_a_format_that_is_not_judged_is_silent(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "Trainer")
    for step in STEPS:  # DeepSpeed's, inside a Trainer's step.
        folder = tmp_path / f"checkpoint-{step}"
        (folder / f"global_step{step}").mkdir()
        (folder / f"global_step{step}" / "mp_rank_00_model_states.pt").write_bytes(b"x")
        (folder / "latest").write_text(f"global_step{step}")
    assert codes(judged(tmp_path)) == []


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="links")
def test_a_link_to_a_step_that_is_gone(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "torchtitan")
    os.symlink("step-40", tmp_path / "checkpoint" / "latest")
    run = judged(tmp_path)
    assert codes(run) == ["tracker-mismatch"]
    assert "step-40" in run.findings[0].message


def test_the_tracker_itself_may_be_given(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "verl")
    tracker = tmp_path / "run" / "latest_checkpointed_iteration.txt"
    tracker.write_text("20")
    ran = run_cli("check", tracker, "--json")
    assert ran.code == 0
    assert [step["step"] for step in ran.json()["steps"]] == [20]


# -- files beside ------------------------------------------------------------------------------

SAVED_S = 1_700_000_000
SIDECARS = ["lr_scheduler.pt", "extra_state/extra_state_rank_0.pt", "random_states_0.pkl"]


def beside(folder: Path, name: str, seconds: float) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    os.utime(folder / name, (SAVED_S + seconds, SAVED_S + seconds))


@pytest.mark.parametrize("name", SIDECARS)
@pytest.mark.parametrize("seconds", [7200, -86400])
@pytest.mark.parametrize("layout", ["VeOmni", "Megatron"])
def test_files_of_another_save_beside_a_step(
    layout: str, name: str, seconds: float, saved: Path, tmp_path: Path
) -> None:
    folders = build(tmp_path, saved, layout)
    beside(tmp_path / folders[-1], name, seconds)
    run = judged(tmp_path)
    of_parts = [f for item in run.judged for f in item.report.findings]
    found = [*of_parts, *(f for step in run.steps for f in step.findings)]
    assert [(f.code, f.severity, f.file) for f in found] == [("sidecar-times", "warning", name)]
    assert ("newer" if seconds > 0 else "older") in found[0].message
    assert run.exit_code == 0


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("lr_scheduler.pt", 60),  # written after it
        ("lr_scheduler.pt", -600),  # written before an asynchronous save came to its end
        ("README.md", 86400),
        ("config.json", 86400),
        ("consolidated.pt", 86400),  # an export, made a day later
        ("pytorch_model.bin", 86400),
        ("train_embeddings.pt", 86400),
    ],
)
def test_files_that_come_at_their_time_or_at_any(
    name: str, seconds: float, saved: Path, tmp_path: Path
) -> None:
    for layout in ("VeOmni", "Megatron"):
        folders = build(tmp_path / layout, saved, layout)
        beside(tmp_path / layout / folders[-1], name, seconds)
        run = judged(tmp_path / layout)
        assert codes(run) == []
        assert not any(item.report.findings for item in run.judged)


def test_a_large_step_may_take_its_time_to_be_copied(saved: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "iter_0000010", saved, "whole")
    os.utime(folder / "__0_0.distcp", (SAVED_S - 4000, SAVED_S - 4000))
    beside(folder, "lr_scheduler.pt", 7200)  # Less than three times what its own files lie apart.
    (item,) = judged(tmp_path).judged
    assert "sidecar-times" not in {finding.code for finding in item.report.findings}


# -- the search --------------------------------------------------------------------------------


class SlowStorage(LocalStorage):
    """A folder that takes its time for every request; counts them, and how many run at once."""

    calls = 0
    running = 0
    most = 0
    delay_s = 0.002
    lock = threading.Lock()

    def _wait(self) -> None:
        cls = SlowStorage
        with cls.lock:
            cls.calls += 1
            cls.running += 1
            cls.most = max(cls.most, cls.running)
        time.sleep(cls.delay_s)
        with cls.lock:
            cls.running -= 1

    def list(self, folder: str = "") -> list[Entry]:
        self._wait()
        return super().list(folder)

    def stat(self, path: str) -> Entry | None:
        self._wait()
        return super().stat(path)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        self._wait()
        return super().read(path, offset, length)

    def join(self, folder: str) -> SlowStorage:
        return SlowStorage(str(Path(self.root, folder)))

    @classmethod
    def reset(cls) -> None:
        cls.calls = cls.running = cls.most = 0


PARTS = {"model": "model", "optimizer": "optimizer", "extra": "loader", "ema": "ema"}


@pytest.fixture(scope="session")
def long_run(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 steps of four parts; the newest two have no optimizer, or an unfinished one."""
    top = tmp_path_factory.mktemp("long")
    for step in range(1, 501):
        for part, content in PARTS.items():
            make(top / f"step-{step}" / part, saved, content, linked=True)
    unfinished(top / "step-500" / "optimizer")
    shutil.rmtree(top / "step-499" / "optimizer")
    return top


@pytest.mark.slow  # It makes 500 steps.
def test_the_newest_resumable_step_of_a_long_run_takes_few_round_trips(long_run: Path) -> None:
    SlowStorage.reset()
    step = find_resumable(SlowStorage(str(long_run))).newest_resumable
    assert step is not None and step.path == "step-498"
    assert len(step.parts) == 4
    # A step costs some twenty requests; all five hundred would be more than ten thousand.
    assert SlowStorage.calls < 200


def test_only_the_newest_steps_are_judged_if_that_is_asked_for(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "Accelerate", range(1, 9))
    unfinished(tmp_path / "ckpt" / "checkpoint_8" / "optimizer_0")
    ran = run_cli("check", tmp_path, "--newest", "--json")
    document = ran.json()
    assert ran.code == 1  # The newest is not sound.
    assert document["newest_resumable"] == "ckpt/checkpoint_7"
    assert [step["step"] for step in document["steps"]] == [6, 7, 8]
    # Of weights alone no older one may have an optimizer: all are judged.
    for step in STEPS:
        make(tmp_path / "weights" / f"step-{step}", saved, "bare")
    document = run_cli("check", tmp_path / "weights", "--newest", "--json").json()
    assert (document["newest_resumable"], len(document["steps"])) == ("step-30", 3)
    (tmp_path / "nothing").mkdir()
    assert run_cli("check", tmp_path / "nothing", "--newest").code == 2


@pytest.mark.slow  # It makes 500 steps.
def test_a_long_run_is_listed_many_folders_at_a_time(long_run: Path) -> None:
    SlowStorage.reset()
    run = discover(SlowStorage(str(long_run)))
    assert len(run) == 4 * 500 - 1
    assert not run.is_partial
    assert SlowStorage.most >= 16
    # One listing of each folder, and one look at each part's metadata.
    assert SlowStorage.calls <= 1 + 500 + 2 * 2000


@pytest.mark.slow  # It makes 500 steps.
def test_what_was_not_looked_at_is_said(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_MAX_FOLDERS", 200)
    run = discover(open_storage(str(long_run)))
    assert run.is_partial
    assert {item.step for item in run if item.path.startswith("step-50")} >= {500}
    assert max(item.step or 0 for item in run) == 500
    judged_run = judge_run(run, check_folder(run.storage, found=run[-12:]))
    assert judged_run.exit_code == 2
    assert judged_run.newest_sound is not None and judged_run.newest_sound.step == 499
    # A step that was not looked through is never called sound.
    assert run.cut_steps
    for folder in run.step_folders():
        if folder.path not in run.cut_steps:
            assert len(folder.parts) == (3 if folder.step == 499 else 4)


@pytest.mark.slow  # It makes 500 steps.
def test_time_that_is_up_is_said_too(long_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_MAX_SECONDS", 0.4)
    monkeypatch.setattr(SlowStorage, "delay_s", 0.05)
    run = discover(SlowStorage(str(long_run)))
    assert run.is_partial
    assert max(item.step or 0 for item in run) == 500


def test_a_search_that_ends_early_is_no_success(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inspector.cli.check import run_check
    from inspector.cli.output import Destination

    build(tmp_path, saved, "torchtitan", range(1, 9))
    monkeypatch.setattr(discovery, "_MAX_FOLDERS", 8)
    answer = Destination(None, (str(tmp_path),))
    assert run_check(str(tmp_path), deep=False, values=False, form="json", answer=answer) == 2


def test_what_lies_beside_a_run_does_not_use_up_the_search(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, saved, "torchtitan")
    for number in range(300):
        (tmp_path / "images" / f"class{number:03d}x").mkdir(parents=True)
    monkeypatch.setattr(discovery, "_MAX_FOLDERS", 100)
    run = discover(open_storage(str(tmp_path)))
    assert run.is_partial
    assert [item.step for item in run] == list(STEPS)


def test_a_part_lies_as_deep_as_it_likes(saved: Path, tmp_path: Path) -> None:
    """Five levels to the step, and its parts are not left out silently below."""
    deep = tmp_path / "a/b/c/d/step-10"
    make(deep / "model", saved, "model")
    make(deep / "training_state" / "optimizer_0", saved, "optimizer")
    (step,) = judged(tmp_path).steps
    assert len(step.parts) == 2


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step-100", 100),
        ("iter_0000100", 100),
        ("global_step5", 5),
        ("globalstep5", 5),
        ("epoch=1-step=50.ckpt", 50),
        ("step=50-epoch=2", 50),
        ("ep1-ba20", 20),
        ("checkpoint-7", 7),
        ("epoch_0_step_10", 10),
        ("epoch_3", 3),
        ("005000", 5000),
        ("seen_steps_900-target_steps_1000", 900),
        ("gpt--val_loss=1.2-step=100-consumed_samples=800.0-last", 100),
        ("prep2", None),
        ("sweep12", None),
        ("optimizer_0", None),
        ("ft-replica-0", None),
        ("latest", None),
        ("version_0", None),
    ],
)
def test_the_step_in_a_name(name: str, step: int | None) -> None:
    assert step_number(name) == step


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("checkpoints/010000/training_state/optimizer_0", ("checkpoints/010000", 10000)),
        ("ft-replica-0/step-501", ("ft-replica-0/step-501", 501)),
        ("step-20/0", ("step-20", 20)),
        ("epoch_1/step-7/model", ("epoch_1/step-7", 7)),
        ("weights/model", None),
    ],
)
def test_the_step_folder_in_a_path(path: str, folder: tuple[str, int] | None) -> None:
    assert split_step(path) == folder


# -- one file ----------------------------------------------------------------------------------


def test_a_file_that_is_named_is_judged_alone(saved: Path, tmp_path: Path) -> None:
    save_file({"t": torch.ones(2)}, tmp_path / "one.safetensors")
    make(tmp_path / "step1", saved, "bare")
    assert isinstance(locate(str(tmp_path)), list)
    ran = run_cli("check", tmp_path / "one.safetensors", "--json")
    assert (ran.code, ran.json()["verdict"], ran.json()["checked"]["tensors"]) == (0, "sound", 1)
    shown = run_cli("show", tmp_path / "one.safetensors", "--json").json()
    assert [tensor["fqn"] for tensor in shown["tensors"]] == ["t"]


def test_the_documents_are_json(saved: Path, tmp_path: Path) -> None:
    build(tmp_path, saved, "VeOmni")
    document = json.loads(run_cli("show", tmp_path, "--json").out)
    assert document["is_partial"] is False and document["not_looked_at"] == []
