"""Many mutations, one after another: made, judged, held against torch, counted.

Of each it is asked: does every command end as it must; where the exit code is 0, does torch load
what the sample holds; where torch cannot load it, is there a finding. What bears no trace by
construction is counted as what it is, and no fault.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.helpers.fuzz.cases import DCP, ROOT, SAFETENSORS, Case, make_case, same_times, seal_text
from tests.helpers.fuzz.judging import LIMIT_S, Process, commands, environment, wrong
from tests.helpers.fuzz.mutations import MARKER

__all__ = ["Summary", "results", "run", "summed"]

#: Of so many, one is also run as a command, in a process of its own.
COMMAND_SHARE = 200
#: Of so many damaged ones, one is also given to torch.
_DAMAGED_SHARE = 10
_ORACLE_SAMPLES = frozenset(DCP + SAFETENSORS)
_NO_TRACE = "no trace by construction: "


def results(
    numbers: Iterable[int], seed: int, *, budget_s: float = float("inf")
) -> Iterator[dict[str, Any]]:
    """Every mutation's result, as it comes, until they or the seconds are over."""
    give_up = time.monotonic() + budget_s
    with tempfile.TemporaryDirectory(prefix="hsdp-fuzz-") as made:
        scratch = Path(made)
        judging = Process("tests.helpers.fuzz.judging", scratch)
        oracle = Process("tests.helpers.fuzz.oracle", scratch)
        try:
            for number in numbers:
                if time.monotonic() > give_up:
                    return
                yield _one(scratch, number, seed, judging, oracle)
        finally:
            judging.stop()
            oracle.stop()


def _one(
    scratch: Path, number: int, seed: int, judging: Process, oracle: Process
) -> dict[str, Any]:
    folder, marker = scratch / "case", scratch / MARKER
    case = make_case(folder, number, seed)
    intact = ROOT / case.sample
    usual = _codes_of(case.sample, scratch, judging)
    item = {"number": number, "kind": case.kind, "sample": case.sample, "file": case.file}
    item |= {"verdict": "none", "code": None, "codes": []}
    item |= judging.ask([str(folder), case.kind, number, str(intact)])
    if marker.exists():
        marker.unlink()
        item["problem"] += "\nthe pickle was run"
    if number % COMMAND_SHARE == 0:
        item["problem"] += _command(folder, case, item["code"])
        item["is_command"] = True
    is_asked = item["code"] == 0 or (
        item["verdict"] in ("damaged", "unreadable") and number % _DAMAGED_SHARE == 0
    )
    if is_asked and case.kind not in ("seal", "recording") and case.sample in _ORACLE_SAMPLES:
        answer = oracle.ask([str(folder / "ckpt"), str(intact)])
        item["torch"] = answer.get("torch", "raises")
        item["detail"] = answer.get("detail", answer.get("problem"))
        if item["code"] == 0:
            item["torch"], problem = _held(folder, case, item, usual)
            item["problem"] += problem
        marker.unlink(missing_ok=True)  # Torch runs what it is given.
    if case.kind == "seal" and item["code"] == 0:
        item["problem"] += _held_seal(folder)
    return item


def _command(folder: Path, case: Case, code: object) -> str:
    """What is wrong with the command in a process of its own, or an empty string."""
    argv = commands(case.kind, case.number)[0]
    done = subprocess.run(
        [sys.executable, "-m", "inspector", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=300,
        env=environment(folder),
        check=False,
    )
    found = wrong(done.returncode, done.stdout, done.stderr)
    if "Traceback" in done.stderr:
        found.append(done.stderr[-2000:])
    if done.returncode != code:
        found.append(f"the command exits {done.returncode}, in process {code}")
    return "".join(f"\n{what}" for what in found)


def _codes_of(sample: str, scratch: Path, judging: Process) -> Counter[str]:
    """The codes of the findings on a sample as it is."""
    if sample not in _usual:
        folder = scratch / "as-it-is"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / sample, folder / "ckpt")
        same_times(folder)
        said = judging.ask([str(folder), "", 0, str(ROOT / sample)])
        _usual[sample] = Counter(said["codes"])
    return _usual[sample]


_usual: dict[str, Counter[str]] = {}


def _held(folder: Path, case: Case, item: dict[str, Any], usual: Counter[str]) -> tuple[str, str]:
    """What torch does with what exits 0, in the words that are counted; and what is wrong in it."""
    told = item["torch"]
    if told in ("same", "untried"):
        return told, ""
    if told == "names":
        return f"{_NO_TRACE}names changed", ""
    if told == "other":
        reason = _without_trace(folder, case, item["codes"])
        if reason:
            return _NO_TRACE + reason, ""
        return told, f"\nexit 0, and torch loads other values: {item['detail']}"
    found = Counter(item["codes"]) - usual
    if case.kind == "payload pickle":
        del found["bytes-unreferenced"]  # Where the payload lay before it was changed.
    if found:
        item["told_by"] = sorted(found)
        return f"{told}, with a finding", ""
    return told, f"\nno finding, and torch: {told}: {item['detail']}"


