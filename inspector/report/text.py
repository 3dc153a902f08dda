"""Values -> text for reading: a summary, then tables.

On a terminal the tables fit its width; piped, they are plain and complete. Every name passes
the display gate (`inspector.checkpoint.text.printable`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import (
    format_box,
    format_bytes,
    format_count,
    format_literal,
    format_placements,
    format_ranks,
    format_shape,
    format_time,
    plural,
    printable,
)
from inspector.report.table import TextColumn, render_table
from inspector.report.writer import writer_words

if TYPE_CHECKING:
    from inspector.checkpoint.find.step_folders import Found
    from inspector.checkpoint.payload.scan.literals import Literal
    from inspector.checkpoint.safetensors.header import SafetensorsFacts
    from inspector.layout.writer.written_by import WrittenBy

__all__ = ["checkpoints_text", "show_text", "summary_facts"]

_LABEL_CELLS = 12


def summary_facts(checkpoint: Checkpoint, written_by: WrittenBy) -> list[tuple[str, str]]:
    """What this checkpoint is, as labels and printable sentences."""
    provenance = checkpoint.provenance
    layout = "torch DCP" if checkpoint.format == "dcp" else checkpoint.format
    if provenance.metadata_version:
        layout += f", metadata version {printable(provenance.metadata_version, 40)}"
    if checkpoint.per_rank_metadata:
        layout += ", metadata per rank (use_collectives=False)"
    if checkpoint.stored is not None:
        layout += _stored_words(checkpoint.stored)
    facts = [("format", layout)]
    framework = checkpoint.framework
    if framework is not None:
        sure = "certain" if framework.certain else "not certain"
        facts.append(("framework", f"{framework.name}, {sure}"))
        facts += [("", line) for line in framework.evidence]
    if provenance.torch_band:
        facts.append(("torch", f"{provenance.torch_band} ({provenance.torch_evidence})"))
    facts += [("", printable(note, 200)) for note in provenance.notes]
    facts.append(("written by", ", ".join(writer_words(written_by))))
    facts += [("", printable(line)) for line in written_by.evidence]
    counts = [
        f"{plural(checkpoint.num_tensors, 'tensor')} in {plural(checkpoint.num_chunks, 'chunk')}",
        plural(checkpoint.num_elements, "element"),
        format_bytes(checkpoint.tensor_bytes),
        plural(len(checkpoint.bytes_entries), "bytes entry", "bytes entries"),
    ]
    facts.append(("tensors", ", ".join(counts)))
    described = ".metadata" if checkpoint.format == "dcp" else "headers"
    stored = [
        plural(len(checkpoint.files), "data file"),
        format_bytes(checkpoint.stored_bytes),
        f"{described} of {format_bytes(checkpoint.metadata_bytes)}",
        format_time(_written_s(checkpoint)),
    ]
    facts.append(("files", ", ".join(stored)))
    if checkpoint.malformed:
        is_later = all(entry.is_later for entry in checkpoint.malformed)
        kind = "{} of an unknown kind" if is_later else "malformed {}"
        names = kind.format("entry"), kind.format("entries")
        count = plural(len(checkpoint.malformed), *names)
        facts.append(("left out", f"{count} (hsdp-inspect check says which)"))
    if checkpoint.unsafe_globals:
        named = ", ".join(printable(name, 80) for name in checkpoint.unsafe_globals[:3])
        facts.append(("UNSAFE", f"the metadata names code to be run: {named} (it was not run)"))
    return facts


def _stored_words(stored: SafetensorsFacts) -> str:
    """What kind of safetensors checkpoint it is, to follow that word."""
    words = ", one file a rank" if stored.is_sharded and not stored.index else ""
    if stored.index:
        words += f", index {printable(stored.index, 60)}"
    if stored.missing:
        words += f", {plural(len(stored.missing), 'file')} missing"
    return words


def _written_s(checkpoint: Checkpoint) -> float | None:
    """When it was written: its metadata, or the newest of its files where it has none."""
    if checkpoint.stored is None:
        return checkpoint.metadata_modified_s
    times = [f.modified_s for f in checkpoint.files if f.num_payloads and f.modified_s is not None]
    return max(times, default=None)


def show_text(
    checkpoint: Checkpoint,
    written_by: WrittenBy,
    *,
    tensors: Sequence[int] | None = None,
    entries: Sequence[int] | None = None,
    chunks: bool = False,
    width: int | None = None,
    max_rows: int | None = None,
    literals: Mapping[int, Literal] | None = None,
) -> Iterator[str]:
    """The lines of `show`.

    Args:
        checkpoint: What is shown.
        written_by: How it was sharded.
        tensors: Which tensors, by index (default: all).
        entries: Which bytes entries, by index (default: all).
        chunks: Whether each tensor's chunks are listed under it.
        width: Cells of the terminal; None if there is none.
        max_rows: Rows a table may have; None for all.
        literals: Plain values of bytes entries, by index.
    """
    yield printable(checkpoint.path)
    for label, text in summary_facts(checkpoint, written_by):
        yield f"  {label:<{_LABEL_CELLS}}{text}"
    selected = checkpoint.tensor_order.tolist() if tensors is None else list(tensors)
    chosen = checkpoint.bytes_order.tolist() if entries is None else list(entries)
    if chunks:
        yield from _chunk_sections(checkpoint, written_by, selected[:max_rows])
    else:
        yield from _section(
            _TENSOR_COLUMNS, _tensor_rows(checkpoint, written_by, selected[:max_rows]), width
        )
    yield from _more(len(selected), max_rows, "tensors")
    max_chars = _MAX_VALUE if width is not None else _WHOLE_VALUE
    rows = _bytes_rows(checkpoint, chosen[:max_rows], literals or {}, max_chars)
    yield from _section(_BYTES_COLUMNS, rows, width)
    yield from _more(len(chosen), max_rows, "bytes entries")
    yield from _section(_FILE_COLUMNS, _file_rows(checkpoint, max_rows), width)
    yield from _more(len(checkpoint.files), max_rows, "files")


def _section(
    columns: Sequence[TextColumn], rows: Sequence[Sequence[str]], width: int | None
) -> Iterator[str]:
    lines = render_table(columns, rows, width)
    if lines:
        yield ""
        yield from lines


def _more(count: int, max_rows: int | None, what: str) -> Iterator[str]:
    if max_rows is not None and count > max_rows:
        left = format_count(count - max_rows)
        yield f"... {left} more {what}: narrow them with --filter, or send this to a file"


_TENSOR_COLUMNS = (
    TextColumn("TENSOR", min_width=18),
    TextColumn("DTYPE", priority=2),
    TextColumn("SHAPE", min_width=8),
    TextColumn("PLACEMENTS", min_width=10, priority=1),
    TextColumn("CHUNKS", "right"),
    TextColumn("BYTES", "right"),
    TextColumn("RANKS", min_width=5, priority=3),
)


def _tensor_rows(
    checkpoint: Checkpoint, written_by: WrittenBy, selected: Sequence[int]
) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for index in selected:
        tensor = checkpoint.tensors[index]
        rows.append(
            (
                printable(tensor.fqn),
                tensor.dtype,
                format_shape(tensor.shape),
                format_placements(written_by.placements(index).placements),
                format_count(tensor.num_chunks),
                format_bytes(tensor.num_bytes),
                format_ranks(checkpoint.chunk_ranks(tensor.file).tolist()),
            )
        )
    return rows


_CHUNK_COLUMNS = (
    TextColumn("  CHUNK"),
    TextColumn("SIZES"),
    TextColumn("RANK", "right"),
    TextColumn("FILE"),
    TextColumn("OFFSET", "right"),
    TextColumn("LENGTH", "right"),
)


def _chunk_sections(
    checkpoint: Checkpoint, written_by: WrittenBy, selected: Sequence[int]
) -> Iterator[str]:
    for index in selected:
        tensor = checkpoint.tensors[index]
        placement = written_by.placements(index)
        yield ""
        yield (
            f"{printable(tensor.fqn)}  {tensor.dtype} {format_shape(tensor.shape)}  "
            f"{format_placements(placement.placements)}  "
            f"{plural(tensor.num_chunks, 'chunk')}, {format_bytes(tensor.num_bytes)}"
        )
        for line in placement.evidence:
            yield f"  {printable(line)}"
        rows = []
        ranks = checkpoint.chunk_ranks(tensor.file).tolist()
        for i in range(tensor.num_chunks):
            file = int(tensor.file[i])
            offsets, sizes = tensor.offsets[i].tolist(), tensor.sizes[i].tolist()
            rows.append(
                (
                    "  " + format_box(offsets, sizes),
                    format_shape(sizes),
                    str(ranks[i]) if ranks[i] >= 0 else "?",
                    printable(checkpoint.files[file].path) if file >= 0 else "stored nowhere",
                    str(tensor.byte_offset[i]) if file >= 0 else "",
                    str(tensor.byte_length[i]) if file >= 0 else "",
                )
            )
        yield from render_table(_CHUNK_COLUMNS, rows)


_MAX_VALUE = 200
# What is read of an entry is at most 64 KiB, each byte of which takes at most ten characters.
_WHOLE_VALUE = 1 << 20

_BYTES_COLUMNS = (
    TextColumn("BYTES ENTRY", min_width=18),
    TextColumn("FILE", min_width=12),
    TextColumn("OFFSET", "right", priority=1),
    TextColumn("LENGTH", "right"),
    TextColumn("VALUE", min_width=12),
)


def _bytes_rows(
    checkpoint: Checkpoint, chosen: Sequence[int], literals: Mapping[int, Literal], max_chars: int
) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for index in chosen:
        entry = checkpoint.bytes_entries[index]
        where = ("stored nowhere", "", "")
        if entry.file >= 0:
            path = printable(checkpoint.files[entry.file].path)
            where = (path, str(entry.byte_offset), str(entry.byte_length))
        value = format_literal(literals[index].value, max_chars) if index in literals else ""
        rows.append((printable(entry.fqn), *where, value))
    return rows


_FILE_COLUMNS = (
    TextColumn("FILE", min_width=12),
    TextColumn("RANK", "right"),
    TextColumn("SIZE", "right"),
    TextColumn("REFERENCED", "right", priority=1),
    TextColumn("PAYLOADS", "right", priority=2),
)


def _file_rows(checkpoint: Checkpoint, max_rows: int | None) -> list[Sequence[str]]:
    return [
        (
            printable(file.path),
            "?" if file.rank is None else str(file.rank),
            "not there" if file.num_bytes is None else format_bytes(file.num_bytes),
            format_bytes(file.referenced_bytes),
            format_count(file.num_payloads),
        )
        for file in checkpoint.files[:max_rows]
    ]


_FOUND_COLUMNS = (
    TextColumn("CHECKPOINT", min_width=16),
    TextColumn("STEP", "right"),
    TextColumn("STATE"),
    TextColumn("SIZE", "right"),
    TextColumn("FILES", "right", priority=2),
    TextColumn("MODIFIED", priority=1),
    TextColumn("", min_width=10, priority=3),
)


def checkpoints_text(path: str, found: Sequence[Found], width: int | None = None) -> Iterator[str]:
    """The lines for a folder with several checkpoints."""
    # lazy: one checkpoint is shown without a search
    from inspector.checkpoint.find.search import RunListing, newest
    from inspector.checkpoint.find.step_folders import step_folders  # lazy: as above

    yield f"{printable(path)}: {plural(len(found), 'checkpoint')}"
    rows = [
        (
            printable(item.path or "."),
            "" if item.step is None else str(item.step),
            item.state_word,
            format_bytes(item.num_bytes),
            str(item.num_files),
            format_time(item.modified_s),
            printable(item.detail),
        )
        for item in found
    ]
    yield from _section(_FOUND_COLUMNS, rows, width)
    latest = newest(found)
    folders = step_folders(found, found.name if isinstance(found, RunListing) else "")
    yield ""
    for where, why in found.not_looked_at if isinstance(found, RunListing) else ():
        yield f"Not looked at: {printable(where)}: {printable(why)}"
    if len(folders) == 1 and len(found) > 1:
        yield "They are the parts of one checkpoint; each opens by its own path."
        return
    if latest is None:
        is_known = not any(item.is_overwritten for item in found)
        yield f"None of them is {'' if is_known else 'known to be '}complete."
    else:
        yield f"Newest complete: {printable(latest.path or '.')}"
