"""Every figure that docs/figures.md promises, measured in one run, and the tables made of it.

    python benchmarks/all.py                 run all that measures speed (half an hour, two cores)
    python benchmarks/all.py --against REV   the same, and the commands beside those of a commit
    python benchmarks/all.py --only open stats
    python benchmarks/all.py --quick         small data, few rounds: does it run at all?
    python benchmarks/all.py --tables        run nothing, write the tables anew from results/

What plants faults (faults, server_faults, fuzz) tells no speed, takes hours and runs by its name.
Each subject of a script of this folder measures one thing beside its rival; they run one after
another, so that none disturbs another. What one has measured is taken into results/NAME.json when
it is whole, and with it results/summary.json, results/README.md (machine, versions, spread), the
figures and the tables of faults, of a server's faults and of torch's versions in docs/ are written
anew: a subject that fails, that takes more than its time, or that is interrupted, leaves its last
results as they were, and the others' too. Metadata of a million chunks is made once, for all that
open it. Once `--minutes` are over no subject is begun. A quick run writes into a temporary folder
and changes no table. Exit code 1: a subject failed, or was left out.

Ours runs five times or more, in turn with its rival; a rival that takes many times as long, and as
long each time, in the first rounds alone (one or two), as its results say.

What torch_versions.py found, which needs an interpreter for each torch, is no subject: it is run by
itself, and its table is made with the others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
from measuring import RESULTS, ROOT, machine, workspace, write

#: Seconds, and arguments, and those of a quick run. `OUT` is the results file, `FOLDER` its
#: folder, `DATA` where metadata is that several use, `REV` a commit. Each is stopped after its
#: seconds, three times what it takes on two cores that have nothing else to do.
SUBJECTS: dict[str, tuple[int, list[str], list[str]]] = {
    "stages": (
        180,
        ["--dir", "DATA", "--out", "OUT"],
        ["--rounds", "1", "--shape", "1000x64", "--dir", "DATA", "--out", "OUT"],
    ),
    "open": (
        480,
        ["--dir", "DATA", "--out", "OUT"],
        ["--rounds", "1", "--shape", "50x16", "--dir", "DATA", "--out", "OUT"],
    ),
    "growth": (
        720,
        ["--dir", "DATA", "--out", "OUT"],
        ["--rounds", "1", "--shape", "10x64", "--dir", "DATA", "--out", "OUT"],
    ),
    "forms": (
        300,
        ["--shape", "150x1024", "--out", "OUT"],
        ["--rounds", "1", "--shape", "50x1024", "--out", "OUT"],
    ),
    "run_folder": (240, ["--out", "OUT"], ["--rounds", "1", "--steps", "5", "--out", "OUT"]),
    "deep_check": (240, ["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "stats": (300, ["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "diff": (
        480,
        ["--torch-rounds", "1", "--out", "OUT"],
        ["--gb", "0.05", "--rounds", "1", "--out", "OUT"],
    ),
    "against": (
        480,
        ["REV", "--dir", "DATA", "--out", "OUT"],
        ["REV", "--gb", "0.05", "--rounds", "1", "--shape", "50x16"]
        + ["--dir", "DATA", "--out", "OUT"],
    ),
    "screen": (
        600,
        ["--dir", "DATA", "--out", "OUT"],
        ["--rounds", "1", "--shape", "2000x8", "--dir", "DATA", "--out", "OUT"],
    ),
    "first_frame": (60, ["--out", "OUT"], ["--rounds", "2", "--out", "OUT"]),
    "remote": (300, ["--out", "OUT"], ["--gb", "0.15", "--rounds", "1", "--out", "OUT"]),
    "load_plan": (
        240,
        ["--sample", "3", "--rounds", "5", "--out", "OUT"],
        ["--tensors", "50", "--chunks", "16", "--ranks", "8", "--rounds", "1", "--out", "OUT"],
    ),
    "export": (
        300,
        ["--gb", "0.5", "--out", "OUT"],
        ["--gb", "0.07", "--rounds", "1", "--out", "OUT"],
    ),
    "readers": (240, ["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "event_flood": (120, ["--out", "OUT"], ["--seconds", "2", "--out", "OUT"]),
    "verify_load": (
        600,
        ["--gb", "0.5", "--mesh", "fsdp:2", "--out", "OUT"],
        ["--gb", "0.05", "--rounds", "1", "--mesh", "fsdp:2", "--out", "OUT"],
    ),
    "faults": (36000, ["--out", "FOLDER"], ["--out", "FOLDER", "--only", "bit"]),
    "server_faults": (36000, ["--out", "FOLDER"], ["--out", "FOLDER", "--only", "s3 etag"]),
    "fuzz": (36000, ["--out", "OUT"], ["--count", "50", "--out", "OUT"]),
}

#: They count what is found; how fast that is depends on nothing they tell.
BY_NAME = ("faults", "server_faults", "fuzz")
#: Until what was asked to stop has removed its checkpoints.
_STOP_S = 60


class FailedError(Exception):
    """A subject gave no whole results; its words say why."""


@dataclass
class Sheet:
    """What is known of the last full run, and the tables made of it."""

    elapsed_s: dict[str, float]
    machine: dict[str, Any]

    @classmethod
    def read(cls) -> Sheet:
        try:
            before = json.loads((RESULTS / "summary.json").read_text())
        except FileNotFoundError:
            before = {}
        return cls(before.get("elapsed_s", {}), before.get("machine") or described())

    def about(self, names: list[str]) -> str:
        """How long some subjects took when they were last run."""
        known = [self.elapsed_s[name] for name in names if name in self.elapsed_s]
        if not known:
            return "not timed before"
        more = len(names) - len(known)
        return f"about {duration(sum(known))}" + (f" and {more} not timed before" if more else "")

    def write(self) -> list[str]:
        """results/summary.json, results/README.md and the blocks of docs/; what is amiss."""
        rows, amiss = [], []
        for name in SUBJECTS:
            if (RESULTS / f"{name}.json").exists():
                try:
                    rows += rows_of(name, RESULTS / f"{name}.json")
                except FailedError as error:
                    # Its last results, of before a change of this folder.
                    amiss.append(str(error))
                    rows.append(figures.Row(name, name, "", "**not measured** as it is now"))
        document = {
            "machine": self.machine,
            "elapsed_s": {
                name: self.elapsed_s[name] for name in SUBJECTS if name in self.elapsed_s
            },
            "figures": [row.as_json() for row in rows],
        }
        write(RESULTS / "summary.json", document)
        (RESULTS / "README.md").write_text(figures.page(rows, self.machine, loads()))
        fill(ROOT / "docs" / "figures.md", "figures", figures.table(rows))
        growth = RESULTS / "growth.json"
        if growth.exists():
            found = json.loads(growth.read_text())
            fill(ROOT / "docs" / "figures.md", "growth", figures.growth_table(found))
            (ROOT / "docs" / "growth.svg").write_text(figures.growth_plot(found))
        stages = RESULTS / "stages.json"
        if stages.exists():
            table = figures.stages_table(json.loads(stages.read_text()))
            fill(ROOT / "docs" / "figures.md", "stages", table)
        for name in ("faults", "fuzz"):
            told = RESULTS / f"{name}.md"
            if told.exists():
                fill(ROOT / "docs" / "faults.md", name, told.read_text())
        told = RESULTS / "server_faults.md"
        if told.exists():
            fill(ROOT / "docs" / "remote.md", "server faults", told.read_text())
        versions = RESULTS / "torch_versions.json"
        if versions.exists():
            table = figures.torch_table(json.loads(versions.read_text()))
            fill(ROOT / "docs" / "verify.md", "torch versions", table)
        return amiss


def loads() -> dict[str, float]:
    """The load average when each subject had been measured, by its name."""
    found = {}
    for name in SUBJECTS:
        path = RESULTS / f"{name}.json"
        about = json.loads(path.read_text()).get("machine", {}) if path.exists() else {}
        if "load_average" in about:
            found[name] = about["load_average"][0]
    return found


def described() -> dict[str, Any]:
    """The machine, without what changes by the minute."""
    found = machine("textual", "isal")
    del found["load_average"]
    return found


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rows_of(name: str, path: Path) -> list[figures.Row]:
    """A subject's rows of the table.

    Raises:
        FailedError: Its results are not there, not whole, or not of the shape that is known.
    """
    try:
        return figures.ROWS[name](json.loads(path.read_text()))
    except FileNotFoundError:
        raise FailedError(f"{name}: it wrote no results") from None
    except (ValueError, LookupError, TypeError) as error:
        raise FailedError(
            f"{name}: {path.name} is not as figures.py knows it: {error!r}"
        ) from error


def run(name: str, places: dict[str, str], *, is_quick: bool) -> float:
    """Run one subject into a new folder; its seconds.

    Args:
        name: The subject.
        places: What stands for the words of its arguments.
        is_quick: Whether it is a quick run.

    Raises:
        FailedError: It ended badly or took too long, and left no whole results.
    """
    limit_s, full, quick = SUBJECTS[name]
    script = str(ROOT / "benchmarks" / f"{figures.SCRIPTS[name]}.py")
    begin = time.perf_counter()
    told = [places.get(word, word) for word in (quick if is_quick else full)]
    # A group of its own: all that it started can be ended with it.
    process = subprocess.Popen(
        [sys.executable, script, name, *told], cwd=ROOT, start_new_session=True
    )
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        stop(process)
        raise FailedError(f"{name}: it took more than {duration(limit_s)}") from None
    except KeyboardInterrupt:
        stop(process)
        raise
    # A script writes once, at its end: what it wrote is whole, even if it is not content with it.
    if code and not Path(places["OUT"]).exists():
        raise FailedError(f"{name}: it failed (exit code {code})")
    return time.perf_counter() - begin


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a subject, which has checkpoints to remove, and all that it started."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def take(folder: Path) -> None:
    """Put new results in the place of the last ones."""
    RESULTS.mkdir(exist_ok=True)
    for path in folder.iterdir():
        part = RESULTS / f"{path.name}.part"
        shutil.copyfile(path, part)
        part.replace(RESULTS / path.name)


def run_all(
    names: list[str], sheet: Sheet, *, is_quick: bool, revision: str, minutes: float
) -> list[str]:
    """Every subject in turn; what failed."""
    failed: list[str] = []
    amiss: list[str] = []
    begin = time.perf_counter()
    print(f"{len(names)} subjects" + ("" if is_quick else f", {sheet.about(names)}"), flush=True)
    with workspace("all") as data:
        for number, name in enumerate(names, 1):
            spent_s = time.perf_counter() - begin
            if spent_s > 60 * minutes:
                left = ", ".join(names[number - 1 :])
                failed.append(
                    f"{minutes:g} minutes are over; these keep their last results: {left}"
                )
                break
            about = "" if is_quick else f", {sheet.about([name])}"
            print(
                f"\n== {number} of {len(names)}, after {duration(spent_s)}: {name}{about}",
                flush=True,
            )
            try:
                with tempfile.TemporaryDirectory(prefix="hsdp-results-") as scratch:
                    places = {"OUT": str(Path(scratch, f"{name}.json")), "FOLDER": scratch}
                    places |= {"DATA": str(data), "REV": revision}
                    took_s = run(name, places, is_quick=is_quick)
                    for row in rows_of(name, Path(scratch, f"{name}.json")):
                        print(row.as_line())
                    if not is_quick:
                        take(Path(scratch))
                        sheet.elapsed_s[name] = round(took_s, 1)
                        sheet.machine = described()
                        amiss = sheet.write()
                print(f"== {name}: {duration(took_s)}", flush=True)
            except FailedError as error:
                failed.append(str(error))
                print(f"== {error}", flush=True)
            except KeyboardInterrupt:
                left = ", ".join(names[number - 1 :])
                failed.append(f"interrupted; these keep their last results: {left}")
                break
    print(f"\n== all: {duration(time.perf_counter() - begin)}", flush=True)
    return failed + amiss


def fill(page: Path, name: str, block: str) -> None:
    """Put a new block between two marks of a page."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = page.read_text().partition(start)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{page.name} has no block between {start.strip()} and {end}")
    page.write_text(head + start + block.strip() + "\n" + end + tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(SUBJECTS),
        help=f"default: all but {', '.join(BY_NAME)}; against, if there is --against",
    )
    parser.add_argument("--quick", action="store_true", help="small data; changes no table")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    parser.add_argument("--against", metavar="REV", default="", help="beside those of a commit")
    parser.add_argument("--minutes", type=float, default=26, help="begin no subject after these")
    options = parser.parse_args()
    without = (*BY_NAME, *(() if options.against else ("against",)))
    names = options.only or [name for name in SUBJECTS if name not in without]
    if "against" in names and not options.against:
        parser.error("against is measured with --against REV")
    sheet = Sheet.read()
    if options.tables:
        failed = sheet.write()
    else:
        failed = run_all(
            names,
            sheet,
            is_quick=options.quick,
            revision=options.against,
            minutes=options.minutes,
        )
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
