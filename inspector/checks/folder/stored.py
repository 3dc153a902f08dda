"""What is wrong with a safetensors checkpoint: its headers, its index, the files it should have.

The rule this module keeps: what the readers do was run, with safetensors 0.8.0 and torch 2.13's
`HuggingFaceStorageReader`. safetensors opens no file in which a byte is owned by two tensors or by
none, so here that is an error where it is a note in DCP's own files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.safetensors.header import SafetensorsFacts
from inspector.checkpoint.safetensors.sets import SINGLE
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding, NotChecked
from inspector.checks.metadata.entries import Entries

__all__ = ["check_stored", "left_unchecked"]

_MAX_NAMED = 3
# Missing in `safetensors.torch._TYPES` of 0.8.0, by which DCP's reader goes.
_NOT_NAMED = {"float4_e2m1fn_x2": "F4", "float8_e8m0fnu": "F8_E8M0"}
_MAX_RANKS = 100_000
# What `QuantizedHuggingFaceStorageReader` of torch 2.13 calls a weight's scales; its block_size.
_SCALES, _BLOCK = ".weight_scale_inv", 128
_BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
_REFUSES = "raises SafetensorError: no reader opens such a file"
_FETCH = "fetch the file again from where it was written, or load another checkpoint"


def check_stored(checkpoint: Checkpoint, entries: Entries) -> list[Finding]:
    """All findings that only a safetensors checkpoint has."""
    stored = checkpoint.stored
    if stored is None:
        return []
    return [
        *_unread(stored),
        *_missing(stored),
        *_ranks(checkpoint),
        *_index(checkpoint, stored),
        *_unowned(checkpoint, stored, entries),
        *_unread_by_torch(checkpoint),
        *_other_blocks(checkpoint, stored),
    ]


def left_unchecked(checkpoint: Checkpoint) -> list[NotChecked]:
    """What the files of a safetensors checkpoint cannot tell."""
    if checkpoint.stored is None or not checkpoint.stored.is_sharded:
        return []
    if checkpoint.stored.index:
        return []
    what = "whether files of further ranks are missing at the end"
    return [NotChecked(what, "neither the number of ranks nor a tensor's size is stored")]


def _unread_by_torch(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Dtypes that safetensors' files may hold and `HuggingFaceStorageReader` has no name for."""
    columns = checkpoint.columns
    for number, (dtype, *_) in enumerate(columns.properties):
        if dtype in _NOT_NAMED:
            of_dtype = np.flatnonzero(columns.property_id == number).tolist()
            yield Finding(
                "payload-format",
                f"{plural(len(of_dtype), 'tensor')} of {dtype} "
                f"({printable(columns.fqns[of_dtype[0]], 80)} is the first)",
                f"HuggingFaceStorageReader raises KeyError: {_NOT_NAMED[dtype]!r}; "
                "safetensors.safe_open reads it",
                "load it with the safetensors package",
                fqn=columns.fqns[of_dtype[0]],
            )


def _other_blocks(checkpoint: Checkpoint, stored: SafetensorsFacts) -> Iterator[Finding]:
    """Scales of other blocks than `QuantizedHuggingFaceStorageReader` takes them for.

    It reads no config.json and compares no shapes: scale [i, j] is that of block [i, j] of
    128 x 128 elements, in torch 2.13 (quantized_hf_storage.py, `_dequantize_tensor`).
    """
    columns = checkpoint.columns
    scales = [number for number, fqn in enumerate(columns.fqns) if fqn.endswith(_SCALES)]
    if not scales or not stored.index:  # Without an index it opens nothing.
        return
    numbers = {fqn: number for number, fqn in enumerate(columns.fqns)}
    groups: dict[str, list[tuple[int, int]]] = {}
    for number in scales:
        weight = numbers.get(columns.fqns[number].removesuffix(_SCALES) + ".weight")
        have = columns.shape(number)
        if weight is None or len(have) != 2 or len(columns.shape(weight)) != 2:
            continue
        need = _num_blocks(columns.shape(weight), _BLOCK)
        if have != need:
            enough = have[0] >= need[0] and have[1] >= need[1]
            does = "multiplies by other scales, silently" if enough else "raises IndexError"
            groups.setdefault(does, []).append((weight, number))
    for does, pairs in groups.items():
        shapes = [(columns.shape(weight), columns.shape(number)) for weight, number in pairs]
        fitting = [b for b in _BLOCKS if all(_num_blocks(of, b) == have for of, have in shapes)]
        do = "load it with the library that wrote it"
        if len(fitting) == 1:
            do = f"give the reader block_size={fitting[0]}"
        fqn = columns.fqns[pairs[0][0]]
        yield Finding(
            "payload-format",
            f"{plural(len(pairs), 'weight')} with scales of other blocks than {_BLOCK} x {_BLOCK} "
            f"({printable(fqn, 80)} is the first: {list(shapes[0][0])} with scales "
            f"{list(shapes[0][1])})",
            f"QuantizedHuggingFaceStorageReader, unless told the block size, {does}",
            do,
            fqn=fqn,
        )


