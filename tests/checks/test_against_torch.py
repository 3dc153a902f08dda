"""`plan --against` beside `dcp.load`: for every pair of state dicts both say the same."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import _version
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from inspector.checkpoint.find.locate import read_checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.findings import Finding
from inspector.checks.plan.against import compare
from inspector.checks.plan.expected import read_expected
from inspector.errors import UsageError
from tests.checks.test_against import loaded
from tests.conftest import run_cli

State = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is saved, and what is loaded into.

    Attributes:
        saved, wanted: Nested state dicts.
        is_old: Saved flattened as torch <= 2.3 does.
        needs_paths: A list of names does not tell what torch does.
    """

    saved: State
    wanted: State
    is_old: bool = False
    needs_paths: bool = False


def t(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


def groups(**more: Any) -> list[State]:
    return [{"lr": 0.1, "betas": [0.9, 0.99], "params": ["w"], **more}]


def training(**more: Any) -> State:
    state: State = {
        "model": {"w": t(4, 4), "norm.weight": t(4)},
        "optim": {"state": {"w": {"step": t(), "exp_avg": t(4, 4)}}, "param_groups": groups()},
        "epochs": [1, 2, 3],
    }
    return {**state, **more}


def without(state: State, *path: str) -> State:
    found = copy.deepcopy(state)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return found


MORE_GROUPS = {"optim": {**training()["optim"], "param_groups": groups(initial_lr=0.1)}}
LAYERS = {f"layers.{i}.attn.weight": t(4, 4) for i in range(3)}
WRAPPED = {name.replace("attn", "_orig_mod.attn"): value for name, value in LAYERS.items()}

CASES: dict[str, Case] = {
    "the same": Case(training(), training()),
    "more in the checkpoint": Case(training(more=t(2), note="x"), training()),
    "a weight less": Case(without(training(), "model", "w"), training()),
    "a state less": Case(without(training(), "optim", "state", "w", "exp_avg"), training()),
    "no optimizer": Case(without(training(), "optim"), training()),
    "saved the old way": Case(training(), training(), is_old=True),
    "saved the old way, with a tuple": Case(
        training(rng=(t(4), 5)), training(rng=(t(4), 0)), is_old=True
    ),
    "saved the old way, a group with one key more": Case(
        training(), training(**MORE_GROUPS), is_old=True
    ),
    "saved the old way, a scheduler less": Case(
        training(), training(sched={"last": 1, "lrs": [{"a": 1}]}), is_old=True
    ),
    "saved the old way, a scheduler more": Case(
        training(sched={"last": 1, "lrs": [{"a": 1}]}), training(), is_old=True
    ),
    "saved the old way, nested deeper": Case(
        {"a": {"b": {"c": {"d": 1}, "w": t(2)}}, "e": {"f": {"g": 2}}},
        {"a": {"b": {"c": {"d": 0}, "w": t(2)}}, "e": {"f": {"g": 0}}},
        is_old=True,
    ),
    "saved the old way, a tensor in it now": Case(
        training(extra={"a": 1}), training(extra={"a": 1, "b": t(2)}), is_old=True
    ),
    "saved the old way, loaded into literal names": Case(
        {"w": t(2), "a": {"b": 1}}, {"w": t(2), "a.b": 1}, is_old=True, needs_paths=True
    ),
    "a list that grew": Case(training(my_key=[{"a": 1}, {"b": t(2)}]), training(my_key=[])),
    "a list that is empty in the checkpoint": Case(
        {"w": t(2), "my_key": []}, {"w": t(2), "my_key": [{"a": 1}]}
    ),
    "a list that is empty in the checkpoint, beside groups": Case(
        training(my_key=[]), training(my_key=[{"a": 1}])
    ),
    "a list that is empty in the checkpoint, a tensor in it now": Case(
        {"w": t(2), "my_key": []}, {"w": t(2), "my_key": [{"a": t(2)}]}
    ),
    "a list that shrank": Case(training(k=[{"a": 1}, {"a": 2}]), training(k=[{"a": 1}])),
    "a list with one dict more": Case(training(k=[{"a": 1}]), training(k=[{"a": 1}, {"a": 2}])),
    "a list of numbers that grew": Case(training(epochs=[1]), training(epochs=[0] * 9)),
    "an empty dict": Case(training(), training(extra={})),
    "a dict with numbers for keys": Case({"m": [t(2), t(3)]}, {"m": {0: t(2), 1: t(3)}}),
    "literal dots": Case({"a.b": t(2), "c.d": 1}, {"a": {"b": t(2)}, "c": {"d": 0}}),
    "literal dots beside more": Case(
        {"a.b": t(2), "c.d": 1, "z": 1}, {"a": {"b": t(2)}, "c": {"d": 0}}
    ),
    "a number for a tensor": Case(training(step=5), training(step=t())),
    "a tensor for a number": Case(training(step=t()), training(step=5)),
    "one element, no dims": Case(training(step=t(1)), training(step=t())),
    "another shape": Case(training(x=t(8, 4)), training(x=t(2, 16))),
    "a transposed weight": Case(training(x=t(8, 4)), training(x=t(4, 8))),
    "a flat piece": Case(training(x=t(512, 16)), training(x=t(2048))),
    "a vocabulary": Case(training(embed=t(66, 4)), training(embed=t(55, 4))),
    "another dtype": Case(training(x=t(4)), training(x=t(4, dtype=torch.float16))),
    "wrappers in the middle": Case(WRAPPED, LAYERS),
    "wrappers in the model": Case(LAYERS, WRAPPED),
    "a wrapper and a flat piece": Case(
        {"layers.0._fsdp_wrapped_module.w": t(64), "x": t(1)}, {"layers.0.w": t(32, 8), "x": t(1)}
    ),
    "a flat piece that was saved": Case({"w": t(2048)}, {"w": t(512, 16)}),
    "one rank's shape": Case({"w": t(64, 8)}, {"w": t(16, 8)}),
    "a prefix and wrappers": Case(
        {f"net.{name}": value for name, value in WRAPPED.items()}, {"model": LAYERS}
    ),
    "a prefix more": Case({"model": {"model": LAYERS}}, {"model": LAYERS}),
    "experts that are not there": Case(
        {f"experts.{i}.up": t(2) for i in range(2)}, {f"experts.{i}.up": t(2) for i in range(4)}
    ),
}


def save(state: State, folder: Path, *, is_old: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _version._derived_version = "2_3" if is_old else None
        try:
            dcp.save(copy.deepcopy(state), checkpoint_id=folder, no_dist=True)
        finally:
            _version._derived_version = None
    return folder


def torch_says(state: State, folder: Path) -> str:
    """What `dcp.load` raises, or an empty string."""
    return loaded(folder, copy.deepcopy(state))


def listing(state: State, *, with_paths: bool) -> list[State]:
    """The state dict as the JSON list that `--against` takes."""
    flat, paths = flatten_state_dict(copy.deepcopy(state))
    found = []
    for fqn, value in flat.items():
        entry: State = {"fqn": fqn, "dtype": "object"}
        if isinstance(value, torch.Tensor):
            entry = {"fqn": fqn, "dtype": str(value.dtype), "shape": list(value.shape)}
        if with_paths:
            entry["state_path"] = list(paths[fqn])
        found.append(entry)
    return found


def findings(folder: Path, against: Path) -> list[Finding]:
    return compare(read_checkpoint(open_storage(str(folder))), read_expected(str(against)))


def refused(found: list[Finding]) -> list[Finding]:
    """The findings of which torch raises."""
    return [f for f in found if f.severity == "error" and f.torch_does.startswith("raises")]


@pytest.mark.parametrize("form", ["a list", "a list with paths", "a checkpoint"])
@pytest.mark.parametrize("what", CASES)
def test_it_says_what_torch_does(what: str, form: str, tmp_path: Path) -> None:
    case = CASES[what]
    folder = save(case.saved, tmp_path / "saved", is_old=case.is_old)
    if form == "a checkpoint":
        against = save(case.wanted, tmp_path / "wanted")
    else:
        against = tmp_path / "wanted.json"
        against.write_text(json.dumps(listing(case.wanted, with_paths="paths" in form)))
    said, found = torch_says(case.wanted, folder), findings(folder, against)
    errors = refused(found)
    if form == "a list" and case.needs_paths:
        # It cannot be told, and is said to be a guess.
        assert not errors
        assert any(", if " in f.torch_does for f in found)
        return
    assert bool(said) == bool(errors), (said, found)
    if not said:
        return
    kind, _, message = said.partition(": ")
    # What torch stops at is told, with its error.
    told = [f for f in errors if kind in f.torch_does and (f.fqn or "-") in message]
    owner = [f for f in errors if kind in f.torch_does and f"{message.split()[-1]}" in f"{f.fqn}."]
    assert told or owner, (said, errors)


@pytest.mark.parametrize("what", CASES)
def test_no_weight_is_done_without(what: str, tmp_path: Path) -> None:
    case = CASES[what]
    folder = save(case.saved, tmp_path / "saved", is_old=case.is_old)
    against = tmp_path / "wanted.json"
    against.write_text(json.dumps(listing(case.wanted, with_paths=True)))
    flat, _ = flatten_state_dict(copy.deepcopy(case.wanted))
    found = findings(folder, against)
    lacks_weight = False
    for finding in found:
        value = flat.get(finding.fqn or "")
        is_weight = isinstance(value, torch.Tensor) and not str(finding.fqn).startswith("optim.")
        if is_weight and finding.fqn != "step":
            lacks_weight |= finding.code == "missing-key"
            assert "allow_partial_load" not in finding.hint + finding.torch_does
    if lacks_weight:
        # One planner loads all of it, so it is advised for nothing then.
        assert not any("allow_partial_load" in f.hint for f in found)


def test_optional_state_may_be_left_out(tmp_path: Path) -> None:
    folder = save(without(training(), "optim"), tmp_path / "saved")
    found = findings(folder, save(training(), tmp_path / "wanted"))
    assert found
    assert all("allow_partial_load" in f.hint for f in found if f.code == "missing-key")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("wrappers in the middle", "as layers.0._orig_mod.attn.weight: rename the keys"),
        ("wrappers in the model", "as layers.0.attn.weight: rename the keys"),
        ("a prefix more", "as model.model.layers.0.attn.weight: rename the keys"),
        ("a flat piece", "2,048 is a quarter of 512x16"),
        ("a flat piece", "without SHARDED_STATE_DICT on 4 ranks"),
        ("a wrapper and a flat piece", "as layers.0._fsdp_wrapped_module.w: rename the keys; of"),
        ("a wrapper and a flat piece", "64 is a quarter of 32x8: the checkpoint holds the flat"),
        ("a flat piece that was saved", "2,048 is a quarter of 512x16: the checkpoint holds"),
        ("one rank's shape", "16 is a quarter of 64 in dim 0: if that is one rank's shape"),
        ("a prefix and wrappers", "as net.layers.0._orig_mod.attn.weight: rename the keys"),
        ("a vocabulary", "padded or extended"),
        ("another shape", "the same 32 elements in another shape"),
        ("a transposed weight", "transpose it, for reshaping mixes its elements"),
        ("a list that grew", "in 2 parts (my_key"),
        ("a list that is empty in the checkpoint, beside groups", "leave my_key out of the state"),
        ("a list that is empty in the checkpoint, a tensor in it now", "has my_key as one object"),
        ("experts that are not there", "0 to 1 alone: where every rank numbers its own"),
    ],
)
def test_hints(what: str, words: str, tmp_path: Path) -> None:
    case = CASES[what]
    folder = save(case.saved, tmp_path / "saved", is_old=case.is_old)
    found = findings(folder, save(case.wanted, tmp_path / "wanted"))
    assert any(words in f.hint for f in found), [f.hint for f in found]


