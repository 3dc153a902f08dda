"""A printed job's ranks that live and do not move: who says so, and of which."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.verify.events import EventWriter
from inspector.verify.job.peers import OwnRanks
from inspector.verify.spec import JobSpec
from tests.conftest import SAMPLES, run_process
from tests.verify.jobs import wait_for

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are looked at in /proc"
)
HOST = "node-a"


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_rank_that_is_stopped_is_told_from_one_that_is_slow(
    tmp_path: Path, idle: subprocess.Popen[bytes]
) -> None:
    spec = JobSpec("/somewhere", "fsdp:3", events_dir=str(tmp_path), run="this")
    writers = [EventWriter(tmp_path, rank, spec.run) for rank in range(3)]
    # Rank 0 computes, rank 1 is stopped, rank 2 is another node's.
    for rank, host in enumerate((HOST, HOST, "node-b")):
        pid = os.getpid() if rank == 0 else idle.pid
        writers[rank].send("hello", pid=pid, host=host)
    idle.send_signal(signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{idle.pid}/stat").read_text().split()[2] == "T")
    ranks = OwnRanks(spec, HOST)
    found, beats = [], 0
    while not found:
        beats += 1
        # Ticks are of 10 ms: this process computes for more than one.
        sum(i for i in range(500_000))
        found = ranks.look(1e6 + 10.0 * beats, silent_beats=4)
    ranks.close()
    (failed,) = found
    assert (failed["rank"], failed["kind"], failed["root"]) == (1, "timeout", True)
    assert failed["message"] == (
        "on node-a, it has told nothing for 5 s, not even that it lives: "
        "it is stopped (SIGSTOP), or held by a debugger"
    )


@pytest.mark.slow
@pytest.mark.torchrun
@pytest.mark.parametrize("how", ["sleeps", "is stopped"])
def test_a_printed_job_ends_with_the_rank_that_hangs(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "job"
    args = ("--device", "cpu", "--print-command", "--events", str(folder), "--timeout", "30")
    printed = run_process("verify", str(SAMPLES / "fsdp_4"), "--mesh", "fsdp:2", *args)
    assert printed.code == 0, printed.err
    line = next(line for line in printed.out.splitlines() if "node.py --standalone" in line)
    seams = folder / "import/inspector/verify/seams.py"
    begins = '"""A phase begins on this rank."""'
    text = seams.read_text()
    assert begins in text
    hangs = "__import__('time').sleep(900 * (phase == 'compare'"
    hangs += " and __import__('os').environ['RANK'] == '1'))"
    seams.write_text(text.replace(begins, hangs))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    node = subprocess.Popen(
        ["sh", "-c", line], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    follow = subprocess.Popen(
        [sys.executable, "-m", "inspector", "replay", "--follow", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        if how == "is stopped":
            file = folder / "rank-00001.jsonl"
            wait_for(lambda: file.exists() and '"phase":"compare"' in file.read_text(), 300.0)
            hello = next(e for e in map(json.loads, file.open()) if e["event"] == "hello")
            os.kill(hello["pid"], signal.SIGSTOP)
        said, _ = node.communicate(timeout=400)
        told, _ = follow.communicate(timeout=120)
    finally:
        for process in (node, follow):
            process.kill()
    last = said.rstrip().splitlines()[-1]
    on = f"rank 1: on {socket.gethostname()}, "
    words = "it is in" if how == "sleeps" else "it is stopped (SIGSTOP)"
    assert node.returncode == 2, said
    assert "FAILED: " in last and on in last and words in last, said
    assert follow.returncode == 2, told
    assert on in told and words in told, told
    assert not list(folder.glob("hsdp-inspect-scratch-*"))
