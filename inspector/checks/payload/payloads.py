"""Every stored byte, read once: CRC32 of every record, and each header against the metadata.

torch writes a CRC32 for every record and is built not to read it (cmake/Dependencies.cmake,
`MINIZ_DISABLE_ZIP_READER_CRC32_CHECKS`): a flipped bit in a tensor's data loads without a word.
The same pass counts NaN and infinities if it is asked to. Memory is a few MiB for each worker,
whatever a tensor's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.find.changes import rewritten
from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.payload.plan import PayloadPlan, plan_payloads
from inspector.checkpoint.payload.source import RangeSource
from inspector.checkpoint.payload.sweep import PayloadProgress, Sweep
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.echoes import by_file
from inspector.checks.findings import Coverage, DeepReport, Finding, NotChecked
from inspector.checks.payload.judge import judge
from inspector.checks.payload.judgement import (
    Judgement,
    Note,
    PayloadTally,
    file_at,
    subject_of,
    value_findings,
)
from inspector.checks.payload.pieces import with_pieces
from inspector.checks.payload.replicas import check_repeats, check_replicas
from inspector.checks.payload.stale_dtype import stale_dtypes
from inspector.layout.geometry import unique

__all__ = [
    "PayloadProgress",
    "Untold",
    "check_payloads",
    "conclude",
    "read_places",
]

_MAX_QUANTIZERS = 3
_MAX_FILES = 3


def check_payloads(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    values: bool = False,
    progress: Callable[[PayloadProgress], bool] | None = None,
    workers: int = 2,
) -> DeepReport:
    """Read every payload of a checkpoint once, in the order of its bytes in each file.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        values: Also look for NaN and infinite values.
        progress: Called about ten times a second, in the calling thread; True cancels.
        workers: Threads; more of them for a remote storage. Reading runs outside the
            interpreter's lock.

    Returns:
        All findings, by file and offset; what was covered. Cancelling, by `progress` or by
        Ctrl+C, returns what was found until then, and says what was left out.
    """
    plan = plan_payloads(checkpoint)
    tally = read_places(
        checkpoint, storage, plan, values=values, progress=progress, workers=workers
    )
    return conclude(checkpoint, storage, plan, tally)


def read_places(
    checkpoint: Checkpoint,
    storage: Storage,
    plan: PayloadPlan,
    places: range | None = None,
    *,
    values: bool = False,
    progress: Callable[[PayloadProgress], bool] | None = None,
    workers: int = 2,
) -> PayloadTally:
    """Read places of a plan once, and judge each."""
    reading = _Reading(checkpoint, storage, plan, places, values, workers)
    told = None
    if progress is not None:
        tell = progress

        def told(done: PayloadProgress) -> bool:
            return tell(replace(done, num_wrong=len(reading.tally.findings)))

    reading.sweep.run(told)
    return reading.tally


class _Reading:
    """A reading, and what its threads found."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        storage: Storage,
        plan: PayloadPlan,
        places: range | None = None,
        values: bool = False,
        workers: int = 2,
    ) -> None:
        self.plan = plan
        self.tally = PayloadTally.of(checkpoint, plan)
        self.sweep = Sweep(
            checkpoint,
            storage,
            plan,
            self.read,
            self.skip,
            may_repeat=self.is_blob,
            workers=workers,
            places=places,
        )
        self._checkpoint = checkpoint
        self._values_wanted = values
        self._lock = threading.Lock()

    def is_blob(self, place: int) -> bool:
        """Whether a place is known to begin a blob of several tensors."""
        return (int(self.plan.file[place]), int(self.plan.offset[place])) in self.tally.blobs

    def read(self, place: int, source: RangeSource) -> None:
        """Judge a place by its bytes."""
        starts = self.plan.owner_start
        owners = self.plan.owner[starts[place] : starts[place + 1]].tolist()
        subjects = [subject_of(self._checkpoint, owner) for owner in owners]
        judgement = judge(
            source,
            subjects,
            is_safetensors=self._checkpoint.format == "safetensors",
            values=self._values_wanted,
            stop=lambda: self.sweep.stop.is_set,
        )
        if judgement.shape is not None:
            self.tally.shapes.update(dict.fromkeys(owners, judgement.shape))
        if judgement.crc32 is not None and self._checkpoint.per_rank_metadata:
            self.tally.digests.update(dict.fromkeys(owners, judgement.crc32))
        if judgement.crc32 is not None:
            # Metadata may say of one place that it is a chunk's and a bytes entry's as well.
            chunks = [owner for owner in owners if owner < self._checkpoint.num_chunks]
            self.tally.crc32[chunks] = judgement.crc32[0]
            self.tally.has_crc32[chunks] = True
        for number, dtype in judgement.stale_dtypes.items():
            self.tally.stale_dtypes[owners[number]] = dtype
        self._keep(place, judgement, subjects[0].tensor, subjects[0].offsets or ())

    def skip(self, first: int, last: int, reason: str) -> None:
        """Places that could not be read."""
        with self._lock:
            self.tally.tried[first:last] = True
            starts = self.plan.owner_start
            count = int(starts[last] - starts[first])
            self._skip(first, reason, count)
            self.tally.num_unread += count

    def _keep(
        self, place: int, judgement: Judgement, tensor: int, offsets: tuple[int, ...]
    ) -> None:
        self.tally.tried[place] = True
        self.tally.read[place] = judgement.is_read
        plain = not (judgement.findings or judgement.notes or judgement.values)
        plain = plain and not (judgement.packed or judgement.quantizer)
        if plain and not judgement.not_checked and not judgement.is_blob:
            return
        with self._lock:
            if judgement.findings:
                self.tally.findings.append((place, judgement.findings))
            for note in judgement.notes:
                self.tally.notes.setdefault(note, []).append(place)
            if judgement.values is not None:
                found = judgement.values.moved(offsets)
                self.tally.note_values(tensor, offsets, found)
            if judgement.not_checked:
                self._skip(place, judgement.not_checked, 1)
                self.tally.num_unread += not judgement.is_read
            if judgement.quantizer:
                self.tally.quantized[place] = judgement.quantizer
            if judgement.packed is not None:
                self.tally.packed.setdefault(judgement.packed.kind, []).append(place)
            if judgement.is_blob:
                key = int(self.plan.file[place]), int(self.plan.offset[place])
                starts = self.plan.owner_start
                count = int(starts[place + 1] - starts[place])
                self.tally.blobs[key] = self.tally.blobs.get(key, 0) + count

    def _skip(self, place: int, reason: str, count: int) -> None:
        self.tally.skip(self._checkpoint.files[int(self.plan.file[place])].path, reason, count)


