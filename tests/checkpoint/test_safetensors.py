"""safetensors checkpoints: against the safetensors package, DCP's own reader and the truth."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.array import read_box
from inspector.checkpoint.payload.source import PayloadError
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checks.findings import Report
from inspector.checks.judge import check
from inspector.checks.payload.payloads import check_payloads
from inspector.errors import Cancelled, MetadataError, NotACheckpointError
from inspector.layout.writer.written_by import infer
from tests.conftest import SAMPLES, run_cli, run_process

TRUTHS: dict[str, Any] = {
    path: truth
    for path, truth in json.loads((SAMPLES / "expected.json").read_text()).items()
    if truth["format"] == "safetensors"
}
NO_NUMPY = {"float4_e2m1fn_x2"}


def whole(path: Path, checkpoint: Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor that numpy can hold; none may have a gap."""
    storage, values = folder_of(str(path)), {}
    for tensor in checkpoint.tensors:
        if tensor.dtype not in NO_NUMPY:
            box = tuple(slice(0, n) for n in tensor.shape)
            values[tensor.fqn], filled = read_box(checkpoint, storage, tensor, box)
            assert filled.all()
    return values


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def loaded_by_dcp(path: Path) -> dict[str, torch.Tensor]:
    reader = HuggingFaceStorageReader(str(path))
    entries = reader.read_metadata().state_dict_metadata
    state = {fqn: torch.empty(e.size, dtype=e.properties.dtype) for fqn, e in entries.items()}
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def codes(report: Report) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def deep(path: Path) -> Report:
    return check(str(path), deep=lambda c, s: check_payloads(c, s, values=True))


# -- values ------------------------------------------------------------------------------------


def test_there_are_samples_of_every_kind() -> None:
    assert len(TRUTHS) >= 8


@pytest.mark.parametrize("path", TRUTHS)
def test_values_are_those_that_were_saved(path: str) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / path))
    assert checkpoint.format == "safetensors"
    digests = {
        fqn: hashlib.sha256(value.tobytes()).hexdigest()[:16]
        for fqn, value in whole(SAMPLES / path, checkpoint).items()
    }
    expected = TRUTHS[path]["digests"]
    assert {t.fqn for t in checkpoint.tensors} == set(expected)
    assert digests == {fqn: expected[fqn] for fqn in digests}


@pytest.mark.parametrize("path", [p for p, t in TRUTHS.items() if "Writer" in t["framework"]])
def test_tensors_are_those_that_dcps_own_reader_sees(path: str) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / path))
    theirs = loaded_by_dcp(SAMPLES / path)
    ours = whole(SAMPLES / path, checkpoint)
    assert {k: v.tobytes() for k, v in ours.items()} == {k: as_bytes(v) for k, v in theirs.items()}
    entries = HuggingFaceStorageReader(str(SAMPLES / path)).read_metadata().state_dict_metadata
    for tensor in checkpoint.tensors:
        entry = entries[tensor.fqn]
        assert tensor.shape == tuple(entry.size)
        assert f"torch.{tensor.dtype}" == str(entry.properties.dtype)
        boxes = {(tuple(c.offsets), tuple(c.sizes)) for c in entry.chunks}
        pairs = zip(tensor.offsets.tolist(), tensor.sizes.tolist(), strict=True)
        assert {(tuple(o), tuple(s)) for o, s in pairs} == boxes


def test_every_dtype_and_shape_is_what_the_safetensors_package_reads() -> None:
    folder = SAMPLES / "safetensors_1"
    checkpoint = open_checkpoint(str(folder))
    theirs = load_file(folder / "model.safetensors")
    assert len({t.dtype for t in checkpoint.tensors}) >= 19
    for tensor in checkpoint.tensors:
        value = theirs[tensor.fqn]
        assert (tensor.shape, f"torch.{tensor.dtype}") == (tuple(value.shape), str(value.dtype))
    ours = whole(folder, checkpoint)
    assert {k: v.tobytes() for k, v in ours.items()} == {k: as_bytes(theirs[k]) for k in ours}


