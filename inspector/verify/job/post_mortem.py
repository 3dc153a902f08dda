"""Why a job failed: torchrun's own report, exit codes and the machine's memory -> `failed` events.

A rank that could still speak told its failure itself. This is for those that could not: killed,
out of memory, never started. The report is `ChildFailedError.format_msg`
(torch/distributed/elastic/multiprocessing/errors/__init__.py), alike since torch 1.9.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.verify.progress import Snapshot

__all__ = ["ChildFailure", "diagnose", "launchers_own", "num_oom_kills", "parse_report", "tail_of"]

_ENTRY = re.compile(
    r"^\[\d+\]:[ ]*\n"
    r"[ ]+time +: .*\n"
    r"[ ]+host +: .*\n"
    r"[ ]+rank +: (?P<rank>\d+) \(local_rank: \d+\)[ ]*\n"
    r"[ ]+exitcode +: (?P<exitcode>-?\d+) \(pid: (?P<pid>\d+)\)",
    re.MULTILINE,
)
_ROOT = "Root Cause (first observed failure):"
_TAIL_BYTES = 16_384
_NOISE = re.compile(r"^\s*$|^[=\-*]+\s*$|Setting OMP_NUM_THREADS|^\s+(warnings\.warn|logger\.)")
_NOT_IMPORTED = re.compile(r"(ImportError|ModuleNotFoundError|OSError)\b")
_NO_MODULE = re.compile(r"No module named|Error while finding module specification")
# What torchrun, or a rank that looks for it, says of the store that they meet at.
_STORE = re.compile(
    r"RendezvousConnectionError|RendezvousTimeoutError|DistNetworkError|DistStoreError|"
    r"can't start new thread|Resource temporarily unavailable"
)
_BY_ITSELF = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
_USAGE = 2
_PORT_TAKEN = re.compile(r"EADDRINUSE|[Aa]ddress already in use|failed to listen on")


@dataclass(frozen=True, slots=True)
class ChildFailure:
    """One rank of torchrun's report; a negative exit code is a signal."""

    rank: int
    exit_code: int
    pid: int
    is_root: bool


def parse_report(stderr: str) -> list[ChildFailure]:
    """The ranks that torchrun's last report names."""
    report = stderr[max(stderr.rfind("\nFailures:"), 0) :]
    root = report.find(_ROOT)
    return [
        ChildFailure(int(m["rank"]), int(m["exitcode"]), int(m["pid"]), 0 <= root < m.start())
        for m in _ENTRY.finditer(report)
    ]


def num_oom_kills() -> int:
    """Processes that the kernel has killed for memory since it started, as far as it tells."""
    total = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError:
            continue
        total += sum(int(n) for n in re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE))
    return total


def tail_of(path: str | Path) -> str:
    """The end of a text file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def rank_stderr(logs: Path) -> dict[int, str]:
    """What each rank wrote last, by the number that torchrun's folder for it has."""
    paths = sorted(logs.glob("*/attempt_0/*/stderr.log"))
    return {int(p.parent.name): tail_of(p) for p in paths if p.parent.name.isdigit()}


def diagnose(
    snapshot: Snapshot,
    *,
    exit_code: int | None,
    start_error: str,
    stderr: str,
    rank_stderr: Mapping[int, str],
    was_oom: bool,
) -> list[dict[str, Any]]:
    """Fields of the `failed` events that the job's end calls for.

    Args:
        snapshot: What the ranks told.
        exit_code: torchrun's, negative for a signal; None if the guard could not tell.
        start_error: Why torchrun could not even be started, or empty.
        stderr: What torchrun wrote last.
        rank_stderr: What each rank wrote last.
        was_oom: Whether the kernel killed for memory meanwhile.
    """
    silent = [r.rank for r in snapshot.ranks if r.status in ("waiting", "running")]
    if not silent:
        return []
    if start_error:
        return [_failed(None, "launch", f"torchrun could not be started: {start_error}")]
    children = parse_report(stderr)
    if not snapshot.failures and not any(r.pid for r in snapshot.ranks):
        # The same is wrong with every rank: it is told once.
        return [_launch(exit_code, children, stderr, rank_stderr, was_oom)]
    found = [
        _child(child, rank_stderr.get(child.rank, ""), was_oom)
        for child in children
        # The others that torchrun ended for the sake of the first are no failures of their own.
        if child.rank in silent and (child.is_root or child.exit_code != -signal.SIGTERM)
    ]
    if found or snapshot.failures:
        return found
    if exit_code is None:
        return [_failed(None, "killed", "the process that guards the job was killed")]
    if exit_code < 0:
        return [_failed(None, "killed", f"torchrun was killed by {_signal(exit_code)}")]
    named = ", ".join(map(str, silent[:8])) + (" ..." if len(silent) > 8 else "")
    noun = "rank" if len(silent) == 1 else "ranks"
    return [_failed(None, "exception", f"{noun} {named} ended without a word")]


