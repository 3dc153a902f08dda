"""Every figure that docs/figures.md promises, measured in one run, and the tables made of it.

    python benchmarks/all.py                 run all that measures speed (half an hour, two cores)
    python benchmarks/all.py --only open stats
    python benchmarks/all.py --quick         small data, few rounds: does it run at all?
    python benchmarks/all.py --tables        run nothing, write the tables anew from results/
    python benchmarks/all.py --against REV   the commands of this tree beside those of a commit

What plants faults (faults, server_faults, fuzz) tells no speed, takes hours and runs by its name.
Each subject of a script of this folder measures one thing beside its rival; they run one after
another, so that none disturbs another. What one has measured is taken into results/NAME.json when
it is whole, and with it results/summary.json, results/README.md (machine, versions, spread), the
figures and the tables of faults, of a server's faults and of torch's versions in docs/ are written
anew: a subject that fails, or that is interrupted, leaves its last results as they were, and the
others' too. A quick run writes into a temporary folder and changes no table. Exit code 1: a subject
failed.

What torch_versions.py found, which needs an interpreter for each torch, is no subject: it is run by
itself, and its table is made with the others.

--against makes a worktree of REV, and runs each command in both trees in turn, on samples and on
larger checkpoints, at least five times: medians of wall time, of the CPU time of the process and
its children, and of their peak memory, and the median of the ratios round by round. The cache of
parsed metadata is off. Then come the first frame and the keys of the screen, with --beside of
their scripts. It changes no table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import figures
import reading
from measuring import RESULTS, ROOT, environ, in_turn, machine, workspace, write
from measuring import run as run_process

#: Arguments, and those of a quick run. `OUT` is the results file, `FOLDER` its folder.
SUBJECTS: dict[str, tuple[list[str], list[str]]] = {
    "first_frame": (["--out", "OUT"], ["--rounds", "2", "--out", "OUT"]),
    "open": (["--out", "OUT"], ["--rounds", "1", "--shape", "50x16", "--out", "OUT"]),
    "growth": (["--out", "OUT"], ["--rounds", "1", "--shape", "10x64", "--out", "OUT"]),
    "run_folder": (["--out", "OUT"], ["--rounds", "1", "--steps", "5", "--out", "OUT"]),
    "screen": (["--out", "OUT"], ["--rounds", "1", "--shape", "2000x8", "--out", "OUT"]),
    "deep_check": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "load_plan": (
        ["--out", "OUT"],
        ["--tensors", "50", "--chunks", "16", "--ranks", "8", "--rounds", "1", "--out", "OUT"],
    ),
    "stats": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "diff": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "export": (["--out", "OUT"], ["--gb", "0.07", "--rounds", "1", "--out", "OUT"]),
    "remote": (["--out", "OUT"], ["--gb", "0.15", "--rounds", "1", "--out", "OUT"]),
    "verify_load": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "event_flood": (["--out", "OUT"], ["--seconds", "2", "--out", "OUT"]),
    "faults": (["--out", "FOLDER"], ["--out", "FOLDER", "--only", "bit"]),
    "server_faults": (["--out", "FOLDER"], ["--out", "FOLDER", "--only", "s3 etag"]),
    "fuzz": (["--out", "OUT"], ["--count", "50", "--out", "OUT"]),
}

#: They count what is found; how fast that is depends on nothing they tell.
BY_NAME = ("faults", "server_faults", "fuzz")


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
                    amiss.append(str(error))
        document = {
            "machine": self.machine,
            "elapsed_s": {
                name: self.elapsed_s[name] for name in SUBJECTS if name in self.elapsed_s
            },
            "figures": [row.as_json() for row in rows],
        }
        if amiss:
            return amiss  # Tables without some rows would look whole.
        write(RESULTS / "summary.json", document)
        (RESULTS / "README.md").write_text(figures.page(rows, self.machine))
        fill(ROOT / "docs" / "figures.md", "figures", figures.table(rows))
        growth = RESULTS / "growth.json"
        if growth.exists():
            found = json.loads(growth.read_text())
            fill(ROOT / "docs" / "figures.md", "growth", figures.growth_table(found))
            (ROOT / "docs" / "growth.svg").write_text(figures.growth_plot(found))
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
        return []


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


def run(name: str, told: list[str], folder: Path) -> float:
    """Run one subject into a new folder; its seconds.

    Raises:
        FailedError: It ended badly, and left no whole results.
    """
    out = folder / f"{name}.json"
    places = {"OUT": str(out), "FOLDER": str(folder)}
    script = str(ROOT / "benchmarks" / f"{figures.SCRIPTS[name]}.py")
    begin = time.perf_counter()
    command = [sys.executable, script, name, *(places.get(word, word) for word in told)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # It was interrupted too, and has checkpoints to remove.
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    # A script writes once, at its end: what it wrote is whole, even if it is not content with it.
    if code and not out.exists():
        raise FailedError(f"{name}: it failed (exit code {code})")
    return time.perf_counter() - begin


def take(folder: Path) -> None:
    """Put new results in the place of the last ones."""
    RESULTS.mkdir(exist_ok=True)
    for path in folder.iterdir():
        part = RESULTS / f"{path.name}.part"
        shutil.copyfile(path, part)
        part.replace(RESULTS / path.name)


def run_all(names: list[str], sheet: Sheet, *, is_quick: bool) -> list[str]:
    """Every subject in turn; what failed."""
    failed = []
    begin = time.perf_counter()
    print(f"{len(names)} subjects" + ("" if is_quick else f", {sheet.about(names)}"), flush=True)
    for number, name in enumerate(names, 1):
        about = "" if is_quick else f", {sheet.about([name])}"
        print(f"\n== {number} of {len(names)}: {name}{about}", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="hsdp-results-") as scratch:
                took_s = run(name, SUBJECTS[name][is_quick], Path(scratch))
                for row in rows_of(name, Path(scratch, f"{name}.json")):
                    print(row.as_line())
                if not is_quick:
                    take(Path(scratch))
                    sheet.elapsed_s[name] = round(took_s, 1)
                    sheet.machine = described()
                    failed += sheet.write()
            print(f"== {name}: {duration(took_s)}", flush=True)
        except FailedError as error:
            failed.append(str(error))
            print(f"== {error}", flush=True)
        except KeyboardInterrupt:
            left = ", ".join(names[number - 1 :])
            return [*failed, f"interrupted; these keep their last results: {left}"]
    print(f"\n== all: {duration(time.perf_counter() - begin)}", flush=True)
    return failed


#: Commands that both trees are asked, on each of the checkpoints.
COMMANDS = {
    "show": ["show", "PATH"],
    "show --json": ["show", "PATH", "--json"],
    "check": ["check", "PATH"],
    "check --deep": ["check", "PATH", "--deep"],
    "plan": ["plan", "PATH", "--mesh", "hsdp:2x4"],
    "stats": ["stats", "PATH"],
    "diff --values": ["diff", "PATH", "PATH", "--values", "--no-tui"],
}


def against(revision: str, rounds: int, *, is_quick: bool) -> None:
    """The commands of this tree beside those of a commit: a table of medians and ratios."""
    samples = ROOT / "sample_ckpts"
    paths = {name: samples / name for name in ("hsdp_2x4", "fsdp2_hsdp_2x4_adamw")}
    with workspace("against") as root:
        old = root / "old"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", str(old), revision], check=True)
        try:
            if not is_quick:
                paths["1 GB"] = reading.make(root / "1gb", 1.0, 4)
                paths["1000x1024"] = root / "1000x1024"
                maker = str(ROOT / "tests" / "helpers" / "make_metadata.py")
                subprocess.run(
                    [sys.executable, maker, "1000x1024", str(paths["1000x1024"])],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            for where, path in paths.items():
                for name, words in COMMANDS.items():
                    # What was made of metadata alone has no bytes to read.
                    if where != "1000x1024" or name in ("show", "check", "plan"):
                        told = [str(path) if word == "PATH" else word for word in words]
                        print(_beside(f"{name}, {where}", told, old, rounds), flush=True)
            screens = {"open.py": ["first_frame"], "screen.py": ["screen"]}
            if is_quick:
                screens["screen.py"] += ["--shape", "2000x8"]
            for script, told in screens.items():
                command = [sys.executable, str(ROOT / "benchmarks" / script), *told]
                command += ["--rounds", str(rounds), "--beside", str(old)]
                subprocess.run(command, check=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)


def _beside(what: str, told: list[str], old: Path, rounds: int) -> str:
    """One command in both trees, in turn."""
    command = [sys.executable, "-m", "inspector", *told]
    env = environ(HSDP_INSPECT_NO_CACHE="1")
    trees = {"old": old, "new": ROOT}
    runs = in_turn(
        {name: partial(run_process, command, env, cwd=tree) for name, tree in trees.items()}, rounds
    )
    parts = []
    for label, unit, value in (
        ("wall", "s", lambda ran: ran.wall_s),
        ("CPU", "s", lambda ran: ran.cpu_s),
        ("peak", "MB", lambda ran: ran.peak_bytes / 1e6),
    ):
        before, now = ([value(ran) for ran in runs[name]] for name in ("old", "new"))
        ratio = statistics.median(b / a for a, b in zip(before, now, strict=True))
        a, b = statistics.median(before), statistics.median(now)
        parts.append(f"{label} {b:.3g} against {a:.3g} {unit} ({ratio:.2f}x)")
    return f"{what:<36}{'; '.join(parts)}"


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
        default=[name for name in SUBJECTS if name not in BY_NAME],
        help=f"default: all but {', '.join(BY_NAME)}",
    )
    parser.add_argument("--quick", action="store_true", help="small data; changes no table")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    parser.add_argument("--against", metavar="REV", help="beside the commands of a commit")
    parser.add_argument("--rounds", type=int, default=7, help="of --against (at least 5)")
    options = parser.parse_args()
    if options.against:
        against(options.against, max(options.rounds, 5), is_quick=options.quick)
        return
    sheet = Sheet.read()
    if options.tables:
        failed = sheet.write()
    else:
        failed = run_all(options.only, sheet, is_quick=options.quick)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
