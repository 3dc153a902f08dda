"""Megatron's `integrity.json`: the SHA-256 of every file of a checkpoint folder.

Format: megatron/core/dist_checkpointing/integrity.py of Megatron-LM (its pull request 4305, in
core_r0.17.0; the releases up to 0.16.1 have none): `{"algorithm": "sha256", "files": {name: hex
digits}}`, over every file of the folder itself but this one, written last by rank 0. Megatron
compares it on loading if it is told to; `dcp.load` never does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.json_bounds import over_bounds
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import BLOCK_BYTES, open_file
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checkpoint.workers import BytesProgress, Stop, run_workers
from inspector.checks.findings import INTEGRITY, Against, Coverage, DeepReport, Finding, NotChecked
from inspector.errors import InspectError

__all__ = ["check_integrity"]

_MAX_BYTES = 64 << 20
_FATE = "loads it silently; Megatron raises CheckpointingException if it is told to verify"


def check_integrity(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    progress: Callable[[BytesProgress], bool] | None = None,
) -> DeepReport:
    """Hash every file that `integrity.json` names, and compare.

    Args:
        checkpoint: The checkpoint; its folder was listed.
        storage: Its folder.
        progress: Called about ten times a second, in the calling thread; True cancels.
    """
    try:
        wanted = _read(storage)
    except InspectError as error:
        finding = Finding(
            "integrity-unreadable",
            f"{INTEGRITY} cannot be read: {error.message}",
            "loads the checkpoint; Megatron raises an error if it is told to verify",
            "restore it from where the checkpoint was written",
            file=INTEGRITY,
        )
        left = NotChecked(f"the digests of {INTEGRITY}", "it cannot be read")
        return DeepReport((finding,), Coverage(not_checked=(left,)))
    run = _Run(storage, wanted)
    run.bytes_total = sum(checkpoint.folder_files.get(name, 0) for name in wanted)

    def poll() -> bool:
        done = min(sum(h.bytes_done for h in run.hashers), run.bytes_total)
        return progress is not None and progress(BytesProgress(done, run.bytes_total))

    run_workers(wanted, lambda: _Hasher(run), run.stop, poll=poll)
    return run.report(checkpoint)


def _read(storage: Storage) -> dict[str, str]:
    """Digests by raw file name."""
    text = storage.read(INTEGRITY, 0, _MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise InspectError(f"it has more than {_MAX_BYTES >> 20} MiB")
    over = over_bounds(text)
    if over:
        raise InspectError(over)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InspectError("it is not JSON") from error
    if type(document) is not dict:
        raise InspectError("it is no object")
    algorithm = document.get("algorithm", "sha256")
    if algorithm != "sha256":
        raise InspectError(f"its algorithm is {printable(str(algorithm), 60)}, not sha256")
    files = document.get("files")
    if type(files) is not dict or not all(type(value) is str for value in files.values()):
        raise InspectError("it lists no files with their digests")
    return files


@dataclass(slots=True)
class _Run:
    """What the threads share."""

    storage: Storage
    wanted: dict[str, str]
    stop: Stop = field(default_factory=Stop)
    digests: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    hashers: list[_Hasher] = field(default_factory=list)
    bytes_total: int = 0

    def report(self, checkpoint: Checkpoint) -> DeepReport:
        """The findings, in the order of the file."""
        findings = []
        for name, sealed in self.wanted.items():
            now = self.digests.get(name)
            if name in self.errors:
                what = self.errors[name]
            elif now is not None and now != sealed.lower():
                what = (
                    f"its content is not what was written (SHA-256 {now[:12]}..., "
                    f"not {printable(sealed, 80)[:12]}...)"
                )
            else:
                continue
            findings.append(
                Finding(
                    "integrity-mismatch",
                    f"{printable(name, 120)} is not as {INTEGRITY} says: {what}",
                    _FATE,
                    "copy the file again from where it was written, or take another checkpoint",
                    file=name,
                )
            )
        num_seen = len(self.digests) + len(self.errors)
        left = []
        if num_seen < len(self.wanted):
            what = plural(len(self.wanted) - num_seen, "file") + f" of {INTEGRITY}"
            left.append(NotChecked(what, "it was cancelled"))
        unlisted = [f.path for f in checkpoint.files if f.path not in self.wanted]
        if unlisted:
            what = f"{plural(len(unlisted), 'data file')} ({printable(unlisted[0], 80)})"
            left.append(NotChecked(f"the digest of {what}", f"{INTEGRITY} has none"))
        against = Against(INTEGRITY, INTEGRITY, len(self.wanted), len(self.wanted) - len(findings))
        if left and num_seen < len(self.wanted):
            against = Against(INTEGRITY, INTEGRITY, num_seen, num_seen - len(findings))
        return DeepReport(
            tuple(findings),
            Coverage(not_checked=tuple(left), against=(against,)),
            num_seen < len(self.wanted),
        )


class _Hasher:
    """One thread's hashing of whole files."""

    def __init__(self, run: _Run) -> None:
        self.bytes_done = 0
        self._run = run
        self._buffer = bytearray(BLOCK_BYTES)
        run.hashers.append(self)

    def close(self) -> None:
        """Nothing stays open."""

    def run(self, task: str) -> None:
        if is_escape(task):
            self._run.errors[task] = "it lies outside the checkpoint folder, and was not opened"
            return
        try:
            self._run.digests[task] = self._digest(task)
        except InspectError as error:
            self._run.stop.check()
            self._run.errors[task] = error.message

    def _digest(self, path: str) -> str:
        digest = hashlib.sha256()
        view = memoryview(self._buffer)
        with closing(open_file(self._run.storage, path)) as file:
            offset = 0
            while count := file.readinto(offset, view):
                digest.update(view[:count])
                offset += count
                self.bytes_done += count
                self._run.stop.check()
        return digest.hexdigest()
