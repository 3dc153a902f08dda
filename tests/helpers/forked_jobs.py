"""Many small jobs whose ranks are forks of one process, and the result of each.

What a rank costs is the import of torch, which all of them share here (`mutant_worker`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.verify.preflight import Preflight
from inspector.verify.progress import JobState
from inspector.verify.recording import EventFollower, spec_event
from inspector.verify.result import ExpectedEntries, result_event
from inspector.verify.spec import JobSpec

__all__ = ["ForkedJob", "run_forked"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ForkedJob:
    """One of them; `mutant` is what is changed in its ranks (`mutants`), if something is."""

    spec: JobSpec
    expected: ExpectedEntries
    mutant: str = ""

    @classmethod
    def of(cls, plan: Preflight, folder: Path) -> ForkedJob:
        """A job with an events and a scratch folder of its own under `folder`."""
        for name in ("events", "scratch"):
            (folder / name).mkdir(parents=True)
        places = {f"{name}_dir": str(folder / name) for name in ("events", "scratch")}
        spec = dataclasses.replace(plan.spec, **places, run=folder.name)
        return cls(spec, plan.expected)

    def result(self) -> dict[str, Any]:
        """What a front end makes of what the ranks told."""
        state = JobState()
        state.long_names = self.expected.long_names
        state.apply(spec_event(self.spec, 0.0, num_entries=len(self.expected.names)))
        files = EventFollower(self.spec.events_dir)
        for event, _ in files.read(whole=True):
            state.apply(event)
        files.close()
        return result_event(state.snapshot(), self.spec, 0.0, False, self.expected)


def run_forked(
    jobs: Mapping[str, ForkedJob], folder: Path, python: str = sys.executable
) -> dict[str, dict[str, Any]]:
    """Run them, one after the other, in that interpreter; the result of each.

    Raises:
        RuntimeError: The process that forks them ended badly.
    """
    files = []
    for i, job in enumerate(jobs.values()):
        file = folder / f"{i}.json"
        file.write_text(job.spec.to_json())
        files.append((job.mutant, str(file)))
    (folder / "jobs").write_text(json.dumps(files))
    done = subprocess.run(
        [python, "-m", "tests.helpers.mutant_worker", str(folder / "jobs")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {name: job.result() for name, job in jobs.items()}
