"""`RecordedRun`: a verification that was run before, as its folder tells of it unplayed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inspector.checkpoint.own_folders import open_own, read_own
from inspector.errors import InspectError
from inspector.verify.job.run_folder import RunFolder, recorded_runs
from inspector.verify.result import EXIT_CODES
from inspector.verify.spec import JobSpec

__all__ = ["RecordedRun", "records_of"]

#: A result may name ten thousand entries; its verdict stands at its beginning.
_BLOCK_BYTES, _MAX_TAIL_BYTES, _HEAD_BYTES = 1 << 16, 1 << 26, 1 << 12
_VERDICT = re.compile(rb'"verdict": ?"([a-z]{1,20})"')
_ELAPSED = re.compile(rb'"elapsed_s": ?([0-9.]{1,20})')
#: A file of `--placements` may have a mebibyte, and JSON escapes it.
_MAX_SPEC_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One recorded run.

    Attributes:
        folder: Where it is recorded.
        started_s: When, in seconds since the epoch.
        mesh, then: What it loaded under, and saved and loaded again under.
        filter: Words that its names had to hold; empty if all entries were wanted.
        verdict: As recorded; empty if no result is there.
        elapsed_s: How long it took, or None.
        run: Its id.
    """

    folder: Path
    started_s: float
    mesh: str
    then: tuple[str, ...]
    filter: str
    verdict: str
    elapsed_s: float | None
    run: str


def records_of(path: str, stop: Callable[[], bool] = lambda: False) -> list[RecordedRun]:
    """The recorded runs of a checkpoint, newest first; blocks.

    Args:
        path: The checkpoint, absolute or a URL, as a job has it.
        stop: Asked between two of them; True ends it.
    """
    found = []
    for folder in recorded_runs():
        if stop():
            break
        record = _record(RunFolder(folder), path)
        if record is not None:
            found.append(record)
    return sorted(found, key=lambda record: record.started_s, reverse=True)


def _record(run: RunFolder, path: str) -> RecordedRun | None:
    """The run, if it was of that checkpoint and there is a recording."""
    try:
        spec = JobSpec.from_json(read_own(run.spec, _MAX_SPEC_BYTES))
        if not _is_same_place(spec.path, path):
            return None
        started_s = run.spec.stat().st_mtime
        result = _last_line(run.recording)
    except (OSError, ValueError, RecursionError, InspectError):
        return None
    verdict, elapsed = _VERDICT.search(result), _ELAPSED.search(result)
    word = verdict[1].decode() if verdict and b'"result"' in result else ""
    return RecordedRun(
        run.path,
        started_s,
        spec.mesh,
        tuple(spec.then),
        spec.filter,
        word if word in EXIT_CODES else "",
        float(elapsed[1]) if word and elapsed and elapsed[1].count(b".") < 2 else None,
        spec.run,
    )


def _is_same_place(one: str, other: str) -> bool:
    if one.rstrip("/") == other.rstrip("/"):
        return True
    return "://" not in one + other and os.path.realpath(one) == os.path.realpath(other)


def _last_line(recording: Path) -> bytes:
    """The beginning of the last line of a recording; empty if there is none."""
    with open(open_own(recording), "rb") as file:
        end = file.seek(0, os.SEEK_END)
        for start in _starts(end):
            file.seek(start)
            # The line may end the file without a line break of its own.
            block = file.read(min(_BLOCK_BYTES, end - start))
            if start + len(block) >= end:
                block = block.rstrip(b"\n")
            at = block.rfind(b"\n")
            if at >= 0 or start == 0:
                file.seek(start + at + 1)
                return file.read(_HEAD_BYTES)
    return b""


def _starts(end: int) -> Iterator[int]:
    """Where to look for the last line break, from the end on."""
    start = end
    while start > 0 and end - start < _MAX_TAIL_BYTES:
        start = max(0, start - _BLOCK_BYTES)
        yield start