def test_a_part_of_a_tensor_is_read_from_its_shards() -> None:
    folder = SAMPLES / "hf_dcp_sharded_4"
    checkpoint = open_checkpoint(str(folder))
    tensor = next(t for t in checkpoint.tensors if t.fqn == "net3.weight")
    value, _ = read_box(checkpoint, folder_of(str(folder)), tensor, (slice(5, 20), slice(3, 9)))
    assert np.array_equal(value, loaded_by_dcp(folder)["net3.weight"].numpy()[5:20, 3:9])


def test_ranks_count_from_0_and_the_mesh_is_told() -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "hf_dcp_sharded_4"))
    assert [f.rank for f in checkpoint.files] == [0, 1, 2, 3]
    found = infer(checkpoint)
    assert (str(found.mesh), found.certain) == ("fsdp:4", True)


def test_a_mesh_of_replicas_is_no_certainty_without_the_order_of_the_state_dict() -> None:
    found = infer(open_checkpoint(str(SAMPLES / "hf_dcp_sharded_hsdp_2x2")))
    assert not found.certain
    assert any("do not keep the order" in line for line in found.evidence)


@pytest.mark.parametrize("name", ["zstd_2", "file_per_item_2"])
def test_other_layouts_of_dcp_hold_the_same_values(name: str) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / name))
    reference = open_checkpoint(str(SAMPLES / "hf_dcp_consolidated_2"))
    theirs = whole(SAMPLES / "hf_dcp_consolidated_2", reference)
    ours = whole(SAMPLES / name, checkpoint)
    assert {k.removeprefix("model."): v.tolist() for k, v in ours.items()} == {
        k: v.tolist() for k, v in theirs.items()
    }


def test_the_blob_that_torch_saves_and_cannot_load_is_read() -> None:
    folder, base = SAMPLES / "broken" / "safetensors_blob", SAMPLES / "hsdp_2x2"
    with pytest.raises(dcp.api.CheckpointException):
        dcp.load({"model.net1.weight": torch.empty(8, 5)}, checkpoint_id=folder, no_dist=True)
    ours = whole(folder, open_checkpoint(str(folder)))
    theirs = whole(base, open_checkpoint(str(base)))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_a_blob_that_does_not_hold_the_chunk_says_so(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "broken" / "safetensors_blob", tmp_path / "c"))
    file = folder / "__0_0.distcp"
    file.write_bytes(file.read_bytes().replace(b"model.net1.weight", b"model.net9.weight"))
    checkpoint = open_checkpoint(str(folder))
    tensor = next(t for t in checkpoint.tensors if t.fqn == "model.net1.weight")
    with pytest.raises(PayloadError, match="does not hold it"):
        read_box(checkpoint, folder_of(str(folder)), tensor, (slice(None), slice(None)))


# -- judgement ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TRUTHS)
def test_good_ones_are_sound_to_the_last_byte(path: str) -> None:
    report = deep(SAMPLES / path)
    assert report.verdict == "sound"
    assert codes(report)["payload-no-checksum"] == "note"
    assert set(codes(report)) <= {"payload-no-checksum", "payload-format"}
    checkpoint = open_checkpoint(str(SAMPLES / path))
    assert report.checked.payload_bytes == sum(f.referenced_bytes for f in checkpoint.files)


def test_dtypes_that_dcps_reader_cannot_name_are_told() -> None:
    with pytest.raises(KeyError, match="F4"):
        HuggingFaceStorageReader(str(SAMPLES / "safetensors_1")).read_metadata()
    findings = check(str(SAMPLES / "safetensors_1")).findings
    found = [f for f in findings if "KeyError" in f.torch_does]
    assert {f.fqn for f in found} == {"dtypes.float4_e2m1fn_x2", "dtypes.float8_e8m0fnu"}


def test_a_missing_middle_shard_is_a_silent_hole_for_dcp_and_an_error_here() -> None:
    folder = SAMPLES / "broken" / "st_shard_missing"
    reader = HuggingFaceStorageReader(str(folder))
    entries = reader.read_metadata().state_dict_metadata
    state = {fqn: torch.full(e.size, 7.0) for fqn, e in entries.items()}
    dcp.load(state, storage_reader=reader, no_dist=True)
    untouched = sum(int((value == 7).sum()) for value in state.values())
    gaps = [f for f in check(str(folder)).findings if f.code == "chunk-gap"]
    assert sum(f.num_elements or 0 for f in gaps) == untouched > 0
    assert all("silently" in f.torch_does for f in gaps)


