"""Jobs of ranks that read: started, merged, and ended in every way that there is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint.find.locate import folder_of
from inspector.checks.findings import Report
from inspector.checks.judge import check_storage
from inspector.checks.payload.deep import DeepRequest, check_deep
from inspector.checks.seal.seal import read_seal
from inspector.cli import ranks as cli_ranks
from inspector.cli.options import RankRequest
from inspector.verify.job.guard import job_pids
from inspector.verify.job.launcher import Job
from inspector.verify.job.run_folder import recorded_runs
from inspector.verify.shares.merge import _quiet
from inspector.verify.shares.portion import share_file
from inspector.verify.spec import ReadSpec
from tests.conftest import SAMPLES, run_process
from tests.verify.hosts import two_hosts, why_not
from tests.verify.jobs import mark_of, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torchrun,
    pytest.mark.usefixtures("importable"),
]
SAMPLE = SAMPLES / "hsdp_2x4"
PATIENCE_S = 600.0


def deep(read: Callable[..., Any] | None) -> Callable[..., Any]:
    return lambda checkpoint, storage: check_deep(
        checkpoint, storage, DeepRequest(True, False, read=read), _quiet
    )


def check(folder: Path, request: RankRequest | None = None) -> Report:
    read = None
    if request is not None:
        read = partial(cli_ranks.read_by_ranks, request=request, values=False)
    return check_storage(folder_of(str(folder)), deep=deep(read))


@pytest.mark.parametrize("name", ["hsdp_2x4", "broken/bit_flip"])
def test_two_ranks_find_what_one_process_finds(name: str) -> None:
    folder = SAMPLES / name
    alone = run_process("check", folder, "--deep", "--json")
    ran = run_process("check", folder, "--deep", "--json", "--nproc-per-node", "2")
    assert (ran.code, ran.err) == (alone.code, "")
    document = ran.json()
    ranks = document["checked"].pop("ranks")
    assert document == alone.json()
    assert [rank["rank"] for rank in ranks] == [0, 1]
    (run,) = recorded_runs()
    replay = run_process("replay", run)
    assert replay.code == 2
    assert "EXACT" not in replay.out
    assert replay.out.startswith("READ: ")
    again = run_process("check", folder, "--deep", "--json", "--shares", run)
    assert (again.code, again.json()["verdict"]) == (alone.code, alone.json()["verdict"])
    assert job_pids(mark_of(run)) == []


def test_two_ranks_seal_what_one_process_seals(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert run_process("seal", SAMPLE, "--output", one).code == 0
    ran = run_process("seal", SAMPLE, "--output", other, "--nproc-per-node", "2")
    assert (ran.code, ran.err) == (0, "")
    assert read_seal(str(other)).content_sha256 == read_seal(str(one)).content_sha256
    # The seal is held against the checkpoint by its own road.
    assert run_process("check", SAMPLE, "--manifest", other).code == 0


def test_two_ranks_sum_up_what_one_process_sums_up() -> None:
    alone = run_process("stats", SAMPLE, "--json", "--histogram", "log")
    ran = run_process("stats", SAMPLE, "--json", "--histogram", "log", "--nproc-per-node", "2")
    assert (ran.code, ran.err, ran.json()) == (0, "", alone.json())


class Lost:
    """A check by two ranks, the second of which waits after its first portion."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, how: str = "asleep") -> None:
        monkeypatch.setenv("WAITING_RANK", "1")
        monkeypatch.setenv("WAITING_HOW", how)
        self.jobs: list[Job] = []

        def job(spec: ReadSpec) -> Job:
            made = Job(
                replace(spec, portion_bytes=1), worker="tests.verify.slow_reader", grace_s=2.0
            )
            self.jobs.append(made)
            return made

        monkeypatch.setattr(cli_ranks, "Job", job)

    def when_it_waits(self, deed: Callable[[Job, int], None]) -> threading.Thread:
        """Do something to the job, and to the waiting rank's process, once the other is through."""

        def run() -> None:
            job = wait_for(lambda: self.jobs and self.jobs[0])
            events = wait_for(lambda: job.spec.events_dir)
            wait_for(share_file(events, 1).exists)
            wait_for(lambda: job.snapshot().ranks[0].status == "done")
            pid = wait_for(lambda: job.snapshot().ranks[1].pid)
            deed(job, pid)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def assert_lost(report: Report, why: str) -> None:
    assert (report.verdict, report.exit_code) == ("unreadable", 2)
    (left,) = report.checked.not_checked
    assert left.what.startswith("11 payloads ("), left
    assert "of the share of rank 1" in left.what
    assert why in left.why
    first, second = report.checked.ranks
    assert (first.why_not, first.payloads_read, second.payloads_read) == ("", 12, 1)


