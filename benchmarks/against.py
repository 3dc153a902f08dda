"""The commands of this tree beside those of a commit, in one run.

    python benchmarks/against.py against REV [--rounds 5] [--gb 1] [--dir DIR] [--screens]

Makes a worktree of REV and runs each command in both trees in turn: on samples, on a checkpoint of
some size, and on the metadata of a million chunks, with the cache of parsed metadata turned off.
Medians of wall time, of the CPU time of the process and its children, and of their peak memory;
ratios are the medians of those of the rounds. Writes results/against.json.

With --screens the first frame and the keys of the screen follow, each by its own script with
--beside, which print what they find: a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import reading
from measuring import (
    ROOT,
    Ran,
    arguments,
    dispatch,
    environ,
    in_turn,
    machine,
    run,
    workspace,
    write,
)
from open import made

#: Commands that both trees are asked, and on which of the checkpoints.
COMMANDS = {
    "show": (["show", "PATH"], ("sample", "chunks")),
    "check": (["check", "PATH"], ("sample", "chunks")),
    "check --deep": (["check", "PATH", "--deep"], ("bytes",)),
    "plan": (["plan", "PATH", "--mesh", "hsdp:2x4"], ("chunks",)),
    "stats": (["stats", "PATH"], ("bytes",)),
    "diff --values": (["diff", "PATH", "PATH", "--values", "--no-tui"], ("bytes",)),
}
_MEASURES = {
    "wall_s": lambda ran: ran.wall_s,
    "cpu_s": lambda ran: ran.cpu_s,
    "peak_mb": lambda ran: ran.peak_bytes / 1e6,
}


def against(told: list[str]) -> None:
    """Every command in both trees."""
    parser = arguments(against.__doc__, "against", rounds=5, gb=1.0)
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--shape", default="1000x1024")
    parser.add_argument("--screens", action="store_true", help="first frame and keys as well")
    options = parser.parse_args(told)
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short", f"{options.revision}^{{commit}}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with workspace("against", need_bytes=2e9 * options.gb) as root:
        old = root / "old"
        subprocess.run([*git, "worktree", "add", "--detach", "-q", str(old), commit], check=True)
        try:
            paths = {
                "sample": ("the sample hsdp_2x4", ROOT / "sample_ckpts" / "hsdp_2x4"),
                "bytes": (f"{options.gb:g} GB", reading.make(root / "bytes", options.gb, 4)),
                "chunks": (
                    f"{options.shape} chunks",
                    made(Path(options.dir or root), options.shape),
                ),
            }
            cases = [
                _beside(name, words, *paths[where], old, options.rounds)
                for name, (words, places) in COMMANDS.items()
                for where in places
            ]
            if options.screens:
                for script, subject in (("open", "first_frame"), ("screen", "screen")):
                    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), subject]
                    command += ["--rounds", str(options.rounds), "--beside", str(old)]
                    subprocess.run(command, check=True)
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                subprocess.run([*git, "worktree", "remove", "--force", str(old)], check=True)
    result = {
        "what": "commands of this tree beside those of an earlier commit, no cache of metadata",
        "revision": commit,
        "rounds": options.rounds,
        "cases": cases,
        "machine": machine(),
    }
    write(options.out, result)


def _beside(
    name: str, words: list[str], of: str, path: Path, old: Path, rounds: int
) -> dict[str, Any]:
    """One command in both trees, in turn."""
    told = [str(path) if word == "PATH" else word for word in words]
    command = [sys.executable, "-m", "inspector", *told]
    env = environ(HSDP_INSPECT_NO_CACHE="1")
    trees = {"old": old, "new": ROOT}
    runs: dict[str, list[Ran]] = in_turn(
        {tree: partial(run, command, env, cwd=where) for tree, where in trees.items()}, rounds
    )
    found: dict[str, Any] = {"command": name, "of": of}
    for measure, value in _MEASURES.items():
        before, now = ([value(ran) for ran in runs[tree]] for tree in trees)
        ratio = statistics.median(b / a for a, b in zip(before, now, strict=True))
        found[measure] = {
            "old": round(statistics.median(before), 3),
            "new": round(statistics.median(now), 3),
            "ratio": round(ratio, 3),
        }
    print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    dispatch(__doc__, {"against": against})
