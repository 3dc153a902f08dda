"""A run that a real torchrun job writes while it is watched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.conftest import ROOT
from tests.watch import save_steps

STEPS = ((1, 7, 7), (8, 14, 14), (15, 20, 0))


def train(run: Path, first: int, last: int, killed: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    argv += [str(save_steps.__file__), str(run), str(first), str(last), str(killed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(argv, env=env, cwd=ROOT, stderr=subprocess.DEVNULL)


def load(folder: Path) -> int:
    """Resume from a step as a training does; the step that was saved there."""
    model = {"model": {"w": torch.full((64, 16), torch.nan)}}
    moments = {"exp_avg": torch.full((64, 16), torch.nan), "step": torch.tensor(torch.nan)}
    optimizer = {"optimizer": {"state": {"w": moments}}}
    dcp.load(model, checkpoint_id=str(folder / "model"), no_dist=True)
    dcp.load(optimizer, checkpoint_id=str(folder / "optimizer"), no_dist=True)
    step = int(moments["step"])
    assert torch.equal(model["model"]["w"], torch.full((64, 16), float(step)))
    assert torch.equal(moments["exp_avg"], torch.full((64, 16), float(-step)))
    return step


@pytest.mark.slow
def test_the_file_never_names_a_step_that_cannot_be_resumed_from(tmp_path: Path) -> None:
    """20 steps of two parts each, two of them killed half-way through the second."""
    run, latest, out = tmp_path / "run", tmp_path / "latest", tmp_path / "out"
    run.mkdir()
    argv = [sys.executable, "-m", "inspector", "watch", str(run), "--deep"]
    # However busy the machine is, the two parts of the first step come within the settling: alone,
    # and with nothing before it, the one would be a whole step.
    argv += ["--write-latest", str(latest), "--interval", "0.1", "--settle", "15"]
    with open(out, "w") as file:
        watching = subprocess.Popen(argv, stdout=file, cwd=ROOT)
    named: list[int] = []

    def look() -> None:
        try:
            path = latest.read_text()
        except FileNotFoundError:
            return
        assert re.fullmatch(rf"{re.escape(str(run))}/step-\d+\n", path), path
        step = load(Path(path.strip()))
        assert path == f"{run}/step-{step}\n"
        if named[-1:] != [step]:
            named.append(step)

    try:
        for first, last, killed in STEPS:
            training = train(run, first, last, killed)
            while training.poll() is None:
                look()
                time.sleep(0.05)
            assert bool(training.returncode) == bool(killed)
        deadline = time.monotonic() + 600
        while named[-1:] != [20]:
            assert time.monotonic() < deadline, (named, out.read_text())
            look()
            time.sleep(0.1)
    finally:
        watching.send_signal(signal.SIGTERM)
        code = watching.wait(300)
    assert code == 0
    assert named == sorted(named)
    assert not {7, 14} & set(named)
    events = [json.loads(line) for line in out.read_text().splitlines()]
    steps = {e["step"]: e for e in events if e["event"] == "step"}
    assert sorted(steps) == list(range(1, 21))
    bad = {n for n, event in steps.items() if event["verdict"] != "sound"}
    assert bad == {7, 14}
    assert {n for n, event in steps.items() if not event["resumable"]} == {7, 14}