@pytest.mark.parametrize("name", ["st_cut", "st_trailing", "st_overlap", "st_header_huge"])
def test_what_is_called_unreadable_is_refused_by_the_package(name: str) -> None:
    folder = SAMPLES / "broken" / name
    with pytest.raises(SafetensorError):
        safe_open(str(next(folder.glob("*.safetensors"))), "pt").__enter__()
    assert any("SafetensorError" in f.torch_does for f in check(str(folder)).findings)


def test_a_state_dict_with_a_number_in_it_gives_a_file_that_nobody_can_open(tmp_path: Path) -> None:
    writer = HuggingFaceStorageWriter(str(tmp_path), save_distributed=True)
    dcp.save({"w": torch.ones(3), "step": 5}, storage_writer=writer, no_dist=True)
    with pytest.raises(SafetensorError):
        HuggingFaceStorageReader(str(tmp_path)).read_metadata()
    ran = run_cli("check", tmp_path)
    assert ran.code == 2
    assert "a torch.save payload stands where the header should be" in ran.out


def test_the_last_shard_missing_cannot_be_seen_and_that_is_said(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hf_dcp_sharded_4", tmp_path / "c"))
    (folder / "shard-00004-model-00001-of-00001.safetensors").unlink()
    report = check(str(folder))
    assert report.verdict == "sound"
    assert any("further ranks" in left.what for left in report.checked.not_checked)


def test_links_into_a_hugging_face_cache_are_harmless_and_others_are_told(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in (SAMPLES / "transformers_1").iterdir():
        # The cache calls a file by the digest of its bytes.
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blobs / digest)
        (snapshot / file.name).symlink_to(f"../../blobs/{digest}")
    assert deep(snapshot).verdict == "sound"
    assert "path-escapes" not in codes(deep(snapshot))
    file = snapshot / "model-00001-of-00002.safetensors"
    shutil.copyfile(file, tmp_path / "elsewhere")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert codes(check(str(snapshot)))["path-escapes"] == "warning"
    # The cache's folder itself means its only snapshot.
    ran = run_cli("show", tmp_path / "models--a--b", "--json")
    assert ran.json()["checkpoint"]["path"].endswith("snapshots/0123abc")


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.safetensors.index.json").read_text())


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLES / "transformers_1", tmp_path / "llama"))


def write_index(folder: Path, index: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_that_names_the_wrong_file_is_told(llama: Path) -> None:
    index = index_of(llama)
    right = index["weight_map"]["lm_head.weight"]
    part = "1" if "00002-of" in right else "2"
    index["weight_map"]["lm_head.weight"] = f"model-0000{part}-of-00002.safetensors"
    write_index(llama, index)
    report = check(str(llama))
    assert (report.verdict, codes(report)["index-mismatch"]) == ("sound", "warning")
    assert f"it is in {right}" in report.findings[0].message


def test_an_index_of_another_size_is_a_note(llama: Path) -> None:
    index = index_of(llama)
    index["metadata"]["total_size"] += 2
    write_index(llama, index)
    assert codes(check(str(llama))) == {"index-mismatch": "note"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_an_error_and_the_headers_are_read_all_the_same(
    llama: Path, text: str
) -> None:
    (llama / "model.safetensors.index.json").write_text(text)
    report = check(str(llama))
    assert codes(report) == {"entry-malformed": "error"}
    assert report.checked.tensors == 21


def test_files_of_another_split_are_no_part_of_it(llama: Path) -> None:
    shutil.copyfile(
        llama / "model-00001-of-00002.safetensors", llama / "model-00001-of-00003.safetensors"
    )
    report = check(str(llama))
    assert codes(report) == {"file-unreferenced": "note"}


def test_a_part_is_missed_by_the_names_of_the_others(llama: Path) -> None:
    (llama / "model.safetensors.index.json").unlink()
    (llama / "model-00001-of-00002.safetensors").unlink()
    report = check(str(llama))
    assert codes(report) == {"file-missing": "error"}
    assert report.findings[0].file == "model-00001-of-00002.safetensors"


def test_one_tensor_in_two_files_is_a_duplicate_and_of_two_dtypes_malformed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4), "b": torch.ones(2)}, tmp_path / "model-1-of-2.safetensors")
    other = {"a": torch.ones(4), "b": torch.ones(2, dtype=torch.int32)}
    save_file(other, tmp_path / "model-2-of-2.safetensors")
    assert {"chunk-duplicate", "entry-malformed"} <= codes(check(str(tmp_path))).keys()


