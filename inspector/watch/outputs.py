"""What `watch` tells others: events, the file of the newest step, metrics, a command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspector.checkpoint.own_folders import write_whole
from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import printable, redact
from inspector.checks.run import JudgedRun
from inspector.checks.steps import Step
from inspector.errors import UsageError
from inspector.report.check import finding_json
from inspector.watch.watcher import RunLook

__all__ = ["DamageCommand", "address", "metrics_text", "step_event", "write_latest"]

_HOOK_S = 300.0
_PREFIX = "hsdp_inspect_watch"


def address(run: str, step: Step) -> str:
    """The path or URL of a step's folder, as a loader takes it."""
    if not step.path:
        return run if is_url(run) else os.path.abspath(run)
    if is_url(run):
        start, mark, query = run.partition("?")
        return f"{start.rstrip('/')}/{step.path}{mark}{query}"
    return os.path.join(os.path.abspath(run), step.path)


def step_event(run: str, step: Step, *, is_deep: bool, t: float) -> dict[str, Any]:
    """The line that tells a step, which was judged `t` seconds after the epoch."""
    parts = [
        {
            "path": part.found.path,
            "state": part.found.state,
            "verdict": part.report.verdict,
            "not_checked": [
                {"what": left.what, "why": left.why} for left in part.report.checked.not_checked
            ],
        }
        for part in step.parts
    ]
    findings = [*step.findings, *(f for part in step.parts for f in part.report.findings)]
    return {
        "schema": 1,
        "event": "step",
        "t": t,
        "path": step.path,
        "address": redact(address(run, step)),
        "step": step.step,
        "verdict": step.verdict,
        "resumable": step.resumable,
        "why_not": step.why_not,
        "deep": is_deep,
        "payload_bytes": sum(part.report.checked.payload_bytes for part in step.parts),
        "parts": parts,
        "findings": [finding_json(finding) for finding in findings],
    }


def write_latest(file: str, path: str | None) -> None:
    """Have a file hold the newest step's path and a newline; none, if there is no such step.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    if path is None:
        Path(file).unlink(missing_ok=True)
    else:
        write_whole(file, [os.fsencode(path), b"\n"])


def metrics_text(run: str, look: RunLook, *, checked_bytes: int, now: float) -> str:
    """Gauges in Prometheus' text format, for node_exporter's textfile collector.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines: list[str] = []
    labels = {"run": redact(run)}

    def gauge(name: str, help_text: str, values: list[tuple[Mapping[str, str], float]]) -> None:
        lines.append(f"# HELP {_PREFIX}_{name} {help_text}")
        lines.append(f"# TYPE {_PREFIX}_{name} gauge")
        for more, value in values:
            lines.append(f"{_PREFIX}_{name}{_labels({**labels, **more})} {_number(value)}")

    gauge("up", "1 if the run could be listed.", [({}, float(look.run is not None))])
    gauge("last_look_timestamp_seconds", "When the run was looked at last.", [({}, now)])
    gauge("checked_bytes", "Bytes of payloads read since the start.", [({}, checked_bytes)])
    gauge("waiting_steps", "Steps that are being written.", [({}, len(look.waiting))])
    judged = look.run
    if judged is not None:
        for name, step in (
            ("newest_sound", judged.newest_sound),
            ("newest_resumable", judged.newest_resumable),
        ):
            what = name.replace("_", " ")
            if step is not None and step.step is not None:
                gauge(f"{name}_step", f"Number of the {what} step.", [({}, step.step)])
            written = None if step is None else _written_s(step)
            if written is not None:
                title = f"When the {what} step was written."
                gauge(f"{name}_timestamp_seconds", title, [({}, written)])
                age = max(now - written, 0.0)
                gauge(f"{name}_age_seconds", f"Age of the {what} step at that look.", [({}, age)])
        verdicts = Counter(step.verdict for step in judged.steps)
        gauge(
            "steps", "Steps by verdict.", [({"verdict": v}, n) for v, n in sorted(verdicts.items())]
        )
        found = Counter((f.code, f.severity) for f in _findings(judged))
        gauge(
            "findings",
            "Findings by code.",
            [({"code": c, "severity": s}, n) for (c, s), n in sorted(found.items())],
        )
    return "\n".join(lines) + "\n"


def _findings(run: JudgedRun) -> list[Any]:
    found = list(run.findings)
    for step in run.steps:
        found += step.findings
        for part in step.parts:
            found += part.report.findings
    return found


def _written_s(step: Step) -> float | None:
    times = [part.written_s or part.found.modified_s for part in step.parts]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        text = text.encode("utf-8", "replace").decode()
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


class DamageCommand:
    """A command of the user's that is told each step that is not sound.

    It gets the event as a line on stdin, and the step's address as its last argument. It is run
    without a shell, where `watch` was started; after five minutes it is ended.

    Args:
        line: The command and its arguments, quoted as a shell takes them.

    Raises:
        UsageError: It is empty, or its quotes do not match.
    """

    def __init__(self, line: str) -> None:
        try:
            self._argv = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"--on-damage {printable(line)}: {error}") from error
        if not self._argv:
            raise UsageError("--on-damage is empty", "give a command")

    def run(self, event: Mapping[str, Any]) -> str:
        """Run it for one step; why it failed, or an empty string."""
        argv = [*self._argv, str(event["address"])]
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return f"{printable(self._argv[0])} cannot be started: {reason}"
        try:
            process.communicate(json.dumps(event).encode() + b"\n", timeout=_HOOK_S)
        except subprocess.TimeoutExpired:
            return f"{printable(self._argv[0])} did not end within {_HOOK_S:.0f} s, so it was ended"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        code = process.returncode
        return f"{printable(self._argv[0])} ended with exit code {code}" if code else ""
