"""Printed jobs, line by line as they are printed, on two hosts; and what the last line says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.verify.job.peers import SILENT_BEATS
from tests.conftest import SAMPLES, run_process
from tests.verify.hosts import Host, two_hosts, why_not
from tests.verify.jobs import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="namespaces are Linux's"),
]
#: However busy the machine is.
PATIENCE_S = 600.0
SAMPLE = SAMPLES / "hsdp_2x4"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    if why := why_not():
        pytest.skip(why)
    with two_hosts(tmp_path) as pair:
        yield pair


def _print(folder: Path, mesh: str, *options: object) -> list[str]:
    """The lines of a job; the folder of its events is `folder`/job."""
    args = ("--device", "cpu", "--print-command", "--events", folder / "job", *options)
    ran = run_process("verify", SAMPLE, "--mesh", mesh, *map(str, args))
    assert ran.code == 0, ran.err
    return [line for line in ran.out.splitlines() if not line.startswith("#")]


def _line(lines: list[str], word: str) -> str:
    return next(line for line in lines if word in line)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and last line of a node; the others go to the log of the test."""
    said, _ = process.communicate(timeout=PATIENCE_S)
    sys.stdout.write(said)
    return process.returncode, said.rstrip().splitlines()[-1]


def _told_in_time(timeout_s: float, since: float) -> None:
    """A node that has just ended did so within 30 s of what it waited for."""
    took = time.time() - since
    sys.stdout.write(f"told after {took:.1f} s, of which {timeout_s:.0f} s were its timeout\n")
    assert took < timeout_s + 30


def _came(folder: Path, host: str) -> float:
    """When a node wrote its first word."""
    (file,) = (folder / "job").glob(f"node-{host}-*.jsonl")
    with file.open() as lines:
        return float(json.loads(lines.readline())["t"])


def _start(host: Host, line: str, head: str, **env: str) -> subprocess.Popen[str]:
    return host.start(line, HEAD_NODE=head, OMP_NUM_THREADS="1", **env)


def _nothing_is_left(folder: Path) -> None:
    assert not list((folder / "job").glob("hsdp-inspect-scratch-*"))


