"""The entries that a pipeline stage loads: told by lines or by the files, and never too few."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from synthetic import S0, S1, R, strided
from test_axes import everywhere, over, saved, staged

from inspector.checkpoint.model import Checkpoint
from inspector.cli.group import run_command
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import Planner
from inspector.layout.target.file import StageLine, parse_placement_file
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.target.stages import StageKeys, StageRequest, stage_keys
from inspector.layout.writer.written_by import infer
from tests.conftest import SAMPLES
from tests.helpers.schemas import DOCUMENTS, fault
from tests.layout.test_load_plan import as_torch
from tests.layout.test_load_plan_axes import opened, reads_of_torch, told_to_torch

ALL_2 = StageRequest(None, 2)


def named(checkpoint: Checkpoint, keys: StageKeys) -> set[str]:
    fqns = [checkpoint.columns.fqns[i] for i in keys.tensors]
    return {*fqns, *(checkpoint.bytes_entries[i].fqn for i in keys.entries)}


@pytest.mark.parametrize("sample", ["pp_fsdp_2x2", "pp_hsdp_2x2x2"])
def test_the_files_tell_whose_the_pieces_are(sample: str) -> None:
    truth = json.loads((SAMPLES / "expected.json").read_text())[sample]
    checkpoint = opened(sample)
    for keys in stage_keys(checkpoint, ALL_2, (), infer(checkpoint)):
        first = (keys.number - 1) * truth["world_size"] // 2
        own = {fqn for fqn, boxes in truth["boxes"].items() if boxes[first] is not None}
        assert named(checkpoint, keys) == {*own, *truth["bytes"]}
        assert set(keys.left_out) == set(truth["boxes"]) - own
        assert (keys.told_by, keys.num_shared) == ("checkpoint", len(truth["bytes"]))
        assert "no proof" in keys.words


@pytest.mark.parametrize(
    ("inside", "sizes"),
    [((S0,), (4,)), ((R, S0), (2, 2)), ((S0,), (2,)), ((R,), (4,)), ((R,), (1,))],
    ids=["fsdp", "hsdp", "four stages", "ddp", "one rank"],
)
def test_a_stage_never_lacks_what_its_ranks_held(inside: Any, sizes: tuple[int, ...]) -> None:
    num = 4 if math.prod(sizes) < 4 else 2
    checkpoint = staged(inside, sizes, num)
    names = [*checkpoint.columns.fqns, *(e.fqn for e in checkpoint.bytes_entries)]
    for keys in stage_keys(checkpoint, StageRequest(None, num), (), infer(checkpoint)):
        first = 2 * (keys.number - 1)
        own = {n for n in names if f"layers.{first}." in n or f"layers.{first + 1}." in n}
        shared = {n for n in names if "layers." not in n}
        assert named(checkpoint, keys) == own | shared
        assert keys.num_shared == len(shared)


def test_whole_tensors_that_lie_together_by_chance_are_nobodys() -> None:
    """Of a shared module two small tensors lie with one stage: no evidence that it alone has it."""
    states: list[dict[str, Any]] = []
    for rank in range(4):
        stage = rank // 2
        where = over((2,), 2 * stage)
        state: dict[str, Any] = {
            f"layers.{6 * stage + n}.{w}": ((8, 4), (S0,), *where) for n in range(6) for w in "ab"
        }
        state |= {f"rng.0.{name}": ((2,), (R,), *over((4,))) for name in "xy"}
        states.append(state)
    checkpoint = saved(states)
    written = infer(checkpoint)
    assert written.partition is not None
    for keys in stage_keys(checkpoint, ALL_2, (), written):
        assert {"rng.0.x", "rng.0.y"} <= named(checkpoint, keys)
        assert keys.num_shared == 2


@pytest.mark.parametrize("text", "0/2 3/2 2 all -1/2 1/0 1/2/3 x/2 1/9999".split())
def test_what_is_no_stage(text: str) -> None:
    with pytest.raises(UsageError, match="--stage"):
        StageRequest.parse(text)


def test_where_nothing_tells_there_is_no_guess() -> None:
    state: dict[str, Any] = {f"layers.{i}.w": ((8, 4), (S0,), *over((4,))) for i in range(4)}
    checkpoint = everywhere(state, 4)
    with pytest.raises(UsageError, match="does not tell which entries"):
        stage_keys(checkpoint, ALL_2, (), infer(checkpoint))
    pipeline = opened("pp_fsdp_2x2")
    with pytest.raises(UsageError, match="its files show 2 groups"):
        stage_keys(pipeline, StageRequest(1, 4), (), infer(pipeline))


LINES = """
"*wq.weight" = "tp:0"
[stages]   # counted from 1
"*layers.[012].*" = "1"
"*layers.3.*" = "2"
"*layers.1.wo*" = "all"
"*layers.0.wo*" = "1,2"
[placements]
"*wo.weight" = "tp:1"
""".splitlines()


def test_lines_say_it_whatever_wrote_the_checkpoint() -> None:
    assert [line.pattern for line in parse_placement_file(LINES).placements] == [
        "*wq.weight",
        "*wo.weight",
    ]
    lines = parse_placement_file(LINES).stages
    assert [str(line) for line in lines] == ["1", "2", "all", "1,2"]
    checkpoint = opened("pp_fsdp_2x2")
    one, two = stage_keys(checkpoint, ALL_2, lines)
    ends = {n.removeprefix("model.") for n in named(checkpoint, two)}
    assert ends == {
        *("layers.3.wq.weight", "layers.3.wo.weight", "layers.1.wo.weight", "layers.0.wo.weight"),
        "step",
    }
    assert (two.told_by, two.num_shared) == ("placements", 2)
    assert {n.removeprefix("model.") for n in one.left_out} == {
        "layers.3.wq.weight",
        "layers.3.wo.weight",
    }


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((StageLine("nothing*", (1,)),), "matches no entry"),
        ((StageLine("*", (3,)),), "has 2 stages"),
        ((StageLine("*wq*", (1,)),), "no entry is of stage 2"),
    ],
)
def test_lines_of_other_stages_are_refused(lines: tuple[StageLine, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        stage_keys(opened("pp_fsdp_2x2"), ALL_2, lines)


@pytest.mark.parametrize("value", ["0", "1,1", "one", "", "1;2"])
def test_what_names_no_stages(value: str) -> None:
    with pytest.raises(UsageError, match="names no stages"):
        parse_placement_file(["[stages]", f'"a" = "{value}"'])


def test_a_pattern_stands_once_in_each_table() -> None:
    assert parse_placement_file(['a = "tp:0"', "[stages]", 'a = "1"']).stages == (
        StageLine("a", (1,)),
    )
    with pytest.raises(UsageError, match="once more"):
        parse_placement_file(["[stages]", 'a = "1"', 'a = "2"'])


@pytest.mark.slow
def test_reads_of_a_stage_are_those_of_torchs_planner(tmp_path: Path) -> None:
    """torch plans the state dict of that stage alone, rank by rank."""
    jobs, plans = [], []
    mesh = Mesh.parse("dp_shard:2,tp:2")
    lines = parse_placement_file(LINES).placements
    for sample in ("pp_fsdp_2x2", "pp_hsdp_2x2x2"):
        checkpoint = opened(sample)
        for keys in stage_keys(checkpoint, ALL_2, (), infer(checkpoint)):
            planner = Planner(checkpoint, keys.tensors, keys.entries)
            plan = planner.plan(mesh, TargetPlacements(mesh, None, lines))
            plans.append(plan)
            jobs.append(told_to_torch(SAMPLES / sample, plan) | {"without": keys.left_out})
    num = 0
    for plan, by_rank in zip(plans, reads_of_torch(jobs, tmp_path), strict=True):
        for rank, found in enumerate(by_rank):
            assert sorted(map(repr, map(as_torch, plan.reads(rank)))) == sorted(map(repr, found))
            num += len(found)
    assert num > 50


def test_plan_says_what_it_left_out_and_counts_no_errors_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(*args: object) -> tuple[int, str]:
        code = run_command([*map(str, args)])
        return code, capsys.readouterr().out

    sample = SAMPLES / "pp_hsdp_2x2x2"
    mesh = ("--mesh", "fsdp:2")
    code, told = ran("plan", sample, *mesh, "--stage", "all/2", "--json")
    document = json.loads(told)
    assert (code, fault(document, DOCUMENTS["plan-stages"])) == (0, "")
    assert [s["stage"]["number"] for s in document["stages"]] == [1, 2]
    assert document["bytes_needed"] == sum(s["bytes_needed"] for s in document["stages"])
    alone = json.loads(ran("plan", sample, *mesh, "--stage", "2/2", "--json")[1])
    assert alone == document["stages"][1]
    assert fault(alone, DOCUMENTS["plan"]) == ""
    assert (alone["stage"]["num_left_out"], alone["stage"]["told_by"]) == (4, "checkpoint")
    with pytest.raises(UsageError, match="a page is of one stage"):
        ran("plan", sample, *mesh, "--stage", "all/2", "--format", "html")

    # A file that the second stage's ranks alone wrote is gone.
    folder = tmp_path / "lost"
    folder.mkdir()
    for file in sample.iterdir():
        if file.name != "__5_0.distcp":
            (folder / file.name).write_bytes(file.read_bytes())
    code, told = ran("plan", folder, *mesh, "--stage", "all/2", "--json")
    first, second = json.loads(told)["stages"]
    assert code == 1
    assert (first["problems"], first["stage"]["errors_left_out"] > 0) == ([], True)
    assert {p["file"] for p in second["problems"]} == {"__5_0.distcp"}
    code, told = ran("plan", folder, *mesh, "--stage", "1/2")
    assert code == 0
    assert "4 entries of other stages left out; " in told
    assert "of what other stages load (check names " in told


def test_placements_inside_a_stage_come_from_its_own_ranks() -> None:
    """Tensor parallelism inside each stage: columns and rows on the target as they were cut."""
    states: list[dict[str, Any]] = []
    for rank in range(8):
        stage = rank // 4
        where = over((2, 2), 4 * stage)
        state: dict[str, Any] = {}
        for layer in (2 * stage, 2 * stage + 1):
            for name, cut in (("wq", 0), ("wo", 1)):
                how = (S0, S1) if cut else (strided(0, 2), S0)
                state[f"layers.{layer}.{name}"] = ((16, 16), how, *where)
            state[f"layers.{layer}.norm"] = ((16,), (S0, R), *where)
        states.append(state)
    checkpoint = saved(states)
    written = infer(checkpoint)
    assert written.partition is not None
    mesh = Mesh.parse("dp_shard:2,tp:4")
    rules = TargetPlacements(mesh, written)
    for tensor in checkpoint.tensors:
        lies, source = rules.of(tensor.fqn, tensor.shape, tensor.index)
        wanted = {"wq": (0, 0), "wo": (0, 1), "norm": (0, None)}[tensor.fqn.split(".")[-1]]
        assert lies.dims == wanted, tensor.fqn
        assert source == ("rule" if wanted[1] is None else "checkpoint")


def test_the_file_is_read_once_as_it_may_be_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "placements"
    path.write_text("\n".join(["[stages]", '"*layers.[01].*" = "1"', '"*layers.[23].*" = "2"']))
    opened_at = []
    plain = Path.open

    def counted(self: Path, *args: Any, **more: Any) -> Any:
        opened_at.extend([self] if self == path else [])
        return plain(self, *args, **more)

    monkeypatch.setattr(Path, "open", counted)
    asked = ("--mesh", "fsdp:2", "--stage", "all/2", "--placements", str(path), "--json")
    run_command(["plan", str(SAMPLES / "pp_fsdp_2x2"), *asked])
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert {stage["stage"]["told_by"] for stage in stages} == {"placements"}
    assert opened_at == [path]
