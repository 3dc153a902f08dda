"""A checkpoint -> its `Report`: every check in order, and what was not checked.

The rule this module keeps: a checkpoint that cannot be read is judged too. Only a path that is
not there, may not be listed, or is no folder at all is an error instead of a report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from inspector.checkpoint.child.isolated import Child, Progress
from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.safetensors.sets import shard_rank
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural
from inspector.checks.echoes import without_echoes
from inspector.checks.findings import (
    CODES,
    SEVERITIES,
    Coverage,
    DeepReport,
    Finding,
    NotChecked,
    Report,
)
from inspector.checks.folder.files import check_files
from inspector.checks.folder.stored import check_stored, left_unchecked
from inspector.checks.folder.times import check_beside
from inspector.checks.metadata.aliases import check_aliases
from inspector.checks.metadata.entries import entries_of
from inspector.checks.metadata.families import check_families
from inspector.checks.metadata.local_state import check_local_state
from inspector.checks.metadata.metadata import (
    check_metadata,
    lacking_classes,
    num_unreadable,
    reading_notes,
)
from inspector.checks.metadata.optimizer import check_optimizer, with_idle_parameters
from inspector.checks.metadata.replay import check_replay
from inspector.checks.metadata.structure import check_structure, has_odd_lengths
from inspector.errors import MetadataError, NotACheckpointError
from inspector.layout.writer.written_by import WrittenBy

__all__ = ["Deep", "check", "check_all", "check_storage", "judge", "merge"]

_ORDER = {code: i for i, code in enumerate(CODES)}


#: A check that reads payloads; the others run beside it.
Deep = Callable[[Checkpoint, Storage], DeepReport]


def check(path: str, *, deep: Deep | None = None) -> Report:
    """Judge the checkpoint at a path or URL.

    Args:
        path: A checkpoint folder, or the metadata file in it.
        deep: Reads the payloads as well; None leaves that out, and the report says so.

    Raises:
        StorageError: The path is not there, or the folder cannot be listed.
        UsageError: It is no path.
        NotACheckpointError: It is a file of another kind.
    """
    return check_storage(folder_of(path), deep=deep)


def check_storage(
    storage: Storage,
    *,
    deep: Deep | None = None,
    progress: Progress | None = None,
    prefetched: Child | None = None,
    on_read: Callable[[Checkpoint], None] | None = None,
) -> Report:
    """As `check`, for a folder that is open already (and its metadata perhaps being read).

    `on_read` is given the checkpoint, if it could be read.
    """
    try:
        checkpoint = read_checkpoint(storage, progress=progress, prefetched=prefetched)
    except (NotACheckpointError, MetadataError) as error:
        from inspector.checks.folder.unread import check_unread  # lazy: `check` begins without

        findings = check_unread(storage, error)
    else:
        if on_read is not None:
            on_read(checkpoint)
        return judge(checkpoint, storage, deep=deep)
    nothing = NotChecked("everything", "the metadata could not be read")
    return Report(storage.root, _sorted(findings), Coverage(not_checked=(nothing,)))


def judge(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    deep: Deep | None = None,
    written_by: WrittenBy | None = None,
    torch_version: str | None = None,
) -> Report:
    """Judge a checkpoint that was read.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        deep: Reads the payloads as well.
        written_by: What `infer` says of it, if that is known already.
        torch_version: The torch that would load it; by default the installed one.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if deep is None:
        report = _judged(checkpoint, storage, written_by, torch_version)
        num_payloads = checkpoint.num_chunks + len(checkpoint.bytes_entries)
        if not num_payloads:
            return report
        what = f"the bytes of {plural(num_payloads, 'payload')}"
        why = "without --deep only sizes are compared; a flipped bit shows only in the bytes"
        return merge(report, (), Coverage(not_checked=(NotChecked(what, why),)))
    # Reading runs outside the interpreter's lock: the other checks, and what they import, cost
    # no time beside it.
    others = _Aside(lambda: _judged(checkpoint, storage, written_by, torch_version))
    try:
        found = deep(checkpoint, storage)
    finally:
        others.wait()
    report = others.result()
    left = tuple(n for n in report.checked.not_checked if "--deep" not in n.why)
    report = replace(report, checked=replace(report.checked, not_checked=left))
    # What a payload's head told is told of all payloads now.
    told = [f for f in found.findings if f.code == "payload-mismatch"]
    seen = {fqn for f in told for fqn in (f.fqn, *f.entries)}
    mine = [f for f in report.findings if f.code != "payload-mismatch" or f.fqn not in seen]
    findings = without_echoes(checkpoint, [*mine, *found.findings])
    return merge(replace(report, findings=()), findings, found.checked)


class _Aside:
    """A report being made in another thread."""

    def __init__(self, make: Callable[[], Report]) -> None:
        self._make = make
        self._report: Report | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checks")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._report = self._make()
        except BaseException as error:  # raised again by `result`
            self._error = error

    def wait(self) -> None:
        self._thread.join()

    def result(self) -> Report:
        if self._report is None:
            raise self._error or RuntimeError("the checks did not run")
        return self._report


