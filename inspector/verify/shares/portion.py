"""What a rank found in a portion of its share, as a line of a file, and back.

A line is the CRC32 of its JSON in eight hexadecimal digits, a space, and the JSON. The rule this
module keeps: a line that is not whole, or says what cannot be, is of no use and does no harm; the
payloads that it is about count as not read.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import PayloadPlan
from inspector.checks.findings import CODES, Finding
from inspector.checks.payload.judgement import Note, PayloadTally
from inspector.values.nonfinite import NonFinite

__all__ = [
    "PortionFile",
    "add_portion",
    "as_count",
    "as_index",
    "as_text",
    "encode_portion",
    "read_portions",
    "share_file",
]

T = TypeVar("T")


def share_file(events_dir: str | Path, rank: int) -> Path:
    """Where a rank writes what it found."""
    return Path(events_dir, f"rank-{rank:05}.share")


class PortionFile:
    """The file of a rank; each line is on the disk before more is read.

    Raises:
        OSError: It cannot be made, or is there already.
    """

    def __init__(self, events_dir: str | Path, rank: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(share_file(events_dir, rank), flags, 0o644)

    def write(self, told: dict[str, Any]) -> None:
        """Append a portion.

        Raises:
            OSError: It cannot be written.
        """
        text = json.dumps(told, separators=(",", ":")).encode()
        line = memoryview(b"%08x %b\n" % (zlib.crc32(text), text))
        while line:
            line = line[os.write(self._fd, line) :]
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def read_portions(path: Path) -> Iterator[dict[str, Any]]:
    """The portions in a rank's file; lines that are not whole are passed over.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        for line in file:
            crc32, _, text = line.rstrip(b"\n").partition(b" ")
            try:
                told = json.loads(text) if int(crc32, 16) == zlib.crc32(text) else None
            except (ValueError, RecursionError):
                continue
            if isinstance(told, dict):
                yield told


def encode_portion(
    checkpoint: Checkpoint, plan: PayloadPlan, places: range, tally: PayloadTally
) -> dict[str, Any]:
    """What a tally says of some places, as plain JSON.

    Args:
        checkpoint: The checkpoint.
        plan: Its payloads.
        places: Which of them.
        tally: What was found in them, and in no others.
    """
    first, last = places.start, places.stop
    chunks = _chunks(checkpoint, plan, places)
    return {
        "first": first,
        "last": last,
        "untried": (first + np.flatnonzero(~tally.tried[first:last])).tolist(),
        "unread": (first + np.flatnonzero(~tally.read[first:last])).tolist(),
        "crc32": base64.b64encode(tally.crc32[chunks].astype("<u4").tobytes()).decode(),
        "no_crc32": np.flatnonzero(~tally.has_crc32[chunks]).tolist(),
        "findings": [
            [place, [dataclasses.asdict(f) for f in found]] for place, found in tally.findings
        ],
        "notes": [
            [note.code, note.what, note.torch_does, note.hint, found]
            for note, found in tally.notes.items()
        ],
        "values": [
            [tensor, box, found.num_nan, found.num_inf, found.first_nan, found.first_inf]
            for tensor, boxes in tally.values.items()
            for box, found in boxes.items()
        ],
        "shapes": list(tally.shapes.items()),
        "digests": list(tally.digests.items()),
        "packed": list(tally.packed.items()),
        "quantized": list(tally.quantized.items()),
        "stale_dtypes": list(tally.stale_dtypes.items()),
        "skipped": [[*key, count] for key, count in tally.skipped.items()],
        "num_unread": tally.num_unread,
        "blobs": [[*key, count] for key, count in tally.blobs.items()],
    }


