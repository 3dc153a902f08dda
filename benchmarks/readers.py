"""Many readers of files that are not in the page cache, beside what the disk gives.

    python benchmarks/readers.py readers [--gb 2] [--rounds 5] [--dir DIR]

In turn, each with the files evicted before (posix_fadvise):

    one      a process that reads every data file once, in 8 MiB blocks
    two      two such processes, half of the files each
    check    `check --deep`, one process
    ranks    `check --deep --nproc-per-node 2`: torchrun and two ranks
    start    the same of a checkpoint of a few bytes: what torchrun and its ranks take to begin

Times are of whole commands; of `ranks` beside `check` also without their starts (`start`, and
`check` of the few bytes). How much faster two plain readers are than one is what the disk allows.
Writes results/readers.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import (
    ROOT,
    arguments,
    dispatch,
    environ,
    evict,
    in_turn,
    machine,
    run,
    seconds,
    workspace,
    write,
)
from reading import READ, make


def readers(told: list[str]) -> None:
    """One reader and two, plain and ours."""
    options = arguments(readers.__doc__, "readers", rounds=5, gb=2.0).parse_args(told)
    with workspace("readers", options.dir, need_bytes=1.5e9 * options.gb) as root:
        result = _readers(make(root / "step-1", options.gb, 4), options.rounds)
    write(options.out, {**result, "rounds": options.rounds, "machine": machine()})
    print(json.dumps(result, indent=1))


def _readers(checkpoint: Path, rounds: int) -> dict[str, Any]:
    files = sorted(str(path) for path in checkpoint.glob("*.distcp"))
    small = str(ROOT / "sample_ckpts" / "hsdp_2x4")
    deep = [sys.executable, "-m", "inspector", "check", "--deep", "--json"]
    two = ["--nproc-per-node", "2"]

    def plain(num: int) -> float:
        evict(files)
        begin = time.perf_counter()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", READ, *files[rank::num]],
                env=environ(),
                stdout=subprocess.DEVNULL,
            )
            for rank in range(num)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit("a plain reader failed")
        return time.perf_counter() - begin

    def ours(path: str, *more: str) -> float:
        evict(files)
        return run([*deep, path, *more]).wall_s

    runs = in_turn(
        {
            "one": lambda: plain(1),
            "two": lambda: plain(2),
            "check": lambda: ours(str(checkpoint)),
            "ranks": lambda: ours(str(checkpoint), *two),
            "check_start": lambda: ours(small),
            "start": lambda: ours(small, *two),
        },
        rounds,
        warm_up=False,
    )
    found = {name: seconds(taken) for name, taken in runs.items()}
    median = {name: value["median_s"] for name, value in found.items()}
    reading = median["check"] - median["check_start"], median["ranks"] - median["start"]
    return {
        "what": "check --deep by one process and by two ranks, cold, beside plain readers",
        "bytes": sum(Path(path).stat().st_size for path in files),
        "runs": found,
        "two_plain_to_one": round(median["one"] / median["two"], 2),
        "ranks_to_one": round(median["check"] / median["ranks"], 2),
        "ranks_to_one_without_start": round(reading[0] / max(reading[1], 1e-3), 2),
        "check_to_plain": round(median["one"] / median["check"], 2),
        "target": 1.6,
    }


if __name__ == "__main__":
    dispatch(__doc__, {"readers": readers})
