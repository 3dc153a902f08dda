"""The ranks' own code, changed on purpose: no such job is EXACT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.verify.preflight import prepare
from inspector.verify.result import ExpectedEntries, exit_code
from inspector.verify.selection import make_waves, select
from tests.conftest import SAMPLES
from tests.helpers.forked_jobs import ForkedJob, run_forked
from tests.helpers.mutants import MUTANTS, Mutant

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]

#: How a job says that it does not trust itself.
WORDS = (
    "own check failed",
    "forgotten",
    "neither verified nor left out",
    "second, plain reading",
    "not tried out",
    "accounted for",
    "were not reported by every rank",
    "no entry says",
    "otherwise",
    "under another mesh",
    "no entry went through FSDP2",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The result of each mutant's job, and of one without a change."""
    folder = tmp_path_factory.mktemp("mutants")
    mutants = {"": Mutant(lambda spec: None), **MUTANTS}
    jobs = {n: _job(folder / str(i), n, m) for i, (n, m) in enumerate(mutants.items())}
    return run_forked(jobs, folder)


def _job(folder: Path, name: str, mutant: Mutant) -> ForkedJob:
    checkpoint = open_checkpoint(str(SAMPLES / mutant.sample))
    options: dict[str, Any] = {"via": mutant.via, "device": "cpu", "memory_bytes": 1 << 28}
    job = ForkedJob.of(prepare(checkpoint, "hsdp:2x1", then=mutant.then, **options), folder)
    expected = job.expected
    if mutant.forgets:
        waves, _ = make_waves(checkpoint, select(checkpoint, job.spec), job.spec)
        forgotten = checkpoint.columns.fqns[waves[-1].tensors[-1]]
        # The front end makes the same mistake, and misses nothing.
        names = tuple(fqn for fqn in expected.names if fqn != forgotten)
        assert len(names) == len(expected.names) - 1
        expected = ExpectedEntries(names, expected.left_out, expected.asked)
    return ForkedJob(job.spec, expected, name)


def test_without_a_change_it_is_exact(results: dict[str, dict[str, Any]]) -> None:
    result = results[""]
    assert (result["verdict"], result["why"]) == ("exact", "")
    assert result["torch_reads"]["ok"] is True
    assert exit_code(result) == 0


def test_the_jobs_themselves_catch_every_change(results: dict[str, dict[str, Any]]) -> None:
    assert len(MUTANTS) >= 30
    missed = []
    for name in MUTANTS:
        result = results[name]
        # It was caught, and did not merely fail to run.
        is_caught = result["verdict"] == "differs" or any(word in result["why"] for word in WORDS)
        if result["verdict"] == "exact" or exit_code(result) == 0 or not is_caught:
            missed.append((name, result["verdict"], result["why"], result["failures"][:2]))
    assert not missed
