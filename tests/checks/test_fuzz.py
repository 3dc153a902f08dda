"""Some of the mutations that `benchmarks/faults.py fuzz` tries by the thousand, torch beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_python
from tests.helpers.fuzz.cases import KINDS, make_case
from tests.helpers.fuzz.runs import Summary, run, summed

#: As many, or what there is time for; a longer run of another seed is asked for by these.
COUNT = int(os.environ.get("HSDP_FUZZ_COUNT", "400"))
BUDGET_S = float(os.environ.get("HSDP_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("HSDP_FUZZ_SEED", "11"))


@pytest.mark.slow
def test_every_mutation_ends_as_it_must(tmp_path: Path) -> None:
    """However few there is time for: what was tried ended in a verdict that torch bears out."""
    out = Path(os.environ.get("HSDP_FUZZ_OUT", tmp_path / "fuzz.json"))
    figures = run(COUNT, SEED, budget_s=BUDGET_S)
    out.write_text(json.dumps(figures, indent=1))
    assert figures["mutations"] > 0
    assert sum(figures["verdicts"].values()) == figures["mutations"]
    assert figures["failures"] == []
    # At least one of those, the first, was also run as a command.
    assert figures["as_commands_too"] > 0


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "fuzz.json"
    for count in (2, 3):
        fuzz = (ROOT / "benchmarks/faults.py", "fuzz", "--count", str(count))
        run_python(*fuzz, "--log", log, "--out", out, check=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2]
    figures = json.loads(out.read_text())
    assert figures["mutations"] == 3
    assert figures["numbers"] == [[0, 2]]


def test_logs_are_added_up_and_the_later_result_counts() -> None:
    """What failed, and no longer does, is told as mended; what ran is told by commit."""
    item = {"kind": "k", "sample": "s", "verdict": "sound", "code": 0, "codes": [], "seed": 3}
    item |= {"problem": "", "s": 0.1, "commit": "a", "torch": "same"}
    failed = {**item, "number": 5, "problem": "exit 0, and torch ...", "torch": "raises", "time": 2}
    later = {**item, "number": 5, "verdict": "damaged", "code": 1, "commit": "b", "time": 9}
    figures = summed([later, failed, {**item, "number": 4, "time": 1}, {**failed, "number": 7}])
    assert figures["numbers"] == [[4, 5], [7, 7]]
    assert figures["commits"] == {"a": 2, "b": 1}
    assert figures["verdicts"] == {"sound": 2, "damaged": 1}
    assert [found["number"] for found in figures["failures"]] == [7]
    assert [(m["number"], m["said"], m["says"]) for m in figures["failed_once_and_mended"]] == [
        (5, "sound", "damaged")
    ]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_mutation_in_every_process(tmp_path: Path) -> None:
    """Whatever the hashes of that process and the time of day: 243 changes a key, and its entry."""
    program = """
import hashlib, sys
from pathlib import Path
from tests.helpers.fuzz.cases import make_case
folder = Path(sys.argv[1])
for number in [*range(40), 243]:
    case = make_case(folder, number, seed=20261130)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    said = [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]
    print(case, said)
"""
    made = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        argv = [sys.executable, "-W", "ignore", "-c", program, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
        made.append(subprocess.check_output(argv, env=environment, text=True, timeout=300))
    assert made[0].count("\n") == 41
    assert "payload pickle" in made[0]  # A zip is written, with dates.
    assert made[0] == made[1]


def test_every_kind_of_mutation_is_made(tmp_path: Path) -> None:
    assert {make_case(tmp_path / "case", number, 11).kind for number in range(150)} == set(KINDS)


def test_what_torch_does_is_held_against_the_exit_code() -> None:
    """A summary knows what it is to fail by."""
    summary = Summary()
    item = {"number": 1, "kind": "k", "sample": "s", "verdict": "sound", "code": 0, "codes": []}
    summary.add({**item, "s": 0.1, "problem": "", "torch": "same"})
    summary.add({**item, "s": 0.1, "problem": "exit 0, and torch ...", "torch": "other"})
    summary.add({**item, "code": 1, "verdict": "damaged", "s": 0.1, "problem": "", "torch": "same"})
    figures = summary.figures()
    assert [failure["torch"] for failure in figures["failures"]] == ["other"]
    assert figures["torch"] == {"damaged": {"same": 1}, "exit 0": {"same": 1, "other": 1}}
    assert figures["loads_as_it_was_but_damaged"] == {"": 1}
