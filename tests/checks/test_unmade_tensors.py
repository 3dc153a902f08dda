"""A tensor's payload with right checksums that torch cannot load, however little is odd in it."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint.payload.scan.feed import PickleError
from inspector.checkpoint.payload.scan.scan import scan
from inspector.checks.findings import Report
from sample_ckpts.maker import editing as ed
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
    "no number to align to": (".storage_alignment", b"\xdf"),
    "an identity that is no text": (".data/serialization_id", b"\xff" * 40),
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


# -- odd metadata over whole payloads -----------------------------------------------------------


def test_a_transform_of_one_chunk_is_not_that_of_all(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "zstd_2", folder)

    def double(stored: dict[Any, Any]) -> None:
        of_chunks = [info for index, info in stored.items() if index.fqn == "model.net3.weight"]
        of_chunks[0].transform_descriptors = ["stream.zstd/1"] * 2

    ed.edit(folder, lambda metadata: double(metadata.storage_data))
    report = judged(folder, "--deep")
    assert report.exit_code == 2 and report.findings == ()
    assert "another for each chunk" in report.checked.not_checked[0].why


def test_a_place_of_a_chunk_and_of_a_bytes_entry(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "accelerate_fsdp" / "optimizer_0", folder)

    def share(stored: dict[Any, Any]) -> None:
        a_bytes = next(i for i in stored if i.offset is None)
        a_chunk = next(i for i in stored if i.offset is not None and len(i.offset) == 2)
        stored[a_bytes] = stored[a_chunk]

    ed.edit(folder, lambda metadata: share(metadata.storage_data))
    assert judged(folder, "--deep").verdict in ("sound", "damaged")


def test_a_name_that_torch_refuses_in_a_tensor_is_told(folder: Path) -> None:
    """Held, never called: torch raises for the name alone."""

    def change(name: str, data: bytes) -> bytes:
        place = b"X\x03\x00\x00\x00cpuq\x04"
        return data.replace(place, b"ctorch.serialization\nload\nq\x04", 1)

    rewritten(folder, lambda name, data: change(name, data) if name == "data.pkl" else data)
    assert torch_raises(folder)
    assert "payload-foreign-class" in {f.code for f in judged(folder, "--deep").findings}


def test_properties_of_two_versions_in_one_metadata(folder: Path) -> None:
    """Six values of a tensor among fives: no torch wrote that, and this one does not read it."""
    path = folder / ".metadata"
    data = path.read_bytes()
    # The last tensor's: ..., pin_memory (NEWFALSE), TUPLE, MEMOIZE, BUILD.
    at = data.rindex(b"\x89t\x94b")
    path.write_bytes(data[:at] + b"\x89" + data[at:])
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        pickle.loads(path.read_bytes())
    assert judged(folder).exit_code != 0


@pytest.mark.parametrize("keep", [True, False])
def test_a_memo_that_nothing_was_put_into(keep: bool) -> None:
    for pickled in (b"\x80\x02h\x05.", b"\x80\x02Nq\x00Nq\x01h\x02.", b"\x80\x04N\x94h\x01."):
        with pytest.raises(PickleError):
            scan(pickled, keep=keep)
    for pickled in (b"\x80\x02Nq\x07h\x07.", b"\x80\x02Nq\x01Nq\x00h\x01.", b"\x80\x04N\x94h\x00."):
        scan(pickled, keep=keep)
