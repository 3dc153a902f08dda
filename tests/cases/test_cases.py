"""Conditions that people met: what each command says of them, and with which exit code.

`makers` writes each with torch, which says there what it does with it. The rows are what is right;
that other things are not told counts as much as what is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inspector.cli.group import run_command
from inspector.errors import InspectError
from tests.cases import makers as make

WEIGHT_ADVICE = "allow_partial_load"


@dataclass(frozen=True)
class Right:
    """What a command line has to say.

    Attributes:
        line: The arguments; `{}` is the folder.
        code: Exit code.
        told: Findings above a note, code and severity; of notes, those that are in `notes`.
        notes: Notes that have to be there.
        says: Words that are in the answer.
        never: Words that are not.
        facts: Fields of the JSON answer, dotted, and their values; `{}` is the folder.
    """

    line: str
    code: int = 0
    told: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ("payload-unsafe",)
    facts: dict[str, Any] = field(default_factory=dict)


PACKED = "codes_package.Codes"
SOUND = {"verdict": "sound"}

CASES: dict[str, tuple[make.Maker, list[Right]]] = {
    # Steps of several parts.
    "the optimizer of the newest step never finished": (
        make.step_of_parts("global_step_{}", "model", "optimizer"),
        [Right("check {}", 1, says=("part-missing", "Newest sound checkpoint: global_step_10")),
         Right("check {} --format github", 1),
         Right("check {}/global_step_20", 1, says=("No checkpoint here is sound",))],
    ),
    "the same in the folders of Accelerate": (
        make.step_of_parts("checkpoint-{}", "pytorch_model_fsdp_0", "optimizer_0"),
        [Right("check {}", 1, says=("Newest sound checkpoint: checkpoint-10",))],
    ),
    "the optimizer of the newest step was cut short": (
        make.part_cut_short,
        [Right("check {}", 1, says=("part-damaged", "Newest sound checkpoint: checkpoint_1"))],
    ),
    "the model of the newest step was cut short": (
        make.model_cut_short,
        [Right("check {}", 1, says=("Newest sound checkpoint: checkpoints/005000",))],
    ),
    "data loaders of replicas are newer than the last step": (
        make.torchft_run,
        [Right("check {}", says=("Newest sound checkpoint: checkpoint/step-500",)),
         Right("check {} --json", facts={"newest_resumable": "checkpoint/step-500"})],
    ),
    "the step of modalities is the seen one": (
        make.seen_steps,
        [Right("check {}", says=("  900  ", "  100  ", "-seen_steps_900-")),
         Right("show {}", says=("  900  ",), never=("  1000  ",))],
    ),
    "a tracker names a step that never finished": (
        make.tracked(20, is_finished=False),
        [Right("check {}", says=("names iteration 20, which has not finished",))],
    ),
    "a tracker names a step that is not there": (
        make.tracked(30, is_finished=True),
        [Right("check {}", says=("names iteration 30, which is not there",))],
    ),
    "a tracker names the newest step": (
        make.tracked(20, is_finished=True), [Right("check {}", never=("tracker-mismatch",))],
    ),
    "the stored step is not the folder's": (
        make.stale_step,
        [Right("check {}/step-30 --deep --json", told=("step-mismatch warning",), facts=SOUND),
         Right("check {}/step-10 --deep --json", facts=SOUND),
         Right("show {}/step-30", says=("train_state.step",), never=("step-mismatch",))],
    ),
    "a folder that counts saves": (
        make.counted("checkpoint_3", 300),
        [Right("check {}/checkpoint_3 --deep --json", facts=SOUND)],
    ),
    "a stored step that counts batches": (
        make.counted("step-40", 320), [Right("check {}/step-40 --deep --json", facts=SOUND)],
    ),
    "a stored step that is ahead": (
        make.counted("step-40", 90),
        [Right("check {}/step-40 --deep --json", told=("step-mismatch warning",), facts=SOUND)],
    ),
    "files beside a checkpoint are of a later save": (
        make.sidecars_of_a_later_save,
        [Right("check {} --json", told=("sidecar-times warning",), facts=SOUND)],
    ),
    "a file in a run": (
        make.file_in_a_run,
        [Right("check {}/one.safetensors", says=("1 tensor",), never=("unreadable",)),
         Right("check {}", never=("unreadable",))],
    ),
    "files of torch.save, one a rank": (
        make.per_rank_files,
        [Right(f"{command.replace('FOLDER', folder)}", 2, says=(words,))
         for command in ("check {}/FOLDER", "show {}/FOLDER", "stats {}/FOLDER",
                         "plan {}/FOLDER --mesh fsdp:4", "seal {}/FOLDER",
                         "verify {}/FOLDER --mesh fsdp:4", "diff {}/FOLDER {}/FOLDER")
         for folder, words in (("actor", "verl"), ("dinov2", "FSDPCheckpointer"))],
    ),
    # Tensors of classes of their own.
    "a tensor class that stores one byte for four": (
        make.one_byte_for_four,
        [Right("check {} --json", notes=("packed-tensor",), facts=SOUND),
         Right("check {} --deep --json", notes=("packed-tensor", "payload-foreign-class"),
               says=(PACKED,), facts=SOUND),
         Right("plan {} --mesh fsdp:2", says=("fsdp:2",)),
         Right("stats {}", 2, says=(PACKED,)),
         Right("seal {} --output {}.seal", 2, says=(PACKED,)),
         Right("diff {} {} --values --json", 2, says=(PACKED,), facts={"verdict": "unknown"})],
    ),
    "quantised integers": (
        make.quantised,
        [Right("check {} --deep --json", notes=("payload-format",), facts=SOUND,
               says=("scale 0.5, zero point 10", "keeps its own scale")),
         Right("stats {}", says=("integers as stored",)),
         Right("diff {} {} --values --json", 2, facts={"verdict": "unknown"}),
         Right("seal {} --output {}.seal", 2, says=("scale and zero point",),
               never=("was not sealed",))],
    ),
    "weights that are NaN": (
        make.nan_in_some,
        [Right("check {} --deep --json", facts=SOUND),
         Right("check {} --values --json", told=("values-nan warning",) * 2, facts=SOUND)],
    ),
    # State of some ranks alone.
    "state that is one rank's": (
        make.ranks(4, make.local_optimizer),
        [Right("check {} --json", told=("local-state warning",), facts=SOUND,
               says=("[3, 8] for [12, 8], in 4 shards",))],
    ),
    "one parameter under two names with two shapes": (
        make.ranks(4, make.truncated_alias),
        [Right("check {} --json", told=("alias-shape warning",), facts=SOUND)],
    ),
    "experts of one group": (
        make.ranks(4, make.experts_of_one_group),
        [Right("check {} --json", told=("family-hole warning",), facts=SOUND,
               says=("4 experts, and a router of 8 rows",))],
    ),
    "experts renumbered by each rank": (
        make.ranks(2, make.experts_renumbered),
        [Right("check {} --json", told=("family-hole warning",), facts=SOUND,
               says=("2 experts, and a router of 4 rows",))],
    ),
    "every second layer": (
        make.ranks(2, make.every_second_layer),
        [Right("check {} --json", told=("family-hole warning",), facts=SOUND,
               says=("1, 3, 5, 7, 9, 11, 13 are missing",))],
    ),
    "shards of other lengths than recorded": (
        make.ranks(2, make.uneven_from_local),
        [Right("check {} --deep --json", 1, told=("payload-mismatch error",) * 2,
               says=("all data is there", "[1:4, 0:4] is in __1_0.distcp"))],
    ),
    "fully_shard over tensor parallelism, uneven": (
        make.ranks(6, make.uneven_over_tp),
        [Right("check {} --deep --json", 1, told=("payload-mismatch error",) * 2,
               says=("all data is there", "[2:4, 0:4] is in __2_0.distcp", "reads nothing of it"))],
    ),
    "shards of any length": (
        make.ranks(4, make.lengths_of_any), [Right("check {} --deep --json", facts=SOUND)],
    ),
    "a rank whose optimizer has less": (
        make.other_on_one_rank, [Right("check {} --json", 1, told=("chunk-gap error",) * 2)],
    ),
    "copies that differ": (
        make.copies_that_differ,
        [Right("check {} --deep --json", 1, told=("replicas-differ error",),
               says=("the first at [0]: rank 0 stored 0.0, rank 1 1.0",)),
         Right("stats {}", says=("COPIES THAT DIFFER",))],
    ),
    "scalars in the metadata of every rank": (
        make.scalars_of_every_rank,
        [Right("check {} --deep --json", facts=SOUND),
         Right("seal {} --output {}.seal"),
         Right("diff {} {} --values --json", facts={"verdict": "same"})],
    ),
    "plans kept under a key": (
        make.plans_kept, [Right("check {} --deep --json", facts=SOUND)],
    ),
    "a flat shard exported": (
        make.flat_shard_exported,
        [Right("check {} --json", told=("alias-shape warning",), facts=SOUND)],
    ),
    # Meshes.
    "a group of two that saves alone": (
        make.ranks(2, make.group_of_two),
        [Right("show {}", says=("are the group that saved, of perhaps more ranks",))],
    ),
    "a tensor on two ranks of four": (
        make.ranks(4, make.on_two_of_four),
        [Right("show {} --json", facts={"checkpoint.written_by.mesh": None})],
    ),
    "replicas and experts": (
        make.ranks(4, make.hsdp_and_experts),
        [Right("show {} --json", facts={"checkpoint.written_by.certain": False},
               never=("hsdp_tp",))],
    ),
    "tensor parallel alone": (
        make.ranks(4, make.tensor_parallel),
        [Right("show {} --json", facts={"checkpoint.written_by.certain": False},
               never=('"mesh": "fsdp',))],
    ),
    # What a model expects.
    "names with a prefix too many": (
        make.wanted(make.layers("model.model."), make.layers("model."), "Missing key"),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("the checkpoint has it as model.model.layers.0", "rename"),
               never=(WEIGHT_ADVICE,))],
    ),
    "weights that are missing": (
        make.wanted(make.layers("model.", norms=False), make.layers("model."), "Missing key"),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("stays as it was initialised",), never=(WEIGHT_ADVICE,))],
    ),
    "another vocabulary": (
        make.wanted(make.vocabulary(6561), make.vocabulary(5533), "Size mismatch"),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("a vocabulary that was padded or extended otherwise",))],
    ),
    "wrappers in the middle of names": (
        make.wanted(
            make.layers("net.", inside="_orig_mod._checkpoint_wrapped_module."),
            make.layers("net."), "Missing key",
        ),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("the checkpoint has it as net.layers.0._orig_mod._checkpoint",),
               never=(WEIGHT_ADVICE,))],
    ),
    "a flat shard wanted": (
        make.wanted(
            {"model.embed_tokens.weight": make.full(512, 16)},
            {"model.embed_tokens.weight": make.full(2048)}, "Size mismatch",
        ),
        [Right("plan {}/saved --mesh fsdp:4 --against {}/wanted.json", 1,
               says=("2,048 is a quarter of 512x16", "SHARDED_STATE_DICT"))],
    ),
    "flattened the way of torch 2.3": (
        make.flattened_as_of_old,
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted", says=("old-flattening",),
               never=("missing-key",))],
    ),
    "a list that grew": (
        make.list_that_grew,
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted", 1,
               says=("a list or dict that was empty in one of the two",))],
    ),
    # Two checkpoints.
    "rows permuted shard by shard": (
        make.rows_by_shard,
        [Right("diff {}/a {}/b --values", 1,
               says=("the same elements in another order", "EXACT, every bit (1)"))],
    ),
    "weights that stood still": (
        make.weights_that_stood_still,
        [Right("diff {}/step-10 {}/step-20 --values", 1,
               says=("model.b", "EXACT, every bit (1)", "moved"))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_is_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker, rights = CASES[name]
    maker(tmp_path / "ckpt")
    said(rights, tmp_path / "ckpt", capsys)


def said(rights: list[Right], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that each command says what is right of a folder."""
    capsys.readouterr()
    for right in rights:
        code, text = ran(right.line.replace("{}", str(folder)).split(), capsys)
        where = f"{right.line}\n{text}"
        assert code == right.code, where
        assert [words for words in right.says if words not in text] == [], where
        assert [words for words in right.never if words in text] == [], where
        if "--json" in right.line:
            answer = json.loads(text)
            assert told(answer, above_a_note=True) == list(right.told), where
            assert set(right.notes) <= {f.split()[0] for f in told(answer)}, where
            for name, value in right.facts.items():
                assert fact(answer, name) == value, where


def ran(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and answer; of what cannot be done, its words."""
    try:
        code = run_command(arguments)
    except InspectError as error:
        return error.exit_code, f"{error.message}\n{error.hint}"
    out = capsys.readouterr()
    return code, out.out


def told(answer: dict[str, Any], *, above_a_note: bool = False) -> list[str]:
    found = answer.get("findings", [])
    return [
        f"{f['code']} {f['severity']}" for f in found if not above_a_note or f["severity"] != "note"
    ]


def fact(answer: dict[str, Any], name: str) -> Any:
    value: Any = answer
    for part in name.split("."):
        value = value[part]
    return value