def _num_blocks(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(-(-length // size) for length in shape)


def _unread(stored: SafetensorsFacts) -> Iterator[Finding]:
    for unread in stored.unread:
        yield Finding(
            unread.code,
            f"{printable(unread.path, 120)}: {unread.what}; nothing in it was read",
            "waits for ever, or raises an error" if "regular" in unread.what else _REFUSES,
            unread.hint or _FETCH,
            file=unread.path,
            severity="error",
        )
    for path in stored.escapes:
        yield Finding(
            "path-escapes",
            f"{printable(path, 120)}: the index places tensors in this file, outside the "
            "checkpoint folder; it was not looked at",
            "transformers follows the path and reads that file; HuggingFaceStorageReader does not "
            "look at the index",
            "do not load this checkpoint unless you know who wrote it and why",
            file=path,
        )


def _missing(stored: SafetensorsFacts) -> Iterator[Finding]:
    for path, count in stored.missing.items():
        what = "the names of the others call for it"
        if count is not None:
            what = f"the index places {plural(count, 'tensor')} in it"
        yield Finding(
            "file-missing",
            f"{printable(path, 120)}: it is not there, and {what}",
            "transformers raises FileNotFoundError; HuggingFaceStorageReader takes the files it "
            "finds for all there are, and what is missing for never saved",
            "copy the file from the original, or load another checkpoint",
            file=path,
        )


def _ranks(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Ranks that wrote no file, though higher ones did. One without a tensor writes none."""
    present = {file.rank for file in checkpoint.files if file.rank is not None}
    num = max(present, default=-1) + 1
    missing = [rank for rank in range(min(num, _MAX_RANKS)) if rank not in present]
    if missing:
        shown = ", ".join(map(str, missing[:_MAX_NAMED]))
        more = " and more" if len(missing) > _MAX_NAMED else ""
        yield Finding(
            "rank-missing",
            f"no file of rank {shown}{more}, though ranks up to {num - 1} wrote one",
            "HuggingFaceStorageReader takes the files it finds for all there are",
            "no fault if that rank had nothing to save; else look for elements that no chunk holds",
            severity="warning",
        )


def _index(checkpoint: Checkpoint, stored: SafetensorsFacts) -> Iterator[Finding]:
    index = printable(stored.index, 120)
    if stored.index_problem:
        yield Finding(
            "entry-malformed",
            f"{index}: {stored.index_problem}; the files were taken as they lie there",
            "transformers raises an error; HuggingFaceStorageReader does not look at the index",
            "fetch the index again; the headers of the files hold all that it should say",
            file=stored.index,
        )
    if stored.misplaced:
        first = stored.misplaced[0]
        where = f"it is in {printable(first.found, 80)}" if first.found else "no file has it"
        yield Finding(
            "index-mismatch",
            f"{index}: {plural(len(stored.misplaced), 'tensor')} not in the file that it names; "
            f"the first is {printable(first.fqn, 120)}, said to be in {printable(first.path, 80)} "
            f"({where})",
            "transformers loads what the files hold, without a word; readers that go by the index "
            "alone raise an error",
            "take index and files from one and the same save",
            fqn=first.fqn,
            file=stored.index,
            severity="error" if any(not m.found for m in stored.misplaced) else "warning",
        )
    if stored.not_in_index:
        fqn, path = stored.not_in_index[0]
        yield Finding(
            "index-mismatch",
            f"{index}: {plural(len(stored.not_in_index), 'tensor')} of the files not in it; the "
            f"first is {printable(fqn, 120)} in {printable(path, 80)}",
            "transformers loads them; readers that go by the index do not see them",
            "take index and files from one and the same save",
            fqn=fqn,
            file=stored.index,
        )
    if stored.stale_index:
        num = plural(len(stored.stale_index), "file")
        yield Finding(
            "index-mismatch",
            f"{index}: none of the {num} that it names is there "
            f"({printable(stored.stale_index[0], 80)} is the first); {SINGLE} was taken instead",
            f"transformers and HuggingFaceStorageReader load {SINGLE}; readers that go by the "
            "index alone raise FileNotFoundError",
            "no fault if the index is left from an earlier, sharded save: remove it; else fetch "
            "the files that it names",
            file=stored.index,
        )
    mine = checkpoint.tensor_bytes
    whole = not (stored.missing or stored.unread or stored.escapes or checkpoint.malformed)
    if stored.total_size is not None and stored.total_size != mine and whole:
        yield Finding(
            "index-mismatch",
            f"{index}: it says that all tensors take {stored.total_size:,} bytes; they take "
            f"{mine:,}",
            "ignores it",
            "harmless in itself: some tools count tied or converted tensors otherwise",
            file=stored.index,
            severity="note",
        )


def _unowned(
    checkpoint: Checkpoint, stored: SafetensorsFacts, entries: Entries
) -> Iterator[Finding]:
    """Bytes of a file that no tensor owns: behind the last, or between two."""
    sweep = entries.sweep
    for number, file in enumerate(checkpoint.files):
        begin = stored.data_offset.get(file.path)
        if begin is None or file.num_bytes is None:
            continue
        # Of a tensor that was left out nobody knows which bytes it owns.
        if any(entry.what.startswith(f"in {file.path}: ") for entry in checkpoint.malformed):
            continue
        end = max(int(sweep.end[number]), begin)
        if file.num_bytes < end:
            continue
        unowned = file.num_bytes - begin - int(sweep.owned[number])
        if unowned > 0:
            where = "at its end" if file.num_bytes - end == unowned else "between its tensors"
            yield Finding(
                "bytes-unreferenced",
                f"{printable(file.path, 120)}: {plural(unowned, 'byte')} that no tensor owns, "
                f"{where}",
                _REFUSES,
                _FETCH,
                file=file.path,
                severity="error",
            )
