"""What we read, beside what torch's own reader reads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from inspector.checkpoint import open_checkpoint
from tests.conftest import GOLDEN, SAMPLES, folders_with_metadata, run_cli, some_fast

# torch 2.13 cannot read these (1.13's aliases make a second copy of the classes; 2.15 pickles
# six tensor properties): they are compared with known values in test_golden.py.
UNREADABLE_BY_TORCH = ("1.13.1", "2.15.0")


def torch_metadata(folder: Path) -> Any:
    from torch.distributed.checkpoint import FileSystemReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FileSystemReader(folder).read_metadata()


def torch_view(metadata: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """torch's metadata in the terms of `show --json --chunks`."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    stored = {
        (index.fqn, tuple(index.offset) if index.offset is not None else None): info
        for index, info in metadata.storage_data.items()
    }
    tensors, entries = {}, {}
    for fqn, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            chunks = []
            for chunk in entry.chunks:
                info = stored[fqn, tuple(chunk.offsets)]
                chunks.append(
                    (
                        list(chunk.offsets),
                        list(chunk.sizes),
                        info.relative_path,
                        info.offset,
                        info.length,
                    )
                )
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            tensors[fqn] = (dtype, list(entry.size), chunks)
        else:
            info = stored[fqn, None]
            entries[fqn] = (info.relative_path, info.offset, info.length)
    return tensors, entries


def our_view(document: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {
        tensor["fqn"]: (
            tensor["dtype"],
            tensor["shape"],
            [
                (c["offsets"], c["sizes"], c["file"], c["offset"], c["length"])
                for c in tensor["chunks"]
            ],
        )
        for tensor in document["tensors"]
    }
    entries = {e["fqn"]: (e["file"], e["offset"], e["length"]) for e in document["bytes"]}
    return tensors, entries


READABLE = [
    *folders_with_metadata(SAMPLES),
    *(f for f in folders_with_metadata(GOLDEN) if f.parent.name not in UNREADABLE_BY_TORCH),
]


@pytest.mark.parametrize(
    "folder", some_fast(READABLE, READABLE[::4]), ids=lambda f: "/".join(f.parts[-2:])
)
def test_show_agrees_with_torch_tensor_by_tensor_and_chunk_by_chunk(folder: Path) -> None:
    ran = run_cli("show", folder, "--json", "--chunks")
    assert ran.code == 0, ran.err
    document = ran.json()
    metadata = torch_metadata(folder)
    assert our_view(document) == torch_view(metadata)
    summary = document["checkpoint"]
    assert summary["num_tensors"] == len(document["tensors"])
    assert summary["num_bytes_entries"] == len(document["bytes"])
    assert summary["num_chunks"] == sum(t["num_chunks"] for t in document["tensors"])
    assert summary["version"] == getattr(metadata, "version", None)
    assert document["checkpoint"]["unknown_globals"] == []


def test_there_is_something_to_compare() -> None:
    assert len(READABLE) > 70


def test_per_rank_metadata_agrees_with_each_rank_as_torch_reads_it() -> None:
    folder = SAMPLES / "per_rank_metadata_2"
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.per_rank_metadata
    ours: dict[str, set[Any]] = {}
    for tensor in checkpoint.tensors:
        for i in range(tensor.num_chunks):
            place = checkpoint.files[tensor.file[i]].path, int(tensor.byte_offset[i])
            ours.setdefault(tensor.fqn, set()).add(
                (tuple(tensor.offsets[i].tolist()), tuple(tensor.sizes[i].tolist()), place)
            )
    theirs: dict[str, set[Any]] = {}
    from torch.distributed.checkpoint import FileSystemReader

    ranks = sorted(folder.glob("__*.metadata"))
    assert len(ranks) == 2
    for rank in range(2):
        reader = FileSystemReader(folder)
        tensors, _ = torch_view(reader.read_metadata(rank=rank))
        for fqn, (_, _, chunks) in tensors.items():
            for offsets, sizes, path, offset, _ in chunks:
                theirs.setdefault(fqn, set()).add((tuple(offsets), tuple(sizes), (path, offset)))
    assert ours == theirs
