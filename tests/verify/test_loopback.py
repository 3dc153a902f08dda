"""A job of one node is reached from this machine alone: it listens on no other address."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from inspector.verify.job.commands import environment, local_argv
from inspector.verify.job.run_folder import meeting_folder
from inspector.verify.spec import MEETING, JobSpec
from tests.conftest import ROOT, SAMPLES

SPEC = JobSpec("/somewhere", "fsdp:2", python="python3")


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses on which a process, or one that it started, takes connections."""
    found = set()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return set()
    for process in family:
        try:
            for at in process.net_connections(kind="tcp"):
                if at.status == psutil.CONN_LISTEN:
                    found.add((at.laddr.ip, at.laddr.port))
        except psutil.Error:
            continue  # It is gone.
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys/class/net/lo").exists(), reason="a machine with Linux's lo")
@pytest.mark.parametrize(
    "told",
    [
        ["verify", "--mesh", "hsdp:2x2", "--device", "cpu", "--json"],
        ["check", "--deep", "--nproc-per-node", "2"],
    ],
    ids=["verify", "check"],
)
def test_nothing_listens_but_on_loopback(told: list[str], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "inspector", *told, str(SAMPLES / "hsdp_2x2")]
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    job = subprocess.Popen(
        argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    seen = set()
    try:
        while job.poll() is None:
            seen |= listening(job.pid)
        _, err = job.communicate()
    finally:
        job.kill()
    assert job.returncode == 0, err
    if told[0] == "verify":
        assert seen  # The ranks' own, over which they compare.
    assert {ip for ip, _ in seen if not ipaddress.ip_address(ip).is_loopback} == set()


def test_the_processes_of_a_job_meet_by_a_file(tmp_path: Path) -> None:
    with meeting_folder() as folder:
        argv = local_argv(SPEC, tmp_path / "spec.json", tmp_path, meeting=folder)
        env = environment(SPEC, tmp_path, "mark", {}, folder)
        assert os.stat(folder).st_mode & 0o077 == 0
    assert not os.path.exists(folder)
    assert "--standalone" not in argv and f"--rdzv-endpoint={folder}/agents" in argv
    assert env[MEETING] == f"{folder}/ranks"
    assert env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_without_a_place_to_meet_torchrun_takes_a_port(tmp_path: Path) -> None:
    assert "--standalone" in local_argv(SPEC, tmp_path / "spec.json", tmp_path)
    # What another job left in the environment is not this one's.
    assert MEETING not in environment(SPEC, tmp_path, "mark", {MEETING: "/other"})
