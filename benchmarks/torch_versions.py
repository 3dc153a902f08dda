"""`verify` beside plain `dcp.load`: what each torch loads, and what a job of its ranks says.

    python benchmarks/torch_versions.py PYTHON [PYTHON ...] [--out DIR]

For each interpreter (one with a torch of its own, and with what hsdp-inspect needs) and each golden
checkpoint and sample that torch wrote: `dcp.load` of every tensor into plain tensors, as that torch
alone does it; and a job's verdict under fsdp:1, its rank run by that interpreter (where each rank
wrote metadata of its own, both with as many ranks). A cell agrees if
the job is exact just where `dcp.load` raises nothing. Nothing is written by hand. What one
interpreter came to is put into results/torch_versions.json when it is whole, in the place of what
its version came to before; the others' stay. The table in docs/verify.md is made of it by
`benchmarks/all.py --tables`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import RESULTS, ROOT, machine, write

sys.path.insert(0, str(ROOT))

from inspector.checkpoint import open_checkpoint
from inspector.verify.preflight import prepare
from tests.helpers.forked_jobs import ForkedJob, run_forked

SAMPLES = ROOT / "sample_ckpts"
GOLDEN = ROOT / "tests" / "data" / "golden"


def folders() -> list[Path]:
    """What is loaded: every DCP checkpoint that is not broken on purpose."""
    files = [*GOLDEN.rglob("*.metadata"), *SAMPLES.rglob("*.metadata")]
    found = {path.parent for path in files if path.name in (".metadata", "__0.metadata")}
    return sorted(p for p in found if "broken" not in p.parts)


def ask(python: str, *args: str) -> str:
    """What a module of the tests prints in that interpreter."""
    done = subprocess.run(
        [python, *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python} {' '.join(args[:3])}: {done.stderr[-800:]}")
    return done.stdout


def jobs(python: str, paths: list[Path], place: Path) -> dict[str, dict[str, Any]]:
    """The result of a job on each checkpoint."""
    planned = {}
    for i, path in enumerate(paths):
        options: dict[str, Any] = {"device": "cpu", "memory_bytes": 1 << 28, "python": python}
        ranks = sum(1 for _ in path.glob("__*.metadata"))
        plan = prepare(open_checkpoint(str(path)), f"fsdp:{ranks or 1}", then=["none"], **options)
        planned[str(path)] = ForkedJob.of(plan, place / f"job-{i}")
    return run_forked(planned, place, python)


def _short(raised: str) -> str:
    """The first line of what was raised, without where torch is installed."""
    return re.sub(r'"/[^"]*?/(?=torch/)', '"', raised.split("\n", 1)[0])[:160]


def rows(python: str, paths: list[Path]) -> dict[str, Any]:
    """Every cell of one interpreter."""
    version = ask(python, "-c", "import torch; print(torch.__version__)").strip()
    print(f"torch {version}", flush=True)
    plain = {}
    for line in ask(python, "-m", "tests.verify.reads_table", *map(str, paths)).splitlines():
        told = json.loads(line)
        plain[Path(told["folder"])] = told["raised"]
    with tempfile.TemporaryDirectory() as place:
        results = jobs(python, paths, Path(place))
    cells = {}
    for path in paths:
        result = results[str(path)]
        cell = {
            "dcp.load": _short(plain[path]) or "loads",
            "verify": result["verdict"],
            "why": result["why"][:160],
            "agrees": (result["verdict"] == "exact") == (not plain[path]),
        }
        cells[str(path.relative_to(ROOT))] = cell
        if not cell["agrees"]:
            print(f"  {path.relative_to(ROOT)}: {cell}", flush=True)
    return {"torch": version, "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    paths = folders()
    file = arguments.out / "torch_versions.json"
    for python in arguments.pythons:
        row = rows(python, paths)
        table = json.loads(file.read_text())["table"] if file.exists() else []
        table = [old for old in table if _release(old) != _release(row)] + [row]
        table.sort(key=_release)
        cells = [cell for row in table for cell in row["cells"].values()]
        figures = {
            "versions": [row["torch"] for row in table],
            "cells": len(cells),
            "agree": sum(cell["agrees"] for cell in cells),
            "loads": sum(cell["dcp.load"] == "loads" for cell in cells),
            "raises": sum(cell["dcp.load"] != "loads" for cell in cells),
        }
        print(figures, flush=True)
        write(file, {"machine": machine(), **figures, "table": table})


def _release(row: dict[str, Any]) -> tuple[int, ...]:
    """The version of a row's torch, without what it was built for."""
    return tuple(map(int, re.findall(r"\d+", row["torch"].partition("+")[0])))


if __name__ == "__main__":
    main()
