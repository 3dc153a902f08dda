"""How the benchmarks measure a process, and what they say of the machine; Linux only.

A process runs as an installed package would: with compiled modules (kept in a folder of this run's
own), with as many threads as its libraries like, from the root of the project.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "RESULTS",
    "ROOT",
    "PeakMemory",
    "Ran",
    "arguments",
    "dispatch",
    "environ",
    "evict",
    "in_turn",
    "machine",
    "run",
    "run_code",
    "seconds",
    "spread",
    "workspace",
    "write",
]

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: Between two looks at the memory of a tree of processes.
_LOOK_S = 0.01


@dataclass(frozen=True)
class Ran:
    """One run of a process.

    Attributes:
        wall_s: From its start to its end, with the start of Python and imports.
        answer_s: From its start to the line that was waited for, or to its end.
        cpu_s: User and system time, its children's with it; of a process stopped at its answer,
            until then.
        peak_bytes: Largest memory of its whole tree of processes, as `PeakMemory` has it.
        own_peak_bytes: Largest memory of the process itself.
        out: What it printed.
    """

    wall_s: float
    answer_s: float
    cpu_s: float
    peak_bytes: int
    own_peak_bytes: int
    out: str

    @property
    def answer(self) -> Any:
        """The last line that it printed, as JSON."""
        return json.loads(self.out.splitlines()[-1])


class PeakMemory(threading.Thread):
    """Watches the memory of a process and of all its descendants.

    Not by getrusage: the peak of a child begins there with that of the process that started it.

    Attributes:
        own_bytes: Largest resident set of the process (its VmHWM).
        tree_bytes: Largest sum, at one time, of the VmHWM of the processes that lived then.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.own_bytes = self.tree_bytes = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(_LOOK_S):
            self.look()

    def stop(self) -> None:
        self._done.set()
        self.join()

    def look(self) -> None:
        found: dict[int, int] = {}
        pending = [self._pid]
        while pending:
            pid = pending.pop()
            with contextlib.suppress(OSError, ValueError):
                status = Path(f"/proc/{pid}/status").read_text()
                kilobytes = int(status.split("VmHWM:")[1].split()[0]) if "VmHWM" in status else 0
                found[pid] = kilobytes * 1024
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pending += map(int, (task / "children").read_text().split())
        self.own_bytes = max(self.own_bytes, found.get(self._pid, 0))
        self.tree_bytes = max(self.tree_bytes, sum(found.values()))


