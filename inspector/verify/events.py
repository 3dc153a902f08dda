"""The wire protocol between the ranks and the front end: one JSON object a line.

Every event has `schema`, `event`, `run` (which job it is of), `rank` (None for the launcher) and
`t`, seconds since the epoch at the writer. A line is at most `MAX_LINE_BYTES` long and leaves in
one `os.write`, so that lines of several writers never mix; long texts are cut, and say so. Each
rank appends to a file of its own, which also works on a file system that several nodes share.

Which events there are, and what each carries, is in the contract (`verify --json`). Beyond it,
`tensor` may carry `hop` (position in `JobSpec.then`; absent: 0), `ranks` (how many ranks report
this entry in this phase; absent: all) and `asked` (left out on request), `torch_reads` says whether
torch's own `read_metadata` reads what the job read, and `failed` may carry `root` (what the other
failures came of) or `is_echo` (it only came of another). `finding` is what a rank found that only
reads (code, severity, fqn, file, message), as far as a line holds it; what counts is in its share
(`shares.portion`).

An event may come from anybody's file. `checked` is the gate that all of them pass before they are
folded: words are of known sets, numbers are finite and of their range, and what is neither is `?`.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from inspector.checks.findings import CODES
from inspector.verify.spec import TASKS, VIAS
from inspector.verify.verdicts import WORDS

__all__ = [
    "EVENTS",
    "LONG_NAME",
    "MAX_LINE_BYTES",
    "MAX_RANKS",
    "PHASES",
    "READ",
    "SCHEMA",
    "UNKNOWN",
    "EventWriter",
    "checked",
    "decode",
    "encode",
    "moment",
    "rank_file",
]

SCHEMA = 1
MAX_LINE_BYTES = 4096
#: An event may cut a name of more characters than this; it says which entry's it is.
LONG_NAME = 100

#: Events that the next of their kind makes up for.
_PASSING = frozenset({"heartbeat", "progress"})
#: Events after which a writer says nothing more: it waits for room as long as this.
_LAST = frozenset({"bye", "failed"})
_PATIENCE_S = 20.0
_RETRY_S = 0.1
_MAX_UNSENT_BYTES = 64 << 20

EVENTS = frozenset(
    (
        "spec hello phase progress tensor log failed bye result heartbeat plan torch_reads finding"
    ).split()
)

#: The phases in the order in which a wave of tensors goes through them.
PHASES = ("load", "compare", "replicas", "save", "reload", "recheck")
#: The one phase of ranks that only read (`ReadSpec`).
READ = "read"
MAX_RANKS = 65_536

#: Stands for a word that is not known, and for a text or a number that is none.
UNKNOWN = "?"


def rank_file(events_dir: str | Path, rank: int | None) -> Path:
    """The file that a rank (None: the launcher) appends its events to."""
    return Path(events_dir, "launcher.jsonl" if rank is None else f"rank-{rank:05}.jsonl")


def encode(event: dict[str, Any]) -> bytes:
    """One line, at most `MAX_LINE_BYTES` long; the longest texts in it are cut to fit."""
    line = (json.dumps(event, separators=(",", ":")) + "\n").encode()
    while len(line) > MAX_LINE_BYTES:
        key = max(event, key=lambda k: len(json.dumps(event[k])))
        value = event[key]
        if isinstance(value, str) and len(value) > 32:
            event = {**event, key: value[: len(value) // 2] + " ...", "cut": True}
        elif isinstance(value, (list, dict)) and value:
            short: Any = (
                value[: len(value) // 2]
                if isinstance(value, list)
                else dict(list(value.items())[: len(value) // 2])
            )
            event = {**event, key: short, "cut": True}
        else:
            event = {k: event[k] for k in ("schema", "event", "run", "rank", "t") if k in event}
        line = (json.dumps(event, separators=(",", ":")) + "\n").encode()
    return line


def decode(line: bytes | str) -> dict[str, Any] | None:
    """The event of a line, or None for anything that is not one."""
    try:
        event = json.loads(line, parse_float=_float, parse_constant=_CONSTANTS.get)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("schema") != SCHEMA:
        return None
    name = event.get("event")
    return event if isinstance(name, str) and name in EVENTS else None


def event_head(event: str, rank: int | None, run: str, t: float | None = None) -> dict[str, Any]:
    """What every event has; `t` is the time if it is not now, in seconds since the epoch."""
    told = {"schema": SCHEMA, "event": event, "run": run, "rank": rank}
    return {**told, "t": time.time() if t is None else t}


class EventWriter:
    """Appends one writer's events to its file.

    While the disk is full, what was found is kept until there is room again, and what only tells
    how far it is goes lost.
    """

    def __init__(self, events_dir: str | Path, rank: int | None, run: str = "") -> None:
        self.rank = rank
        self.run = run
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = os.open(rank_file(events_dir, rank), flags, 0o644)
        self._lock = threading.Lock()
        self._unsent = bytearray()

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; a disk that is full for a while is not the job's failure.

        Raises:
            OSError: It has been full for so long that more cannot be kept.
        """
        line = {**event_head(event, self.rank, self.run), **fields}
        with self._lock:
            if event in _PASSING and self._unsent:
                self._flush()
                return
            self._unsent += encode(line)
            error = self._flush()
            deadline = time.monotonic() + (_PATIENCE_S if event in _LAST else 0.0)
            while error is not None and time.monotonic() < deadline:
                time.sleep(_RETRY_S)
                error = self._flush()
            if error is not None and len(self._unsent) > _MAX_UNSENT_BYTES:
                raise error

    def _flush(self) -> OSError | None:
        """Write what is not written yet; why not all of it was."""
        try:
            while self._unsent:
                # A line may leave in two pieces: the rest of it is the next to be written.
                del self._unsent[: os.write(self._fd, self._unsent)]
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        os.close(self._fd)


