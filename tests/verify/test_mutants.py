"""The ranks' own code, changed on purpose: no such job is EXACT."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.verify.preflight import prepare
from inspector.verify.progress import JobState
from inspector.verify.recording import EventFollower, spec_event
from inspector.verify.result import ExpectedEntries, exit_code, result_event
from inspector.verify.selection import make_waves, select
from inspector.verify.spec import JobSpec
from tests.conftest import ROOT, SAMPLES
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
    """The result of each mutant's job, and of one without a change; all ranks are forks of one."""
    folder = tmp_path_factory.mktemp("mutants")
    jobs, planned = [], {}
    for i, (name, mutant) in enumerate([("", Mutant(lambda spec: None)), *MUTANTS.items()]):
        planned[name] = spec, _ = _plan(folder / str(i), mutant)
        file = folder / f"{i}.json"
        file.write_text(spec.to_json())
        jobs.append((name, str(file)))
    (folder / "jobs").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.mutant_worker", str(folder / "jobs")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: _result(*of) for name, of in planned.items()}


def _plan(folder: Path, mutant: Mutant) -> tuple[JobSpec, ExpectedEntries]:
    for name in ("events", "scratch"):
        (folder / name).mkdir(parents=True)
    checkpoint = open_checkpoint(str(SAMPLES / mutant.sample))
    plan = prepare(
        checkpoint,
        "hsdp:2x1",
        then=mutant.then,
        via=mutant.via,
        device="cpu",
        memory_bytes=1 << 28,
    )
    expected = plan.expected
    if mutant.forgets:
        waves, _ = make_waves(checkpoint, select(checkpoint, plan.spec), plan.spec)
        forgotten = checkpoint.columns.fqns[waves[-1].tensors[-1]]
        # The front end makes the same mistake, and misses nothing.
        names = tuple(fqn for fqn in expected.names if fqn != forgotten)
        assert len(names) == len(expected.names) - 1
        expected = ExpectedEntries(names, expected.left_out, expected.asked)
    spec = dataclasses.replace(
        plan.spec,
        events_dir=str(folder / "events"),
        scratch_dir=str(folder / "scratch"),
        run=folder.name,
    )
    return spec, expected


def _result(spec: JobSpec, expected: ExpectedEntries) -> dict[str, Any]:
    """What a front end makes of what the ranks told."""
    state = JobState()
    state.apply(spec_event(spec, 0.0, num_entries=len(expected.names)))
    files = EventFollower(spec.events_dir)
    for event, _ in files.read(whole=True):
        state.apply(event)
    files.close()
    return result_event(state.snapshot(), spec, 0.0, False, expected)


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
