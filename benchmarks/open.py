"""Opening a checkpoint of a million chunks: `hsdp-inspect show` beside torch's `read_metadata()`.

    python benchmarks/open.py open [--rounds 5] [--shape 1000x1024]... [--dir DIR]
    python benchmarks/open.py first_frame [--rounds 15] [--beside TREE ...]
    python benchmarks/open.py run_folder [--rounds 5] [--steps 200]

Checkpoints of three shapes are made by `tests/helpers/make_metadata.py`. For each of them, in turn:

    torch   a process that imports torch and calls `FileSystemReader(path).read_metadata()`
    first   `hsdp-inspect show path`, with an empty cache
    second  the same again, with the cache that the first left

Seconds from the start of the process: `answer_s` until the answer is there (torch's metadata is
read; the last line of our summary is printed), `process_s` until torch's process has ended. Ours is
stopped after its summary: the table of every tensor that follows is not opening. `peak_mb` is the
largest sum, at one time, of the peaks of the tree's processes, `front_mb` the front end's alone.
Ratios are of `process_s`, and of `answer_s`. Medians with [least, most]. Writes results/open.json.

`first_frame`: hsdp-inspect on a sample beside an empty Textual app, in a pseudo-terminal of
160 x 50; the clock runs from the start of the process until its first text of content has been
written: a tensor's name for hsdp-inspect, the one label of the empty app. The two alternate. With
--beside, that of other trees (commits, unpacked) takes its turn too, and no results are written.

`run_folder`: CPU seconds (user and system, of the tree of processes) of `check` of a run of 200
steps of four parts, each a small sample; of `show` and `check` of one part; of Python alone; and
CPU milliseconds in which a header of 100,000 names is decoded. All in turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

from measuring import (
    ROOT,
    arguments,
    dispatch,
    environ,
    in_turn,
    machine,
    run,
    run_code,
    spread,
    workspace,
    write,
)

SHAPES = ("1000x1024", "100000x8", "3300x1024")

TORCH = """
import sys
from torch.distributed.checkpoint import FileSystemReader
metadata = FileSystemReader(sys.argv[1]).read_metadata()
print("files", len(metadata.state_dict_metadata), flush=True)
"""


def once(command: list[str], env: dict[str, str], *, to_end: bool) -> dict[str, float]:
    """Seconds and memory of a command until it printed a line that begins with `files`."""
    ran = run(command, env, until="files", to_end=to_end)
    return {
        "answer_s": ran.answer_s,
        "process_s": ran.wall_s if to_end else ran.answer_s,
        "peak_mb": ran.peak_bytes / 1e6,
        "front_mb": ran.own_peak_bytes / 1e6,
    }


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All three on one checkpoint, in turn, after a round that fills the page cache."""
    with workspace("open-cache") as cache:
        env = environ(XDG_CACHE_HOME=str(cache), HSDP_INSPECT_NO_CACHE="")
        ours = [sys.executable, "-m", "inspector", "show", str(folder)]
        theirs = [sys.executable, "-c", TORCH, str(folder)]

        def first() -> dict[str, float]:
            shutil.rmtree(cache / "hsdp-inspect", ignore_errors=True)
            return once(ours, env, to_end=False)

        runs = in_turn(
            {
                "torch": partial(once, theirs, env, to_end=True),
                "first": first,
                "second": partial(once, ours, env, to_end=False),
            },
            max(rounds, 1),
            warm_up=rounds > 0,
        )
    found: dict[str, Any] = {
        name: {
            key: spread((each[key] for each in outcomes), 3 if key.endswith("_s") else 1)
            for key in outcomes[0]
        }
        for name, outcomes in runs.items()
    }
    for name in ("first", "second"):
        for key in ("process_s", "answer_s", "peak_mb"):
            ratio = found[name][key]["median"] / found["torch"][key]["median"]
            found[name][f"{key}_ratio"] = round(ratio, 4)
    return found


def opening(told: list[str]) -> None:
    """Opening large metadata, beside torch."""
    parser = arguments(opening.__doc__, "open", rounds=5)
    parser.add_argument("--shape", action="append", help=f"default: {', '.join(SHAPES)}")
    options = parser.parse_args(told)
    results: dict[str, Any] = {}
    # Made ones are looked for in a folder that was named, and stay there.
    kept = contextlib.nullcontext(Path(options.dir or "."))
    with kept if options.dir else workspace("open", need_bytes=1e9) as root:
        for shape in options.shape or SHAPES:
            folder = root / shape
            if not (folder / ".metadata").exists():
                script = str(ROOT / "tests" / "helpers" / "make_metadata.py")
                subprocess.run(
                    [sys.executable, script, shape, str(folder)], check=True, stdout=sys.stderr
                )
            size = (folder / ".metadata").stat().st_size
            results[shape] = {"metadata_bytes": size, **measure(folder, options.rounds)}
            print_row(shape, results[shape])
    result = {
        "what": "opening large metadata: hsdp-inspect show (until its summary) beside torch",
        "rounds": options.rounds,
        "target": {"first": 1 / 5, "second": 1 / 30, "peak_mb_ratio": 1.0, "front_mb": 300},
        "shapes": results,
        "machine": machine(),
    }
    write(options.out, result)


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


