"""Without torch, or with a broken one, all commands but `verify` work; it says what to install."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inspector.__main__ import COMMANDS
from tests.conftest import ROOT, SAMPLES, run_process

SAMPLE = SAMPLES / "hsdp_2x2"
RECORDING = ROOT / "tests" / "data" / "runs" / "hsdp_2x4" / "events.jsonl"
#: The interpreter as it would be without torch, for itself and what it starts.
_ABSENT = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest, **more: None if name == "torch" else find(name, *rest, **more)
)
"""
_BROKEN = 'raise ImportError("libtorch_cpu.so: cannot open shared object file")\n'
LOOKS: dict[str, tuple[tuple[str | Path, ...], str]] = {
    "show": ((SAMPLE,), "model.net1.weight"),
    "check": ((SAMPLE, "--deep", "--values"), "sound"),
    "plan": ((SAMPLE, "--mesh", "fsdp:2"), "fsdp:2"),
    "stats": ((SAMPLE,), "model.net1.weight"),
    "diff": ((SAMPLE, SAMPLES / "fsdp_4", "--values"), "every bit"),
    "open": ((SAMPLE,), "model.net1.weight"),
    "seal": ((SAMPLE, "--output", "SEAL"), ""),
    "export": ((SAMPLE, "OUT", "--format", "torch"), "6 tensors"),
    "repair": ((SAMPLES / "run/step-300", "OUT"), "sound by check --deep"),
    "replay": ((RECORDING,), "EXACT"),
    "watch": ((SAMPLES / "run", "--once", "--settle", "0"), '"event": "latest"'),
}


@pytest.fixture(params=["absent", "broken"])
def without(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a Python whose torch is not there, or cannot be imported."""
    folder = tmp_path / "site"
    folder.mkdir()
    if request.param == "absent":
        (folder / "sitecustomize.py").write_text(_ABSENT)
    else:
        (folder / "torch").mkdir()
        (folder / "torch" / "__init__.py").write_text(_BROKEN)
        (folder / "torch" / "version.py").write_text('__version__ = "2.13.0"\n')
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_every_command_is_tried() -> None:
    assert {*LOOKS, "verify"} == COMMANDS


@pytest.mark.parametrize("command", LOOKS)
def test_what_only_looks_works(command: str, without: dict[str, str], tmp_path: Path) -> None:
    args, said = LOOKS[command]
    seal = tmp_path / "a.seal.json"
    places = {"SEAL": seal, "OUT": tmp_path / "out.pt"}
    ran = run_process(command, *(places.get(str(arg), arg) for arg in args), env=without)
    assert ran.code == 0, ran
    assert said in ran.out
    assert seal.exists() == (command == "seal")


def test_verify_says_what_to_install(without: dict[str, str]) -> None:
    ran = run_process("verify", SAMPLE, "--mesh", "fsdp:2", env=without)
    assert ran.code == 2
    assert "pip install" in ran.out + ran.err and "--python" in ran.out + ran.err
    assert "has no torch" in ran.err or "this torch cannot be imported" in ran.out
