"""Conditions that real ranks make: what is said of them, beside what became of them in torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_process, run_torchrun

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]

SCRIPTS = Path(__file__).with_name("scripts")
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed"
)


def written(name: str, ranks: int, folder: Path) -> list[int]:
    """Run a script under torchrun; the numbers that it prints last."""
    done = run_torchrun(ranks, SCRIPTS / name, folder)
    assert done.code == 0, done.err[-2000:]
    return [int(number) for number in done.out.split("\n")[-2].split()]


def test_an_optimizer_of_local_tensors_does_not_resume(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    same, total = written("local_adam.py", 4, folder)
    assert same < total
    answer = run_process("check", folder, "--json").json()
    assert [f["code"] for f in answer["findings"]] == ["local-state"]
    assert "in 4 shards" in answer["findings"][0]["message"]


@needs_torchao
def test_states_of_eight_bits_are_sound(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    assert written("low_bit_adam.py", 2, folder) == [0]
    quick = run_process("check", folder, "--json")
    assert (quick.code, quick.json()["verdict"]) == (0, "sound")
    assert {f["code"] for f in quick.json()["findings"]} == {"packed-tensor"}
    deep = run_process("check", folder, "--deep", "--json").json()
    assert (deep["verdict"], {f["severity"] for f in deep["findings"]}) == ("sound", {"note"})
    assert "OptimState8bit" in json.dumps(deep["checked"]["not_checked"])
    assert run_process("plan", folder, "--mesh", "fsdp:4").code == 0
    line = ["verify", folder, "--mesh", "fsdp:2", "--json"]
    alone = last(run_process(*line).out)
    assert alone["tensors"]["different"] == []
    unseen = alone["tensors"]["not_verified"]
    assert len(unseen) == 4
    assert all("--import torchao" in entry["why"] for entry in unseen)
    compared = run_process(*line, "--import", "torchao")
    assert (compared.code, last(compared.out)["verdict"]) == (0, "exact")


def last(events: str) -> Any:
    """The result of a verification, its last event."""
    return json.loads(events.strip().split("\n")[-1])
