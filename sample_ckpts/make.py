"""Writes the sample checkpoints afresh, each with real torchrun over gloo on the CPU.

    python sample_ckpts/make.py [--only NAME ...] [--out DIR]    rewrite
    python sample_ckpts/make.py --only broken                    rewrite the broken samples alone
    python sample_ckpts/make.py --check [--only NAME ...]        load with dcp.load and compare

There is one torchrun job for each world size. Tensors come from fixed seeds: a second run gives the
same values (a save's id, a uuid, differs). What is true of each sample goes to `expected.json`.
The broken samples are copies of good ones, edited, and are rewritten with them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from maker.broken import BROKEN, FOLDER, check_broken, write_broken
from maker.cases import CASES
from maker.check import check_sample, check_size

HERE = Path(__file__).resolve().parent
ATTEMPTS = 2


def main() -> int:
    """Returns the exit code: 0 if all was written, or all that was checked is as recorded."""
    args = _arguments()
    names = args.only or [*CASES, FOLDER]
    if args.check:
        return check(args.out, names)
    return make(args.out, names)


def make(out: Path, names: list[str]) -> int:
    """Writes the named samples under `out` and updates its `expected.json`."""
    out.mkdir(parents=True, exist_ok=True)
    truths: dict[str, Any] = {}
    good = []
    for name in (name for name in names if name in CASES):
        if CASES[name].missing:
            print(f"{name}: not written, for want of {CASES[name].missing}", file=sys.stderr)
        else:
            good.append(name)
    for num_ranks in sorted({CASES[name].num_ranks for name in good}):
        group = [name for name in good if CASES[name].num_ranks == num_ranks]
        print(f"{num_ranks} ranks", file=sys.stderr)
        written = run_job(out, num_ranks, group)
        if written is None:
            print(f"torchrun with {num_ranks} ranks failed: {', '.join(group)}", file=sys.stderr)
            return 1
        truths.update(written)
    if truths:
        record(out / "expected.json", truths)
    write_broken(
        out,
        out / FOLDER,
        [
            name
            for name, case in BROKEN.items()
            if FOLDER in names or case.base.partition("/")[0] in good
        ],
    )
    return 0


def run_job(out: Path, num_ranks: int, names: list[str]) -> dict[str, Any] | None:
    """Writes samples of one world size.

    Returns the truth about them by path, or None if no attempt came through.

    `--standalone` picks a free port, but gloo's own can still collide: hence the second attempt.
    """
    with tempfile.TemporaryDirectory() as scratch:
        truth_file = Path(scratch, "truth.json")
        for _ in range(ATTEMPTS):
            for name in names:
                shutil.rmtree(out / name, ignore_errors=True)
            command = _command(num_ranks, truth_file, names)
            subprocess.run(command, cwd=out, env=_environment(), check=False)
            if truth_file.exists():
                written: dict[str, Any] = json.loads(truth_file.read_text())
                return written
    return None


def record(file: Path, truths: dict[str, Any]) -> None:
    """Puts the new truths in place of the old ones of the same samples."""
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    rewritten = {truth["sample"] for truth in truths.values()}
    keep = CASES.keys() - rewritten
    kept = {
        path: {"format": "dcp", "framework": CASES[truth["sample"]].framework, **truth}
        for path, truth in known.items()
        if truth["sample"] in keep
    }
    file.write_text(json.dumps(dict(sorted((kept | truths).items())), indent=1) + "\n")


def check(out: Path, names: list[str]) -> int:
    """Loads the named samples and reports on each; returns 1 if anything is wrong or unrecorded."""
    known: dict[str, Any] = json.loads((out / "expected.json").read_text())
    truths = {path: truth for path, truth in known.items() if truth["sample"] in names}
    for path, truth in list(truths.items()):
        # Its metadata may hold objects of the framework that wrote it.
        if CASES[truth["sample"]].missing:
            print(f"    {path}: not loaded, for want of {CASES[truth['sample']].missing}")
            del truths[path]
            names = [name for name in names if name != truth["sample"]]
    missing = sorted(
        {name for name in names if name in CASES} - {truth["sample"] for truth in truths.values()}
    )
    problems = {path: check_sample(out / path, truth) for path, truth in truths.items()}
    problems |= {name: ["not recorded"] for name in missing} | {"all samples": check_size(out)}
    if FOLDER in names:
        problems[FOLDER] = check_broken(out / FOLDER)
    for path, lines in problems.items():
        print(f"{'bad' if lines else 'ok':4}{path}")
        for line in lines:
            print(f"      {line}")
    return int(any(problems.values()))


def _command(num_ranks: int, truth_file: Path, names: list[str]) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = ["--nproc-per-node", str(num_ranks), "-m", "maker.worker"]
    return [*torchrun, *worker, str(truth_file), *names]


def _environment() -> dict[str, str]:
    """One thread a rank; gloo on loopback, so that an unresolvable host name does no harm."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Frameworks may have been installed elsewhere than among the project's packages.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", choices=[*CASES, FOLDER])
    add("--out", type=Path, default=HERE, help="where the samples go (default: this folder)")
    add("--check", action="store_true", help="load and compare instead of writing")
    args = parser.parse_args()
    args.out = args.out.resolve()
    return args


if __name__ == "__main__":
    sys.exit(main())
