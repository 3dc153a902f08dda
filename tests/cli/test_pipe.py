"""A pipe whose reader goes away (`| head -1`) keeps the verdict, or is 141; never 0 for 1 or 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SAMPLES, run_cli, some_fast

BROKEN = SAMPLES / "broken"
SIGPIPE = 141
PIPE_BYTES = 1 << 16


def cut_short(*args: str | Path, lines: int) -> int:
    """The exit code of a command of whose output only some lines are read."""
    command = [sys.executable, "-m", "inspector", *map(str, args)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as job:
        assert job.stdout is not None
        for _ in range(lines):
            assert job.stdout.readline()
        job.stdout.close()
        return job.wait(timeout=300)


VERDICTS: dict[str, tuple[tuple[str | Path, ...], int]] = {
    "check, damaged": (("check", BROKEN / "chunk_gap"), 1),
    "check, its JSON": (("check", BROKEN / "chunk_gap", "--json"), 1),
    "check, for GitHub": (("check", BROKEN / "chunk_gap", "--format", "github"), 1),
    "check, deep": (("check", BROKEN / "bit_flip", "--deep"), 1),
    "check, unreadable": (("check", BROKEN / "metadata_cut"), 2),
    "check, sound": (("check", SAMPLES / "fsdp_4"), 0),
    "plan, damaged": (("plan", BROKEN / "file_missing", "--mesh", "fsdp:2"), 1),
    "plan, its reads": (
        ("plan", BROKEN / "file_missing", "--mesh", "fsdp:2", "--json", "--reads"),
        1,
    ),
    "diff": (("diff", SAMPLES / "fsdp_4", SAMPLES / "fsdp_uneven_4"), 1),
    "diff, its JSON": (("diff", SAMPLES / "fsdp_4", BROKEN / "bit_flip", "--values", "--json"), 1),
    "diff, unknown": (("diff", BROKEN / "file_missing", BROKEN / "file_missing"), 2),
    "stats": (("stats", BROKEN / "file_cut"), 1),
    "show": (("show", SAMPLES / "fsdp_4"), 0),
    "help": (("--help",), 0),
}


@pytest.mark.parametrize("lines", some_fast([0, 1], [0]))
@pytest.mark.parametrize("what", some_fast(VERDICTS, list(VERDICTS)[::2]))
def test_a_closed_pipe_keeps_the_verdict(what: str, lines: int) -> None:
    args, code = VERDICTS[what]
    whole = run_cli(*args)
    assert whole.code == code
    assert cut_short(*args, lines=lines) in {code, SIGPIPE}


def test_output_larger_than_a_pipe(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.weight" for i in range(2000)]
    (tmp_path / "expected.json").write_text(json.dumps(names))
    args = ("plan", SAMPLES / "fsdp_4", "--mesh", "fsdp:2", "--against", tmp_path / "expected.json")
    whole = run_cli(*args)
    assert whole.code == 1
    assert len(whole.out) > 2 * PIPE_BYTES
    assert cut_short(*args, lines=1) in {1, SIGPIPE}
    assert cut_short(*args, "--json", lines=1) in {1, SIGPIPE}


RECORDED = ROOT / "tests" / "data" / "runs" / "hsdp_2x4"
RESULTS = {"exact": 0, "differs": 1, "failed": 2}


@pytest.mark.parametrize("as_json", some_fast([False, True], [False]))
@pytest.mark.parametrize("verdict", RESULTS)
def test_replay(verdict: str, as_json: bool, tmp_path: Path) -> None:
    # A real recording, for what is exact only by its last event is not believed.
    events = [json.loads(line) for line in (RECORDED / "events.jsonl").read_text().splitlines()]
    run = events[0].get("run")
    log = {"schema": 1, "event": "log", "run": run, "rank": 0, "t": events[1]["t"]}
    events[1:1] = [{**log, "stream": "stdout", "text": "a" * 80}] * 2000
    if verdict != "exact":
        events[-1] = {**events[-1], "verdict": verdict}
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    args = ("replay", path, *(["--json"] if as_json else []))
    whole = run_cli(*args)
    assert whole.code == RESULTS[verdict], whole.err
    if as_json:
        assert len(whole.out) > PIPE_BYTES
    for lines in (0, 1):
        assert cut_short(*args, lines=lines) in {RESULTS[verdict], SIGPIPE}


@pytest.mark.torchrun
@pytest.mark.slow
def test_verify(tmp_path: Path) -> None:
    args = ("verify", BROKEN / "bit_flip", "--mesh", "fsdp:1", "--then", "none")
    assert cut_short(*args, lines=0) in {1, SIGPIPE}
    assert cut_short(*args, "--json", lines=1) in {1, SIGPIPE}


def test_the_shell(tmp_path: Path) -> None:
    line = f"set -o pipefail; {sys.executable} -m inspector check {BROKEN / 'chunk_gap'} | head -1"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, env=dict(os.environ)
    )
    assert done.returncode in {1, SIGPIPE}
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