# The gate.

Check = Callable[[Any], Any]

_CONSTANTS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
_MAX_NUMBER = 1 << 63
_MAX_SECONDS = 1e10
_MAX_DIMS = 64
_MAX_DEPTH = 6
_MAX_MESHES = 64
_AXIS = r"[A-Za-z_][A-Za-z0-9_]{0,39}:[0-9x]{1,40}"
_AXES = rf"{_AXIS}(?:,{_AXIS}){{0,15}}"
_MESH = re.compile(rf"{_AXES}(?:\+{_AXES})?", re.ASCII)
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu|npu|hpu|meta)(:[0-9]{1,4})?")


def _float(text: str) -> float | str:
    """A number of JSON; one that no double holds in the contract's word for it."""
    number = float(text)
    return number if math.isfinite(number) else "inf" if number > 0 else "-inf"


def moment(event: Mapping[str, Any]) -> float:
    """When an event was told, in seconds since the epoch; 0 if that makes no sense."""
    t = event.get("t")
    if isinstance(t, bool) or not isinstance(t, (int, float)) or not 0 < t < _MAX_SECONDS:
        return 0.0
    return float(t)


def checked(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event of which every field is what the contract says it is.

    A word of no known set, a text that is none and a mesh that is none become `?`; a count that
    is none becomes None, a time 0. Names and messages stay as they are: they are shown through
    the display gate. What is not known passes if it is plain JSON with numbers that are finite.
    """
    rules = _RULES.get(event.get("event", ""), _COMMON)
    told = {}
    for key, value in event.items():
        told[key] = None if value is None else rules.get(key, _plain)(value)
    told["t"] = moment(event)
    counts = told.get("tensors") or {}
    if told.get("verdict") == "exact" and (not counts.get("exact") or counts.get("different")):
        told["verdict"] = UNKNOWN  # Its own counts do not bear it out.
    return told


def _plain(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return value if -_MAX_NUMBER <= value < _MAX_NUMBER else UNKNOWN
    if kind is float:
        return value if math.isfinite(value) else UNKNOWN
    if depth < _MAX_DEPTH and kind is list:
        return [_plain(item, depth + 1) for item in value]
    if depth < _MAX_DEPTH and kind is dict:
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    return UNKNOWN


def _text(value: Any) -> str:
    return value if type(value) is str else UNKNOWN


def _name(value: Any) -> str | None:
    return value if type(value) is str else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MAX_NUMBER else None


def _rank(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MAX_RANKS else None


def _seconds(value: Any) -> float | None:
    is_number = type(value) is float or type(value) is int
    return value if is_number and 0 <= value < _MAX_SECONDS else None


def _flag(value: Any) -> bool:
    return value is True


def _mesh(value: Any) -> str:
    return value if type(value) is str and (not value or _MESH.fullmatch(value)) else UNKNOWN


def _device(value: Any) -> str:
    return value if type(value) is str and (not value or _DEVICE.fullmatch(value)) else UNKNOWN


def _index(value: Any) -> list[int] | None:
    if type(value) is not list or len(value) > _MAX_DIMS:
        return None
    numbers = [_count(number) for number in value]
    return None if None in numbers else value


def _word(words: Collection[str]) -> Check:
    known = frozenset(words)

    def check(value: Any) -> str:
        return value if type(value) is str and (not value or value in known) else UNKNOWN

    return check


def _list(of: Check, most: int | None = None) -> Check:
    def check(value: Any) -> list[Any]:
        return [of(item) for item in value[:most]] if type(value) is list else []

    return check


def _object(rules: Mapping[str, Check]) -> Check:
    def check(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            return {}
        return {
            key: None if item is None else rules.get(key, _plain)(item)
            for key, item in value.items()
        }

    return check


_phase = _word((*PHASES, READ))
_kind = _word("exception killed timeout out-of-memory launch".split())
_failure: dict[str, Check] = {
    "rank": _rank,
    "kind": _kind,
    "message": _text,
    "stack": _text,
    "root": _flag,
    "is_echo": _flag,
}
_canaries = _object(dict.fromkeys("compare recheck reload replicas checksums".split(), _count))
_reads: dict[str, Check] = {
    **dict.fromkeys("ok tried unsafe".split(), _flag),
    **dict.fromkeys("torch error second_reading".split(), _text),
    **dict.fromkeys("num_payloads num_forgotten".split(), _count),
    "forgotten": _list(_text),
}
_COMMON: dict[str, Check] = {
    "run": _text,
    "canaries": _canaries,
    "rank": _rank,
    "phase": _phase,
    "hop": _count,
    "mesh": _mesh,
    "elapsed_s": _seconds,
    **dict.fromkeys("bytes_done bytes_total tensors_done tensors_total".split(), _count),
    **dict.fromkeys(
        "rss_bytes anon_bytes peak_rss_bytes peak_anon_bytes cuda_bytes".split(), _count
    ),
    **dict.fromkeys("payloads_checked payloads_unsummed payload_faults unpickled".split(), _count),
    **dict.fromkeys("bytes_read num_entries world_size pid".split(), _count),
    **dict.fromkeys("payloads_read num_wrong".split(), _count),
}
_JOB: dict[str, Check] = {
    **_COMMON,
    "path": _text,
    "then": _list(_mesh, _MAX_MESHES),
    "via": _word(VIAS),
    "device": _device,
    "task": _word(TASKS),
    "backend": _word("gloo nccl ucc mpi xccl cpu:gloo,cuda:nccl".split()),
    "filter": _text,
    "stage": _text,
    "stages": _list(_object({"pattern": _text, "stages": _text})),
    "placements": _list(_object({"pattern": _text, "cuts": _text})),
    "run_folder": _text,
    "command": _list(_text),
}
_unverified = _object({"fqn": _text, "why": _text})
_left_out = _object({"why": _text, "count": _count, "asked": _flag})
_counts = _object(
    {
        **dict.fromkeys("total verified exact raw num_not_verified num_not_asked".split(), _count),
        "different": _list(_text),
        "not_verified": _list(_unverified),
        "via": _object(dict.fromkeys(VIAS, _count)),
    }
)
_RULES: dict[str, dict[str, Check]] = {
    "spec": {**_JOB, "tensors": _count, "entries": _count},
    "hello": {**_COMMON, "host": _text, "device": _device},
    "plan": {**_COMMON, "tensors": _count, "entries": _count, "left_out": _list(_left_out)},
    "tensor": {
        **_COMMON,
        "fqn": _name,
        "verdict": _word(WORDS),
        "num_elements": _count,
        "num_different": _count,
        "num_uncovered": _count,
        "first_index": _index,
        "ranks": _count,
        "entry": _count,
        "cut": _flag,
        "asked": _flag,
        "via": _word(VIAS),
        **dict.fromkeys("expected found file detail".split(), _text),
    },
    "torch_reads": {**_COMMON, **_reads},
    "finding": {
        **_COMMON,
        "code": _word(CODES),
        "severity": _word(("error", "warning", "note")),
        "fqn": _name,
        "file": _name,
        "message": _text,
    },
    "log": {**_COMMON, "stream": _word(("stdout", "stderr")), "text": _text},
    "failed": {**_COMMON, **_failure},
    "result": {
        **_JOB,
        "verdict": _word("exact differs partial unreadable failed cancelled read".split()),
        "why": _text,
        "phases": _list(_object({"phase": _phase, "elapsed_s": _seconds})),
        "failures": _list(_object(_failure)),
        "torch_reads": _object(_reads),
        "tensors": _counts,
    },
}
