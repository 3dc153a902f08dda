"""A run whose numbers started anew is told; the times of copies are not taken for that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SAMPLES, run_cli

HOUR = 3600
START = 1_700_000_000


def run_of(top: Path, hours: dict[str, float], sample: str = "fsdp_4") -> Path:
    """Folders of one checkpoint, each written so many hours after the start."""
    for name, hour in hours.items():
        shutil.copytree(SAMPLES / sample, top / name)
        for path in (top / name).rglob("*"):
            os.utime(path, (START + hour * HOUR, START + hour * HOUR))
    return top


def told(top: Path) -> list[Any]:
    document = run_cli("check", top, "--json").json()
    return [f for f in document["findings"] if f["code"] == "step-mismatch"]


RESTARTED = {
    "accelerate": {"checkpoint_2": 0, "checkpoint_3": 1, "checkpoint_0": 5, "checkpoint_1": 6},
    "total limit of two": {"checkpoint_4": 0, "checkpoint_2": 3},
    "an earlier step resumed": {"step-100": 0, "step-200": 2, "step-500": 8, "step-400": 30},
}


@pytest.mark.parametrize("name", RESTARTED)
@pytest.mark.parametrize("sample", ["fsdp_4", "safetensors_1"])
def test_lower_numbers_that_are_newer_are_told(tmp_path: Path, name: str, sample: str) -> None:
    hours = RESTARTED[name]
    (finding,) = told(run_of(tmp_path, hours, sample))
    *_, last = hours
    highest = max(hours, key=lambda step: int(step[-1:] if "_" in step else step[5:]))
    assert (finding["severity"], finding["file"]) == ("warning", highest)
    assert last in finding["message"] and highest in finding["message"]
    ran = run_cli("check", tmp_path)
    assert ran.code == 0
    assert f"Newest sound checkpoint: {highest}" in ran.out


STEPS = ["step-1000", "step-1200", "step-200", "step-400", "step-600", "step-800"]
QUIET: dict[str, dict[str, float]] = {
    "in order": {"step-1": 0, "step-2": 5, "step-3": 10},
    "copied by name": {name: 2.0 * n for n, name in enumerate(STEPS)},
    "copied from the newest on": {f"step-{9 - n}": 2.0 * n for n in range(6)},
    "copied in any order": {f"step-{n}": 2.0 * at for at, n in enumerate((6, 2, 9, 1, 4, 3))},
    "all at once": {f"step-{9 - n}": 0 for n in range(4)},
    "within minutes": {"step-2": 0, "step-1": 0.5},
    "one alone": {"step-2": 0},
}


@pytest.mark.parametrize("name", QUIET)
def test_times_that_may_be_a_copys_are_not(tmp_path: Path, name: str) -> None:
    assert told(run_of(tmp_path, QUIET[name])) == []


def test_a_file_that_was_put_into_an_older_step_later_is_nothing(tmp_path: Path) -> None:
    run_of(tmp_path, {"step-1": 0, "step-2": 5})
    (tmp_path / "step-1" / "notes.txt").write_text("kept")
    assert told(tmp_path) == []
