"""Opening a checkpoint of a million chunks: `hsdp-inspect show` beside torch's `read_metadata()`.

    python benchmarks/open.py open [--rounds 5] [--torch-rounds 2] [--shape 1000x1024]...
    python benchmarks/open.py first_frame [--rounds 15] [--beside TREE ...]
    python benchmarks/open.py growth [--rounds 5] [--torch-rounds 1] [--torch-gb 12]
    python benchmarks/open.py run_folder [--rounds 5] [--steps 200]

Checkpoints of three shapes are made by `tests/helpers/make_metadata.py`. For each of them, in turn:

    torch    a process that imports torch and calls `FileSystemReader(path).read_metadata()`
    uncached `hsdp-inspect show path`, with the cache turned off
    first    the same with an empty cache, which it fills: the file is hashed for that
    second   the same again, with the cache that the first left

Seconds from the start of the process: `answer_s` until the answer is there (torch's metadata is
read; the last line of our summary is printed), `process_s` until torch's process has ended. Ours is
stopped after its summary: the table of every tensor that follows is not opening. `cpu_s` is user
and system time of all its processes until then. `peak_mb` is the largest sum, at one time, of the
peaks of the tree's processes, `front_mb` the front end's alone. Ratios are of medians. torch takes
twenty seconds, and those vary by a tenth: it runs in the first `--torch-rounds` alone. Medians with
[least, most]. Writes results/open.json.

`growth`: five sizes, from ten thousand to ten million chunks of tensors that are cut over 1,024
ranks: our first opening, with the cache turned off, and torch's, as long as that takes no more
memory than it is allowed; what would is not measured, and said so. Wall time and CPU time until the
summary (torch: of the whole process), peak memory of the tree of processes, and of our front end.

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
    Ran,
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

SHAPES = ("1000x1024", "100000x8")

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
        "cpu_s": ran.cpu_s,
        "answer_s": ran.answer_s,
        "process_s": ran.wall_s if to_end else ran.answer_s,
        "peak_mb": ran.peak_bytes / 1e6,
        "front_mb": ran.own_peak_bytes / 1e6,
    }


def measure(folder: Path, rounds: int, torch_rounds: int) -> dict[str, Any]:
    """All four on one checkpoint, in turn, once ours has filled the page cache."""
    compile_torch()
    with workspace("open-cache") as cache:
        env = environ(XDG_CACHE_HOME=str(cache), HSDP_INSPECT_NO_CACHE="")
        ours = [sys.executable, "-m", "inspector", "show", str(folder)]
        theirs = [sys.executable, "-c", TORCH, str(folder)]

        def first() -> dict[str, float]:
            shutil.rmtree(cache / "hsdp-inspect", ignore_errors=True)
            return once(ours, env, to_end=False)

        uncached = {**env, "HSDP_INSPECT_NO_CACHE": "1"}
        runs = in_turn(
            {
                "torch": partial(once, theirs, env, to_end=True),
                "uncached": partial(once, ours, uncached, to_end=False),
                "first": first,
                "second": partial(once, ours, env, to_end=False),
            },
            max(rounds, 1),
            warm_up="first" if rounds else False,
            fewer={"torch": torch_rounds},
        )
    found: dict[str, Any] = {
        name: {
            key: spread((each[key] for each in outcomes), 3 if key.endswith("_s") else 1)
            for key in outcomes[0]
        }
        for name, outcomes in runs.items()
    }
    for name in ("uncached", "first", "second"):
        for key in ("cpu_s", "process_s", "answer_s", "peak_mb"):
            ratio = found[name][key]["median"] / found["torch"][key]["median"]
            found[name][f"{key}_ratio"] = round(ratio, 4)
    return found


def made(root: Path, shape: str) -> Path:
    """A checkpoint of a shape, made unless it is there."""
    folder = root / shape
    if not (folder / ".metadata").exists():
        script = str(ROOT / "tests" / "helpers" / "make_metadata.py")
        subprocess.run([sys.executable, script, shape, str(folder)], check=True, stdout=sys.stderr)
    return folder


def opening(told: list[str]) -> None:
    """Opening large metadata, beside torch."""
    parser = arguments(opening.__doc__, "open", rounds=5)
    parser.add_argument("--shape", action="append", help=f"default: {', '.join(SHAPES)}")
    parser.add_argument("--torch-rounds", type=int, default=2, help="of those, torch runs in")
    options = parser.parse_args(told)
    results: dict[str, Any] = {}
    # Made ones are looked for in a folder that was named, and stay there.
    kept = contextlib.nullcontext(Path(options.dir or "."))
    with kept if options.dir else workspace("open", need_bytes=1e9) as root:
        for shape in options.shape or SHAPES:
            folder = made(root, shape)
            size = (folder / ".metadata").stat().st_size
            results[shape] = {
                "metadata_bytes": size,
                **measure(folder, options.rounds, options.torch_rounds),
            }
            print_row(shape, results[shape])
    result = {
        "what": "opening large metadata: hsdp-inspect show (until its summary) beside torch",
        "rounds": options.rounds,
        "torch_rounds": options.torch_rounds,
        "target": {"cpu": 1 / 16, "wall": 1 / 18, "second_wall": 1 / 30}
        | {"peak_mb_ratio": 0.15, "front_mb": 300},
        "shapes": results,
        "machine": machine(),
    }
    write(options.out, result)


def compile_torch() -> None:
    """What torch imports is compiled once, and not in a run that counts."""
    run([sys.executable, "-c", "import torch.distributed.checkpoint"], environ())


def print_row(shape: str, found: dict[str, Any]) -> None:
    print(f"{shape}, .metadata of {found['metadata_bytes'] / 1e6:.0f} MB")
    for name in ("torch", "uncached", "first", "second"):
        row = found[name]
        line = f"  {name:9}{row['process_s']['median']:8.2f} s {row['process_s']['spread']}"
        line += (
            f"  peak {row['peak_mb']['median']:8.0f} MB, front end {row['front_mb']['median']:6.0f}"
        )
        if name != "torch":
            cpu, wall = (1 / row[f"{key}_ratio"] for key in ("cpu_s", "process_s"))
            line += f"  1/{wall:.1f} of torch, CPU 1/{cpu:.1f}"
        print(line, flush=True)


# growth

GROWTH = ("10x1024", "100x1024", "1000x1024", "3300x1024", "9766x1024")

BOUNDED = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]),) * 2)
"""