# -- hostile headers ---------------------------------------------------------------------------


def entry(begin: int, end: int, dtype: str = "U8", shape: Any = None) -> dict[str, Any]:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def raw(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def packed(header: Any, data: bytes = b"") -> bytes:
    return raw(json.dumps(header).encode(), data)


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "three bytes": b"abc",
    "a length of all ones": b"\xff" * 8 + b"{",
    "a length of 100 MB and no more": (100_000_000).to_bytes(8, "little") + b"{}",
    "no JSON": raw(b"{nonsense!"),
    "an array": raw(b"[1, 2]"),
    "deep": raw(b'{"a":' + b"[" * 1_000_000),
    "deep objects": raw(b'{"a":' * 300_000),
    "a huge integer": raw(b'{"a":{"dtype":"U8","shape":[' + b"9" * 200_000 + b"]}}"),
    "not UTF-8": raw(b'{"a\xff":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "UTF-16": raw(b"{" + '"a":1}'.encode("utf-16-le")),
    "a lone surrogate": raw(b'{"a\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "millions of values": raw(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"),
    "zeros": bytes(4096),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "HTML": b"<!DOCTYPE html><html>404</html>",
    "a pickle": b"\x80\x02}q\x00.",
    "NaN": raw(b'{"a": NaN}') + b"x",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_a_verdict_and_never_a_traceback(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(HOSTILE[name])
    for command in ("show", "check"):
        ran = run_process(command, tmp_path, timeout_s=60)
        assert "Traceback" not in ran.err and "internal error" not in ran.err
        # Where one entry alone is bad, the rest can be shown.
        assert ran.code in ((1, 2) if command == "check" else (0, 2))
    report = check(str(tmp_path))
    assert report.verdict in ("unreadable", "damaged")
    if name in ("a Git LFS pointer", "HTML", "zeros"):
        words = {"zeros": "never written"}.get(name, name)
        assert words in report.findings[0].message


TENSORS: dict[str, tuple[Any, bytes]] = {
    "bytes that the shape does not need": (entry(0, 4, "F32", [2]), b"1234"),
    "an end before the beginning": (entry(4, 0, shape=[0]), b"1234"),
    "a negative size": (entry(0, 4, shape=[-4]), b"1234"),
    "a size that is no integer": (entry(0, 4, shape=[4.0]), b"1234"),
    "a size that is true": (entry(0, 1, shape=[True]), b"1"),
    "more bytes than there are numbers": (entry(0, 1 << 63, shape=[1 << 63]), b""),
    "a product past 64 bits": (entry(0, 0, shape=[1 << 40, 1 << 40, 0]), b""),
    "a dtype that nobody knows": (entry(0, 4, "Q4"), b"1234"),
    "a dtype that torch has not": (entry(0, 3, "F6_E2M3", [4]), b"123"),
    "half an F4": (entry(0, 4, "F4", [8, 1]), b"1234"),
    "no offsets": ({"dtype": "U8", "shape": [4]}, b"1234"),
    "a string": ("hello", b"1234"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_bad_entry_is_left_out_by_name_and_the_others_stay(tmp_path: Path, name: str) -> None:
    value, data = TENSORS[name]
    header = {"bad": value, "good": entry(len(data), len(data) + 2)}
    (tmp_path / "model.safetensors").write_bytes(packed(header, data + b"ok"))
    checkpoint = open_checkpoint(str(tmp_path))
    assert [t.fqn for t in checkpoint.tensors] == ["good"]
    assert [m.fqn for m in checkpoint.malformed] == ["bad"]
    assert codes(check(str(tmp_path)))["entry-malformed"] == "error"
    with pytest.raises(SafetensorError):
        safe_open(str(tmp_path / "model.safetensors"), "pt").__enter__().get_tensor("bad")


def test_a_name_listed_twice_is_told(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4))
    (tmp_path / "model.safetensors").write_bytes(raw(f'{{"a":{one},"a":{one}}}'.encode(), b"1234"))
    found = check(str(tmp_path)).findings
    assert found[0].code == "entry-malformed" and "twice" in found[0].message


@pytest.mark.parametrize(
    "sharding",
    [
        "{",
        "[]",
        "{}",
        '{"a": 1}',
        '{"a": {"saved_offsets": [1]}}',
        '{"a": {"saved_offsets": [-1, 0]}}',
        '{"a": {"saved_offsets": [4611686018427387900, 0]}}',
        "[" * 100_000,
    ],
)
def test_damaged_sharding_information_leaves_the_tensor_out(tmp_path: Path, sharding: str) -> None:
    header = {"__metadata__": {"DCP_SHARDING_INFO": sharding}, "a": entry(0, 4, shape=[2, 2])}
    name = "shard-00001-model-00001-of-00001.safetensors"
    (tmp_path / name).write_bytes(packed(header, b"1234"))
    report = check(str(tmp_path))
    assert codes(report)["entry-malformed"] == "error"
    assert report.checked.tensors == 0


def test_hostile_names_pass_the_display_gate(tmp_path: Path) -> None:
    name = "a\x1b[31m\u202eb"
    file = "\x1b]0;owned\x07.safetensors"
    (tmp_path / file).write_bytes(packed({name: entry(0, 1)}, b"1"))
    for command in ("show", "check"):
        ran = run_cli(command, tmp_path)
        assert "\x1b" not in ran.out and "\u202e" not in ran.out
    assert "name-unprintable" in codes(check(str(tmp_path)))


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    os.mkfifo(tmp_path / "model-00002-of-00002.safetensors")
    report = check(str(tmp_path))
    assert codes(report) == {"file-unreadable": "error"}


# -- reading -----------------------------------------------------------------------------------


class Counting(LocalStorage):
    """Counts what is asked of it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: list[tuple[str, int]] = []

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(path, offset, length)
        self.asked.append((path, len(data)))
        return data


def test_from_each_file_its_header_alone_is_read(tmp_path: Path) -> None:
    from inspector.checkpoint.safetensors.reader import read_safetensors

    for i in range(1, 21):
        large = {f"layer.{i}.{n}": torch.zeros(1) for n in range(2_000 if i == 1 else 1)}
        large |= {f"layer.{i}.w": torch.zeros(1 << 20)}
        save_file(large, tmp_path / f"model-{i:05}-of-00020.safetensors")
    storage = Counting(str(tmp_path))
    checkpoint = read_safetensors(storage)
    assert checkpoint.num_tensors == 2_000 + 19 + 20
    per_file = [path for path, _ in storage.asked]
    assert len(per_file) <= 21  # one has a long header
    assert sum(size for _, size in storage.asked) < 3_000_000  # of 84 MB
    assert [t.fqn for t in checkpoint.tensors if t.fqn.endswith(".w")] == [
        f"layer.{i}.w" for i in range(1, 21)
    ]


def test_reading_can_be_cancelled(tmp_path: Path) -> None:
    from inspector.checkpoint.safetensors.reader import read_safetensors

    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> bool:
        seen.append((done, total))
        return len(seen) == 2

    with pytest.raises(Cancelled):
        read_safetensors(LocalStorage(str(SAMPLES / "hf_dcp_sharded_4")), progress=progress)
    assert len(seen) == 2 and all(0 < done <= total for done, total in seen)


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError):
        open_checkpoint(str(tmp_path))


def test_a_checkpoint_without_tensors_is_nothing_to_check(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(packed({"__metadata__": {"format": "pt"}}))
    ran = run_cli("check", tmp_path)
    assert ran.code == 2
    assert run_cli("show", tmp_path).code == 0


def test_no_readable_header_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(MetadataError) as caught:
        open_checkpoint(str(tmp_path))
    assert caught.value.hint
