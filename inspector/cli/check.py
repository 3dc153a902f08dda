"""The `check` command: what is run, what it prints, and its exit code."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from inspector.checkpoint.child.isolated import Child
from inspector.checkpoint.find.locate import folder_of, locate
from inspector.checkpoint.find.step_folders import step_number
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.safetensors.sets import OneSet
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.checks.judge import check_storage
from inspector.cli.output import print_pieces, terminal_width, unreached
from inspector.errors import NotACheckpointError, UsageError
from inspector.report.progress import CountLine, PayloadLine, ReadingLine

if TYPE_CHECKING:
    from inspector.checks.payload.deep import DeepReport
    from inspector.checks.run import JudgedRun

__all__ = ["run_check"]


class _Deep:
    """Reads the payloads, shows how far it is, and remembers whether it was stopped."""

    def __init__(self, *, deep: bool, values: bool, manifest: str | None) -> None:
        from inspector.checks.payload.deep import DeepRequest, read_wanted

        self.is_cancelled = False
        self._wanted: DeepRequest = read_wanted(deep=deep, values=values, manifest=manifest)

    def __call__(self, checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        from inspector.checks.payload.deep import check_deep

        report = check_deep(checkpoint, storage, self._wanted, lambda: PayloadLine(sys.stderr))
        self.is_cancelled = self.is_cancelled or report.is_cancelled
        return report


def run_check(
    path: str,
    *,
    deep: bool,
    values: bool,
    form: str,
    manifest: str | None = None,
    newest: bool = False,
    prefetched: Child | None = None,
) -> int:
    """Judge what is at `path`, print it, and give the exit code."""
    target = folder_of(path) if newest else locate(path)
    if newest and manifest is not None:
        raise UsageError("--newest and --manifest exclude each other", "give one of them")
    if manifest is not None and isinstance(target, list):
        raise UsageError(
            f"a seal is of one checkpoint, and there are {len(target):,}",
            "give the path of the one that was sealed",
        )
    reader = None
    if deep or values or manifest is not None:
        reader = _Deep(deep=deep, values=values, manifest=manifest)
    if newest and not isinstance(target, list):
        return _check_newest(path, target, reader, form)
    if not isinstance(target, list):
        run = _whole_step(path, target, reader)
        if run is not None:
            return _print_run(path, run, reader, form)
        return _check_one(path, target, reader, form, prefetched)
    from inspector.checks.run import Judged, check_folder, judge_run

    judged: list[Judged] = []
    storage = target.storage
    with CountLine(sys.stderr, "checking checkpoint", len(target)) as line:
        for item in check_folder(storage, found=target, deep=reader):
            judged.append(item)
            line.show(len(judged))
            if reader is not None and reader.is_cancelled:
                break
    return _print_run(path, judge_run(target, judged), reader, form)


def _whole_step(path: str, target: Storage, reader: _Deep | None) -> JudgedRun | None:
    """The step at `path`, if `target` is one part of it and others lie below, or should."""
    if target.local_path("") is None or isinstance(target, OneSet):
        return None
    folder = folder_of(path)
    if folder.root == target.root and step_number(folder.root.rpartition("/")[2]) is None:
        return None
    from inspector.checks.run import whole_step

    return whole_step(folder, deep=reader)


def _check_newest(path: str, storage: Storage, reader: _Deep | None, form: str) -> int:
    """Judge steps from the newest on, until one is found that training resumes from."""
    from inspector.checks.run import find_resumable

    with ReadingLine(sys.stderr) as line:
        run = find_resumable(storage, deep=reader, progress=line)
    if not run.judged:
        raise NotACheckpointError(f"{printable(path)}: no checkpoint is under this folder")
    return _print_run(path, run, reader, form)


def _print_run(path: str, run: JudgedRun, reader: _Deep | None, form: str) -> int:
    from inspector.report import check as reports

    storage = run.run.storage
    if form == "json":
        print_pieces(reports.folder_json(path, run, storage.used))
    elif form == "github":
        print_pieces(reports.folder_github(path, run), "\n")
    else:
        print_pieces(reports.folder_text(path, run, terminal_width()), "\n")
    if reader is not None and reader.is_cancelled:
        return _stopped()
    if storage.used is not None and storage.used.num_failed:
        return unreached()
    return run.exit_code


def _check_one(
    path: str, storage: Storage, reader: _Deep | None, form: str, prefetched: Child | None
) -> int:
    with ReadingLine(sys.stderr) as line:
        report = check_storage(storage, deep=reader, progress=line, prefetched=prefetched)
    if path.endswith(".safetensors"):
        # The verdict is of the file that was named: its folder may hold damaged checkpoints below.
        report = replace(report, path=path)
    from inspector.report import check as reports

    if form == "json":
        print_pieces(reports.check_json(report, storage.used))
    elif form == "github":
        print_pieces(reports.check_github(report), "\n")
    else:
        stopped = reader is not None and reader.is_cancelled
        text = reports.check_text(report, terminal_width(), is_stopped=stopped)
        print_pieces(text, "\n")
    if reader is not None and reader.is_cancelled:
        return _stopped()
    if storage.used is not None and storage.used.num_failed:
        return unreached()
    return report.exit_code


def _stopped() -> int:
    sys.stderr.write("hsdp-inspect: stopped before every byte was read\n")
    return 2