def _judged(
    checkpoint: Checkpoint,
    storage: Storage,
    written_by: WrittenBy | None,
    torch_version: str | None,
) -> Report:
    """The report of every check that reads no payload."""
    findings, not_checked = check_all(checkpoint, storage, written_by, torch_version)
    checked = Coverage(
        tensors=checkpoint.num_tensors,
        chunks=checkpoint.num_chunks,
        files=sum(1 for f in checkpoint.files if f.num_bytes is not None),
        not_checked=(*_left_out(checkpoint), *not_checked),
        num_unread=sum(entry.is_later for entry in checkpoint.malformed)
        + num_unreadable(checkpoint),
    )
    num_bytes_entries = len(checkpoint.bytes_entries)
    return Report(checkpoint.path, _sorted(findings), checked, num_bytes_entries)


def merge(report: Report, findings: Iterable[Finding], checked: Coverage) -> Report:
    """The report with the findings and the coverage of a further check.

    Tensors, chunks and files are counted once (the larger number); payloads are added.
    """
    mine = report.checked
    both = Coverage(
        tensors=max(mine.tensors, checked.tensors),
        chunks=max(mine.chunks, checked.chunks),
        files=max(mine.files, checked.files),
        payloads=mine.payloads + checked.payloads,
        payload_bytes=mine.payload_bytes + checked.payload_bytes,
        not_checked=tuple(dict.fromkeys((*mine.not_checked, *checked.not_checked))),
        against=(*mine.against, *checked.against),
        num_unread=mine.num_unread + checked.num_unread,
        ranks=(*mine.ranks, *checked.ranks),
    )
    return replace(report, findings=_sorted([*report.findings, *findings]), checked=both)


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, then as the codes are listed, then as they were found."""
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), _ORDER[f.code])))


def _left_out(checkpoint: Checkpoint) -> list[NotChecked]:
    left = []
    if not checkpoint.num_tensors and not checkpoint.bytes_entries:
        left.append(NotChecked("everything", "the checkpoint is empty: no tensor, no bytes entry"))
    elif not checkpoint.num_chunks:
        left.append(NotChecked("any chunk", "the checkpoint holds no tensor that has chunks"))
    num_later = sum(entry.is_later for entry in checkpoint.malformed)
    if num_malformed := len(checkpoint.malformed) - num_later:
        what = plural(num_malformed, "malformed part")
        left.append(NotChecked(f"{what} of the metadata", "no value could be made of them"))
    if num := num_unreadable(checkpoint):
        what = f"whether any torch reads {plural(num, 'class', 'classes')} of the metadata"
        left.append(NotChecked(what, "no torch known here has them, nor has the installed one"))
    if num_later:
        what = plural(num_later, "entry", "entries")
        left.append(NotChecked(what, "kept in a class of torch that no torch known here has"))
    return left


# With these the metadata lists other items than were saved, so that replaying the writer on them
# would put innocent ones elsewhere.
_OTHER_ITEMS = frozenset(
    "entry-malformed chunk-gap chunk-overlap chunk-duplicate chunk-out-of-bounds "
    "storage-orphan".split()
)

# What these say rests on every entry of the checkpoint being known.
_OF_ALL_ENTRIES = frozenset(
    "alias-shape bytes-unreferenced family-hole file-unreferenced local-state "
    "optimizer-incomplete rank-missing storage-orphan".split()
)


def check_all(
    checkpoint: Checkpoint,
    storage: Storage,
    written_by: WrittenBy | None = None,
    torch_version: str | None = None,
) -> tuple[list[Finding], list[NotChecked]]:
    """All findings, in no order, and what of the folder could not be looked at.

    Raises:
        StorageError: The folder cannot be listed.
    """
    entries = entries_of(checkpoint)
    from_files, not_checked = check_files(checkpoint, storage, entries)
    consolidation: list[Finding] = []
    shards_not_checked: list[NotChecked] = []
    if checkpoint.format == "safetensors":
        from inspector.checks.folder.consolidation import check_consolidation  # lazy: safetensors

        consolidation, shards_not_checked = check_consolidation(checkpoint, storage)
    if any(finding.code == "chunk-overlap" for finding in consolidation):
        # What shards are beside their consolidation is told as such, and once.
        from_files = [
            finding
            for finding in from_files
            if finding.code != "file-unreferenced" or shard_rank(finding.file or "") is None
        ]
    if checkpoint.format == "safetensors":
        from inspector.checks.folder.other_sets import with_other_sets  # lazy: likewise

        from_files = with_other_sets(checkpoint, storage, from_files)
    structure = check_structure(checkpoint, entries)
    if has_odd_lengths(entries):
        from inspector.checks.payload.packed import without_packed  # lazy: it reads payloads

        structure = without_packed(checkpoint, storage, entries, structure)
    # A safetensors file names its types in words of its own.
    dtypes = {d for d, *_ in checkpoint.columns.properties} if checkpoint.format == "dcp" else set()
    findings = [
        *check_metadata(checkpoint),
        *reading_notes(checkpoint.provenance, dtypes, torch_version=torch_version),
        *lacking_classes(checkpoint),
        *structure,
        *with_idle_parameters(checkpoint, storage, check_optimizer(checkpoint)),
        *check_local_state(checkpoint),
        *check_families(checkpoint),
        *check_aliases(checkpoint),
        *from_files,
        *check_beside(checkpoint, storage),
        *check_stored(checkpoint, entries),
        *consolidation,
    ]
    if any(entry.is_later for entry in checkpoint.malformed):
        findings = [finding for finding in findings if finding.code not in _OF_ALL_ENTRIES]
    elif not any(finding.code in _OTHER_ITEMS for finding in findings):
        findings += check_replay(checkpoint, written_by)
    return findings, [*not_checked, *shards_not_checked, *left_unchecked(checkpoint)]