def launchers_own(
    snapshot: Snapshot, *, exit_code: Any, stderr: str, rank_stderr: Mapping[int, str]
) -> str:
    """Why torchrun ended before any rank said hello, if that was no rank's doing; else nothing.

    Its port was taken meanwhile, or its store did not come up: nothing of the checkpoint, of the
    interpreter or of the job has been tried then.
    """
    if any(rank.pid for rank in snapshot.ranks) or not isinstance(exit_code, int):
        return ""
    told = [failure.message for failure in snapshot.failures]
    texts = [*told, *rank_stderr.values(), stderr]
    if exit_code and any(_PORT_TAKEN.search(text) for text in texts):
        return "the port to meet at was taken"
    if exit_code and any(_STORE.search(text) for text in texts):
        return "the store to meet at did not come up"
    if told or parse_report(stderr) or not (exit_code > 0 or exit_code in _BY_ITSELF):
        return ""
    last = _last_line(stderr)
    if exit_code == _USAGE or _NO_MODULE.search(stderr) or _NOT_IMPORTED.match(last):
        return ""
    ended = f"exit code {exit_code}" if exit_code > 0 else _signal(exit_code)
    return f"{ended}{': ' if last else ''}{last}"


def _child(child: ChildFailure, stderr: str, was_oom: bool) -> dict[str, Any]:
    kind, message = "exception", f"it ended with exit code {child.exit_code}"
    if child.exit_code < 0:
        kind, message = "killed", f"it was killed by {_signal(child.exit_code)}"
        if child.exit_code == -signal.SIGKILL and was_oom:
            kind = "out-of-memory"
            message += ": the machine ran out of memory (--memory bounds what a rank holds)"
    elif last := _last_line(stderr):
        message += f": {last}"
        if "MemoryError" in last or "out of memory" in last.lower():
            kind = "out-of-memory"
    return {**_failed(child.rank, kind, message, stderr), "root": child.is_root}


def _launch(
    exit_code: int | None,
    children: list[ChildFailure],
    stderr: str,
    rank_stderr: Mapping[int, str],
    was_oom: bool,
) -> dict[str, Any]:
    """Why no rank ever said hello."""
    texts = [*rank_stderr.values(), stderr]
    for text in texts:
        if _PORT_TAKEN.search(text):
            return _failed(None, "launch", "the ranks found no free port to meet at", text)
    if exit_code is None:
        return _failed(None, "launch", "the process that guards the job was killed", stderr)
    root = next((child for child in children if child.is_root), None)
    if root is not None:
        fields = _child(root, rank_stderr.get(root.rank, ""), was_oom)
        kind = "launch" if fields["kind"] == "exception" else fields["kind"]
        return {**fields, "kind": kind, "message": f"before it was up, {fields['message']}"}
    message = f"torchrun ended with exit code {exit_code} before any rank was up"
    if exit_code < 0:
        message = f"torchrun was killed by {_signal(exit_code)} before any rank was up"
    last = next(filter(None, map(_last_line, texts)), "")
    if last:
        message += f": {last}"
    if exit_code > 0 and _NOT_IMPORTED.match(last):
        # Before its ranks, torchrun is torch and nothing else.
        message += (
            "; this torch cannot be imported: install another (pip install --force-reinstall "
            "torch), or name the interpreter of another environment by --python"
        )
    return _failed(None, "launch", message, stderr)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if not _NOISE.search(line)]
    # An exception's last line says what it was; the report after it only where.
    named = [line for line in lines if re.match(r"\w[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (named or lines or [""])[-1].strip()[:500]


def _signal(exit_code: int) -> str:
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _failed(rank: int | None, kind: str, message: str, stack: str = "") -> dict[str, Any]:
    return {"rank": rank, "kind": kind, "message": message, "stack": stack}
