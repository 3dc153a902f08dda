"""`hsdp-inspect watch`: follows a run, and says of each new step whether it is good."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from inspector.checkpoint.outside import refuse_inside
from inspector.checkpoint.own_folders import write_whole
from inspector.checkpoint.text import parse_bytes, printable, redact
from inspector.cli.output import on_end, write_lines
from inspector.errors import Cancelled, UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage.base import Storage
    from inspector.checks.findings import DeepReport
    from inspector.checks.judge import Deep
    from inspector.checks.steps import Step
    from inspector.watch.outputs import DamageCommand
    from inspector.watch.watcher import RunLook, Watcher

__all__ = ["commands"]

_STALE_S = 1800.0


@click.command()
@click.argument("run")
@click.option("--deep", is_flag=True, help="Read every stored byte of each new step, once.")
@click.option(
    "--max-rate", metavar="RATE", help="With --deep: read no faster than this, such as 200MB/s."
)
@click.option("--once", is_flag=True, help="Look until nothing is being written, then end.")
@click.option(
    "--interval", type=float, default=30.0, metavar="S", help="Seconds between two looks (30)."
)
@click.option(
    "--settle",
    type=float,
    default=30.0,
    metavar="S",
    help="A step is judged when nothing in it has changed for so long (30).",
)
@click.option(
    "--stale-after",
    type=float,
    metavar="S",
    help="A save that was begun and has not gone on for so long was given up (1800).",
)
@click.option(
    "--write-latest",
    metavar="FILE",
    help="Have FILE hold the path of the newest step that training can resume from.",
)
@click.option("--metrics", metavar="FILE", help="Write a text file for Prometheus at each look.")
@click.option(
    "--on-damage",
    metavar="CMD",
    help="Run CMD for each step that is not sound: its path is the last argument, the event is on "
    "stdin.",
)
def watch(
    run: str,
    deep: bool,
    max_rate: str | None,
    once: bool,
    interval: float,
    settle: float,
    stale_after: float | None,
    write_latest: str | None,
    metrics: str | None,
    on_damage: str | None,
) -> int:
    """Follow a run folder: judge each new step as soon as it is complete.

    Each step is told once, as a line of JSON on stdout, and remembered, also when it is started
    again. With --once the exit code is that of `check`; else it ends with Ctrl+C or SIGTERM, with
    the exit code for the last look. Nothing is written into the run folder.
    """
    from inspector.watch.outputs import DamageCommand
    from inspector.watch.watcher import RunMemory, Watcher

    for option, seconds in (
        ("--interval", interval),
        ("--settle", settle),
        ("--stale-after", stale_after or 0.0),
    ):
        if not 0 <= seconds <= 30 * 86400:  # NaN is neither.
            raise UsageError(f"{option} {seconds:g}: it is between 0 seconds and 30 days")
    if max_rate is not None and not deep:
        raise UsageError("--max-rate is of reading the bytes", "add --deep")
    if once and stale_after is not None:
        raise UsageError("--once waits for no save that stands still", "leave --stale-after out")
    rate = None if max_rate is None else _rate(max_rate)
    for option, file in (("--write-latest", write_latest), ("--metrics", metrics)):
        refuse_inside(option, file or "", [run])
    stop = threading.Event()
    memory = RunMemory(run, "deep" if deep else "metadata")
    memory.load()
    following = _Following(
        run,
        Watcher(
            run,
            memory,
            deep=_deep(stop) if deep else None,
            settle_s=settle,
            stale_s=0.0 if once else (_STALE_S if stale_after is None else stale_after),
        ),
        is_deep=deep,
        latest=write_latest or "",
        metrics=metrics or "",
        command=DamageCommand(on_damage) if on_damage is not None else None,
    )
    from inspector.checkpoint.storage.pace import paced

    with _stopped_by_signals(stop), paced(rate):
        return following.follow(stop, once=once, interval_s=interval, settle_s=settle)


#: For `cli` to add to its group.
commands: list[click.Command] = [watch]


def _rate(text: str) -> float:
    """`200MB/s` in bytes a second."""
    rate = parse_bytes(re.sub(r"/s\Z", "", text.strip(), flags=re.IGNORECASE))
    if not rate:
        raise UsageError(f"--max-rate {printable(text)} is no rate", "give one such as 200MB/s")
    return rate


def _deep(stop: threading.Event) -> Deep:
    """Reads the payloads of a step; `stop` ends it."""

    def read(checkpoint: Checkpoint, storage: Storage) -> DeepReport:
        from inspector.checks.payload.deep import check_deep, read_wanted
        from inspector.report.progress import PayloadLine

        class Line(PayloadLine):
            def __call__(self, progress: Any) -> bool:
                super().__call__(progress)
                return stop.is_set()

        wanted = read_wanted(deep=True, values=False, manifest=None)
        report = check_deep(checkpoint, storage, wanted, lambda: Line(sys.stderr))
        if report.is_cancelled:
            raise Cancelled("it was stopped")
        return report

    return read


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """While it lasts, a signal to end sets `stop`; what is being read is left at once."""
    from inspector.checkpoint.workers import until

    def told(*_: object) -> None:
        # Not here: what this interrupts may be waiting for it, and hold its lock.
        threading.Thread(target=stop.set).start()

    with on_end(told), until(stop.is_set):
        yield


class _Following:
    """Look after look, and who is told what."""

    def __init__(
        self,
        run: str,
        watcher: Watcher,
        *,
        is_deep: bool,
        latest: str,
        metrics: str,
        command: DamageCommand | None,
    ) -> None:
        self._run, self._watcher, self._is_deep = run, watcher, is_deep
        self._latest, self._metrics, self._command = latest, metrics, command
        self._named: str | None = None
        self._named_path: str | None = None
        self._problem = ""
        self._warned: set[str] = set()
        self._bytes = 0
        self._has_reader = True
        self._failed = False

    def follow(
        self, stop: threading.Event, *, once: bool, interval_s: float, settle_s: float
    ) -> int:
        """Look until it is stopped; the exit code for the last look."""
        code = 2
        while not stop.is_set():
            try:
                look = self._watcher.look(self._step)
            except Cancelled:
                break
            code = self._after(look)
            if once and (not look.waiting or look.run is None or look.unread):
                if look.run is not None and not look.run.judged and not look.unread:
                    self._warn(f"no checkpoint is under {printable(redact(self._run))}")
                return code
            # What stands still is judged when it has stood still for long enough.
            pause_s = min(interval_s, max(settle_s, 0.2)) if look.waiting else interval_s
            if once:
                pause_s = min(pause_s, 1.0)
            stop.wait(pause_s)
            if not self._has_reader:
                break
        return code

    def _step(self, step: Step) -> None:
        from inspector.watch.outputs import step_event

        event = step_event(self._run, step, is_deep=self._is_deep, t=time.time())
        self._say(event)
        if self._command is not None and step.verdict != "sound":
            self._warn(self._command.run(event))

    def _after(self, look: RunLook) -> int:
        """Tell what a look found, in the files as well; its exit code."""
        self._bytes += look.num_bytes
        self._failed = False
        if look.problem[0] != self._problem:
            self._problem, hint = look.problem
            if self._problem:
                self._say({"event": "unreachable", "message": self._problem, "hint": hint})
                self._warn(self._problem)
            else:
                self._say({"event": "reachable"})
        for path in look.gone:
            self._say({"event": "gone", "path": path})
        if look.unread:
            self._warn(f"a step is not judged: {look.unread}")
        if look.run is not None and not self._may_stand(look):
            self._tell_latest(look.run.newest_resumable)
        if self._metrics:
            self._write_metrics(look)
        if self._watcher.memory_problem:
            self._warn(f"what was judged is not remembered: {self._watcher.memory_problem}")
        return 2 if self._failed else look.exit_code

    def _may_stand(self, look: RunLook) -> bool:
        """Whether the step that was named may be there, in a folder that could not be listed."""
        if look.run is None or not look.is_partial:
            return False
        if self._named_path is None:
            return look.run.newest_resumable is None
        seen = {step.path for step in look.run.steps} | {path for path, _ in look.waiting}
        return self._named_path not in seen

    def _tell_latest(self, best: Step | None) -> None:
        from inspector.watch.outputs import address, write_latest

        where = None if best is None else address(self._run, best)
        if self._latest:
            try:
                write_latest(self._latest, where)
            except (OSError, ValueError) as error:
                self._fail(f"--write-latest {printable(self._latest)}", error)
        if where != self._named:
            self._named = where
            self._named_path = None if best is None else best.path
            path, number = (None, None) if best is None else (best.path, best.step)
            shown = None if where is None else redact(where)
            self._say({"event": "latest", "path": path, "address": shown, "step": number})

    def _write_metrics(self, look: RunLook) -> None:
        from inspector.watch.outputs import metrics_text

        text = metrics_text(self._run, look, checked_bytes=self._bytes, now=time.time())
        try:
            write_whole(self._metrics, [text.encode("utf-8", "replace")])
        except (OSError, ValueError) as error:
            self._fail(f"--metrics {printable(self._metrics)}", error)

    def _say(self, event: dict[str, Any]) -> None:
        whole = {"schema": 1, "t": time.time(), **event}
        if self._has_reader:
            self._has_reader = write_lines([json.dumps(whole) + "\n"])

    def _fail(self, what: str, error: Exception) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._failed = True
        self._warn(f"{what} cannot be written: {reason}")

    def _warn(self, words: str) -> None:
        """On stderr, once."""
        if words and words not in self._warned:
            self._warned.add(words)
            sys.stderr.write(f"hsdp-inspect: {words}\n")
            sys.stderr.flush()
