"""Tensors larger than a rank's memory: verified in blocks of rows."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.layout.rows import RowBlock
from inspector.verify.selection import Wave, make_waves, select
from inspector.verify.spec import JobSpec
from sample_ckpts.maker import editing as ed
from tests.conftest import SAMPLES
from tests.verify.roundtrip_jobs import make_spec, run_batch


def _waves(checkpoint: Checkpoint, spec: JobSpec) -> tuple[list[Wave], int]:
    """The waves, and how many tensors are in none."""
    waves, too_large = make_waves(checkpoint, select(checkpoint, spec), spec)
    left_out = {fqn for group in too_large for fqn in group.fqns}
    return waves, len(left_out - _raw(checkpoint))


def _raw(checkpoint: Checkpoint) -> set[str]:
    return {entry.fqn for entry in checkpoint.bytes_entries}


def _least_memory(checkpoint: Checkpoint, spec_of: Callable[[int], JobSpec]) -> int:
    """The least memory with which no tensor is left out (bytes entries are: they have no rows)."""
    low, high = 1, 1 << 30
    while low < high:
        middle = (low + high) // 2
        if _waves(checkpoint, spec_of(middle))[1]:
            low = middle + 1
        else:
            high = middle
    return low


@pytest.mark.parametrize("name", ["fsdp2_adamw_4", "fsdp2_tp_2x2", "dtypes_4", "hf_dcp_sharded_4"])
def test_blocks_hold_every_row_and_every_payload_once(name: str) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / name))

    def spec_of(memory: int) -> JobSpec:
        return JobSpec(checkpoint.path, "fsdp:2", ("hsdp:2x1",), memory_bytes=memory)

    least = _least_memory(checkpoint, spec_of)
    waves, num_left_out = _waves(checkpoint, spec_of(least))
    assert num_left_out == 0
    blocks = [wave for wave in waves if wave.rows is not None]
    assert blocks
    assert all(wave.num_bytes + wave.payload_bytes <= least for wave in blocks)
    by_tensor: dict[int, list[RowBlock]] = {}
    for wave in blocks:
        (index,) = wave.tensors
        assert not wave.entries
        assert wave.rows is not None
        by_tensor.setdefault(index, []).append(wave.rows)
    for index, rows in by_tensor.items():
        tensor = checkpoint.tensors[index]
        assert [b.number for b in rows] == list(range(rows[0].count))
        assert [b.first for b in rows] == [0, *(b.last for b in rows[:-1])]
        assert rows[-1].last == tensor.shape[0]
        owned = sum(b.owns(tensor).astype(int) for b in rows)
        assert (np.asarray(owned) == 1).all()
        for block in rows:
            part = block.of(tensor)
            assert part.shape == (block.last - block.first, *tensor.shape[1:])
            # A cut box of every chunk; together they are the block.
            low = np.maximum(part.offsets[:, 0], 0)
            high = np.minimum(part.offsets[:, 0] + part.sizes[:, 0], part.shape[0])
            volume = (high - low) * part.sizes[:, 1:].prod(axis=1)
            assert volume.sum() == part.num_elements


def test_a_row_that_does_not_fit_is_left_out_with_the_reason() -> None:
    checkpoint = open_checkpoint(str(SAMPLES / "fsdp2_adamw_4"))
    tensor = max(checkpoint.tensors, key=lambda t: t.num_bytes)
    for memory, what in ((1 << 10, "its largest payload"), (1 << 11, "a row of it")):
        room = int(tensor.byte_length.max()) if what == "a row of it" else 0
        budget = memory if not room else int((room + 1) / 0.9) + 1
        spec = JobSpec(checkpoint.path, "fsdp:2", memory_bytes=budget)
        _, too_large = make_waves(checkpoint, select(checkpoint, spec), spec)
        (why,) = [group.why for group in too_large if tensor.fqn in group.fqns]
        assert why.startswith(f"{what} needs more memory on a rank than")
        assert not any(group.is_asked for group in too_large)


def test_a_shape_that_is_only_claimed_is_not_cut_into_ever_more_blocks(tmp_path: Path) -> None:
    dcp.save({"w": torch.zeros(8, 4)}, checkpoint_id=tmp_path, no_dist=True)
    size = torch.Size([1 << 52, 4])
    ed.edit(tmp_path, lambda metadata: setattr(metadata.state_dict_metadata["w"], "size", size))
    checkpoint = open_checkpoint(str(tmp_path))
    spec = JobSpec(checkpoint.path, "fsdp:2", memory_bytes=1 << 30)
    waves, too_large = make_waves(checkpoint, select(checkpoint, spec), spec)
    assert waves == []
    said = "a block of rows, one of 65,536 at most, needs more memory on a rank than the 1.0 GiB"
    assert [(group.fqns, said in group.why) for group in too_large] == [(("w",), True)]


@pytest.mark.slow
@pytest.mark.torchrun
def test_jobs_in_blocks_of_rows_find_what_jobs_of_whole_tensors_find(tmp_path: Path) -> None:
    specs, without = {}, {}
    for name, words, via in (
        ("fsdp2_adamw_4", "tok_embeddings", "dtensor"),
        ("fsdp2_adamw_4", "model.tok_embeddings", "fsdp1"),
        ("fsdp2_tp_2x2", "w1.weight", "dtensor"),
        ("dtypes_4", "shapes.", "dtensor"),
        ("zstd_2", "net3", "fsdp2"),
        ("hf_dcp_sharded_4", "net3", "dtensor"),
    ):
        checkpoint = open_checkpoint(str(SAMPLES / name))

        def spec_of(memory: int, words: str = words, via: str = via) -> JobSpec:
            return JobSpec(
                str(SAMPLES), "fsdp:2", ("hsdp:2x1",), via, filter=words, memory_bytes=memory
            )

        spec = spec_of(_least_memory(checkpoint, spec_of))
        assert any(wave.rows for wave in _waves(checkpoint, spec)[0]), (name, via)
        specs[f"{name} {via}"] = make_spec(
            tmp_path / f"{name}-{via}",
            SAMPLES / name,
            spec.mesh,
            *spec.then,
            via=via,
            filter=words,
            memory_bytes=spec.memory_bytes,
        )
        names = {*checkpoint.columns.fqns} - _raw(checkpoint)
        without[f"{name} {via}"] = {n for n in names if words not in n} | _raw(checkpoint)
    # The last element of a chunk.
    flipped = tmp_path / "flipped"
    shutil.copytree(SAMPLES / "fsdp2_adamw_4", flipped)
    checkpoint = open_checkpoint(str(flipped))
    tensor = max(checkpoint.tensors, key=lambda t: t.num_bytes)
    file = flipped / checkpoint.files[int(tensor.file[-1])].path
    data = bytearray(file.read_bytes())
    at = int(tensor.byte_offset[-1])
    stored = data[at : at + int(tensor.byte_length[-1])]
    values = torch.load(io.BytesIO(stored), weights_only=True)
    data[at + stored.index(values.numpy().tobytes()) + values.nbytes - 1] ^= 1
    file.write_bytes(bytes(data))

    def memory_of(memory: int) -> JobSpec:
        return JobSpec(
            str(flipped), "fsdp:2", ("hsdp:2x1",), filter=tensor.fqn, memory_bytes=memory
        )

    least = _least_memory(checkpoint, memory_of)
    for word, memory in (("whole", 1 << 30), ("blocks", least)):
        specs[f"flipped {word}"] = make_spec(
            tmp_path / f"flipped-{word}",
            flipped,
            "fsdp:2",
            "hsdp:2x1",
            filter=tensor.fqn,
            memory_bytes=memory,
        )
    done = run_batch(tmp_path, specs)
    wrong = {}
    for name, outcome in done.items():
        if not name.startswith("flipped"):
            outcome.assert_exact(without[name])
            continue
        wrong[name] = Counter(
            (e["fqn"], e["verdict"], tuple(e["first_index"] or ()), e["found"], e["expected"])
            for e in outcome.of("tensor")
            if e["verdict"] == "DIFFER"
        )
    assert wrong["flipped whole"] == wrong["flipped blocks"]
    assert {fqn for fqn, *_ in wrong["flipped whole"]} == {tensor.fqn}
