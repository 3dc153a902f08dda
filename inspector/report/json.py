"""Values -> the JSON documents of the contract (`"schema": 1`).

Documents are given out in pieces, so that a million chunks never stand in memory as text. Names
are raw; the encoder escapes everything that is not ASCII, lone surrogates included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inspector.checkpoint.find.found import Found
from inspector.checkpoint.find.search import RunListing, newest
from inspector.checkpoint.find.step_folders import step_folders
from inspector.checkpoint.literals import json_literal
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import redact
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.writer import written_by_json

if TYPE_CHECKING:
    from inspector.checkpoint.model import Framework

if TYPE_CHECKING:
    from inspector.checkpoint.payload.scan.literals import Literal

__all__ = ["SCHEMA", "checkpoints_json", "show_json"]

SCHEMA = 1


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def show_json(
    checkpoint: Checkpoint,
    written_by: WrittenBy,
    *,
    tensors: Sequence[int] | None = None,
    entries: Sequence[int] | None = None,
    chunks: bool = False,
    literals: Mapping[int, Literal] | None = None,
) -> Iterator[str]:
    """The document of `show --json`, in pieces.

    Args:
        checkpoint: What is shown.
        written_by: How it was sharded.
        tensors: Which tensors, by index (default: all).
        entries: Which bytes entries, by index (default: all).
        chunks: Whether each tensor's chunks are listed.
        literals: Plain values of bytes entries, by index; each is its entry's `value`.
    """
    yield '{"schema": ' + str(SCHEMA) + ', "checkpoint": ' + _dump(_summary(checkpoint, written_by))
    yield ', "tensors": ['
    selected = checkpoint.tensor_order.tolist() if tensors is None else tensors
    for n, index in enumerate(selected):
        tensor = checkpoint.tensors[index]
        document = _tensor(checkpoint, tensor, written_by)
        if chunks:
            document["chunks"] = list(_chunks(checkpoint, tensor))
        yield ("," if n else "") + "\n" + _dump(document)
    yield '], "bytes": ['
    chosen = checkpoint.bytes_order.tolist() if entries is None else entries
    for n, index in enumerate(chosen):
        yield ("," if n else "") + "\n" + _dump(_bytes_entry(checkpoint, index, literals or {}))
    yield '], "files": '
    yield _dump([_file(file) for file in checkpoint.files])
    yield "}\n"


def _summary(checkpoint: Checkpoint, written_by: WrittenBy) -> dict[str, Any]:
    provenance = checkpoint.provenance
    return {
        "path": checkpoint.path,
        "format": checkpoint.format,
        "version": provenance.metadata_version,
        "torch": provenance.torch_band,
        "torch_evidence": provenance.torch_evidence,
        "num_tensors": checkpoint.num_tensors,
        "num_bytes_entries": len(checkpoint.bytes_entries),
        "num_chunks": checkpoint.num_chunks,
        "num_elements": checkpoint.num_elements,
        "tensor_bytes": checkpoint.tensor_bytes,
        "stored_bytes": checkpoint.stored_bytes,
        "metadata_bytes": checkpoint.metadata_bytes,
        "num_files": len(checkpoint.files),
        "framework": _framework(checkpoint.framework),
        "written_by": written_by_json(written_by),
        "per_rank_metadata": checkpoint.per_rank_metadata,
        "num_malformed": len(checkpoint.malformed),
        "unknown_globals": list(checkpoint.unknown_globals),
        "unsafe_globals": list(checkpoint.unsafe_globals),
        "notes": list(provenance.notes),
    }


def _framework(framework: Framework | None) -> dict[str, Any] | None:
    if framework is None:
        return None
    return {
        "name": framework.name,
        "certain": framework.certain,
        "evidence": list(framework.evidence),
    }


def _state_path(checkpoint: Checkpoint, fqn: str) -> list[str | int] | None:
    """Where an entry is in the nested state dict, if the planner that saved it wrote that down."""
    path = checkpoint.state_paths.get(fqn)
    if path is None or ".".join(map(str, path)) != fqn:
        return None
    return list(path)


def _tensor(checkpoint: Checkpoint, tensor: Tensor, written_by: WrittenBy) -> dict[str, Any]:
    placement = written_by.placements(tensor.index)
    known = placement.placements
    return {
        "fqn": tensor.fqn,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "num_chunks": tensor.num_chunks,
        "num_elements": tensor.num_elements,
        "num_bytes": tensor.num_bytes,
        "placements": None if known is None else list(known),
        "evidence": list(placement.evidence),
        "state_path": _state_path(checkpoint, tensor.fqn),
    }


def _chunks(checkpoint: Checkpoint, tensor: Tensor) -> Iterator[dict[str, Any]]:
    ranks = checkpoint.chunk_ranks(tensor.file).tolist()
    columns: Iterable[tuple[Any, ...]] = zip(
        tensor.offsets.tolist(),
        tensor.sizes.tolist(),
        tensor.file.tolist(),
        tensor.byte_offset.tolist(),
        tensor.byte_length.tolist(),
        ranks,
        strict=True,
    )
    for offsets, sizes, file, offset, length, rank in columns:
        stored = file >= 0
        yield {
            "offsets": offsets,
            "sizes": sizes,
            "file": checkpoint.files[file].path if stored else None,
            "offset": offset if stored else None,
            "length": length if stored else None,
            "rank": rank if rank >= 0 else None,
        }


def _bytes_entry(
    checkpoint: Checkpoint, index: int, literals: Mapping[int, Literal]
) -> dict[str, Any]:
    entry = checkpoint.bytes_entries[index]
    stored = entry.file >= 0
    value = {"value": json_literal(literals[index].value)} if index in literals else {}
    return {
        "fqn": entry.fqn,
        "file": checkpoint.files[entry.file].path if stored else None,
        "offset": entry.byte_offset if stored else None,
        "length": entry.byte_length if stored else None,
        "state_path": _state_path(checkpoint, entry.fqn),
        **value,
    }


def _file(file: Any) -> dict[str, Any]:
    return {
        "path": file.path,
        "rank": file.rank,
        "num_bytes": file.num_bytes,
        "referenced_bytes": file.referenced_bytes,
        "num_payloads": file.num_payloads,
    }


def checkpoints_json(path: str, found: Sequence[Found]) -> Iterator[str]:
    """The document of a folder with several checkpoints."""
    latest = newest(found)
    run = found if isinstance(found, RunListing) else None
    folders = step_folders(found, run.name if run is not None else "")
    step_paths = {part: folder.path for folder in folders for part in folder.parts}
    yield _dump(
        {
            "schema": SCHEMA,
            "path": redact(path),
            "newest": latest.path if latest is not None else None,
            "newest_step": step_paths[latest] if latest is not None else None,
            "is_partial": run is not None and run.is_partial,
            "not_looked_at": [
                {"what": what, "why": why} for what, why in (run.not_looked_at if run else ())
            ],
            "checkpoints": [
                {
                    "path": item.path,
                    "step_path": step_paths[item],
                    "format": item.format,
                    "state": item.state,
                    "step": item.step,
                    "num_bytes": item.num_bytes,
                    "num_files": item.num_files,
                    "modified_s": item.modified_s,
                    "detail": item.detail,
                }
                for item in found
            ],
        }
    )
    yield "\n"
