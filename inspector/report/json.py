"""Values -> the JSON documents of the contract (`"schema": 1`); `documents` types them.

Documents are given out in pieces, so that a million chunks never stand in memory as text. Names
are raw; the encoder escapes everything that is not ASCII, lone surrogates included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, cast

from inspector.checkpoint.model import Checkpoint, DataFile, Tensor
from inspector.checkpoint.text import json_literal, redact
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.writer import written_by_json

if TYPE_CHECKING:
    from inspector.checkpoint.find.step_folders import Found
    from inspector.checkpoint.payload.scan.literals import Literal as PlainValue
    from inspector.report.documents.show import (
        ShowFolderDocument,
        ShownBytes,
        ShownCheckpoint,
        ShownChunk,
        ShownFile,
        ShownTensor,
    )

__all__ = ["SCHEMA", "checkpoints_json", "dicts", "dump", "dump_list", "show_json"]

SCHEMA: Literal[1] = 1


def dump(value: Any) -> str:
    """One document, or a part of one, as JSON in ASCII."""
    return json.dumps(value, allow_nan=False)


def dicts(items: Iterable[Any]) -> list[Any]:
    """Values whose fields are those of the document."""
    return [asdict(item) for item in items]


def dump_list(items: Iterable[Any]) -> Iterator[str]:
    """A list as JSON in pieces, one item a line."""
    separator = "[\n"
    for item in items:
        yield separator + dump(item)
        separator = ",\n"
    yield "]" if separator[0] == "," else "[]"


def show_json(
    checkpoint: Checkpoint,
    written_by: WrittenBy,
    *,
    tensors: Sequence[int] | None = None,
    entries: Sequence[int] | None = None,
    chunks: bool = False,
    literals: Mapping[int, PlainValue] | None = None,
) -> Iterator[str]:
    """The document of `show --json`, in pieces; the arguments are as for `show_text`."""
    yield f'{{"schema": {SCHEMA}, "checkpoint": {dump(_summary(checkpoint, written_by))}'
    yield ', "tensors": '
    selected = checkpoint.tensor_order.tolist() if tensors is None else tensors
    shown = (checkpoint.tensors[index] for index in selected)
    yield from dump_list(_tensor(checkpoint, t, written_by, chunks=chunks) for t in shown)
    yield ', "bytes": '
    chosen = checkpoint.bytes_order.tolist() if entries is None else entries
    yield from dump_list(_bytes_entry(checkpoint, index, literals or {}) for index in chosen)
    yield f', "files": {dump([_file(file) for file in checkpoint.files])}}}\n'


def _summary(checkpoint: Checkpoint, written_by: WrittenBy) -> ShownCheckpoint:
    provenance, framework = checkpoint.provenance, checkpoint.framework
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
        "framework": None if framework is None else cast("Any", asdict(framework)),
        "written_by": written_by_json(written_by),
        "per_rank_metadata": checkpoint.per_rank_metadata,
        "num_malformed": len(checkpoint.malformed),
        "unknown_globals": checkpoint.unknown_globals,
        "unsafe_globals": checkpoint.unsafe_globals,
        "notes": provenance.notes,
    }


def _state_path(checkpoint: Checkpoint, fqn: str) -> list[str | int] | None:
    """Where an entry is in the nested state dict, if the planner that saved it wrote that down."""
    path = checkpoint.state_paths.get(fqn)
    if path is None or ".".join(map(str, path)) != fqn:
        return None
    return list(path)


def _tensor(
    checkpoint: Checkpoint, tensor: Tensor, written_by: WrittenBy, *, chunks: bool
) -> ShownTensor:
    placement = written_by.placements(tensor.index)
    document: ShownTensor = {
        "fqn": tensor.fqn,
        "dtype": tensor.dtype,
        "shape": tensor.shape,
        "num_chunks": tensor.num_chunks,
        "num_elements": tensor.num_elements,
        "num_bytes": tensor.num_bytes,
        "placements": placement.placements,
        "evidence": placement.evidence,
        "state_path": _state_path(checkpoint, tensor.fqn),
    }
    if chunks:
        document["chunks"] = list(_chunks(checkpoint, tensor))
    return document


def _chunks(checkpoint: Checkpoint, tensor: Tensor) -> Iterator[ShownChunk]:
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
    checkpoint: Checkpoint, index: int, literals: Mapping[int, PlainValue]
) -> ShownBytes:
    entry = checkpoint.bytes_entries[index]
    stored = entry.file >= 0
    document: ShownBytes = {
        "fqn": entry.fqn,
        "file": checkpoint.files[entry.file].path if stored else None,
        "offset": entry.byte_offset if stored else None,
        "length": entry.byte_length if stored else None,
        "state_path": _state_path(checkpoint, entry.fqn),
    }
    if index in literals:
        document["value"] = json_literal(literals[index].value)
    return document


def _file(file: DataFile) -> ShownFile:
    return {
        "path": file.path,
        "rank": file.rank,
        "num_bytes": file.num_bytes,
        "referenced_bytes": file.referenced_bytes,
        "num_payloads": file.num_payloads,
    }


def checkpoints_json(path: str, found: Sequence[Found]) -> Iterator[str]:
    """The document of a folder with several checkpoints."""
    # lazy: one checkpoint is shown without a search
    from inspector.checkpoint.find.search import RunListing, newest
    from inspector.checkpoint.find.step_folders import step_folders  # lazy: as above

    latest = newest(found)
    run = found if isinstance(found, RunListing) else None
    folders = step_folders(found, run.name if run is not None else "")
    step_paths = {part: folder.path for folder in folders for part in folder.parts}
    document: ShowFolderDocument = {
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
                "is_overwritten": item.is_overwritten,
                "step": item.step,
                "num_bytes": item.num_bytes,
                "num_files": item.num_files,
                "modified_s": item.modified_s,
                "detail": item.detail,
            }
            for item in found
        ],
    }
    yield dump(document) + "\n"