def add_portion(
    checkpoint: Checkpoint, plan: PayloadPlan, tally: PayloadTally, told: dict[str, Any]
) -> None:
    """Add what a portion told to a tally, all of it or nothing.

    Raises:
        ValueError, TypeError, KeyError: It says what cannot be.
    """
    first, last = as_count(told["first"]), as_count(told["last"])
    if not first <= last <= plan.num_places:
        raise ValueError("places that are none")
    places = range(first, last)
    place, chunk = _within(places), _within(range(checkpoint.num_chunks))
    owner = _within(range(checkpoint.num_chunks + len(checkpoint.bytes_entries)))
    chunks = _chunks(checkpoint, plan, places)
    crc32 = np.frombuffer(base64.b64decode(told["crc32"], validate=True), "<u4")
    known = np.ones(len(chunks), np.bool_)
    known[_list(_within(range(len(chunks))))(told["no_crc32"])] = False
    if len(crc32) != len(chunks):
        raise ValueError("another number of checksums")
    untried, unread = (_list(place)(told[name]) for name in ("untried", "unread"))
    findings = [(place(at), _list(_finding)(found)) for at, found in told["findings"]]
    notes = [
        (Note(_code(code), as_text(what), as_text(does), as_text(hint)), _list(place)(found))
        for code, what, does, hint, found in told["notes"]
    ]
    tensor = _within(range(checkpoint.num_tensors))
    values = [
        (
            tensor(index),
            _box(box),
            NonFinite(as_count(nan), as_count(inf), as_index(first_nan), as_index(first_inf)),
        )
        for index, box, nan, inf, first_nan, first_inf in told["values"]
    ]
    shapes = {chunk(k): _box(v) for k, v in told["shapes"]}
    digests = {owner(k): _digest(v) for k, v in told["digests"]}
    packed = [(as_text(k), _list(place)(v)) for k, v in told["packed"]]
    quantized = {place(k): as_text(v) for k, v in told["quantized"]}
    stale_dtypes = {chunk(k): as_text(v) for k, v in told["stale_dtypes"]}
    skipped = [(as_text(path), as_text(why), as_count(n)) for path, why, n in told["skipped"]]
    blobs = {(as_count(file), as_count(at)): as_count(n) for file, at, n in told["blobs"]}
    num_unread = as_count(told["num_unread"])
    # It makes sense: from here on nothing fails.
    tally.tried[first:last] = True
    tally.tried[untried] = False
    tally.read[first:last] = True
    tally.read[unread] = False
    tally.crc32[chunks[known]] = crc32[known]
    tally.has_crc32[chunks[known]] = True
    tally.findings += findings
    for note, found in notes:
        tally.notes.setdefault(note, []).extend(found)
    for index, box, bad in values:
        tally.note_values(index, box, bad)
    tally.shapes.update(shapes)
    tally.digests.update(digests)
    for kind, found in packed:
        tally.packed.setdefault(kind, []).extend(found)
    tally.quantized.update(quantized)
    tally.stale_dtypes.update(stale_dtypes)
    for path, why, count in skipped:
        tally.skip(path, why, count)
    tally.num_unread += num_unread
    tally.blobs.update(blobs)


def _chunks(checkpoint: Checkpoint, plan: PayloadPlan, places: range) -> Ints:
    owners = plan.owner[plan.owner_start[places.start] : plan.owner_start[places.stop]]
    return owners[owners < checkpoint.num_chunks]


# What each field may be.


def as_count(value: Any) -> int:
    """A number of something; raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("no count")
    return value


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("no number")
    return value


def as_text(value: Any) -> str:
    """A text; raises ValueError for anything else."""
    if type(value) is not str:
        raise ValueError("no text")
    return value


def _code(value: Any) -> str:
    if value not in CODES:
        raise ValueError("no code")
    return as_text(value)


def _within(known: range) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or value not in known:
            raise ValueError("no number of these")
        return value

    return check


def _list(of: Callable[[Any], T]) -> Callable[[Any], list[T]]:
    def check(value: Any) -> list[T]:
        if type(value) is not list:
            raise ValueError("no list")
        return [of(item) for item in value]

    return check


def _box(value: Any) -> tuple[int, ...]:
    return tuple(_list(as_count)(value))


def as_index(value: Any) -> tuple[int, ...] | None:
    """An index, or None; raises ValueError for anything else."""
    return None if value is None else _box(value)


def _digest(value: Sequence[Any]) -> tuple[Any, ...]:
    crc32, dtype, shape, strides, start = value
    # What a payload says of itself may be anything.
    return (
        _int(crc32),
        as_text(dtype),
        *(tuple(_list(_int)(x)) for x in (shape, strides)),
        _int(start),
    )


def _maybe_text(value: Any) -> str | None:
    return None if value is None else as_text(value)


def _finding(value: dict[str, Any]) -> Finding:
    if value["severity"] not in _SEVERITIES or type(value["is_echo"]) is not bool:
        raise ValueError("no finding")
    count = value["num_elements"]
    return Finding(
        code=_code(value["code"]),
        severity=value["severity"],
        message=as_text(value["message"]),
        torch_does=as_text(value["torch_does"]),
        hint=as_text(value["hint"]),
        fqn=_maybe_text(value["fqn"]),
        file=_maybe_text(value["file"]),
        offsets=as_index(value["offsets"]),
        sizes=as_index(value["sizes"]),
        num_elements=None if count is None else _int(count),
        is_echo=value["is_echo"],
        other_fqn=_maybe_text(value["other_fqn"]),
        entries=tuple(_list(as_text)(value["entries"])),
    )


_SEVERITIES = ("error", "warning", "note")
