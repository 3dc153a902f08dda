"""`check --deep`: every stored byte against its CRC, every header against the metadata."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.payload.plan import plan_payloads
from inspector.checks.findings import DeepReport, Report
from inspector.checks.payload.payloads import PayloadProgress, check_payloads
from sample_ckpts.maker.editing import edit, place
from tests.checkpoint.hostile import Runs
from tests.conftest import GOLDEN, SAMPLES, of_few_versions
from tests.diff.making import saved

CHECKPOINTS = sorted(
    p.parent
    for root in (GOLDEN, SAMPLES)
    for p in root.rglob(".metadata")
    if "broken" not in p.parts
)


def deep(folder: Path, **options: Any) -> DeepReport:
    return check_payloads(open_checkpoint(str(folder)), folder_of(str(folder)), **options)


def save(folder: Path, state: dict[str, Any], **options: Any) -> Path:
    dcp.save(
        state,
        storage_writer=dcp.FileSystemWriter(folder, **options),
        no_dist=True,
    )
    return folder


def patch(folder: Path, fqn: str, change: Any) -> None:
    """Replace one payload's bytes, in a file of its own."""
    path, offset, length = place(folder, fqn)
    data = change(path.read_bytes()[offset : offset + length])
    (folder / "__9_0.distcp").write_bytes(data)

    def move(metadata: Any) -> None:
        info = next(v for k, v in metadata.storage_data.items() if k.fqn == fqn)
        info.relative_path, info.offset, info.length = "__9_0.distcp", 0, len(data)

    edit(folder, move)


def codes(report: DeepReport) -> list[str]:
    return sorted(f.code for f in report.findings)


STATE = {
    "w": torch.arange(512.0).reshape(16, 32),
    "b": torch.arange(16, dtype=torch.int64),
    "step": torch.tensor(3.0),
    "lr": 0.1,
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "ck", STATE)


@pytest.mark.parametrize("path", of_few_versions(CHECKPOINTS), ids=lambda p: "/".join(p.parts[-2:]))
def test_no_false_alarm(path: Path) -> None:
    report = deep(path, values=True)
    assert [f for f in report.findings if f.severity != "note" and f.code != "values-nan"] == []
    checkpoint = open_checkpoint(str(path))
    entries = checkpoint.num_chunks + len(checkpoint.bytes_entries)
    assert report.checked.payloads == entries > 0
    assert report.checked.chunks == checkpoint.num_chunks
    assert report.checked.tensors == checkpoint.num_tensors
    assert report.checked.payload_bytes == sum(f.referenced_bytes for f in checkpoint.files)
    assert report.checked.not_checked == ()
    assert not report.is_cancelled


@pytest.mark.slow
def test_every_flip_in_the_data_is_found(folder: Path) -> None:
    path, offset, length = place(folder, "w")
    good = path.read_bytes()
    payload = good[offset : offset + length]
    data = payload.find(STATE["w"].numpy().tobytes())
    assert data > 0
    checkpoint, storage = open_checkpoint(str(folder)), folder_of(str(folder))
    when = path.stat()

    def write(at: int, flipped: int) -> None:
        path.write_bytes(good[:at] + bytes([good[at] ^ flipped]) + good[at + 1 :])
        # As it was when the checkpoint was opened: what changed since is not judged.
        os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))

    rng = random.Random(1)  # noqa: S311
    for _ in range(150):
        write(offset + data + rng.randrange(2048), 1 << rng.randrange(8))
        report = check_payloads(checkpoint, storage)
        (finding,) = report.findings
        assert finding.code == "payload-corrupt"
        assert (finding.fqn, finding.file) == ("w", path.name)
        assert (finding.offsets, finding.sizes) == ((0, 0), (16, 32))
        assert "data/0" in finding.message
        assert "silently" in finding.torch_does
    # Anywhere else: found, or a byte that means nothing (padding, times).
    found = 0
    for at in range(offset, offset + length):
        write(at, 4)
        report = check_payloads(checkpoint, storage)
        assert {f.fqn for f in report.findings} <= {"w"}
        found += bool(report.findings)
    assert found > 2048 + 300


