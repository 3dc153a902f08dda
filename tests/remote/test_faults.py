"""Whatever a server does: a command ends, within bounds, with the right exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.remote.faulty_server import faulty_server
from tests.remote.under_faults import (
    CASES,
    COMMANDS,
    LOST_S,
    MAX_S,
    SAMPLE,
    run,
    seal_intact,
    wrong,
)

#: A hang, whatever else the machine does.
_GIVE_UP_S = 600.0
#: `show` of a sample on this machine, where it has nothing else to do, and more.
_SHOW_S = 0.5
_PACKAGES = {"http": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_FEW = ("show", "check --deep")
#: A fault of each kind: of time twice, of length, of content.
_KINDS = ("hang", "drip-headers", "endless", "etag", "storm")
_MORE = [name for name in COMMANDS if name not in _FEW]


def slowness() -> float:
    """How many times as long things take as on a machine with nothing else to do; at least 1."""
    began = time.monotonic()
    argv = [sys.executable, "-m", "inspector", "show", str(SAMPLE)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    return max(1.0, (time.monotonic() - began) / _SHOW_S)


def hold(scheme: str, fault: str, names: tuple[str, ...] | list[str], scratch: Path) -> None:
    """Run commands under a fault, some beside each other, and see how each ends."""
    pytest.importorskip(_PACKAGES[scheme])
    if "check --manifest" in names:
        seal_intact(scratch)
    before = slowness()
    with faulty_server(SAMPLE, fault) as (address, server), ThreadPoolExecutor(2) as pool:

        def one(name: str) -> list[str]:
            folder = scratch / name.replace(" ", "")
            ended = run(name, scheme, address, folder, give_up_s=_GIVE_UP_S)
            found = wrong(name, scheme, fault, ended)
            most_s = MAX_S * max(before, slowness()) * 2  # Two at a time.
            if ended.wall_s > most_s:
                found.append(f"{ended.wall_s:.0f} s, of at most {most_s:.0f} s")
            return [f"{name}: {what}" for what in found]

        assert [what for found in pool.map(one, names) for what in found] == []
        if fault == "redirect-away":
            server.kill()
            assert server.stdout is not None
            for line in server.stdout:
                # Several answer at a time: lines may stand in one.
                assert not line.replace("AWAY", "").strip(), line


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "fault"), CASES)
def test_what_lists_and_what_reads_ends(scheme: str, fault: str, tmp_path: Path) -> None:
    hold(scheme, fault, _FEW, tmp_path)


@pytest.mark.slow
@pytest.mark.torchrun
@pytest.mark.parametrize("fault", _KINDS)
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_every_command_that_takes_an_address_ends(scheme: str, fault: str, tmp_path: Path) -> None:
    hold(scheme, fault, _MORE, tmp_path)


def test_what_slow_answers_may_take_is_less_than_a_minute() -> None:
    """The limits themselves add up to less, and leave a command some seconds for its work."""
    assert LOST_S < MAX_S - 5


def test_the_table_is_of_every_command_under_every_fault() -> None:
    """The one in docs/remote.md: whole, of this list of commands and faults, and nothing amiss."""
    found = json.loads((ROOT / "benchmarks" / "results" / "server_faults.json").read_text())
    runs = {(run["scheme"], run["fault"], run["command"]): run for run in found["runs"]}
    for scheme, fault in CASES:
        for name in COMMANDS if scheme in ("http", "s3") else _FEW:
            assert scheme == "az" or (scheme, fault, name) in runs, (scheme, fault, name)
    assert [run for run in found["runs"] if run["wrong"]] == []
