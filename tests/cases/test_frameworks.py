"""What frameworks and their parts write: what each command says of it, as in `test_cases`.

Of two conditions what is said hangs on more than the folder, so they stand elsewhere: a pipe that
is closed (`tests/cli/test_pipe.py`), and shards beside their consolidation, of which torch takes
the last in the disk's order (`tests/checks/test_consolidation.py`). Layouts of many ranks are in
`tests/layout/test_parallelisms.py`, `plan --reads` beside torch's own planner in
`tests/layout/test_load_plan.py`, and what needs torchao or real ranks in `test_jobs`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.cases import frameworks as made
from tests.cases import makers as make
from tests.cases.test_cases import PACKED, SOUND, WEIGHT_ADVICE, Right, said

WRITER = "checkpoint.written_by"


def mesh(name: str, *, certain: bool = False) -> dict[str, object]:
    return {f"{WRITER}.mesh": name, f"{WRITER}.certain": certain}


RENAMED = [
    Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
          says=("the checkpoint has it as net.",), never=(WEIGHT_ADVICE,))
]  # fmt: skip

CASES: dict[str, tuple[make.Maker, list[Right]]] = {
    # Tensors of classes of their own, and odd ones.
    "eight bits under FSDP": (
        made.packed_shards,
        [Right("check {} --json", notes=("packed-tensor",), facts=SOUND),
         Right("check {} --deep --json", notes=("packed-tensor", "payload-foreign-class"),
               says=(PACKED,), facts=SOUND),
         Right("plan {} --mesh fsdp:4", says=("fsdp:4",)),
         Right("stats {}", 2, says=(PACKED,))],
    ),
    "a tensor of a class of the script": (
        made.of_the_script,
        [Right("check {} --deep --json", notes=("payload-foreign-class",), facts=SOUND,
               says=("raises UnpicklingError",))],
    ),
    "odd tensors": (made.odd_tensors, [Right("check {} --deep --json", facts=SOUND)]),
    "objects": (
        made.objects,
        [Right("check {} --deep --json", notes=("payload-foreign-class",), facts=SOUND)],
    ),
    "a strided shard without collectives": (
        made.strided_without_collectives,
        [Right("check {} --json", 1, told=("chunk-gap error", "chunk-overlap error"),
               says=("[6:8, 0:3]", "[2:4, 0:3]"))],
    ),
    # State of some ranks alone.
    "state of one parameter is one rank's": (
        make.ranks(4, made.one_local),
        [Right("check {} --json", told=("local-state warning",), facts=SOUND,
               says=("optim.state.layers.2.w.exp_avg [2, 4] for [8, 4], in 4 shards",))],
    ),
    "state of half of the layers is projected": (
        make.ranks(4, made.half_projected), [Right("check {} --json", facts=SOUND)],
    ),
    "optimizers of several kinds": (
        made.mixed_optimizers,
        [Right(f"check {{}}/{name} --json", facts=SOUND)
         for name in ("muon_lion", "lion_adam", "muon_adamw", "adafactor")],
    ),
    # Files of another save.
    "a file of another step": (
        made.a_file_of_another_step,
        [Right("check {}/step-200 --deep --json", told=("step-mismatch warning",), facts=SOUND,
               says=("__2_0.distcp: its", "are at step 100, those of all other files at step 200")),
         Right("check {}/step-100 --deep --json", facts=SOUND),
         Right("check {}/unused --deep --json", facts=SOUND)],
    ),
    "a stage that was trained for a time of its own": (
        made.stage_trained_longer, [Right("check {} --deep --json", facts=SOUND)],
    ),
    # Meshes.
    "experts on a mesh of their own": (
        make.ranks(8, made.experts_on_their_own_mesh(1)),
        [Right("show {} --json", facts=mesh("fsdp_ep:2x4")), Right("check {} --json", facts=SOUND)],
    ),
    "experts on a mesh of their own, replicated": (
        make.ranks(8, made.experts_on_their_own_mesh(2)),
        [Right("show {} --json", facts=mesh("hsdp_ep:2x2x2"))],
    ),
    "replicas of tensor parallel": (
        make.ranks(4, made.replicas_of_tensor_parallel),
        [Right("show {} --json", facts=mesh("ddp_tp:2x2"))],
    ),
    "plans of four, files of two": (
        made.plans_of_four_and_files_of_two,
        [Right("show {} --json", facts={f"{WRITER}.world_size": 4, f"{WRITER}.certain": False},
               says=("Megatron-Core's rule that the main replica writes",)),
         Right("check {} --deep --json", facts=SOUND)],
    ),
    # What a model expects.
    "a step of another kind": (
        made.kinds,
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("kind-mismatch", "the object takes the tensor's place", "shape-mismatch"),
               never=(WEIGHT_ADVICE,))],
    ),
    "a transposed weight": (
        make.wanted({"w": make.full(4, 6)}, {"w": make.full(6, 4)}, "Size mismatch"),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("transpose it",), never=("reshape one",))],
    ),
    "a tuple": (
        made.against({"w": make.full(4), "l": (make.full(1), 2)},
                     {"w": make.full(4), "l.0": make.full(1), "l.1": 2}),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("has l as one object: a tuple",))],
    ),
    "a wrapper before the layer": (
        make.wanted(make.layers("net.", inside="_orig_mod."), make.layers("net."), "Missing key"),
        RENAMED,
    ),
    "a wrapper in front": (
        make.wanted(make.layers("net._orig_mod."), make.layers("net."), "Missing key"), RENAMED,
    ),
    "two names that differ by their wrappers": (
        made.against(
            {"net._orig_mod.w": make.full(4), "net._fsdp_wrapped_module.w": make.full(4)},
            {"net.w": make.full(4)},
        ),
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted.json", 1,
               says=("under 2 names with other wrappers",),
               never=("has it as", "the model has it", WEIGHT_ADVICE))],
    ),
    "groups that grew": (
        made.grown_groups,
        [Right("plan {}/saved --mesh fsdp:1 --against {}/wanted", 1,
               says=("optim.param_groups.0.initial_lr: the model expects it",)),
         Right("diff {}/saved {}/wanted", 1, says=("optim.param_groups: 1 in A, 2 in B",)),
         Right("diff {}/saved {}/saved", never=("numbers of parameter groups",))],
    ),
    # Steps.
    "a saved tracker names a step that is not there": (
        made.tracked_by_bridge(30, is_finished=True),
        [Right("check {}", says=("latest_train_state.pt names iteration 30, which is not there",))],
    ),
    "a saved tracker names a step that never finished": (
        made.tracked_by_bridge(20, is_finished=False),
        [Right("check {}", says=("names iteration 20, which has not finished",))],
    ),
    "a saved tracker names the newest step": (
        made.tracked_by_bridge(20, is_finished=True),
        [Right("check {}", never=("tracker-mismatch",))],
    ),
    "the optimizer of the newest step has no metadata": (
        made.optimizer_without_metadata,
        [Right("check {}", 1, says=("Newest sound checkpoint: checkpoint_1",))],
    ),
    # Safetensors.
    "a step of NeMo AutoModel": (
        made.step_of_automodel,
        [Right("check {} --json", facts={"newest_sound": "epoch_0_step_9"}, never=("LATEST",)),
         Right("check {}/epoch_0_step_9/model", says=("sound",)),
         Right("show {}/epoch_0_step_9/model", says=("3 tensors",))],
    ),
    "a writer that keeps one piece of two": (
        made.a_piece_of_two_kept,
        [Right("check {}/shards --json", 1, told=("chunk-gap error",), says=("48 of 96",)),
         Right("check {}/whole --json", 1, told=("chunk-gap error",), says=("zeros here",))],
    ),
    "an index and its files": (
        made.index_that_lacks_a_key,
        [Right("check {}/full --json", facts=SOUND),
         Right("check {}/lacking --json", told=("index-mismatch warning",), facts=SOUND),
         Right("check {}/collapsed --json", 1, told=("index-mismatch error",),
               says=("4 tensors not in the file that it names",))],
    ),
    "items of torch_checkpointing": (
        made.items_of_ranks,
        [Right("check {}", 2, says=("torch_checkpointing",)),
         Right("show {}", 2, says=("torch_checkpointing",))],
    ),
}  # fmt: skip


#: What a package writes that need not be installed.
OF_PACKAGES: dict[str, tuple[str, make.Maker, list[Right]]] = {
    "weights that torchao quantised": (
        "torchao",
        made.quantised_by_torchao,
        [Right(f"check {{}}/{name} --deep --json", notes=("payload-foreign-class",), facts=SOUND,
               says=("loads it if torchao is imported",))
         for name in ("int8", "float8")],
    ),
    "configs of OmegaConf": (
        "omegaconf",
        made.configs_of_omegaconf,
        [Right("check {} --deep --json", notes=("payload-foreign-class",), facts=SOUND)],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_PACKAGES)
def test_what_is_said_of_a_packages_is_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, maker, rights = OF_PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    maker(tmp_path / "ckpt")
    said(rights, tmp_path / "ckpt", capsys)


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_is_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker, rights = CASES[name]
    maker(tmp_path / "ckpt")
    said(rights, tmp_path / "ckpt", capsys)
