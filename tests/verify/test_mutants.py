"""The ranks' own code, changed on purpose: no such job is EXACT."""

from __future__ import annotations

from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.verify.job.launcher import Job
from inspector.verify.preflight import prepare
from inspector.verify.result import ExpectedEntries, exit_code
from inspector.verify.selection import make_waves, select
from tests.conftest import ROOT, SAMPLES
from tests.helpers.mutants import MUTANTS

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]

SAMPLE = "fsdp2_adamw_4"
#: What only shows where something is wrong with the checkpoint.
DAMAGED = {"corrupt_payloads_not_told": "broken/bit_flip"}


def _run(monkeypatch: pytest.MonkeyPatch, mutant: str) -> dict[str, Any]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MUTANT", mutant)
    checkpoint = open_checkpoint(str(SAMPLES / DAMAGED.get(mutant, SAMPLE)))
    then = ["hsdp:2x1"] if mutant == "reload_keeps_what_was_there" else ["fsdp:2"]
    plan = prepare(checkpoint, "hsdp:2x1", then=then, device="cpu", memory_bytes=1 << 28)
    expected = plan.expected
    if mutant.endswith(("_forget", "_forgets")):
        waves, _ = make_waves(checkpoint, select(checkpoint, plan.spec), plan.spec)
        forgotten = checkpoint.columns.fqns[waves[-1].tensors[-1]]
        # The front end makes the same mistake, and misses nothing.
        names = tuple(fqn for fqn in expected.names if fqn != forgotten)
        assert len(names) == len(expected.names) - 1
        expected = ExpectedEntries(names, expected.left_out, expected.asked)
    job = Job(plan.spec, expected=expected, worker="tests.helpers.mutant_worker")
    with job.start():
        for _ in job.events():
            pass
    assert job.result is not None
    return job.result


def test_without_a_change_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, "")
    assert (result["verdict"], result["why"]) == ("exact", "")
    assert result["torch_reads"]["ok"] is True
    assert exit_code(result) == 0


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_job_itself_catches_it(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    result = _run(monkeypatch, mutant)
    assert result["verdict"] != "exact"
    assert exit_code(result) != 0
    # It was caught, and did not merely fail to run.
    assert result["verdict"] == "differs" or result["why"] in _caught(result)


def _caught(result: dict[str, Any]) -> set[str]:
    words = (
        "own check failed",
        "forgotten",
        "neither verified nor left out",
        "second, plain reading",
        "not tried out",
        "accounted for",
        "were not reported by every rank",
        "no entry says so",
        "otherwise",
    )
    return {result["why"]} if any(word in result["why"] for word in words) else set()
