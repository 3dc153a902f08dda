"""Checkpoints that are broken on purpose: where `check --deep` fails, no job of theirs exits 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.errors import InspectError
from inspector.verify.preflight import prepare
from inspector.verify.result import exit_code
from tests.conftest import SAMPLES
from tests.helpers.forked_jobs import ForkedJob, run_forked

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
    jobs = {}
    for name in sorted(name for name, told in expected.items() if told["exit"] == 1):
        try:
            checkpoint = open_checkpoint(str(BROKEN / name))
            plan = prepare(checkpoint, "fsdp:1", then=["none"], device="cpu", memory_bytes=1 << 28)
        except InspectError:
            continue  # Exit code 2, before anything starts.
        jobs[name] = ForkedJob.of(plan, tmp_path / name)
    results = run_forked(jobs, tmp_path)
    passed = {name: expected[name]["about"] for name in jobs if exit_code(results[name]) == 0}
    assert len(jobs) > 20
    assert passed.keys() == NOT_LOADED.keys(), passed