def conclude(
    checkpoint: Checkpoint,
    storage: Storage,
    plan: PayloadPlan,
    tally: PayloadTally,
    untold: Iterable[Untold] = (),
) -> DeepReport:
    """What a reading of a plan comes to: the findings in order, and what was covered.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder; a few payloads are looked at again.
        plan: Its payloads.
        tally: What those who read them found.
        untold: Places that others were to read, and of which nothing was heard.
    """
    return _Conclusion(checkpoint, storage, plan, tally, tuple(untold)).report()


@dataclass(frozen=True, slots=True)
class Untold:
    """Places of a plan that somebody was to read, and did not.

    Attributes:
        whose: Whose they were: `the share of rank 1`.
        places: Which, shape (num_untold,).
        why: Why they were not read.
    """

    whose: str
    places: Ints
    why: str


class _Conclusion:
    """A tally and what it comes to."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        storage: Storage,
        plan: PayloadPlan,
        tally: PayloadTally,
        untold: tuple[Untold, ...],
    ) -> None:
        self.plan, self.tally = plan, tally
        self._checkpoint, self._storage = checkpoint, storage
        # What is left out for a fault that the other checks find is damage by that; where the
        # fault came only after they had looked, nothing else would say so.
        self._num_unread = tally.num_unread + sum(plan.left_out.values())
        self._skipped = dict(plan.left_out)
        for key, count in tally.skipped.items():
            self._skipped[key] = self._skipped.get(key, 0) + count
        self._left: list[NotChecked] = []
        for item in untold:
            self._leave_out(item)

    def report(self) -> DeepReport:
        changed = self._leave_out_changed()
        findings = [
            f
            for place, found in sorted(self.tally.findings, key=lambda x: x[0])
            if int(self.plan.file[place]) not in changed
            for f in found
        ]
        findings = with_pieces(self._checkpoint, findings, self.tally.shapes)
        findings = by_file(findings, self._num_payloads())
        if self.tally.stale_dtypes:
            read = frozenset(self._owners_read().tolist())
            findings += stale_dtypes(self._checkpoint, self.tally.stale_dtypes, read)
        if self.tally.digests:
            findings += check_replicas(self._checkpoint, self._storage, self.tally.digests)
        if self._checkpoint.format == "dcp" and not self._checkpoint.per_rank_metadata:
            findings += check_repeats(
                self._checkpoint, self._storage, self.tally.crc32, self.tally.has_crc32
            )
        findings += [
            _blob(self._checkpoint, *key, n) for key, n in sorted(self.tally.blobs.items())
        ]
        notes = sorted(self.tally.notes.items(), key=lambda item: min(item[1]))
        findings += [self._note(note, places) for note, places in notes]
        if self.tally.quantized:
            findings.append(self._quantised())
        for index, boxes in sorted(self.tally.values.items()):
            tensor = self._checkpoint.columns.tensor(index)
            found = reduce(add, boxes.values())
            findings += value_findings(tensor, found, file_at(self._checkpoint, tensor))
        return DeepReport(tuple(findings), self._coverage(), not bool(self.tally.tried.all()))

    def _leave_out(self, item: Untold) -> None:
        """Count places that nobody told of, and name them."""
        plan, places = self.plan, item.places
        self.tally.tried[places] = True
        self._num_unread += int((plan.owner_start[places + 1] - plan.owner_start[places]).sum())
        paths = [self._checkpoint.files[i].path for i in unique(plan.file[places]).tolist()]
        named = ", ".join(printable(path, 120) for path in paths[:_MAX_FILES])
        if len(paths) > _MAX_FILES:
            named += f" and {len(paths) - _MAX_FILES:,} more files"
        num_bytes = int(plan.length[places].sum())
        what = f"{plural(len(places), 'payload')} ({num_bytes:,} bytes) of {item.whose}, in {named}"
        self._left.append(NotChecked(what, item.why))

    def _num_payloads(self) -> dict[str, int]:
        """Of each data file, by its path."""
        counts = np.bincount(self.plan.file, minlength=len(self._checkpoint.files)).tolist()
        return {file.path: n for file, n in zip(self._checkpoint.files, counts, strict=True)}

    def _leave_out_changed(self) -> set[int]:
        """Files that somebody wrote to while they were read: what was found in them is of none."""
        opened = self.tally.read.copy()
        opened[[place for place, _ in self.tally.findings]] = True
        files = unique(self.plan.file[opened]).tolist()
        changed = rewritten(self._checkpoint, self._storage, files)
        for index in changed:
            places = np.flatnonzero((self.plan.file == index) & opened)
            self.tally.read[places] = False
            self._num_unread += len(places)
            key = self._checkpoint.files[index].path, "the file changed while it was read"
            self._skipped[key] = self._skipped.get(key, 0) + len(places)
        return set(changed)

    def _note(self, note: Note, places: list[int]) -> Finding:
        example = subject_of(
            self._checkpoint, int(self.plan.owner[self.plan.owner_start[min(places)]])
        )
        is_one = len(places) == 1
        subject = example.shown
        if not is_one:
            subject = f"{plural(len(places), 'payload')} ({printable(example.fqn, 80)} is one)"
        return Finding(
            note.code,
            f"{subject}: {note.what}",
            note.torch_does,
            note.hint,
            fqn=example.fqn if is_one else None,
            file=example.file if is_one else None,
        )

    def _quantised(self) -> Finding:
        """Quantised tensors, with the scales of the first: what DCP does not give the target."""
        plan = self.plan
        shown = []
        for place, quantizer in sorted(self.tally.quantized.items())[:_MAX_QUANTIZERS]:
            subject = subject_of(self._checkpoint, int(plan.owner[plan.owner_start[place]]))
            shown.append(f"{printable(subject.fqn, 80)}: {quantizer}")
        num_more = len(self.tally.quantized) - len(shown)
        more = f"; and {num_more} more" if num_more else ""
        return Finding(
            "payload-format",
            f"{plural(len(self.tally.quantized), 'payload')} of quantised elements "
            f"({'; '.join(shown)}{more})",
            "loads their integers alone, into a quantised target that keeps its own scale and zero "
            "point; without such a target it raises RuntimeError",
            "make each target with the stored scale and zero point before loading",
        )

    def _owners_read(self) -> npt.NDArray[np.int64]:
        plan = self.plan
        return plan.owner[np.repeat(self.tally.read, np.diff(plan.owner_start))]

    def _coverage(self) -> Coverage:
        plan, columns = self.plan, self._checkpoint.columns
        owners = self._owners_read()
        read = np.zeros(columns.num_chunks, np.bool_)
        read[owners[owners < columns.num_chunks]] = True
        totals = np.concatenate([[0], np.cumsum(read)])
        whole = totals[columns.chunk_start[1:]] - totals[columns.chunk_start[:-1]]
        wanted = columns.num_chunks_of
        incomplete = set(unique(plan.file[~self.tally.read]).tolist())
        left_out = {path for path, _ in plan.left_out}
        files = [
            index
            for index in unique(plan.file).tolist()
            if index not in incomplete and self._checkpoint.files[index].path not in left_out
        ]
        not_checked = [
            NotChecked(f"{plural(count, 'payload')} of {printable(path, 120)}", reason)
            for (path, reason), count in sorted(self._skipped.items())
        ]
        not_checked += [
            self._unread(kind, places) for kind, places in sorted(self.tally.packed.items())
        ]
        not_checked += self._left
        left = np.flatnonzero(~self.tally.tried)
        if len(left):
            num_bytes = int(plan.length[left].sum())
            what = f"{len(left):,} of {plan.num_places:,} payloads ({num_bytes:,} bytes)"
            not_checked.append(NotChecked(what, "it was cancelled"))
        return Coverage(
            tensors=int(np.count_nonzero((whole == wanted) & (wanted > 0))),
            chunks=int(np.count_nonzero(read)),
            files=len(files),
            payloads=int(np.count_nonzero(self.tally.read)),
            payload_bytes=int(plan.length[self.tally.read].sum()),
            not_checked=tuple(not_checked),
            num_unread=self._num_unread,
        )

    def _unread(self, kind: str, places: list[int]) -> NotChecked:
        """Packed tensors: their bytes were read, their values are their class's business."""
        first = int(self.plan.owner[self.plan.owner_start[min(places)]])
        fqn = printable(subject_of(self._checkpoint, first).fqn, 80)
        what = f"the values of {plural(len(places), 'payload')} of {printable(kind, 120)}"
        package = printable(kind.partition(".")[0], 60)
        which = fqn if len(places) == 1 else f"{fqn} is the first"
        return NotChecked(
            f"{what} ({which})",
            f"a tensor class of {package}: its bytes were held against what checksums they have; "
            f"what they mean only {package} knows",
        )


def _blob(checkpoint: Checkpoint, file: int, offset: int, count: int) -> Finding:
    path = checkpoint.files[file].path
    return Finding(
        "payload-unreadable",
        f"{plural(count, 'chunk')} of {printable(path, 120)} lie in one safetensors blob at byte "
        f"{offset:,} (written with SerializationFormat.SAFETENSORS), where payloads should be",
        "raises an error while unpickling: no torch can load such a checkpoint",
        "the values are there: cut the file at that byte and open the rest with safetensors",
        file=path,
    )