def growth(told: list[str]) -> None:
    """Opening metadata of growing size, beside torch."""
    parser = arguments(growth.__doc__, "growth", rounds=5)
    parser.add_argument("--shape", action="append", help=f"default: {', '.join(GROWTH)}")
    parser.add_argument("--torch-rounds", type=int, default=1, help="of those, torch runs in")
    parser.add_argument("--torch-gb", type=float, default=12, help="memory that torch may take")
    options = parser.parse_args(told)
    rows: list[dict[str, Any]] = []
    compile_torch()
    kept = contextlib.nullcontext(Path(options.dir or "."))
    with kept if options.dir else workspace("growth", need_bytes=4e9) as root:
        for shape in options.shape or GROWTH:
            count, world = map(int, shape.split("x"))
            row: dict[str, Any] = {"shape": shape, "num_chunks": count * world}
            # What torch takes grows with the chunks; what cannot fit is not begun.
            before = rows[-1] if rows else {}
            foreseen = 0.0
            if "torch" in before:
                grows = row["num_chunks"] / before["num_chunks"]
                foreseen = 1e6 * before["torch"]["peak_mb"]["median"] * grows
            fits = foreseen < 1e9 * options.torch_gb and "torch_not_measured" not in before
            folder = made(root, shape)
            if not rows:
                # The program is compiled; files that were written now are in the page cache.
                grown(folder, 1, 0, 0)
            row |= grown(
                folder, options.rounds, options.torch_rounds, options.torch_gb if fits else 0
            )
            if not fits:
                row["torch_not_measured"] = f"it would take more than {options.torch_gb:.0f} GB"
            rows.append(row)
            print(json.dumps(row), flush=True)
            if not options.dir:
                shutil.rmtree(folder)
    result = {
        "what": "first opening until the summary, no cache, beside torch's read_metadata()",
        "rounds": options.rounds,
        "torch_rounds": options.torch_rounds,
        "torch_gb": options.torch_gb,
        "target": {"time_a_chunk": 1.25, "front_mb": {"3300x1024": 300, "9766x1024": 600}},
        "sizes": rows,
        "machine": machine(),
    }
    write(options.out, result)


def grown(folder: Path, rounds: int, torch_rounds: int, torch_gb: float) -> dict[str, Any]:
    """Ours and torch's on one checkpoint, in turn; torch's in the first rounds alone."""
    env = environ(HSDP_INSPECT_NO_CACHE="1")
    ours = [sys.executable, "-m", "inspector", "show", str(folder)]
    theirs = [sys.executable, "-c", TORCH.replace("import sys", "import sys" + BOUNDED, 1)]
    theirs += [str(folder), str(int(torch_gb * 1e9))]
    runs: dict[str, list[Ran]] = {"ours": []}
    for turn in range(rounds):
        runs["ours"].append(run(ours, env, until="files", to_end=False))
        if torch_gb and turn < torch_rounds:
            runs.setdefault("torch", []).append(run(theirs, env, until="files", to_end=True))
    found: dict[str, Any] = {}
    for name, outcomes in runs.items():
        found[name] = {
            "wall_s": spread(one.wall_s if name == "torch" else one.answer_s for one in outcomes),
            "cpu_s": spread(one.cpu_s for one in outcomes),
            "peak_mb": spread((one.peak_bytes / 1e6 for one in outcomes), 1),
            "front_mb": spread((one.own_peak_bytes / 1e6 for one in outcomes), 1),
        }
    return {"metadata_bytes": (folder / ".metadata").stat().st_size, **found}


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


SUBJECTS = {
    "open": opening,
    "growth": growth,
    "first_frame": first_frame,
    "run_folder": run_folder,
}

if __name__ == "__main__":
    dispatch(__doc__, SUBJECTS)