def _without_trace(folder: Path, case: Case, codes: list[str]) -> str:
    """Why nothing in the files could tell that they hold other values, or an empty string."""
    if case.sample in SAFETENSORS:
        return "safetensors has no checksums"
    if "payload-no-checksum" in codes:
        return "no checksum was stored, and that is told"
    if case.kind == "payload pickle":
        return "every checksum made right"
    if case.kind in ("metadata values", "metadata bytes", "metadata opcodes"):
        intact = _places(ROOT / case.sample)
        if intact and _places(folder / "ckpt") <= intact:
            return "payloads swapped"
    if case.kind == "files":
        return "files exchanged, each whole"
    return ""


def _places(folder: Path) -> set[tuple[str, int, int]]:
    try:
        metadata = pickle.loads((folder / ".metadata").read_bytes())
        return {(s.relative_path, s.offset, s.length) for s in metadata.storage_data.values()}
    except Exception:
        return set()


def _held_seal(folder: Path) -> str:
    """What is wrong with a changed seal that is found to fit."""
    now, then = (json.loads(t) for t in ((folder / "seal.json").read_bytes(), seal_text()))
    if all(now[key] == then[key] for key in ("tensors", "bytes")):
        return ""
    return "\na seal of other content fits"


class Summary:
    """The figures of a run, added up as results come."""

    def __init__(self) -> None:
        self.count = 0
        self._verdicts: dict[str, Counter[str]] = {}
        self._codes: Counter[str] = Counter()
        self._torch: dict[str, Counter[str]] = {}
        self._accused: Counter[str] = Counter()
        self._seconds: list[float] = []
        self._slowest: list[dict[str, Any]] = []
        self._own_bytes = 0
        self._num_commands = 0
        self.failures: list[dict[str, Any]] = []

    def add(self, item: dict[str, Any]) -> None:
        """Count a result."""
        self.count += 1
        self._verdicts.setdefault(item["kind"], Counter())[item["verdict"]] += 1
        self._codes[str(item["code"])] += 1
        self._num_commands += bool(item.get("is_command"))
        if "torch" in item:
            verdict = "exit 0" if item["code"] == 0 else item["verdict"]
            self._torch.setdefault(verdict, Counter())[item["torch"]] += 1
            if item["code"] == 1 and item["torch"] == "same":
                self._accused[" + ".join(sorted(set(item["codes"])))] += 1
        self._seconds.append(item["s"])
        brief = {name: item[name] for name in ("number", "kind", "sample", "verdict", "s")}
        self._slowest = sorted([*self._slowest, brief], key=lambda i: -i["s"])[:5]
        self._own_bytes = max(self._own_bytes, item.get("own_bytes", 0))
        if item["problem"].strip():
            self.failures.append(item)

    def figures(self) -> dict[str, Any]:
        """What is written down."""
        total: Counter[str] = Counter()
        for found in self._verdicts.values():
            total += found
        times = sorted(self._seconds)
        return {
            "mutations": self.count,
            "verdicts": dict(total),
            "exit_codes": dict(sorted(self._codes.items())),
            "verdicts_by_kind": {k: dict(v) for k, v in sorted(self._verdicts.items())},
            "as_commands_too": self._num_commands,
            "torch": {verdict: dict(found) for verdict, found in sorted(self._torch.items())},
            "loads_as_it_was_but_damaged": dict(self._accused.most_common()),
            "median_s": times[len(times) // 2] if times else None,
            "slowest": self._slowest,
            "largest_memory_mb": {"judging_process": round(self._own_bytes / 1e6, 1)},
            "failures": self.failures,
        }


def summed(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The figures of what one or more runs gave, of each number the latest, and what was mended.

    Args:
        items: As of `results`, with the `seed`, the `commit` that judged and the `time` of each.
    """
    last: dict[int, dict[str, Any]] = {}
    failed: dict[int, dict[str, Any]] = {}
    for item in sorted(items, key=lambda item: item["time"]):
        last[item["number"]] = item
        if item["problem"].strip():
            failed.setdefault(item["number"], item)
    summary = Summary()
    for _, item in sorted(last.items()):
        summary.add(item)
    mended = [
        {
            **{name: then[name] for name in ("number", "kind", "sample")},
            "problem": then["problem"].strip()[:300],
            "said": then["verdict"],
            "says": last[number]["verdict"],
            "codes": sorted(set(last[number]["codes"])),
            "torch": last[number].get("torch"),
        }
        for number, then in sorted(failed.items())
        if not last[number]["problem"].strip()
    ]
    return {
        "seeds": sorted({item["seed"] for item in last.values()}),
        "numbers": _ranges(sorted(last)),
        "commits": dict(Counter(item["commit"] for item in last.values())),
        "limit_s": LIMIT_S,
        **summary.figures(),
        "failed_once_and_mended": mended,
    }


def _ranges(numbers: list[int]) -> list[list[int]]:
    """First and last of each unbroken row of numbers."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and rows[-1][1] == number - 1:
            rows[-1][1] = number
        else:
            rows.append([number, number])
    return rows


def run(count: int, seed: int, *, budget_s: float = float("inf"), first: int = 0) -> dict[str, Any]:
    """Tries `count` mutations, or as many as there is time for; the figures."""
    summary = Summary()
    for item in results(range(first, first + count), seed, budget_s=budget_s):
        summary.add(item)
    return summary.figures()
