"""What the front end itself may take: JSON from strangers, and the child that it waits for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.child import process as child_process
from inspector.checkpoint.child.isolated import Child, Limits
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.json_bounds import over_bounds
from inspector.checkpoint.safetensors.header import HeaderError, bounded_json
from inspector.checks.judge import check
from inspector.checks.payload.payloads import check_payloads
from inspector.errors import KilledError, MetadataError
from tests.conftest import SAMPLES, run_python

SAMPLE = SAMPLES / "hsdp_2x2"
METADATA = SAMPLE / ".metadata"

pytestmark = pytest.mark.own_readers


# -- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit", [b'{"a":', b"[],", b"{},", b'"ab":"cd",', b"[", b'{"a":{},"b":[]},', b"0,"]
)
def test_a_dense_text_is_not_parsed(unit: bytes) -> None:
    text = b"{" + unit * ((51 << 20) // len(unit))
    assert over_bounds(text)
    with pytest.raises(HeaderError, match=r"more than a model can have|nothing but"):
        bounded_json(text)


@pytest.mark.slow
def test_a_header_of_many_tensors_is() -> None:
    entry = {"dtype": "BF16", "shape": [4096, 14336], "data_offsets": [10**12, 10**12 + 10**8]}
    fields = {f"model.layers.{i}.mlp.experts.{i % 128}.w.weight": entry for i in range(100_000)}
    text = json.dumps(fields).encode()
    assert len(text) > 10 << 20
    assert not over_bounds(text)
    assert len(bounded_json(text)) == 100_000
    short = b",".join(
        b'"%d":{"dtype":"F32","shape":[],"data_offsets":[0,4]}' % i for i in range(99)
    )
    assert not over_bounds(b"{" + short + b"}")


_MEASURED = """
import resource, subprocess, sys
# In a process of its own: a fresh one carries the peak of the process that it was forked from.
command = [sys.executable, "-m", "inspector", *sys.argv[1:]]
code = subprocess.run(command).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "integrity.json", "index", "seal"])
@pytest.mark.parametrize("unit", [b'{"a":', b'"ab":"cd",', b"[],"])
def test_memory_of_a_dense_text(name: str, unit: bytes, tmp_path: Path) -> None:
    """51 MB of it took more than 4.2 GB."""
    text = b"{" + unit * ((51 << 20) // len(unit))
    folder = tmp_path / "ckpt"
    argv = [str(folder)]
    if name == "model.safetensors":
        folder.mkdir()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text)
    elif name == "index":
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_bytes(text)
        (folder / "model-00001-of-00001.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    else:
        shutil.copytree(SAMPLE, folder)
        (folder / "integrity.json").write_bytes(text)
        if name == "seal":
            (folder / "integrity.json").rename(tmp_path / "seal.json")
            argv += ["--manifest", str(tmp_path / "seal.json")]
        else:
            argv += ["--deep"]
    ran = run_python("-c", _MEASURED, "check", *argv, timeout_s=60)
    assert "Traceback" not in ran.err and "internal error" not in ran.err
    assert ran.code in (0, 1, 2)
    assert int(ran.err.split()[-1]) < 400, ran.err


# -- the child ----------------------------------------------------------------------------------


def test_the_deadline_counts_from_when_it_is_waited_for() -> None:
    """A listing of a minute between start and wait made a sound checkpoint unreadable."""
    child = Child([str(METADATA)], [None], METADATA.stat().st_size, Limits(1 << 30, 60, 0.8))
    time.sleep(1.0)
    header, _ = child.result()
    assert header


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first so many children are killed as they begin: the number is `killed[0]`."""
    left = [0]
    start = child_process.start

    def killing(*arguments: str) -> subprocess.Popen[bytes]:
        process = start(*arguments)
        if left[0]:
            left[0] -= 1
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        return process

    monkeypatch.setattr(child_process, "start", killing)
    return left


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_child_that_was_killed_is_tried_once_more(killed: list[int]) -> None:
    killed[0] = 1
    assert open_checkpoint(str(SAMPLE)).num_tensors
    assert check(str(SAMPLE)).verdict == "sound"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_child_that_is_killed_twice_says_nothing_of_the_checkpoint(killed: list[int]) -> None:
    killed[0] = 2
    with pytest.raises(KilledError, match="was killed by SIGKILL") as raised:
        check(str(SAMPLE))
    assert raised.value.exit_code == 2
    assert not isinstance(raised.value, MetadataError)
    assert "says nothing of the checkpoint" in raised.value.hint


# -- files that change --------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["touch", "cut", "none"])
def test_a_file_that_changes_while_it_is_read_is_named(change: str, tmp_path: Path) -> None:
    """What is found in it is of neither the one nor the other: it is not judged."""
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLE, folder)
    checkpoint = open_checkpoint(str(folder))
    file = folder / "__1_0.distcp"
    if change == "touch":
        os.utime(file, ns=(1, 1))
    elif change == "cut":
        os.truncate(file, file.stat().st_size // 2)
    storage = folder_of(str(folder))
    report = check_payloads(checkpoint, storage)
    if change == "none":
        assert not report.findings and not report.checked.num_unread
        return
    assert not [f for f in report.findings if f.severity == "error"]
    assert report.checked.num_unread
    [left] = [n for n in report.checked.not_checked if "changed while" in n.why]
    assert "__1_0.distcp" in left.what


def test_a_hole_in_the_metadata_raises_no_bound(tmp_path: Path) -> None:
    path = tmp_path / ".metadata"
    shutil.copyfile(SAMPLES / "hsdp_2x2" / ".metadata", path)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system keeps no holes")
    child = Child([str(path)], [None], 1 << 40)
    try:
        # By pages of the file system, which may be as large as this.
        assert child.limits.memory_bytes <= Limits.of(size + (1 << 20)).memory_bytes
    finally:
        child.stop()