def test_two_hosts_end_with_the_verdict(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Their names mean 127.0.1.1, the shell has what another launcher left, and no PYTHONPATH."""
    alpha, _ = hosts
    line = _line(_print(tmp_path, "fsdp:4", "--nnodes", 2, "--port", 29611), "--nnodes=2")
    foreign = {"PET_NNODES": "7", "PET_MAX_RESTARTS": "9", "TORCHELASTIC_RUN_ID": "x", "RANK": "5"}
    nodes = [_start(host, line, alpha.address, PYTHONPATH="", **foreign) for host in hosts]
    for node, host in zip(nodes, hosts, strict=True):
        said, _ = node.communicate(timeout=PATIENCE_S)
        lines = said.rstrip().splitlines()
        assert node.returncode == 0, said
        assert lines[-1].startswith("hsdp-inspect: EXACT: "), said
        assert f"{host.name} means 127.0.1.1 here" in said
        assert "GLOO_SOCKET_IFNAME=eth0" in said
    _nothing_is_left(tmp_path)
    replay = run_process("replay", tmp_path / "job")
    assert (replay.code, replay.out[:6]) == (0, "EXACT:")
    # The same folder again would mix two jobs.
    code, last = _ended(_start(alpha, line, alpha.address))
    assert (code, "has run" in last) == (2, True)


@pytest.mark.parametrize("is_unplugged", [False, True])
def test_a_host_that_dies_during_save(
    tmp_path: Path, hosts: tuple[Host, Host], is_unplugged: bool
) -> None:
    alpha, beta = hosts
    line = _line(_print(tmp_path, "fsdp:2", "--nnodes", 2), "--nnodes=2")
    seams = tmp_path / "job/import/inspector/verify/seams.py"
    begins = '"""A phase begins on this rank."""'
    text = seams.read_text()
    assert begins in text
    seams.write_text(text.replace(begins, '__import__("time").sleep(900 * (phase == "save"))'))
    survivor, _ = (_start(host, line, alpha.address) for host in hosts)
    files = [tmp_path / f"job/rank-{rank:05}.jsonl" for rank in (0, 1)]
    wait_for(
        lambda: all(file.exists() and '"phase":"save"' in file.read_text() for file in files),
        PATIENCE_S,
    )
    if is_unplugged:
        beta.unplug()
    killed = time.time()
    beta.kill()
    code, last = _ended(survivor)
    _told_in_time(SILENT_BEATS, killed)
    assert code == 2
    assert last.startswith("hsdp-inspect: FAILED: node beta has not been heard of for"), last
    _nothing_is_left(tmp_path)


def test_a_host_that_never_comes(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    alpha, _ = hosts
    lines = _print(tmp_path, "fsdp:2", "--nnodes", 2, "--timeout", 5)
    slurm = {"SLURM_JOB_NODELIST": "alpha,beta", "SLURM_NODEID": "0"}
    code, last = _ended(_start(alpha, _line(lines, "--nnodes=2"), alpha.address, **slurm))
    _told_in_time(5, _came(tmp_path, "alpha"))
    assert code == 2
    assert "FAILED: 1 of 2 nodes came within 5 s: alpha; nothing was heard of beta" in last


def test_a_port_in_use(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    """Both hosts say it, and with another port the same folder still serves."""
    alpha, beta = hosts
    lines = _print(tmp_path, "fsdp:2", "--nnodes", 2, "--port", 29622)
    line = _line(lines, "--nnodes=2")
    listen = (
        f'"{sys.executable}" -c "import socket, time; s = socket.create_server((\'\', 29622)); '
        "print('up', flush=True); time.sleep(900)\""
    )
    taken = alpha.start(listen)
    assert taken.stdout is not None
    assert taken.stdout.readline() == "up\n"
    waiting = _start(beta, line, alpha.address)
    wait_for(lambda: list((tmp_path / "job").glob("node-beta-*.jsonl")), PATIENCE_S)
    for node in (_start(alpha, line, alpha.address), waiting):
        code, last = _ended(node)
        _told_in_time(0, _came(tmp_path, "alpha"))
        assert code == 2
        said = f"FAILED: on alpha: port 29622 of {alpha.address} is in use: take another (--port)"
        assert said in last, last
    line = line.replace("29622", "29633")
    for node in [_start(host, line, alpha.address) for host in hosts]:
        code, last = _ended(node)
        assert (code, "EXACT" in last) == (0, True), last


def test_a_head_that_is_named_by_a_name_of_everybodys(
    tmp_path: Path, hosts: tuple[Host, Host]
) -> None:
    line = _line(_print(tmp_path, "fsdp:2", "--nnodes", 2), "--nnodes=2")
    for node in [_start(host, line, "localhost") for host in hosts]:
        code, last = _ended(node)
        assert code == 2
        assert "both take themselves for the head" in last


@pytest.mark.parametrize("word", ["node.py --standalone", "torch.distributed.run"])
def test_where_the_launcher_is_process_1(tmp_path: Path, word: str) -> None:
    """As in a container; and started by another job's rank."""
    if shutil.which("unshare") is None or why_not():
        pytest.skip(why_not() or "unshare is not installed")
    line = _line(_print(tmp_path, "fsdp:2"), word)
    line = line.replace("&& PYTHONPATH", "&& exec env PYTHONPATH").replace("&& /", "&& exec /")
    assert "exec " in line
    ran = subprocess.run(
        ["unshare", "-pf", "--mount-proc", "sh", "-c", line],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    replay = run_process("replay", tmp_path / "job")
    assert (replay.code, replay.out[:6]) == (0, "EXACT:")
    _nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "number", "endpoint"),
    [
        ("pytorchjob.json", "RANK", ("MASTER_ADDR", "MASTER_PORT")),
        ("trainjob.json", "PET_NODE_RANK", ("PET_MASTER_ADDR", "PET_MASTER_PORT")),
    ],
)
def test_the_commands_of_the_manifests(
    tmp_path: Path,
    hosts: tuple[Host, Host],
    manifest: str,
    number: str,
    endpoint: tuple[str, str],
) -> None:
    """As the pods run them, with the environment that Kubeflow gives them."""
    _print(tmp_path, "fsdp:2", "--nnodes", 2, "--python", sys.executable)
    job = json.loads((tmp_path / "job" / manifest).read_text())
    if manifest == "pytorchjob.json":
        replicas = job["spec"]["pytorchReplicaSpecs"]
        assert [replicas[kind]["replicas"] for kind in ("Master", "Worker")] == [1, 1]
        command = replicas["Worker"]["template"]["spec"]["containers"][0]["command"]
    else:
        assert job["spec"]["trainer"]["numNodes"] == 2
        command = job["spec"]["trainer"]["command"]
    assert command[:2] == ["sh", "-c"]
    nodes = []
    for i, host in enumerate(hosts):
        env = {number: str(i), endpoint[0]: hosts[0].address, endpoint[1]: "23456"}
        nodes.append(_start(host, command[2], "", PET_NNODES="2", PET_NPROC_PER_NODE="1", **env))
    for node in nodes:
        code, last = _ended(node)
        assert (code, "EXACT" in last) == (0, True), last