def test_the_old_way_is_one_note_for_each_object(tmp_path: Path) -> None:
    folder = save(training(), tmp_path / "saved", is_old=True)
    (note,) = findings(folder, save(training(), tmp_path / "wanted"))
    assert (note.code, note.severity, note.fqn) == ("old-flattening", "note", "optim.param_groups")
    assert note.torch_does == "loads it whole, by its fallback for checkpoints of torch <= 2.3"


def test_a_listing_of_the_old_way(tmp_path: Path) -> None:
    """Expected is an old checkpoint: today's torch takes its groups apart as the new one's are."""
    folder = save(training(), tmp_path / "saved")
    found = findings(folder, save(training(), tmp_path / "wanted", is_old=True))
    assert [(f.code, f.severity) for f in found] == [("old-flattening", "note")]
    assert torch_says(training(), folder) == ""


def test_names_alone(tmp_path: Path) -> None:
    folder = save(training(), tmp_path / "saved", is_old=True)
    path = tmp_path / "names.json"
    path.write_text(json.dumps([e["fqn"] for e in listing(training(), with_paths=False)]))
    assert {f.code for f in findings(folder, path)} == {"old-flattening"}


def test_what_show_prints_tells_the_paths(tmp_path: Path) -> None:
    """`show --json` is a listing as good as the checkpoint it is of."""
    folder = save(training(), tmp_path / "saved", is_old=True)
    shown = run_cli("show", save(training(), tmp_path / "wanted"), "--json")
    path = tmp_path / "shown.json"
    path.write_text(shown.out)
    assert findings(folder, path) == findings(folder, tmp_path / "wanted")


