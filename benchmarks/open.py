"""Opening a checkpoint of a million chunks: `hsdp-inspect show` beside torch's `read_metadata()`.

    python benchmarks/open.py [--rounds 5] [--shape 1000x1024]... [--dir DIR]

Checkpoints of three shapes are made by `make_metadata.py`. For each of them, in turn:

    torch   a process that imports torch and calls `FileSystemReader(path).read_metadata()`
    first   `hsdp-inspect show path`, with an empty cache
    second  the same again, with the cache that the first left

Seconds from the start of the process: `answer_s` until the answer is there (torch's metadata is
read; the last line of our summary is printed), `process_s` until torch's process has ended. Ours is
stopped after its summary: the table of every tensor that follows is not opening. `peak_mb` is the
sum of the peaks of all processes of the tree, `front_mb` the front end's alone. Ratios are of
`process_s`, and of `answer_s`. Medians with [least, most]. Writes results/open.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHAPES = ("1000x1024", "100000x8", "3300x1024")

TORCH = """
import sys
from torch.distributed.checkpoint import FileSystemReader
metadata = FileSystemReader(sys.argv[1]).read_metadata()
print("files", len(metadata.state_dict_metadata), flush=True)
"""


class PeakMemory(threading.Thread):
    """Watches the peaks (VmHWM) of a process and of all its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peaks: dict[int, int] = {}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.look()

    def look(self) -> None:
        pending = [self.pid]
        while pending:
            pid = pending.pop()
            with contextlib.suppress(OSError, ValueError):
                status = Path(f"/proc/{pid}/status").read_text()
                kilobytes = int(status.split("VmHWM:")[1].split()[0]) if "VmHWM" in status else 0
                self.peaks[pid] = max(kilobytes * 1024, self.peaks.get(pid, 0))
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pending += map(int, (task / "children").read_text().split())


def run(command: list[str], environ: dict[str, str], *, to_end: bool) -> dict[str, float]:
    """Run a command until it printed a line that begins with `files`, or to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        cwd=HERE.parent,
    )
    memory = PeakMemory(process.pid)
    memory.start()
    assert process.stdout is not None
    answer_s = None
    for line in process.stdout:
        if line.split()[:1] == ["files"]:
            answer_s = time.perf_counter() - started
            break
    memory.look()
    if not to_end:
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    process_s = time.perf_counter() - started
    memory.done.set()
    memory.join()
    if answer_s is None:
        raise SystemExit(f"{command} printed no answer: {errors}")
    return {
        "answer_s": answer_s,
        "process_s": process_s if to_end else answer_s,
        "peak_mb": sum(memory.peaks.values()) / 1e6,
        "front_mb": memory.peaks[process.pid] / 1e6,
    }


def spread(values: list[float], digits: int) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
    }


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All three on one checkpoint, in turn, after a round that fills the page cache."""
    runs: dict[str, list[dict[str, float]]] = {"torch": [], "first": [], "second": []}
    with tempfile.TemporaryDirectory(prefix="hsdp-open-cache-") as cache:
        # Compiled modules, as an installed package has them.
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environ |= {"XDG_CACHE_HOME": cache, "HSDP_INSPECT_NO_CACHE": ""}
        ours = [sys.executable, "-m", "inspector", "show", str(folder)]
        for turn in range(rounds + 1):
            shutil.rmtree(Path(cache, "hsdp-inspect"), ignore_errors=True)
            outcomes = {
                "torch": run([sys.executable, "-c", TORCH, str(folder)], environ, to_end=True),
                "first": run(ours, environ, to_end=False),
                "second": run(ours, environ, to_end=False),
            }
            for name, outcome in outcomes.items():
                if turn or not rounds:
                    runs[name].append(outcome)
    found: dict[str, Any] = {}
    for name, outcomes in runs.items():
        found[name] = {
            key: spread([outcome[key] for outcome in outcomes], 3 if key.endswith("_s") else 1)
            for key in outcomes[0]
        }
    for name in ("first", "second"):
        for key in ("process_s", "answer_s", "peak_mb"):
            ratio = found[name][key]["median"] / found["torch"][key]["median"]
            found[name][f"{key}_ratio"] = round(ratio, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", action="append", help=f"default: {', '.join(SHAPES)}")
    parser.add_argument("--dir", help="where to make the checkpoints, and to look for made ones")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "open.json")
    options = parser.parse_args()
    root = Path(options.dir or tempfile.mkdtemp(prefix="hsdp-open-"))
    results: dict[str, Any] = {}
    try:
        for shape in options.shape or SHAPES:
            folder = root / shape
            if not (folder / ".metadata").exists():
                make = [sys.executable, str(HERE / "make_metadata.py"), shape, str(folder)]
                subprocess.run(make, check=True, stdout=sys.stderr)
            size = (folder / ".metadata").stat().st_size
            results[shape] = {"metadata_bytes": size, **measure(folder, options.rounds)}
            print_row(shape, results[shape])
    finally:
        if options.dir is None:
            shutil.rmtree(root)
    versions = "import torch, numpy; print(torch.__version__, numpy.__version__)"
    torch_version, numpy_version = subprocess.run(
        [sys.executable, "-c", versions], capture_output=True, text=True, check=True
    ).stdout.split()
    result = {
        "what": "opening large metadata: hsdp-inspect show (until its summary) beside torch",
        "rounds": options.rounds,
        "target": {"first": 1 / 5, "second": 1 / 30, "peak_mb_ratio": 1.0, "front_mb": 300},
        "shapes": results,
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "torch": torch_version,
            "numpy": numpy_version,
        },
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def print_row(shape: str, found: dict[str, Any]) -> None:
    print(f"{shape}, .metadata of {found['metadata_bytes'] / 1e6:.0f} MB")
    for name in ("torch", "first", "second"):
        row = found[name]
        line = f"  {name:7}{row['process_s']['median']:8.2f} s {row['process_s']['spread']}"
        line += (
            f"  peak {row['peak_mb']['median']:8.0f} MB, front end {row['front_mb']['median']:6.0f}"
        )
        if name != "torch":
            line += f"  1/{1 / row['process_s_ratio']:.1f} of torch"
        print(line, flush=True)


if __name__ == "__main__":
    main()
