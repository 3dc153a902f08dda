"""The `check` command: what is run, what it prints, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from inspector.checkpoint.child.isolated import Child
from inspector.checkpoint.find.locate import folder_of, locate
from inspector.checkpoint.find.step_folders import Found, step_number
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.safetensors.sets import OneSet
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.local import KeptListings
from inspector.checkpoint.text import printable
from inspector.checks.findings import DeepReport, NotChecked, Report
from inspector.checks.judge import check_storage
from inspector.cli.options import RankRequest
from inspector.cli.output import Destination, command_line, read_one, unreached
from inspector.errors import NotACheckpointError, UsageError
from inspector.report.progress import CountLine, PayloadLine, ReadingLine

if TYPE_CHECKING:
    from inspector.checks.plan.against import ModelFit
    from inspector.checks.plan.expected import Expected
    from inspector.checks.run import JudgedRun, OnJudged
    from inspector.report.html.markup import Html

__all__ = ["run_check"]

_NO_RANKS = RankRequest()


class _Deep:
    """Reads the payloads, shows how far it is, and remembers whether it was stopped."""

    def __init__(
        self, *, deep: bool, values: bool, manifest: str | None, ranks: RankRequest
    ) -> None:
        from inspector.checks.payload.deep import DeepRequest, read_wanted

        self.is_cancelled = False
        self._wanted: DeepRequest = read_wanted(deep=deep, values=values, manifest=manifest)
        if ranks.is_asked:
            from inspector.cli.ranks import read_by_ranks, shares_of

            if ranks.shares:
                read = shares_of(ranks, values=values)
            else:
                read = partial(read_by_ranks, request=ranks, values=values)
            self._wanted = replace(self._wanted, read=read)

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
    answer: Destination,
    manifest: str | None = None,
    against: str | None = None,
    newest: bool = False,
    prefetched: Child | None = None,
    ranks: RankRequest = _NO_RANKS,
) -> int:
    """Judge what is at `path`, print it, and give the exit code."""
    if ranks.is_asked:
        _check_ranks(deep=deep or values, others=newest or manifest is not None)
    if newest and against is not None:
        raise UsageError("--newest and --against exclude each other", "give one of them")
    expected = None
    if against is not None:
        from inspector.checks.plan.expected import read_expected

        # What is wrong with it is told before hours of reading.
        expected = read_expected(against)
    target = folder_of(path) if newest else locate(path)
    if newest and manifest is not None:
        raise UsageError("--newest and --manifest exclude each other", "give one of them")
    if manifest is not None and isinstance(target, list):
        raise UsageError(
            f"a seal is of one checkpoint, and there are {len(target):,}",
            "give the path of the one that was sealed",
        )
    if expected is not None and isinstance(target, list):
        raise UsageError(
            f"--against is for one checkpoint, and there are {len(target):,}",
            "give the path of the one that the model is loaded from",
        )
    if ranks.is_asked and (isinstance(target, list) or _whole_step(path, target, None, None)):
        raise UsageError(
            f"{printable(path)} is of several checkpoints, and many processes read one",
            "give the path of one of them",
        )
    if ranks.print_command and not isinstance(target, list):
        from inspector.cli.ranks import print_job, spec_of

        checkpoint = read_one(target, prefetched)
        print_job(spec_of(checkpoint, target, ranks, task="check", values=values), ranks)
        return 0
    reader = None
    if deep or values or manifest is not None:
        reader = _Deep(deep=deep, values=values, manifest=manifest, ranks=ranks)
    show = _Presenter(path, form, answer, reader, expected)
    if newest and not isinstance(target, list):
        return _check_newest(path, target, reader, show)
    if not isinstance(target, list):
        run = _whole_step(path, target, reader, show.on_judged)
        if run is not None and expected is not None:
            raise UsageError(
                f"--against is for one checkpoint, and this step has {len(run.judged):,} parts",
                "give the path of the one that the model is loaded from",
            )
        if run is not None:
            return show.run(run)
        return _check_one(path, target, reader, show, prefetched)
    from inspector.checks.run import Judged, check_folder, judge_run

    judged: list[Judged] = []
    storage = target.storage
    with CountLine(sys.stderr, "checking checkpoint", len(target)) as line:
        for item in check_folder(
            storage, found=target, deep=reader, on_judged=show.on_judged, is_fresh=True
        ):
            judged.append(item)
            line.show(len(judged))
            if reader is not None and reader.is_cancelled:
                break
    return show.run(judge_run(target, judged))


def _check_ranks(*, deep: bool, others: bool) -> None:
    """Refuse what many processes do not do.

    Raises:
        UsageError: They have nothing to read, or more than payloads.
    """
    if not deep:
        raise UsageError("many processes read every byte", "--deep (or --values) asks for that")
    if others:
        raise UsageError(
            "many processes read the payloads of one checkpoint",
            "leave out --newest and --manifest, or --nproc-per-node",
        )


def _whole_step(
    path: str, target: Storage, reader: _Deep | None, on_judged: OnJudged | None
) -> JudgedRun | None:
    """The step at `path`, if `target` is one part of it and others lie below, or should."""
    if target.local_path("") is None or isinstance(target, OneSet):
        return None
    folder = folder_of(path)
    if folder.root == target.root and step_number(folder.root.rpartition("/")[2]) is None:
        return None
    from inspector.checks.run import whole_step

    return whole_step(folder, deep=reader, on_judged=on_judged)


def _check_newest(path: str, storage: Storage, reader: _Deep | None, show: _Presenter) -> int:
    """Judge steps from the newest on, until one is found that training resumes from."""
    from inspector.checks.run import find_resumable

    with ReadingLine(sys.stderr) as line:
        run = find_resumable(storage, deep=reader, progress=line, on_judged=show.on_judged)
    if not run.judged:
        raise NotACheckpointError(f"{printable(path)}: no checkpoint is under this folder")
    return show.run(run)


def _check_one(
    path: str, storage: Storage, reader: _Deep | None, show: _Presenter, prefetched: Child | None
) -> int:
    # Reading payloads may take hours, in which a folder changes.
    with KeptListings() if reader is None else nullcontext(), ReadingLine(sys.stderr) as line:
        report = check_storage(
            storage, deep=reader, progress=line, prefetched=prefetched, on_read=show.on_read
        )
    if path.endswith(".safetensors"):
        # The verdict is of the file that was named: its folder may hold damaged checkpoints below.
        report = replace(report, path=path)
    return show.one(report, storage)


class _Presenter:
    """The answer in the format that was asked for, and the exit code that goes with it.

    A page draws what is wrong: of what was read, `on_read` and `on_judged` keep what that takes;
    they are None where no page is asked for.
    """

    def __init__(
        self,
        path: str,
        form: str,
        answer: Destination,
        reader: _Deep | None,
        expected: Expected | None,
    ) -> None:
        self._path, self._form, self._answer, self._reader = path, form, answer, reader
        self._expected = expected
        self._checkpoint: Checkpoint | None = None
        self._maps: Mapping[Found, Html] = {}
        self.on_judged: OnJudged | None = None
        self.on_read: Callable[[Checkpoint], None] | None = None
        if form == "html" or expected is not None:
            self.on_read = self._keep
        if form == "html":
            from inspector.report.html.check import maps_by_folder

            self._maps, self.on_judged = maps_by_folder()

    def _keep(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def _is_stopped(self) -> bool:
        return self._reader is not None and self._reader.is_cancelled

    def run(self, run: JudgedRun) -> int:
        from inspector.report import check as reports

        storage = run.run.storage
        if self._form == "json":
            self._answer.write(reports.folder_json(self._path, run, storage.used))
        elif self._form == "github":
            self._answer.write(reports.folder_github(self._path, run), "\n", has_commands=True)
        elif self._form == "html":
            from inspector.report.html.check import folder_html

            made = folder_html(
                self._path, run, self._maps, command_line(), is_stopped=self._is_stopped
            )
            self._answer.write(made)
        else:
            self._answer.write(reports.folder_text(self._path, run, self._answer.width), "\n")
        return self._code(run.exit_code, storage)

    def one(self, report: Report, storage: Storage) -> int:
        from inspector.report import check as reports

        is_stopped, fit = self._is_stopped, self._fit()
        if self._expected is not None and fit is None:
            left = NotChecked(
                f"what {self._expected.path} expects", "the metadata could not be read"
            )
            checked = report.checked
            report = replace(
                report, checked=replace(checked, not_checked=(*checked.not_checked, left))
            )
        if self._form == "json":
            self._answer.write(reports.check_json(report, storage.used, fit))
        elif self._form == "github":
            self._answer.write(reports.check_github(report, fit), "\n", has_commands=True)
        elif self._form == "html":
            from inspector.report.html.check import check_html

            made = check_html(
                report, self._checkpoint, command_line(), is_stopped=is_stopped, fit=fit
            )
            self._answer.write(made)
        else:
            text = reports.check_text(report, self._answer.width, is_stopped=is_stopped, fit=fit)
            self._answer.write(text, "\n")
        code = report.exit_code
        for rank in report.checked.ranks:
            if rank.why_not and not is_stopped:
                why = printable(rank.why_not, 400)
                sys.stderr.write(f"hsdp-inspect: rank {rank.rank} did not read its share: {why}\n")
        if fit is not None and not fit.is_complete:
            code = code or 1
        return self._code(code, storage)

    def _fit(self) -> ModelFit | None:
        """The checkpoint beside what the model expects, if that was asked and it could be read."""
        if self._expected is None or self._checkpoint is None:
            return None
        from inspector.checks.plan.against import fit_of

        return fit_of(self._checkpoint, self._expected)

    def _code(self, code: int, storage: Storage) -> int:
        if self._is_stopped:
            sys.stderr.write("hsdp-inspect: stopped before every byte was read\n")
            return 2
        if storage.used is not None and storage.used.num_failed:
            return unreached()
        return code