def test_a_killed_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch)
    lost.when_it_waits(lambda job, pid: os.kill(pid, signal.SIGKILL))
    assert_lost(check(SAMPLE, RankRequest(nproc_per_node=2)), "it was killed by SIGKILL")
    assert lost.jobs[0].pids == []


def test_a_hung_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, "deaf")
    request = RankRequest(nproc_per_node=2, timeout=3.0)
    assert_lost(check(SAMPLE, request), "no progress for")
    assert lost.jobs[0].pids == []


def test_a_stopped_job_tells_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(monkeypatch, "deaf")
    lost.when_it_waits(lambda job, pid: job.stop())
    report = check(SAMPLE, RankRequest(nproc_per_node=2))
    assert_lost(report, "it was stopped")


def test_an_interpreter_without_torch(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    report = check(SAMPLE, RankRequest(nproc_per_node=2, python=str(python)))
    assert (report.verdict, report.exit_code) == ("unreadable", 2)
    assert all("torch" in left.why for left in report.checked.not_checked)
    assert len(report.checked.not_checked) == 2


def _print(folder: Path, sample: Path, *options: str) -> list[str]:
    args = ("--print-command", "--events", str(folder / "job"), *options)
    ran = run_process("check", sample, "--deep", *args)
    assert ran.code == 0, ran.err
    return [line for line in ran.out.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("is_whole", [True, False])
def test_two_hosts(tmp_path: Path, is_whole: bool) -> None:
    """As printed; or the second host's rank is killed, which is said on both."""
    if why := why_not():
        pytest.skip(why)
    lines = _print(tmp_path, SAMPLE, "--nnodes", "2", "--nproc-per-node", "1", "--timeout", "120")
    line = next(line for line in lines if "--nnodes=2" in line)
    if not is_whole:
        place = tmp_path / "job/import/inspector/verify/shares/portion.py"
        text = place.read_text()
        begins = "        text = json.dumps(told"
        assert begins in text
        killed = '        told["rank"] == 1 and os.kill(os.getpid(), 9)\n'
        place.write_text(text.replace(begins, killed + begins))
    with two_hosts(tmp_path) as hosts:
        nodes = [
            host.start(line, HEAD_NODE=hosts[0].address, OMP_NUM_THREADS="1", PYTHONPATH="")
            for host in hosts
        ]
        said = [node.communicate(timeout=PATIENCE_S)[0] for node in nodes]
    last = [text.rstrip().splitlines()[-1].removeprefix("hsdp-inspect: ") for text in said]
    where = run_process("check", SAMPLE, "--deep", "--json", "--shares", tmp_path / "job")
    ranks = where.json()["checked"]["ranks"]
    if is_whole:
        assert [node.returncode for node in nodes] == [0, 0], said
        assert all(text.startswith("SOUND: nothing is wrong; 2 ranks read 24 ") for text in last)
        assert where.code == 0
        assert {rank["host"] for rank in ranks} == {host.name for host in hosts}
    else:
        assert [node.returncode for node in nodes] == [2, 2], said
        assert all(text.startswith("NOT READ TO ITS END: rank") for text in last), last
        assert where.code == 2
        assert "SIGKILL" in ranks[1]["why_not"]
    assert not list((tmp_path / "job").glob("hsdp-inspect-scratch-*"))
