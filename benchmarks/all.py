"""Every figure that the README promises, measured in one run, and the tables made of it.

    python benchmarks/all.py                 run everything (hours on a small machine), then write
    python benchmarks/all.py --only open stats
    python benchmarks/all.py --quick         small data, few rounds: does it run at all?
    python benchmarks/all.py --tables        run nothing, write the tables anew from results/

Each subject is a script of this folder that measures one thing beside its rival and writes
results/NAME.json; they run one after another, so that none disturbs another. Then this writes
results/summary.json and results/README.md (machine, versions, spread), and puts the figures and the
table of faults into README.md. A quick run writes into a temporary folder and changes no table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import figures

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"

#: Script, its arguments, and those of a quick run. `OUT` is the results file, `FOLDER` its folder.
SUBJECTS: dict[str, tuple[list[str], list[str]]] = {
    "first_frame": (["--json", "OUT"], ["--rounds", "2", "--json", "OUT"]),
    "open": (["--out", "OUT"], ["--rounds", "1", "--shape", "50x16", "--out", "OUT"]),
    "screen": (["--out", "OUT"], ["--rounds", "1", "--shape", "2000x8", "--out", "OUT"]),
    "deep_check": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "load_plan": (
        ["--out", "OUT"],
        ["--tensors", "50", "--chunks", "16", "--ranks", "8", "--rounds", "1", "--out", "OUT"],
    ),
    "stats": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "diff": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "remote": (["--out", "OUT"], ["--gb", "0.02", "--rounds", "1", "--out", "OUT"]),
    "verify_load": (["--out", "OUT"], ["--gb", "0.05", "--rounds", "1", "--out", "OUT"]),
    "event_flood": (["--json", "OUT"], ["--seconds", "2", "--json", "OUT"]),
    "faults": (["--out", "FOLDER"], ["--out", "FOLDER", "--only", "bit"]),
    "fuzz": (["--out", "OUT"], ["--count", "50", "--out", "OUT"]),
}


def run(name: str, arguments: list[str], out: Path) -> float:
    """Run one subject; its seconds."""
    print(f"== {name}", flush=True)
    begin = time.perf_counter()
    places = {"OUT": str(out), "FOLDER": str(out.parent)}
    told = [places.get(word, word) for word in arguments]
    done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *told], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{name}.py failed (exit code {done.returncode})")
    return time.perf_counter() - begin


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    return {
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "textual", "numpy", "isal")},
    }


def write_tables(took_s: dict[str, float]) -> None:
    """results/summary.json, results/README.md, and the blocks of the README."""
    results = {
        name: json.loads(_path(name).read_text()) for name in SUBJECTS if _path(name).exists()
    }
    rows = [row for name, result in results.items() for row in figures.ROWS[name](result)]
    summary = RESULTS / "summary.json"
    before = json.loads(summary.read_text()) if summary.exists() else {}
    document = {
        "machine": machine() if took_s else before.get("machine", machine()),
        "elapsed_s": {**before.get("elapsed_s", {}), **took_s},
        "figures": [row.as_json() for row in rows],
    }
    summary.write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "README.md").write_text(figures.page(rows, document["machine"]))
    readme = ROOT / "README.md"
    text = readme.read_text()
    text = _filled(text, "figures", figures.table(rows))
    faults = RESULTS / "faults.md"
    if faults.exists():
        text = _filled(text, "faults", faults.read_text())
    readme.write_text(text)


def _path(name: str) -> Path:
    return RESULTS / f"{name}.json"


def _filled(text: str, name: str, block: str) -> str:
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = text.partition(start)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"README.md has no block between {start.strip()} and {end}")
    return head + start + block.strip() + "\n" + end + tail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--quick", action="store_true", help="small data; changes no table")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    options = parser.parse_args()
    took_s: dict[str, float] = {}
    if options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            for name in options.only:
                out = Path(scratch, f"{name}.json")
                run(name, SUBJECTS[name][1], out)
                for row in figures.ROWS[name](json.loads(out.read_text())):
                    print(row.as_line())
        return
    if not options.tables:
        RESULTS.mkdir(exist_ok=True)
        for name in options.only:
            took_s[name] = round(run(name, SUBJECTS[name][0], _path(name)), 1)
    write_tables(took_s)


if __name__ == "__main__":
    main()
