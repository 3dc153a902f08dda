"""Checkpoints that are broken on purpose: where `check --deep` fails, no job of theirs exits 0."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.errors import InspectError
from inspector.verify.preflight import prepare
from inspector.verify.progress import JobState
from inspector.verify.recording import EventFollower, spec_event
from inspector.verify.result import exit_code, result_event
from tests.conftest import ROOT, SAMPLES

BROKEN = SAMPLES / "broken"
#: What is wrong there is not in what a job loads.
NOT_LOADED = {
    "chunk_duplicate": "dcp.load reads the chunk twice, each time right",
    "st_index_escapes": "torch's reader of safetensors does not look into the index",
    "st_index_stale": "likewise; transformers does",
}


@pytest.mark.slow
@pytest.mark.torchrun
def test_no_job_exits_0_where_the_deep_check_fails(tmp_path: Path) -> None:
    expected = json.loads((BROKEN / "expected.json").read_text())
    jobs, planned = [], {}
    for name in sorted(name for name, told in expected.items() if told["exit"] == 1):
        folder = tmp_path / name
        for part in ("events", "scratch"):
            (folder / part).mkdir(parents=True)
        try:
            checkpoint = open_checkpoint(str(BROKEN / name))
            plan = prepare(checkpoint, "fsdp:1", then=["none"], device="cpu", memory_bytes=1 << 28)
        except InspectError:
            continue  # Exit code 2, before anything starts.
        spec = dataclasses.replace(
            plan.spec,
            events_dir=str(folder / "events"),
            scratch_dir=str(folder / "scratch"),
            run=name,
        )
        (folder / "spec.json").write_text(spec.to_json())
        planned[name] = spec, plan.expected
        jobs.append(("", str(folder / "spec.json")))
    (tmp_path / "jobs").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.mutant_worker", str(tmp_path / "jobs")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    passed = {}
    for name, (spec, told) in planned.items():
        state = JobState()
        state.long_names = told.long_names
        state.apply(spec_event(spec, 0.0, num_entries=len(told.names)))
        files = EventFollower(spec.events_dir)
        for event, _ in files.read(whole=True):
            state.apply(event)
        files.close()
        result = result_event(state.snapshot(), spec, 0.0, False, told)
        if exit_code(result) == 0:
            passed[name] = expected[name]["about"]
    assert len(planned) > 20
    assert passed.keys() == NOT_LOADED.keys(), passed