@functools.cache
def _compiled() -> str:
    folder = tempfile.mkdtemp(prefix="hsdp-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def environ(**more: str) -> dict[str, str]:
    """The environment of a measured process."""
    without = ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")
    own = {name: value for name, value in os.environ.items() if name not in without}
    return {**own, "PYTHONPYCACHEPREFIX": _compiled(), **more}


def dispatch(what: str, subjects: Mapping[str, Callable[[list[str]], object]]) -> None:
    """Run the subject that the first argument names, with the arguments after it.

    Args:
        what: The script's docstring.
        subjects: By name.
    """
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    if chosen not in subjects:
        raise SystemExit(what if chosen in ("-h", "--help") else f"one of: {', '.join(subjects)}")
    raise SystemExit(subjects[chosen](sys.argv[2:]))


def run(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    until: str = "",
    to_end: bool = True,
    cwd: Path = ROOT,
) -> Ran:
    """Run a command.

    Args:
        command: The command and its arguments.
        env: Its environment; `environ()` if none is given.
        until: What the line of its answer begins with.
        to_end: Whether it is run to its end, or stopped at its answer.
        cwd: The tree it is of.

    Raises:
        SystemExit: It failed, or gave no answer.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=dict(env or environ()),
            cwd=cwd,
        )
        memory = PeakMemory(process.pid)
        memory.start()
        assert process.stdout is not None
        lines, answer_s = [], None
        try:
            for line in process.stdout:
                lines.append(line)
                if until and answer_s is None and line.split()[:1] == [until]:
                    answer_s = time.perf_counter() - started
                    memory.look()
                    if not to_end:
                        break
            if not to_end:
                process.kill()
            process.stdout.close()
            # Popen.wait would take the operating system's figures with it.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C
            process.kill()
            process.wait()
            raise
        finally:
            memory.stop()
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if (until and answer_s is None) or (to_end and process.returncode):
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"{' '.join(command)[-300:]}: failed: {said}")
    return Ran(
        wall_s,
        wall_s if answer_s is None else answer_s,
        usage.ru_utime + usage.ru_stime,
        memory.tree_bytes,
        memory.own_bytes,
        "".join(lines),
    )


def run_code(code: str, told: Sequence[str], env: Mapping[str, str] | None = None) -> Ran:
    """Run Python code with arguments in a fresh process."""
    return run([sys.executable, "-c", code, *told], env)


def in_turn(
    jobs: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    warm_up: bool | str = True,
    fewer: Mapping[str, int] | None = None,
) -> dict[str, list[T]]:
    """Do every job in turn, `rounds` times: what slows the machine for a while slows all.

    Args:
        jobs: What to do, by name.
        rounds: How often.
        warm_up: Whether one round goes before, which fills the page cache and is not counted; or
            the name of the one job that does so for all of them.
        fewer: Jobs that take long and vary little, and in how many of the rounds each is done;
            they have no round before.
    """
    fewer = fewer or {}
    found: dict[str, list[T]] = {name: [] for name in jobs}
    for name, job in jobs.items():
        if (warm_up is True and name not in fewer) or warm_up == name:
            job()
    for turn in range(rounds):
        for name, job in jobs.items():
            if turn < fewer.get(name, rounds):
                found[name].append(job())
    return found


def evict(files: Iterable[str | Path]) -> None:
    """Drop files from the page cache, where the system lets one."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def spread(values: Iterable[float], digits: int = 3) -> dict[str, Any]:
    """Median, and the least and the most."""
    values = list(values)
    return {
        "median": round(statistics.median(values), digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
    }


def seconds(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """Median, least and most of some times."""
    found = spread(values, digits)
    least_s, most_s = found["spread"]
    return {"median_s": found["median"], "least_s": least_s, "most_s": most_s}


def machine(*packages: str) -> dict[str, Any]:
    """What the figures are measured on.

    Args:
        packages: Whose versions matter, beside torch's and numpy's.
    """
    with open("/proc/meminfo") as file:
        memory_bytes = int(file.readline().split()[1]) * 1024
    return {
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes,
        "load_average": [round(number, 1) for number in os.getloadavg()],
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", *packages)},
    }


def arguments(
    what: str, name: str, *, rounds: int, gb: float | None = None
) -> argparse.ArgumentParser:
    """What every benchmark may be told.

    Args:
        what: Its docstring.
        name: Its results' file.
        rounds: How often each thing is done, if nothing else is said.
        gb: Size of the checkpoint, if nothing else is said; None: it has no such size.
    """
    parser = argparse.ArgumentParser(description=what.splitlines()[0])
    if gb is not None:
        parser.add_argument("--gb", type=float, default=gb)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--dir", help="where to make checkpoints (default: the temporary folder)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


@contextlib.contextmanager
def workspace(name: str, within: str | None = None, *, need_bytes: float = 0) -> Iterator[Path]:
    """A new folder, which is gone afterwards.

    Args:
        name: What its own name begins with.
        within: Where to make it; None: where temporary folders are.
        need_bytes: What must fit into it.

    Raises:
        SystemExit: There is less room than that.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"hsdp-{name}-", dir=within))
    try:
        free = shutil.disk_usage(folder).free
        if free < need_bytes:
            raise SystemExit(
                f"{need_bytes / 1e9:.1f} GB are needed in {folder}; {free / 1e9:.1f} are free"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write results whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