def test_a_path_that_is_not_its_names(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    for state_path in (["b"], "a", ["a", None], [], [["a"]], ["a", ""], {"a": 1}, [True]):
        path.write_text(json.dumps([{"fqn": "a", "dtype": "object", "state_path": state_path}]))
        with pytest.raises(UsageError, match="state_path does not make up its name"):
            read_expected(str(path))


def test_names_of_many_parts_take_no_long(tmp_path: Path) -> None:
    long = ".".join("a" * 300_000)
    folder = save({"w": t(2), "a": 1, f"{long}.x": t(2)}, tmp_path / "saved")
    path = tmp_path / "wanted.json"
    path.write_text(json.dumps([{"fqn": "w", "dtype": "F32"}, {"fqn": f"{long}.y"}, f"{long}.z"]))
    assert [f.code for f in findings(folder, path)][:2] == ["missing-key"] * 2


def test_many_numbers_of_one_family(tmp_path: Path) -> None:
    """What is said of a family is made once, not for each of its members."""
    folder = save({f"experts.{i}.w": t(1) for i in range(3)}, tmp_path / "saved")
    names = [f"experts.{i}.w" for i in range(4000)]
    path = tmp_path / "wanted.json"
    path.write_text(json.dumps(names))
    hints = {id(f.hint) for f in findings(folder, path) if f.code == "missing-key"}
    assert len(hints) == 1