def test_a_flip_in_a_bytes_entry_is_found(folder: Path) -> None:
    path, offset, _ = place(folder, "lr")
    good = path.read_bytes()
    at = good.index(b"G", offset) + 5
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    (finding,) = deep(folder).findings
    assert (finding.code, finding.fqn, finding.offsets) == ("payload-corrupt", "lr", None)
    target = {"lr": 0.0}
    dcp.load(target, checkpoint_id=folder, no_dist=True)
    assert target["lr"] not in (0.0, 0.1)


def test_a_damaged_directory_is_told_from_damaged_bytes(folder: Path) -> None:
    path, offset, length = place(folder, "w")
    good = path.read_bytes()
    entry = good.rindex(b"archive/data/0", offset, offset + length) - 46
    path.write_bytes(good[: entry + 16] + bytes([good[entry + 16] ^ 1]) + good[entry + 17 :])
    (finding,) = deep(folder).findings
    assert finding.code == "payload-corrupt"
    assert "as written" in finding.message


MISMATCHES = {
    "dtype": (saved(torch.zeros(16, 32, dtype=torch.bfloat16)), "bfloat16", "casts"),
    "larger": (saved(torch.zeros(20, 32)), r"\[20, 32\]", "corner"),
    "smaller": (saved(torch.zeros(8, 32)), r"\[8, 32\]", "AssertionError"),
    "turned": (saved(torch.zeros(32, 16)), r"\[32, 16\]", "AssertionError"),
    "no tensor": (saved({"a": 1}), "no tensor", "AttributeError"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_mismatch_and_what_torch_does(folder: Path, name: str) -> None:
    data, says, fate = MISMATCHES[name]
    patch(folder, "w", lambda _: data)
    (finding,) = deep(folder).findings
    assert finding.code == "payload-mismatch"
    assert finding.fqn == "w"
    import re

    assert re.search(says, finding.message)
    assert fate in finding.torch_does
    target = {"w": torch.ones(16, 32)}
    if "Error" in fate:
        with pytest.raises(BaseException, match=fate.partition(" ")[0]):
            dcp.load(target, checkpoint_id=folder, no_dist=True)
    else:
        dcp.load(target, checkpoint_id=folder, no_dist=True)
        assert (target["w"] == 0).all()


def test_too_few_stored_bytes(folder: Path) -> None:
    from tests.checkpoint.test_payload import rezipped

    patch(folder, "w", lambda data: rezipped(data, {"data/0": bytes(100)}))
    (finding,) = deep(folder).findings
    assert finding.code == "payload-mismatch"
    assert "100 bytes" in finding.message
    with pytest.raises(BaseException, match="does not match expected size"):
        dcp.load({"w": torch.ones(16, 32)}, checkpoint_id=folder, no_dist=True)
    patch(folder, "w", lambda data: rezipped(data, {"data/0": None}))
    (finding,) = deep(folder).findings
    assert finding.code == "payload-mismatch"
    assert "missing" in finding.message


UNREADABLE = {
    "zeros": (lambda d: bytes(len(d)), "only zeros"),
    "stale": (lambda d: d[4:] + bytes(4), "no payload starts there|inside of another"),
    "cut": (lambda d: d[:-40], "no end"),
    "text": (lambda d: b"hello" * 100, "no payload starts there"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable(folder: Path, name: str) -> None:
    import re

    change, says = UNREADABLE[name]
    patch(folder, "w", change)
    report = deep(folder)
    (finding,) = report.findings
    assert finding.code == "payload-unreadable"
    assert re.search(says, finding.message)
    assert report.checked.payloads == 5
    with pytest.raises(BaseException, match=r"."):
        dcp.load({"w": torch.ones(16, 32)}, checkpoint_id=folder, no_dist=True)


def test_swapped_entries_are_mismatches(folder: Path) -> None:
    def swap(metadata: Any) -> None:
        a, b = (next(v for k, v in metadata.storage_data.items() if k.fqn == n) for n in ("w", "b"))
        for name in ("offset", "length", "relative_path"):
            x, y = getattr(a, name), getattr(b, name)
            setattr(a, name, y)
            setattr(b, name, x)

    edit(folder, swap)
    assert set(codes(deep(folder))) == {"payload-mismatch"}
    assert {f.fqn for f in deep(folder).findings} == {"w", "b"}


@pytest.mark.parametrize("fqn", ["lr", "w"])
def test_a_malicious_payload_touches_nothing(folder: Path, tmp_path: Path, fqn: str) -> None:
    marker = tmp_path / "marker"
    patch(folder, fqn, lambda _: saved({"x": [Runs(marker)]}))
    report = deep(folder, values=True)
    assert "payload-unsafe" in codes(report)
    finding = next(f for f in report.findings if f.code == "payload-unsafe")
    assert finding.fqn == fqn
    assert "posix.system" in finding.message
    assert not marker.exists()
    if fqn == "lr":
        dcp.load({"lr": 0.0}, checkpoint_id=folder, no_dist=True)
        assert marker.exists(), "torch runs it, as the finding says"


def test_code_before_a_broken_end_is_named(folder: Path, tmp_path: Path) -> None:
    """Such a pickle raises in the end, after torch has run what it names."""
    from tests.checkpoint.test_payload import rezipped

    marker = tmp_path / "marker"
    evil = pickle.dumps(Runs(marker), 2)[:-1] + b"\xff"
    patch(folder, "lr", lambda data: rezipped(data, {"data.pkl": evil}))
    assert codes(deep(folder)) == ["payload-unreadable", "payload-unsafe"]
    assert not marker.exists()
    with pytest.raises(BaseException, match=r"."):
        dcp.load({"lr": 0.0}, checkpoint_id=folder, no_dist=True)
    assert marker.exists()


def test_a_damaged_pickle_is_corrupt_and_the_rest_is_checked(folder: Path) -> None:
    path, offset, _ = place(folder, "w")
    good = path.read_bytes()
    at = good.index(b"ctorch._utils", offset)
    path.write_bytes(good[:at] + b"\xff" + good[at + 1 :])
    (finding,) = deep(folder).findings
    assert finding.code == "payload-corrupt"
    assert "data.pkl" in finding.message


@pytest.mark.parametrize("shape", [(2,), (0, 2)])
def test_what_a_damaged_pickle_names_is_not_told(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Its class is nobody's, and its bytes do not agree with their checksums."""
    folder = save(tmp_path / "ck", {"x": torch.ones(shape)})
    path, offset, _ = place(folder, "x")
    good = path.read_bytes()
    at = good.index(b"ctorch._utils", offset) + 2
    path.write_bytes(good[:at] + b"n" + good[at + 1 :])
    report = deep(folder)
    (finding,) = report.findings
    assert finding.code == "payload-corrupt"
    assert ("never reads it" in finding.torch_does) == (0 in shape)
    assert report.checked.not_checked == ()


def test_an_unknown_class_is_a_note(folder: Path) -> None:
    module = types.ModuleType("their_package")
    kind = type("Config", (), {"__module__": "their_package"})
    module.Config = kind  # type: ignore[attr-defined]
    sys.modules["their_package"] = module
    try:
        patch(folder, "lr", lambda _: saved(kind()))
    finally:
        del sys.modules["their_package"]
    (finding,) = deep(folder).findings
    assert (finding.code, finding.severity) == ("payload-foreign-class", "note")
    assert "their_package.Config" in finding.message


class Named(torch.Tensor):
    """A plain subclass, as libraries tag tensors with."""


def _loads_once_it_is_registered(folder: Path) -> None:
    target = {"x": torch.zeros(2).as_subclass(Named)}
    with pytest.raises(dcp.api.CheckpointException, match="Weights only load failed"):
        dcp.load(target, checkpoint_id=folder, no_dist=True)
    with torch.serialization.safe_globals([Named]):
        dcp.load(target, checkpoint_id=folder, no_dist=True)
    assert torch.equal(target["x"].as_subclass(torch.Tensor), torch.ones(2))


def test_a_tensor_class_of_a_script_is_told_as_torch_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "Named", Named, raising=False)
    monkeypatch.setattr(Named, "__module__", "__main__")
    folder = save(tmp_path / "ck", {"x": torch.ones(2).as_subclass(Named)})
    (finding,) = [f for f in deep(folder).findings if f.code == "payload-foreign-class"]
    assert "raises UnpicklingError, also in the script that saved it" in finding.torch_does
    _loads_once_it_is_registered(folder)


def test_a_tensor_class_that_its_package_does_not_register_is_told_with_what_helps(
    tmp_path: Path,
) -> None:
    """This module is imported, and dcp.load refuses its class all the same."""
    folder = save(tmp_path / "ck", {"x": torch.ones(2).as_subclass(Named)})
    (finding,) = [f for f in deep(folder).findings if f.code == "payload-foreign-class"]
    assert f"add_safe_globals([{Named.__module__}.Named])" in finding.hint
    _loads_once_it_is_registered(folder)


def test_no_checksum_is_one_note(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        folder = save(tmp_path / "ck", STATE)
    finally:
        torch.serialization.set_crc32_options(before)
    (finding,) = deep(folder).findings
    assert (finding.code, finding.severity) == ("payload-no-checksum", "note")
    assert "5 payloads" in finding.message


def test_legacy_and_deflated_and_big_endian_are_notes(folder: Path) -> None:
    import zipfile

    from tests.checkpoint.test_payload import rezipped

    patch(folder, "w", lambda _: saved(STATE["w"], _use_new_zipfile_serialization=False))
    assert codes(deep(folder)) == ["payload-format", "payload-no-checksum"]
    dcp.load({"w": torch.ones(16, 32)}, checkpoint_id=folder, no_dist=True)
    patch(folder, "w", lambda _: rezipped(saved(STATE["w"]), {}, zipfile.ZIP_DEFLATED))
    assert codes(deep(folder)) == ["payload-format"]
    dcp.load({"w": torch.ones(16, 32)}, checkpoint_id=folder, no_dist=True)
    patch(folder, "w", lambda _: rezipped(saved(STATE["w"]), {"byteorder": b"big"}))
    assert codes(deep(folder)) == ["payload-format"]


def test_zstd(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    from torch.distributed.checkpoint._extension import ZStandard

    state = {**STATE, "big": torch.randn(5_000_000)}
    folder = save(tmp_path / "ck", state, _extensions=[ZStandard()])
    report = deep(folder, values=True)
    assert report.findings == ()
    assert report.checked.payloads == 6
    path, offset, length = place(folder, "w")
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 1
    path.write_bytes(data)
    assert {f.code for f in deep(folder).findings} <= {"payload-corrupt", "payload-unreadable"}
    assert {f.fqn for f in deep(folder).findings} == {"w"}


def test_without_zstandard_it_is_not_checked(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("zstandard")
    from torch.distributed.checkpoint._extension import ZStandard

    folder = save(tmp_path / "ck", STATE, _extensions=[ZStandard()])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    report = deep(folder)
    assert report.findings == ()
    assert report.checked.payloads == 0
    assert report.checked.tensors == report.checked.files == 0
    assert "zstandard" in report.checked.not_checked[0].why


def _safetensors_save(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_safetensors_blob_is_one_finding(tmp_path: Path, monkeypatch: Any) -> None:
    module = types.ModuleType("safetensors.torch")
    module.save = _safetensors_save  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", module)
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    state = {k: v for k, v in STATE.items() if k != "empty"}
    folder = tmp_path / "ck"
    save(folder, state, serialization_format=SerializationFormat.SAFETENSORS)
    (finding,) = deep(folder).findings
    assert finding.code == "payload-unreadable"
    assert "safetensors blob" in finding.message
    assert "3 chunks" in finding.message
    with pytest.raises(BaseException, match=r"_weights_only_unpickler|Weights only"):
        dcp.load({"w": torch.ones(16, 32)}, checkpoint_id=folder, no_dist=True)


def test_missing_and_truncated_files_do_not_stop_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    shutil.copytree(GOLDEN / "2.8.0" / "fsdp4", folder)
    (folder / "__1_0.distcp").unlink()
    data = (folder / "__2_0.distcp").read_bytes()
    (folder / "__2_0.distcp").write_bytes(data[:-10])
    report = deep(folder)
    assert report.findings == ()
    whole = deep(GOLDEN / "2.8.0" / "fsdp4")
    assert report.checked.files == whole.checked.files - 2
    assert 0 < report.checked.payloads < whole.checked.payloads
    reasons = {n.what.rpartition(" ")[2]: n.why for n in report.checked.not_checked}
    assert "not there" in reasons["__1_0.distcp"]
    assert "past the end" in reasons["__2_0.distcp"]


def test_an_escaping_path_is_not_opened(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "__0_0.distcp", tmp_path / "outside.distcp")

    def move(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = "../outside.distcp"

    edit(folder, move)
    report = deep(folder)
    assert report.checked.payloads == 0
    assert "outside" in report.checked.not_checked[0].why


def test_cancelling_says_what_was_covered(folder: Path) -> None:
    seen: list[PayloadProgress] = []

    def progress(now: PayloadProgress) -> bool:
        seen.append(now)
        return True

    report = deep(folder, progress=progress)
    assert seen[-1].payloads_total == 5
    assert seen[-1].bytes_total == report.checked.payload_bytes or report.is_cancelled


def test_cancelling_a_long_read(tmp_path: Path, monkeypatch: Any) -> None:
    import inspector.checks.payload.judge as judging

    folder = save(tmp_path / "ck", {f"w{i}": torch.zeros(300_000) for i in range(100)})
    import threading

    real, gate = judging.crc32, threading.Event()

    def slow(data: Any, value: int) -> int:
        gate.wait(0.05)
        return real(data, value)

    monkeypatch.setattr(judging, "crc32", slow)
    report = deep(folder, progress=lambda now: now.payloads_done > 0)
    assert report.is_cancelled
    assert 0 < report.checked.payloads < 100
    assert report.checked.not_checked[-1].why == "it was cancelled"
    assert f"{100 - report.checked.payloads} of 100" in report.checked.not_checked[-1].what


def test_ctrl_c_counts_as_cancelling(folder: Path) -> None:
    def progress(now: PayloadProgress) -> bool:
        raise KeyboardInterrupt

    import inspector.checks.payload.payloads as payloads

    checkpoint, storage = open_checkpoint(str(folder)), folder_of(str(folder))
    plan = plan_payloads(checkpoint)
    reading = payloads._Reading(checkpoint, storage, plan)
    reading.sweep.stop.set()
    reading.sweep.run()
    report = payloads.conclude(checkpoint, storage, plan, reading.tally)
    assert report.is_cancelled
    assert report.checked.payloads == 0


def test_many_entries_for_the_same_bytes_read_them_once(folder: Path) -> None:
    """A metadata file that asks for one range a thousand times costs one reading, or two."""
    _, offset, length = place(folder, "w")

    def point(metadata: Any) -> None:
        index = next(k for k in metadata.storage_data if k.fqn == "w")
        meta, info = metadata.state_dict_metadata["w"], metadata.storage_data[index]
        for n in range(1000):
            name = f"copy{n}"
            metadata.state_dict_metadata[name] = meta
            shifted = n % 50
            metadata.storage_data[type(index)(name, index.offset, 0)] = type(info)(
                info.relative_path, offset - shifted, length + shifted
            )

    edit(folder, point)
    report = deep(folder)
    skipped = sum(int(n.what.split()[0].replace(",", "")) for n in report.checked.not_checked)
    assert report.checked.chunks + skipped >= 1000
    assert "claim" in report.checked.not_checked[0].why


def test_memory_urls(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/payload-test", recursive=True)
    try:
        report = check_payloads(
            open_checkpoint("memory://payload-test"),
            folder_of("memory://payload-test"),
            values=True,
        )
    finally:
        memory.rm("/payload-test", recursive=True)
    assert report.findings == ()
    assert report.checked.payloads == 5


def test_a_safetensors_checkpoint_is_one_note(folder: Path, tmp_path: Path) -> None:
    """A checkpoint of bare elements, as the Hugging Face reader gives it."""
    import dataclasses

    import numpy as np

    checkpoint = open_checkpoint(str(folder))
    index = checkpoint.columns.fqns.index("w")
    bare = STATE["w"].clone()
    bare[3, 5] = float("nan")
    (folder / "__0_0.distcp").write_bytes(b"header!" + bare.numpy().tobytes())
    columns = checkpoint.columns
    chunk = int(columns.chunk_start[index])
    file = np.full_like(columns.file, -1)
    file[chunk] = 0
    offset, length = columns.byte_offset.copy(), columns.byte_length.copy()
    offset[chunk], length[chunk] = 7, 2048
    moved = dataclasses.replace(columns, file=file, byte_offset=offset, byte_length=length)
    size = dataclasses.replace(checkpoint.files[0], num_bytes=2055)
    hugging = dataclasses.replace(
        checkpoint, columns=moved, format="safetensors", bytes_entries=(), files=(size,)
    )
    report = check_payloads(hugging, folder_of(str(folder)), values=True)
    assert codes(report) == ["payload-no-checksum", "values-nan"]
    assert next(f for f in report.findings if f.code == "values-nan").offsets == (3, 5)


def test_what_vanished_after_it_was_opened_is_never_sound(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    checkpoint, storage = open_checkpoint(str(folder)), folder_of(str(folder))
    found = check_payloads(checkpoint, storage)
    assert not found.checked.num_unread
    (folder / "__1_0.distcp").unlink()
    found = check_payloads(checkpoint, storage)
    assert found.checked.num_unread == 3
    # Nothing else tells of it: what metadata and sizes said was said before.
    report = Report(str(folder), found.findings, found.checked)
    assert report.verdict == "unreadable" and report.exit_code == 2
    shutil.rmtree(folder)
    found = check_payloads(checkpoint, storage)
    assert found.checked.num_unread == 12 and not found.checked.payloads


def test_a_local_name_that_torch_does_not_read_is_told_as_such(tmp_path: Path) -> None:
    kept = torch.arange(6.0)
    save(tmp_path, {"kept": kept})

    def other_name(data: bytes) -> bytes:
        at = data.index(b"data/0")  # of the record's own header; the zip directory comes last
        return data[: at + 5] + b"7" + data[at + 6 :]

    patch(tmp_path, "kept", other_name)
    found = {"kept": torch.zeros(6)}
    dcp.load(found, storage_reader=dcp.FileSystemReader(tmp_path), no_dist=True)
    assert torch.equal(found["kept"], kept)
    (finding,) = deep(tmp_path).findings
    assert "has another name than the zip directory says" in finding.message
    assert (
        finding.torch_does
        == "goes by the zip directory's name: raises an error, or loads it and rightly"
    )


def test_of_a_chunk_without_elements_torch_reads_nothing(tmp_path: Path) -> None:
    save(tmp_path, {"empty": torch.zeros(0, 3), "kept": torch.arange(6.0)})
    patch(tmp_path, "empty", lambda data: b"\0" * len(data))
    found = {"empty": torch.zeros(0, 3), "kept": torch.zeros(6)}
    dcp.load(found, storage_reader=dcp.FileSystemReader(tmp_path), no_dist=True)
    assert torch.equal(found["kept"], torch.arange(6.0))
    (finding,) = deep(tmp_path).findings
    assert finding.code == "payload-unreadable"
    assert finding.torch_does == "never reads it: the chunk holds no element"


@pytest.mark.parametrize(("num_bytes", "is_whole"), [(12, True), (13, False)])
def test_a_view_of_a_buffer_that_ends_in_part_of_an_element(
    tmp_path: Path, num_bytes: int, is_whole: bool
) -> None:
    view = torch.arange(num_bytes, dtype=torch.uint8)[:12].view(torch.float32)
    folder = save(tmp_path / "ck", {"pair": (view, 1)})
    found = deep(folder).findings
    state = {"pair": (torch.zeros(3), 0)}
    if is_whole:
        dcp.load(state, checkpoint_id=folder, no_dist=True)
        assert torch.equal(state["pair"][0], view) and not found
        return
    with pytest.raises(CheckpointException, match="record size"):
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    (finding,) = found
    assert finding.code == "payload-unreadable" and finding.fqn == "pair"
    assert "has 13 bytes, 12 by its pickle, as torch.save writes a view" in finding.message
    assert "no byte is lost: save it again with clone()" in finding.hint
    # What the hint says of the record is so.
    entry = open_checkpoint(str(folder)).bytes_entries[0]
    data = (folder / "__0_0.distcp").read_bytes()[entry.byte_offset :][: entry.byte_length]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("data/0")]
        assert archive.read(record)[:12] == bytes(range(12))