# first_frame

SAMPLE = ROOT / "sample_ckpts" / "hsdp_2x4"

EMPTY_APP = """
from textual.app import App
from textual.widgets import Static
class Empty(App):
    def compose(self):
        yield Static("first-content")
Empty().run()
"""

CASES = {
    "empty Textual app": ([sys.executable, "-c", EMPTY_APP], b"first-content"),
    "hsdp-inspect": ([sys.executable, "-m", "inspector", str(SAMPLE)], b"net3.bias"),
}


def first_content_s(
    command: list[str], content: bytes, timeout_s: float = 30.0, tree: Path = ROOT
) -> float:
    """Seconds from the start of `command` until `content` was written to its terminal."""
    started = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", XDG_CONFIG_HOME=os.devnull)
        # Installed packages have their bytecode; without this ours would be compiled each time.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.chdir(tree)
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    written = b""
    try:
        while content not in written:
            left = started + timeout_s - time.perf_counter()
            if left <= 0 or not select.select([terminal], [], [], left)[0]:
                raise TimeoutError(f"{command[:3]} wrote no content in {timeout_s} s")
            written += os.read(terminal, 1 << 16)
        return time.perf_counter() - started
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def first_frame(told: list[str]) -> None:
    """The screen's first content, beside an empty Textual app."""
    parser = arguments(first_frame.__doc__, "first_frame", rounds=15)
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="TREE")
    options = parser.parse_args(told)
    jobs = {n: partial(first_content_s, *case) for n, case in CASES.items()}
    for tree in options.beside:
        ours = partial(first_content_s, *CASES["hsdp-inspect"])
        jobs[f"hsdp-inspect of {tree.name}"] = partial(ours, tree=tree.resolve())
    runs = in_turn(jobs, options.rounds)
    found = {name: spread(taken) for name, taken in runs.items()}
    medians = {name: row["median"] for name, row in found.items()}
    result = {
        "what": "seconds from process start to first content on a 160x50 terminal, medians",
        "rounds": options.rounds,
        **medians,
        "spread": {name: row["spread"] for name, row in found.items()},
        "ratio": round(medians["hsdp-inspect"] / medians["empty Textual app"], 2),
        "machine": machine("textual"),
    }
    if not options.beside:
        write(options.out, result)
    print(json.dumps(result, indent=1))


# -- run_folder --------------------------------------------------------------------------------

PARTS = ("model", "optimizer", "scheduler", "loader")

HEADER = """
import json, time
from inspector.checkpoint.child.wire import decode, encode
names = [f"model.layers.{i // 10}.block.part{i % 10}.weight" for i in range(100_000)]
header = {"tensors": names, "state_paths": {n: ("model", n[6:]) for n in names}}
data = b"".join(bytes(piece) for piece in encode(header, {}))
started = time.process_time()
decode(data)
print(json.dumps(1e3 * (time.process_time() - started)))
"""


def run_folder(told: list[str]) -> None:
    """CPU time of checking a run of many small checkpoints, and of one."""
    parser = arguments(run_folder.__doc__, "run_folder", rounds=5)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(told)
    with workspace("run", options.dir) as root:
        for step in range(1, options.steps + 1):
            for part in PARTS:
                folder = root / f"step-{step}" / part
                shutil.copytree(ROOT / "sample_ckpts" / "hsdp_2x4", folder)
        program = [sys.executable, "-m", "inspector"]
        one = str(root / "step-1" / PARTS[0])
        commands = {
            "run": [*program, "check", str(root)],
            "check": [*program, "check", one],
            "show": [*program, "show", one],
            "python": [sys.executable, "-c", "pass"],
        }
        runs: dict[str, list[float]] = in_turn(
            {
                **{n: partial(lambda c: run(c).cpu_s, c) for n, c in commands.items()},
                "header_ms": lambda: float(run_code(HEADER, []).answer),
            },
            options.rounds,
        )
    found = {name: spread(taken) for name, taken in runs.items()}
    num_parts = options.steps * len(PARTS)
    alone = found["check"]["median"]
    result = {
        "what": "CPU seconds of check RUN, of check and show of one part, and of Python alone",
        "rounds": options.rounds,
        "steps": options.steps,
        "parts": num_parts,
        "ms_a_part": round(1e3 * (found["run"]["median"] - alone) / (num_parts - 1), 2),
        "target": {"ms_a_part": 25, "show_s": 0.2},
        "cpu": found,
        "machine": machine(),
    }
    write(options.out, result)
    print(json.dumps(result, indent=1))


SUBJECTS = {"open": opening, "first_frame": first_frame, "run_folder": run_folder}

if __name__ == "__main__":
    dispatch(__doc__, SUBJECTS)
