"""Packed payloads where zstandard is not installed: nothing is called sound, nothing damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, run_process

PACKED = SAMPLES / "zstd_2"
# The interpreter as it would be without the package, for itself and the ranks that it starts.
_SITE = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest, **more: None if name == "zstandard" else find(name, *rest, **more)
)
"""


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_check_reads_nothing_and_says_so(without: dict[str, str]) -> None:
    assert run_process("check", PACKED, "--deep").code == 0
    ran = run_process("check", PACKED, "--deep", "--json", env=without)
    document = ran.json()
    assert (document["verdict"], ran.code) == ("unreadable", 2)
    assert not document["findings"]
    assert all("zstandard" in left["why"] for left in document["checked"]["not_checked"])
    assert "sound:" not in run_process("check", PACKED, "--deep", env=without).out
    # Without --deep no payload was asked for.
    assert run_process("check", PACKED, env=without).code == 0


def test_a_seal_is_neither_written_nor_held_against_it(
    tmp_path: Path, without: dict[str, str]
) -> None:
    output = tmp_path / "a.seal.json"
    ran = run_process("seal", PACKED, "--output", output, env=without)
    assert ran.code == 2 and "zstandard" in ran.err and not output.exists()
    assert run_process("seal", PACKED, "--output", output).code == 0
    ran = run_process("check", PACKED, "--manifest", output, "--json", env=without)
    assert (ran.json()["verdict"], ran.code) == ("unreadable", 2)
    assert not ran.json()["findings"]


@pytest.mark.torchrun
def test_verify_could_not_read_it(without: dict[str, str]) -> None:
    ran = run_process("verify", PACKED, "--mesh", "fsdp:2", "--then", "none", env=without)
    assert ran.code == 2
    assert "could not be read" in ran.out and "DIFFER" not in ran.out
