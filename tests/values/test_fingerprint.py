"""Digests that hashlib gives for the whole tensor, however it is cut, packed and placed."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.payload.source import PayloadError
from inspector.errors import StorageError
from inspector.values.bits import BlockPlan, TensorBits
from inspector.values.fingerprint import Fingerprints, fingerprints
from sample_ckpts.maker.editing import edit
from tests.conftest import SAMPLES, some_fast
from tests.diff.making import (
    DTYPES,
    flipped,
    place_of,
    raw_bits,
    sample,
    saved,
    shards,
    side,
    tiling,
    write,
)


def hashed(folder: Path, **options: Any) -> Fingerprints:
    found = side(folder)
    return fingerprints(found.checkpoint, found.storage, **options)


def digests(folder: Path) -> dict[str, str]:
    names = side(folder).checkpoint.columns.fqns
    found = hashed(folder)
    assert not found.tensor_errors
    return {names[i]: digest.sha256 for i, digest in found.tensors.items()}


def reference(tensor: torch.Tensor) -> str:
    return hashlib.sha256(raw_bits(tensor)).hexdigest()


@pytest.mark.parametrize("dtype", some_fast(DTYPES, DTYPES[::3]), ids=str)
def test_it_is_what_hashlib_says_of_the_whole_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    x = {"t": sample(dtype, (6, 5, 4)), "scalar": sample(dtype, ()), "none": sample(dtype, (0, 3))}
    for n in range(3):
        folder = write(tmp_path / str(n), x, {"t": tiling((6, 5, 4), n)})
        assert digests(folder) == {name: reference(value) for name, value in x.items()}


def test_numpy_alone_gives_it_too(tmp_path: Path) -> None:
    """As the docstring promises to whoever wants to check a seal."""
    x = sample(torch.float32, (8, 3))
    folder = write(tmp_path / "a", {"t": x}, {"t": shards((8, 3), 1, 3)})
    assert digests(folder)["t"] == hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtype=st.sampled_from([torch.int16, torch.bfloat16, torch.complex128, torch.uint8]),
    shape=st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple),
    seed=st.integers(0, 2**20),
    num_cuts=st.integers(0, 12),
)
def test_the_cut_plays_no_part(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    seed: int,
    num_cuts: int,
) -> None:
    x = sample(dtype, shape, seed)
    folder = tmp_path_factory.mktemp("cut") / "a"
    write(folder, {"t": x}, {"t": tiling(shape, seed, num_cuts)})
    assert digests(folder)["t"] == reference(x)


@pytest.mark.parametrize(("a", "b"), [("hsdp_2x4", "fsdp_8"), ("hsdp_2x2", "fsdp_4")])
def test_saves_of_the_same_weights_agree(a: str, b: str) -> None:
    assert digests(SAMPLES / a) == digests(SAMPLES / b)


@pytest.mark.parametrize("name", ["dtypes_4", "fsdp2_tp_2x2", "fsdp1_sharded_tensor_4"])
def test_samples_are_what_torch_loads(name: str) -> None:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    folder = SAMPLES / name
    metadata = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        fqn: torch.zeros(found.size, dtype=found.properties.dtype)
        for fqn, found in metadata.items()
        if isinstance(found, TensorStorageMetadata)
    }
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    assert digests(folder) == {name: reference(value) for name, value in state.items()}


# -- how it is stored ----------------------------------------------------------------------------


BASE = torch.arange(48.0).reshape(6, 8)
COMPLEX = torch.complex(BASE, -BASE - 1)


@pytest.mark.parametrize(
    "view",
    [
        BASE.t(),
        BASE[::2, 1::3],
        BASE[2:3].expand(5, 8),
        torch.as_strided(BASE, (3, 3), (1, 1)),
        COMPLEX.conj(),
        COMPLEX.t().conj(),
        COMPLEX.conj().imag,
        torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    ],
    ids=["t", "steps", "expand", "overlap", "conj", "conj.t", "neg", "channels_last"],
)
def test_views_are_hashed_as_the_tensors_they_show(tmp_path: Path, view: torch.Tensor) -> None:
    folder = write(tmp_path / "a", {"t": torch.zeros(view.shape, dtype=view.dtype)})
    (tmp_path / "a" / "__9_0.distcp").write_bytes(saved(view))

    def move(metadata: Any) -> None:
        (info,) = metadata.storage_data.values()
        info.relative_path, info.offset, info.length = "__9_0.distcp", 0, len(saved(view))

    edit(folder, move)
    assert digests(folder)["t"] == reference(view.resolve_conj().resolve_neg())


def repack(folder: Path, change: Any) -> None:
    """Replace the only payload."""
    path, offset, length = place_of(folder, "t")
    data = change(path.read_bytes()[offset : offset + length])
    (folder / "__9_0.distcp").write_bytes(data)

    def move(metadata: Any) -> None:
        (info,) = metadata.storage_data.values()
        info.relative_path, info.offset, info.length = "__9_0.distcp", 0, len(data)

    edit(folder, move)


def rezipped(data: bytes, change: Any, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            content = change(info.filename.partition("/")[2], old.read(info))
            new.writestr(info.filename, content)
    return out.getvalue()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.complex64, torch.bfloat16])
def test_big_endian_payloads(tmp_path: Path, dtype: torch.dtype) -> None:
    x = sample(dtype, (5, 4))
    folder = write(tmp_path / "a", {"t": x})
    size = dtype.itemsize // (2 if dtype.is_complex else 1)

    def turn(name: str, content: bytes) -> bytes:
        if name == "byteorder":
            return b"big"
        if name == "data/0":
            return np.frombuffer(content, np.uint8).reshape(-1, size)[:, ::-1].tobytes()
        return content

    repack(folder, lambda data: rezipped(data, turn, zipfile.ZIP_STORED))
    assert digests(folder)["t"] == reference(x)


def test_deflated_records(tmp_path: Path) -> None:
    x = torch.arange(300_000, dtype=torch.int32)
    folder = write(tmp_path / "a", {"t": x})
    repack(folder, lambda data: rezipped(data, lambda _, c: c, zipfile.ZIP_DEFLATED))
    assert digests(folder)["t"] == reference(x)


def test_legacy_payloads(tmp_path: Path) -> None:
    x = sample(torch.float64, (7, 3))
    folder = write(tmp_path / "a", {"t": x})
    repack(folder, lambda _: saved(x, _use_new_zipfile_serialization=False))
    assert digests(folder)["t"] == reference(x)


def test_zstd_payloads_larger_than_a_block(tmp_path: Path) -> None:
    from torch.distributed.checkpoint._extension import ZStandard

    x = sample(torch.float32, (900, 1100))
    writer = dcp.FileSystemWriter(tmp_path / "a", _extensions=[ZStandard()])
    dcp.save({"t": x}, storage_writer=writer, no_dist=True)
    assert digests(tmp_path / "a")["t"] == reference(x)


def test_a_safetensors_checkpoint_has_the_same_digests(tmp_path: Path) -> None:
    """A save of transformers' kind beside DCP's: the container plays no part."""
    import json
    import struct

    from inspector.checkpoint.find.locate import read_checkpoint
    from inspector.checkpoint.storage.opening import open_storage

    x = sample(torch.bfloat16, (6, 4))
    folder = write(tmp_path / "a", {"t": x}, {"t": shards((6, 4), 0, 3)})
    data = raw_bits(x)
    header = json.dumps(
        {"t": {"dtype": "BF16", "shape": [6, 4], "data_offsets": [0, len(data)]}}
    ).encode()
    other = tmp_path / "b"
    other.mkdir()
    (other / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    storage = open_storage(str(other))
    found = fingerprints(read_checkpoint(storage), storage)
    assert found.tensors[0].sha256 == digests(folder)["t"] == reference(x)


# -- bytes entries -------------------------------------------------------------------------------


def entry_digests(folder: Path) -> dict[str, str]:
    entries = side(folder).checkpoint.bytes_entries
    found = hashed(folder)
    assert not found.entry_errors
    return {entries[i].fqn: digest.sha256 for i, digest in found.entries.items()}


def test_bytes_entries_are_hashed_by_content(tmp_path: Path) -> None:
    values = {"lr": 1e-4, "rng": torch.arange(16).byte(), "text": "x" * 500_000, "none": None}
    a = write(tmp_path / "a", {}, entries=values)
    # Another place in another file, and another size of the archive's padding.
    b = write(tmp_path / "b", {"first": torch.ones(3)}, entries=values, num_files=1)
    assert entry_digests(a) == entry_digests(b)
    other = write(tmp_path / "c", {}, entries={**values, "rng": torch.arange(1, 17).byte()})
    changed = {n for n, d in entry_digests(other).items() if d != entry_digests(a)[n]}
    assert changed == {"rng"}


# -- what cannot be hashed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chunk_gap", PayloadError),
        ("chunk_unstored", PayloadError),
        ("file_missing", StorageError),
        ("payload_zeroed", PayloadError),
        ("path_parent", StorageError),
    ],
)
def test_a_tensor_that_cannot_be_read_has_no_digest(name: str, kind: type) -> None:
    folder = SAMPLES / "broken" / name
    found = hashed(folder)
    assert found.tensor_errors
    assert all(isinstance(error, kind) for error in found.tensor_errors.values())
    assert len(found.tensors) + len(found.tensor_errors) == side(folder).checkpoint.num_tensors


def test_one_bit_changes_one_digest(tmp_path: Path) -> None:
    x = {name: sample(torch.bfloat16, (9, 9), i) for i, name in enumerate("abc")}
    first = write(tmp_path / "a", x)
    second = write(tmp_path / "b", {**x, "b": flipped(x["b"], 40)})
    before, after = digests(first), digests(second)
    assert {name for name in x if before[name] != after[name]} == {"b"}


def test_progress_and_cancel(tmp_path: Path) -> None:
    x = {f"t{i}": torch.zeros(700, 1000) for i in range(4)}
    folder = write(tmp_path / "a", x)
    seen = []
    found = hashed(folder, progress=lambda p: bool(seen.append(p)))
    assert (seen[-1].bytes_done, seen[-1].bytes_total) == (11_200_000, 11_200_000)
    assert not found.is_cancelled
    assert len({d.sha256 for d in found.tensors.values()}) == 1


def test_cancelling_returns_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.checkpoint.workers._POLL_S", 0.001)
    folder = write(tmp_path / "a", {f"t{i}": torch.zeros(700, 1000) for i in range(40)})
    found = hashed(folder, progress=lambda _: True)
    assert found.is_cancelled
    assert len(found.tensors) < 40
    assert not found.tensor_errors


# -- blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_blocks_are_the_tensor_in_row_major_order(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    shape = tuple(rng.randrange(1, 12) for _ in range(rng.randrange(5)))
    numbers = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    block_bytes = rng.randrange(4, 400)
    plan = BlockPlan.of(shape, 4, block_bytes)
    seen: list[int] = []
    for number in range(plan.num_blocks):
        offsets, sizes = plan.box(number)
        assert plan.start(number) == len(seen)
        taken = numbers[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
        assert 0 < taken.size * 4 <= max(block_bytes, 4)
        seen += taken.reshape(-1).tolist()
    assert seen == list(range(numbers.size))


def test_a_tensor_without_elements_has_no_blocks() -> None:
    assert BlockPlan.of((3, 0, 2), 4).num_blocks == 0
    assert BlockPlan.of((), 4).num_blocks == 1


def test_any_box_can_be_read(tmp_path: Path) -> None:
    """Not only blocks: a window that the screen shows."""
    x = sample(torch.int32, (9, 8, 7))
    found = side(write(tmp_path / "a", {"t": x}, {"t": tiling((9, 8, 7), 5, 10)}))
    with OpenFiles(found.storage) as files:
        bits = TensorBits(found.checkpoint, found.checkpoint.tensors[0], files)
        rng = random.Random(1)  # noqa: S311
        for _ in range(50):
            low = [rng.randrange(n) for n in x.shape]
            high = [rng.randrange(a + 1, n + 1) for a, n in zip(low, x.shape, strict=True)]
            sizes = tuple(b - a for a, b in zip(low, high, strict=True))
            box = x[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
            assert bits.read(tuple(low), sizes).tobytes() == raw_bits(box)
