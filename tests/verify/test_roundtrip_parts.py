"""The parts of a rank's work that need no torchrun: what is read, compared, counted and chosen."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.payload import Payload
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.storage.opening import open_storage
from inspector.layout.geometry import torch_chunk_bounds
from inspector.layout.mesh import Mesh
from inspector.layout.rows import RowBlock
from inspector.verify.failures import describe_failure, is_out_of_memory
from inspector.verify.ranks.bits import POISON, Local, Region, RegionTally
from inspector.verify.ranks.corrupt import flipped_bit
from inspector.verify.ranks.stored import RegionFeed, StoredReader
from inspector.verify.ranks.tasks import chunk_tasks, count_uncovered
from inspector.verify.ranks.torch_dcp import refuses
from inspector.verify.selection import make_waves, placed, select
from inspector.verify.spec import JobSpec
from tests.conftest import SAMPLES
from tests.verify.roundtrip_jobs import odd_tensors

MESHES = ("fsdp:1", "fsdp:2", "fsdp:3", "fsdp:4", "fsdp:7", "hsdp:2x2", "hsdp:2x4", "hsdp:3x5")


def _box(mesh: Mesh, rank: int, shape: tuple[int, ...]) -> Any:
    if not shape:
        return (), ()
    starts, lengths = torch_chunk_bounds(shape[0], mesh.num_shards)
    shard = mesh.coordinate(rank)[-1]
    zeros = (0,) * (len(shape) - 1)
    return (int(starts[shard]), *zeros), (int(lengths[shard]), *shape[1:])


AXES = ("dp_shard:2,tp:2", "dp_replicate:2,dp_shard:2,tp:3", "tp:4", "dp_shard:3,cp:2,tp:2")


@pytest.mark.parametrize("name", ["hsdp_uneven_2x4", "dtypes_4", "fsdp2_tp_2x2", "ddp_4"])
def test_every_payload_has_one_checker_and_every_element_a_reader(name: str) -> None:
    """Also where axes have names, and in blocks of rows."""
    checkpoint = open_checkpoint(str(SAMPLES / name))
    for mesh in map(Mesh.parse, (*MESHES, *AXES)):
        spec = JobSpec(str(SAMPLES / name), str(mesh), (str(mesh),))
        ((_, rules), _) = placed(checkpoint, spec)
        for tensor in checkpoint.tensors:
            for step in (0, 3):
                if step and not (tensor.shape and tensor.num_elements):
                    continue
                checkers: Counter[int] = Counter()
                for rows in _blocks(tensor, step):
                    part = tensor if rows is None else rows.of(tensor)
                    for rank in range(mesh.world_size):
                        lies = rules and rules.of(tensor.fqn, tensor.shape, tensor.index)[0]
                        box = lies.box(rank, part.shape) if lies else _box(mesh, rank, part.shape)
                        if rows is not None:
                            box = (rows.first + box[0][0], *box[0][1:]), box[1]
                        tasks = chunk_tasks(
                            checkpoint,
                            tensor,
                            mesh,
                            rank,
                            box,
                            check_crc=True,
                            rows=rows,
                            lies=lies,
                        )
                        held = int(np.prod(box[1], dtype=np.int64))
                        assert sum(int(np.prod(t.sizes)) for t in tasks if t.is_needed) == held
                        for task in tasks:
                            checkers[task.chunk] += task.is_checker
                            if task.is_checker and (tensor.sizes[task.chunk] > 0).all():
                                assert task.is_needed, "only who reads a payload anyway checks it"
                assert checkers == dict.fromkeys(range(tensor.num_chunks), 1)


def _blocks(tensor: Tensor, step: int) -> list[RowBlock | None]:
    """All rows at once (0), or so many at a time."""
    if not step:
        return [None]
    count = -(-tensor.shape[0] // step)
    last = tensor.shape[0]
    return [RowBlock(i * step, min(i * step + step, last), i, count) for i in range(count)]


def test_checkers_are_spread() -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "fsdp2_adamw_4"))
    mesh = Mesh.parse("hsdp:4x2")
    load: Counter[int] = Counter()
    for tensor in checkpoint.tensors:
        for rank in range(8):
            box = _box(mesh, rank, tensor.shape)
            tasks = chunk_tasks(checkpoint, tensor, mesh, rank, box, check_crc=True)
            load[rank] += sum(t.is_checker for t in tasks)
    assert min(load.values()) * 3 > max(load.values()), load


@pytest.mark.parametrize("num_bytes", [1, 2, 63, 4096, 1 << 20])
def test_a_flipped_bit_is_found(num_bytes: int) -> None:
    rng = random.Random(num_bytes)  # noqa: S311
    data = bytearray(rng.randbytes(num_bytes))
    before = zlib.crc32(data)
    for _ in range(20):
        place = rng.randrange(num_bytes), rng.randrange(8)
        data[place[0]] ^= 1 << place[1]
        assert flipped_bit(num_bytes, before, zlib.crc32(data)) == place
        data[place[0]] ^= 1 << place[1]
    assert flipped_bit(num_bytes, before, before) is None


def test_two_flipped_bits_are_not_explained() -> None:
    rng = random.Random(5)  # noqa: S311
    data = bytearray(rng.randbytes(1000))
    before = zlib.crc32(data)
    wrong = 0
    for _ in range(300):
        a, b = rng.sample(range(8000), 2)
        for bit in (a, b):
            data[bit // 8] ^= 1 << bit % 8
        wrong += flipped_bit(1000, before, zlib.crc32(data)) is not None
        for bit in (a, b):
            data[bit // 8] ^= 1 << bit % 8
    assert wrong == 0  # By chance one in half a million.


# --- stored bytes against loaded ones


def _as_stored(tensor: torch.Tensor) -> bytes:
    """The bytes that loading gives: contiguous, conjugation and negation carried out."""
    plain = tensor.resolve_conj().resolve_neg()
    if plain.dtype.itemsize == 1 and not plain.dtype.is_floating_point:
        plain = plain.view(torch.uint8)
    if "float4" in str(plain.dtype):
        plain = plain.view(torch.uint8)
    target = torch.empty(plain.shape, dtype=plain.dtype)
    target.copy_(plain)
    if not target.numel():
        return b""
    return target.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("odd")
    tensors = odd_tensors()
    dcp.save({**tensors, "lr": 0.1}, checkpoint_id=folder, no_dist=True)
    return open_checkpoint(str(folder)), {n: _as_stored(t) for n, t in tensors.items()}


def _compare(checkpoint: Checkpoint, fqn: str, data: bytes, shards: int = 1) -> list[RegionTally]:
    """The tallies of all ranks of `fsdp:shards` that hold the tensor with these bytes."""
    (tensor,) = [t for t in checkpoint.tensors if t.fqn == fqn]
    mesh = Mesh("fsdp", (shards,))
    size = itemsize(tensor.dtype) or 0
    tallies = []
    for rank in range(shards):
        offsets, sizes = _box(mesh, rank, tensor.shape)
        row = int(np.prod(tensor.shape[1:], dtype=np.int64)) * size
        first, rows = (offsets[0], sizes[0]) if sizes else (0, 1)
        mine = np.frombuffer(data, np.uint8)[first * row : (first + rows) * row].copy()
        local = Local(mine, offsets, sizes, size)
        tally = RegionTally(fqn, local.num_elements)
        count_uncovered(tensor, local, tally)
        reader = StoredReader(checkpoint, open_storage(checkpoint.path))
        tasks = chunk_tasks(checkpoint, tensor, mesh, rank, (offsets, sizes), check_crc=True)
        for task in tasks:
            region = Region(local, task.offsets, task.sizes, tally, "f") if task.is_needed else None
            reader.chunk(tensor, task.chunk, tally, region, task.is_checker)
        assert not reader.corrupt
        reader.close()
        tallies.append(tally)
    return tallies


def test_odd_payloads_are_equal_bit_for_bit(odd: tuple[Checkpoint, dict[str, bytes]]) -> None:
    checkpoint, wanted = odd
    for shards in (1, 3):
        for fqn, data in wanted.items():
            for tally in _compare(checkpoint, fqn, data, shards):
                assert tally.verdict in ("EXACT", "EMPTY"), (fqn, tally)
                assert tally.num_compared == tally.num_elements


def test_every_flipped_byte_is_seen(odd: tuple[Checkpoint, dict[str, bytes]]) -> None:
    """The comparison is alive for every kind of payload, and names the right element."""
    checkpoint, wanted = odd
    rng = random.Random(1)  # noqa: S311
    for fqn, data in wanted.items():
        (tensor,) = [t for t in checkpoint.tensors if t.fqn == fqn]
        size = itemsize(tensor.dtype) or 0
        for _ in range(4 if data else 0):
            at = rng.randrange(len(data))
            wrong = bytearray(data)
            wrong[at] ^= 1 << rng.randrange(8)
            index = tuple(map(int, np.unravel_index(at // size, tensor.shape)))
            bad = [t for t in _compare(checkpoint, fqn, bytes(wrong), 2) if t.verdict != "EXACT"]
            bad = [t for t in bad if t.verdict != "EMPTY"]
            (tally,) = bad if tensor.shape else bad[:1]
            assert tally.verdict == "DIFFER"
            assert (tally.num_different, tally.first_index) == (1, index), fqn
            begin = at // size * size
            assert tally.expected == "0x" + data[begin : begin + size][::-1].hex()
            assert tally.found == "0x" + bytes(wrong)[begin : begin + size][::-1].hex()


def test_bytes_entries(odd: tuple[Checkpoint, dict[str, bytes]]) -> None:
    checkpoint, _ = odd
    (entry,) = checkpoint.bytes_entries
    path = Path(checkpoint.path, checkpoint.files[entry.file].path)
    data = path.read_bytes()[entry.byte_offset : entry.byte_offset + entry.byte_length]
    wrong = bytearray(data)
    wrong[100] ^= 1
    cases = [(data, "EXACT"), (bytes(wrong), "DIFFER"), (data[:-1], "DIFFER"), (data * 2, "DIFFER")]
    for loaded, verdict in cases:
        reader = StoredReader(checkpoint, open_storage(checkpoint.path))
        tally = RegionTally("lr", len(loaded))
        reader.entry(entry, tally, loaded, True)
        assert tally.verdict == verdict
        assert reader.num_checked == 1
        assert tally.first_index == ((100,) if loaded == bytes(wrong) else None)


def test_big_endian_and_negated_integers_are_put_together() -> None:
    values = np.arange(12, dtype=">u4").reshape(3, 4)
    stored = StoredTensor("int32", (4, 3), (1, 4), 0, "0", 48, is_neg=True)
    record = Record("archive/data/0", 0, 48, 48, 0, False)
    payload = Payload("zip", (record,), stored, byteorder="big")
    expected = np.ascontiguousarray((-values.astype("<i4")).T)
    local = Local(expected.reshape(-1).view(np.uint8), (0, 0), (4, 3), 4)
    tally = RegionTally("x", 12)
    region = Region(local, (1, 0), (2, 3), tally, "f")
    feed = RegionFeed(payload, stored, region, [1, 0])
    feed.take(memoryview(values.tobytes()), 0)
    feed.finish()
    assert (tally.num_compared, tally.num_different) == (6, 0)


def test_a_zstd_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    extension = pytest.importorskip("torch.distributed.checkpoint._extension")
    tensor = torch.randn(100, 7)
    writer = dcp.FileSystemWriter(tmp_path, _extensions=[extension.ZStandard()])
    dcp.save({"a": tensor, "lr": 1}, storage_writer=writer, no_dist=True)
    checkpoint = open_checkpoint(str(tmp_path))
    for tally in _compare(checkpoint, "a", _as_stored(tensor), 3):
        assert tally.verdict == "EXACT"


def test_unwritten_and_uncovered_elements_are_counted() -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "fsdp_4"))
    tensor = next(t for t in checkpoint.tensors if len(t.shape) == 2)
    num_bytes = tensor.num_bytes
    poisoned = bytes([POISON]) * num_bytes
    (tally,) = _compare(checkpoint, tensor.fqn, poisoned)
    assert tally.verdict == "DIFFER"
    assert tally.num_unwritten == tally.num_different == tensor.num_elements
    assert "never written" in tally.detail


def test_a_tally_is_exact_only_if_all_was_compared() -> None:
    assert RegionTally("x", 3).verdict == "FAILED"
    assert RegionTally("x", 3, num_compared=2).verdict == "FAILED"
    assert RegionTally("x", 3, num_compared=3).verdict == "EXACT"
    assert RegionTally("x", 0).verdict == "EMPTY"
    assert RegionTally("x", 3, num_compared=1, num_uncovered=2).verdict == "MISSING"
    tally = RegionTally("x", 3, num_compared=3, num_different=1)
    assert tally.verdict == "DIFFER"
    tally.problem("FAILED", "no")
    assert tally.verdict == "FAILED"
    tally.problem("SHAPE", "no")
    assert tally.verdict == "SHAPE"


# --- what a job takes


def _spec(path: Path, **fields: Any) -> JobSpec:
    return JobSpec(str(path), "fsdp:2", **fields)


def test_waves_keep_within_memory_and_hold_everything_once() -> None:
    path = SAMPLES / "fsdp2_adamw_4"
    checkpoint = open_checkpoint(str(path))
    for via in ("dtensor", "fsdp1"):
        for budget in (6_000, 20_000, 1 << 30):
            spec = _spec(path, memory_bytes=budget, via=via)
            selection = select(checkpoint, spec)
            waves, too_large = make_waves(checkpoint, selection, spec)
            tensors = [i for wave in waves if wave.is_first for i in wave.tensors]
            entries = [i for wave in waves for i in wave.entries]
            left = {fqn for group in too_large for fqn in group.fqns}
            assert sorted(tensors) == [
                i for i, t in enumerate(checkpoint.tensors) if t.fqn not in left
            ]
            assert len(set(entries)) == len(entries)
            assert len(waves) == 1 or budget < 1 << 20
            for wave in waves:
                payload = max(
                    (int(checkpoint.tensors[i].byte_length.max()) for i in wave.tensors), default=0
                )
                assert wave.num_bytes + payload <= budget


def test_a_sample_is_even_and_never_empty() -> None:
    path = SAMPLES / "fsdp2_adamw_4"
    checkpoint = open_checkpoint(str(path))
    total = checkpoint.num_tensors + len(checkpoint.bytes_entries)
    for sample in (1e-9, 0.05, 0.5, 1.0):
        selection = select(checkpoint, _spec(path, sample=sample))
        taken = len(selection.tensors) + len(selection.entries)
        assert taken == max(1, -(-int(total * sample * 1000) // 1000))
        assert taken + sum(len(g.fqns) for g in selection.left_out) == total


def test_quantised_and_sparse_tensors_are_left_out_with_a_reason(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    dcp.save({"q": quantised, "w": torch.ones(3)}, checkpoint_id=tmp_path, no_dist=True)
    checkpoint = open_checkpoint(str(tmp_path))
    selection = select(checkpoint, _spec(tmp_path))
    assert [checkpoint.tensors[i].fqn for i in selection.tensors] == ["w"]
    (group,) = selection.left_out
    assert group.fqns == ("q",)
    assert "quantised" in group.why


def test_what_this_torch_lacks_and_what_is_malformed_is_left_out_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So such a job is partial (`test_progress`)."""
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    path = SAMPLES / "dtypes_4"
    checkpoint = open_checkpoint(str(path))
    (group,) = select(checkpoint, _spec(path), refuses).left_out
    named = {t.fqn for t in checkpoint.tensors if t.dtype == "float8_e8m0fnu"}
    assert (set(group.fqns), group.is_asked) == (named, False)
    assert group.why == f"torch {torch.__version__} has no element type float8_e8m0fnu"
    path = SAMPLES / "broken" / "entry_negative"
    checkpoint = open_checkpoint(str(path))
    groups = select(checkpoint, _spec(path), refuses).left_out
    assert {fqn for g in groups for fqn in g.fqns} == {bad.fqn for bad in checkpoint.malformed}
    assert all("its metadata is malformed" in g.why and not g.is_asked for g in groups)


def test_failures_in_words() -> None:
    memory = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
    assert is_out_of_memory(memory)
    assert describe_failure(memory)["kind"] == "out-of-memory"
    gone = RuntimeError("[...] Connection closed by peer [127.0.0.1]:33715")
    assert describe_failure(gone)["is_echo"]
    late = RuntimeError("Timed out waiting 1800000ms for recv operation to complete")
    assert describe_failure(late)["kind"] == "timeout"
    plain = describe_failure(ValueError("no"))
    assert (plain["kind"], plain["message"], plain["is_echo"]) == (
        "exception",
        "ValueError: no",
        False,
    )
