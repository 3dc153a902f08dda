"""A tensor's payload with right checksums that torch cannot load, however little is odd in it."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checks.findings import Report
from tests.checks.test_codes import judged
from tests.conftest import SAMPLES

SAMPLE = SAMPLES / "hsdp_2x2"
FQN = "model.net1.weight"

#: What is changed in the pickle.
PICKLES: dict[str, Callable[[bytes], bytes]] = {
    "an opcode of another unpickler": lambda p: p[:-1] + b"2.",  # DUP
    "a frame": lambda p: p[:2] + b"\x95" + len(p[2:]).to_bytes(8, "little") + p[2:],
    "a storage named in six parts": lambda p: p.replace(b"tq\x05Q", b"Ntq\x05Q"),
    "a storage named in four parts": lambda p: p.replace(b"X\x03\x00\x00\x00cpuq\x04", b""),
    "a storage of no class of torch's": lambda p: p.replace(b"FloatStorage", b"FlootStorage"),
    "too few arguments": lambda p: p.replace(b"\x89ccollections", b"ccollections"),
    "too many arguments": lambda p: p.replace(b")Rq\ttq", b")Rq\tNNtq"),
    "a gradient that is a number": lambda p: p.replace(b"\x89ccoll", b"K\x01ccoll"),
    "flags that are a number": lambda p: p.replace(b")Rq\ttq", b")Rq\tK\x07tq"),
    "a size that is a text": lambda p: p.replace(b"\x86q\x06", b"X\x01\x00\x00\x00x\x86q\x06", 1),
}
#: Another record's bytes.
RECORDS = {
    "no version": ("version", None),
    "a version of no number": ("version", b"x\n"),
    "a version to come": ("version", b"77\n"),
    "no byte order that is known": ("byteorder", b"middle"),
}


def rewritten(folder: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """One payload with a record changed, and all its checksums right; it moves to the file's end.

    Raises:
        AssertionError: Nothing was changed.
    """
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    (info, *_) = (s for i, s in metadata.storage_data.items() if i.fqn == FQN)
    file = folder / info.relative_path
    data, out = file.read_bytes(), io.BytesIO()
    is_changed = False
    payload = io.BytesIO(data[info.offset : info.offset + info.length])
    with zipfile.ZipFile(payload) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            other = change(item.filename.partition("/")[2], content)
            is_changed = is_changed or other != content
            if other is not None:
                new.writestr(item.filename, other)
    assert is_changed
    file.write_bytes(data + out.getvalue())
    info.offset, info.length = len(data), len(out.getvalue())
    path.write_bytes(pickle.dumps(metadata))


def torch_raises(folder: Path) -> bool:
    try:
        dcp.load({FQN: torch.zeros(8, 5)}, checkpoint_id=folder, no_dist=True)
    except BaseException:  # CheckpointException is no Exception
        return True
    return False


def only_error(report: Report) -> str:
    (finding,) = (f for f in report.findings if f.severity == "error")
    assert finding.fqn == FQN
    return finding.code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "ckpt")
    return tmp_path / "ckpt"


def test_a_payload_written_anew_is_sound(folder: Path) -> None:
    rewritten(folder, lambda name, data: b"3" if name == "version" else data)
    assert not torch_raises(folder)
    assert judged(folder, "--deep").verdict == "sound"


@pytest.mark.parametrize("what", PICKLES)
def test_a_pickle_that_torch_makes_no_tensor_of(folder: Path, what: str) -> None:
    rewritten(folder, lambda name, data: PICKLES[what](data) if name == "data.pkl" else data)
    assert torch_raises(folder)
    assert only_error(judged(folder, "--deep")) in ("payload-unreadable", "payload-mismatch")


@pytest.mark.parametrize("what", RECORDS)
def test_an_archive_that_torch_does_not_open(folder: Path, what: str) -> None:
    name, other = RECORDS[what]
    rewritten(folder, lambda record, data: other if record == name else data)
    assert torch_raises(folder)
    assert only_error(judged(folder, "--deep")) == "payload-unreadable"
