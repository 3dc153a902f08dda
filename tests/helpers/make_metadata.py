"""Checkpoints of a million chunks, as `dcp.save` of a thousand ranks leaves them: without ranks.

    python -m tests.helpers.make_metadata SHAPE FOLDER

SHAPE is one of:

    1000x1024    1,000 tensors over 1,024 ranks: a million chunks
    100000x8     100,000 tensors over 8 ranks
    3300x1024    405B-class with Adam: 1,100 parameters and their two moments over 1,024 ranks
    TxW          any other number of tensors and ranks, as the first

The metadata is made of torch's own classes and written by torch's own writer
(`FileSystemWriter.finish`). Every rank's write results pass through pickle first, as gathering
them does: this is why a name stands in the file once for each rank, and not once in all. Data
files have the sizes that the payloads would have, and hold nothing (they are sparse).
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

__all__ = ["SHAPES", "Wanted", "make", "tensors_of"]

#: Name, shape and dtype of a tensor.
Wanted = tuple[str, tuple[int, ...], torch.dtype]

_T = TypeVar("_T")

SHAPES = ("1000x1024", "100000x8", "3300x1024")

# Llama 3 405B's: 16,384 wide, the feed-forward 53,248, 8 heads for keys and values.
_WIDE = (
    ("attention.wq", (16384, 16384)),
    ("attention.wk", (1024, 16384)),
    ("attention.wv", (1024, 16384)),
    ("attention.wo", (16384, 16384)),
    ("feed_forward.w1", (53248, 16384)),
    ("feed_forward.w3", (53248, 16384)),
    ("feed_forward.w2", (16384, 53248)),
    ("attention_norm", (16384,)),
    ("ffn_norm", (16384,)),
)


def _parameters(count: int, world: int) -> list[Wanted]:
    """So many parameters of a decoder; narrow ones where there are very many."""
    if count > 10_000:
        parts = tuple(
            (name, (4 * world, 16) if len(shape) == 2 else (4 * world,)) for name, shape in _WIDE
        )
    else:
        parts = _WIDE
    found: list[Wanted] = []
    for number in range(count):
        name, shape = parts[number % len(parts)]
        fqn = f"model.layers.{number // len(parts)}.{name}.weight"
        found.append((fqn, shape, torch.bfloat16))
    return found


def tensors_of(shape: str) -> tuple[list[Wanted], int]:
    """The tensors of a named shape, and its number of ranks."""
    count, world = (int(number) for number in shape.split("x"))
    if shape != "3300x1024":
        return _parameters(count, world), world
    parameters = [(fqn, size, torch.float32) for fqn, size, _ in _parameters(1100, world)]
    moments = [
        (f"optimizer.state.{fqn.removeprefix('model.')}.{moment}", size, torch.float32)
        for fqn, size, _ in parameters
        for moment in ("exp_avg", "exp_avg_sq")
    ]
    return parameters + moments, world


def _rows(rows: int, world: int, rank: int) -> tuple[int, int]:
    """First row and number of rows of a rank, as `torch.chunk` cuts."""
    full = -(-rows // world)
    first = min(rank * full, rows)
    return first, min(full, rows - first)


def _payload_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes that `torch.save` makes of such a tensor."""
    file = io.BytesIO()
    torch.save(torch.empty(shape, dtype=dtype), file)
    return len(file.getbuffer())


def _gathered(value: _T) -> _T:
    return pickle.loads(pickle.dumps(value))


def make(folder: Path, tensors: list[Wanted], world: int) -> Metadata:
    """Write `.metadata` and the sparse data files of an FSDP save to `folder`, which is made.

    Every tensor is cut along dim 0.

    Raises:
        ValueError: A rank would have no row of a tensor; DCP records that in ways of its own.
    """
    for fqn, shape, _ in tensors:
        if not _rows(shape[0], world, world - 1)[1]:
            raise ValueError(f"{fqn} has too few rows for {world} ranks")
    folder.mkdir(parents=True, exist_ok=True)
    lengths: dict[tuple[tuple[int, ...], torch.dtype], int] = {}

    def chunk(shape: tuple[int, ...], rank: int) -> ChunkStorageMetadata:
        first, rows = _rows(shape[0], world, rank)
        offsets = torch.Size([first] + [0] * (len(shape) - 1))
        return ChunkStorageMetadata(offsets=offsets, sizes=torch.Size([rows, *shape[1:]]))

    def result(rank: int) -> list[WriteResult]:
        """What rank `rank` reports to have written, in the order of its plan."""
        path, at, results = f"__{rank}_0.distcp", 0, []
        for fqn, shape, dtype in tensors:
            box = chunk(shape, rank)
            key = (tuple(box.sizes), dtype)
            if key not in lengths:
                lengths[key] = _payload_bytes(*key)
            index = MetadataIndex(fqn, box.offsets, rank)
            info = _StorageInfo(path, at, lengths[key])
            results.append(WriteResult(index, lengths[key], info))
            at += lengths[key]
        with open(folder / path, "wb") as file:
            file.truncate(at)
        return results

    def results() -> Iterator[list[WriteResult]]:
        for rank in range(world):
            yield _gathered(result(rank))

    # Rank 0's names make the entries, the last rank's the planner's: a new copy for each.
    entries = {
        fqn: TensorStorageMetadata(
            properties=TensorProperties(dtype=dtype),
            size=torch.Size(shape),
            chunks=[chunk(shape, rank) for rank in range(world)],
        )
        for fqn, shape, dtype in _gathered(tensors)
    }
    paths = {fqn: tuple(fqn.split(".", 1)) for fqn, _, _ in _gathered(tensors)}
    metadata = Metadata(entries, planner_data=paths)
    writer = FileSystemWriter(folder)
    writer.finish(metadata, results())  # type: ignore[arg-type]  (it only iterates)
    return metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shape")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    # Millions of objects that all stay: the collector would look through them in vain.
    gc.disable()
    tensors, world = tensors_of(options.shape)
    make(options.folder, tensors, world)
    size = (options.folder / ".metadata").stat().st_size
    print(f"{options.folder}: {len(tensors) * world:,} chunks, .metadata of {size / 1e6:.1f} MB")
    # Freeing them one by one takes as long again.
    os._exit(0)


if __name__ == "__main__":
    main()
