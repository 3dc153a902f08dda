"""Parameters of an optimizer without state: told as torch takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)

from inspector.checks.judge import check


def start(kind: str, frozen: tuple[str, ...] = ()) -> tuple[Any, torch.optim.Optimizer]:
    names = ("used", "also", "idle")
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in names})
    for name in frozen:
        model[name].requires_grad_(False)
    if kind == "adam":
        return model, torch.optim.AdamW(model.parameters())
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9 if kind == "sgd" else 0)


def optim_of(model: Any, optim: torch.optim.Optimizer, flat: bool) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    return get_optimizer_state_dict(model, optim, options=options)


def saved(folder: Path, kind: str, flat: bool, used: tuple[str, ...]) -> Path:
    model, optim = start(kind)
    sum(model[name](torch.ones(1, 2)).sum() for name in used).backward()
    optim.step()
    state = {"model": get_model_state_dict(model), "optim": optim_of(model, optim, flat)}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def loads(folder: Path, kind: str, flat: bool, frozen: tuple[str, ...] = ()) -> bool:
    state = {"optim": optim_of(*start(kind, frozen), flat)}
    try:
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    except dcp.api.CheckpointException as error:
        assert "Missing key" in str(error)
        return False
    return True


def told(folder: Path) -> list[Any]:
    return [f for f in check(str(folder)).findings if f.code == "optimizer-incomplete"]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_parameter_without_state_is_told(tmp_path: Path, kind: str, flat: bool) -> None:
    folder = saved(tmp_path, kind, flat, ("used", "also"))
    (finding,) = told(folder)
    assert finding.severity == "warning"
    assert "2 of the 6 parameters in its groups have no state (idle." in finding.message
    assert not loads(folder, kind, flat)
    assert loads(folder, kind, flat, frozen=("idle",))


INNOCENT = {
    "all have it": ("adam", ("used", "also", "idle")),
    "none has it": ("plain", ("used", "also")),
    "most are without": ("adam", ("used",)),
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", INNOCENT)
def test_nothing_is_told_where_all_or_few_have_it(tmp_path: Path, name: str, flat: bool) -> None:
    kind, used = INNOCENT[name]
    folder = saved(tmp_path, kind, flat, used)
    assert told(folder) == []
    frozen = ("also", "idle") if name == "most are without" else ()
    assert loads(folder, kind, flat, frozen)


def test_numbers_for_names_tell_nothing(tmp_path: Path) -> None:
    """`optimizer.state_dict()`: its target has no state at all, and nothing is missing."""
    model, optim = start("adam")
    model["used"](torch.ones(1, 2)).sum().backward()
    optim.step()
    dcp.save({"optim": optim.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    assert told(tmp_path) == []
    fresh = {"optim": start("adam")[1].state_dict()}
    dcp.load(fresh, checkpoint_id=tmp_path, no_dist=True)
