"""`stats` beside `dcp.load` into full tensors and torch's own reductions: time and peak memory.

    python benchmarks/stats.py [--gb 2] [--rounds 5] [--dir DIR]

Makes a checkpoint with torch's own `dcp.save` of four processes (FSDP: a piece of every tensor in
every file), in float32 and, half as large, in bfloat16, and runs in turn, each in a fresh process:

    command   `hsdp-inspect stats PATH --json`, as it is typed
    collect   `open_checkpoint` and `collect_stats`: the same without the command's start
    torch     `dcp.load` into full tensors; of each in float64 the least, largest, mean, standard
              deviation and norm, zeros, NaN and infinities, and a histogram: what `stats` gives
    torch32   the same, in the tensor's own type and without a histogram: the least that anyone does

The files are in the page cache. torch runs with as many threads as there are cores. `s` is the work
inside of the process without imports (`command`: with all of them), `wall_s` the process from start
to end; peak memory is that of the process and its child together. The figures
are compared: both must agree. Writes results/stats.json.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from deep_check import make, measured
from measuring import ROOT, arguments, in_turn, machine, spread, workspace, write

LIMIT_MB = 400

COMMAND = """
import sys, time, json, io
begin = time.perf_counter()
from inspector.__main__ import main
real, sys.stdout = sys.stdout, io.StringIO()
try:
    main(["stats", sys.argv[1], "--json"])
except SystemExit as done:
    assert not done.code, done.code
text, sys.stdout = sys.stdout.getvalue(), real
elapsed = time.perf_counter() - begin
l2 = {t["fqn"]: t["l2"] for t in json.loads(text)["tensors"]}
print(json.dumps({"s": elapsed, "norm": sum(x * x for x in l2.values()) ** 0.5}))
"""

COLLECT = """
import sys, time, json
from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.values.stats import collect_stats
begin = time.perf_counter()
checkpoint = open_checkpoint(sys.argv[1])
report = collect_stats(checkpoint, folder_of(sys.argv[1]))
elapsed = time.perf_counter() - begin
assert not report.not_read, report.not_read
print(json.dumps({"s": elapsed, "norm": sum(t.l2 ** 2 for t in report.tensors) ** 0.5,
                  "bytes": report.payload_bytes}))
"""

TORCH = """
import sys, time, json, torch, warnings
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
warnings.simplefilter("ignore")
begin = time.perf_counter()
wide = sys.argv[2] == "wide"
entries = FileSystemReader(sys.argv[1]).read_metadata().state_dict_metadata
state = {fqn: torch.empty(e.size, dtype=e.properties.dtype)
         for fqn, e in entries.items() if hasattr(e, "chunks")}
dcp.load(state, checkpoint_id=sys.argv[1], no_dist=True,
         planner=DefaultLoadPlanner(flatten_state_dict=False))
loaded = time.perf_counter() - begin
found = {}
for fqn, stored in state.items():
    t = stored.double() if wide else stored
    low, high = t.aminmax()
    found[fqn] = [x.item() for x in (low, high, t.mean(), t.std(), torch.linalg.vector_norm(t),
                  t.numel() - t.count_nonzero(), t.isnan().sum(), t.isinf().sum())]
    if wide:
        found[fqn].append(torch.histc(t, 64, low.item(), high.item()).tolist())
elapsed = time.perf_counter() - begin
print(json.dumps({"s": elapsed, "load_s": loaded,
                  "norm": sum(x[4] ** 2 for x in found.values()) ** 0.5}))
"""

CONVERT = """
import sys, torch, warnings
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
warnings.simplefilter("ignore")
entries = FileSystemReader(sys.argv[1]).read_metadata().state_dict_metadata
state = {fqn: torch.empty(e.size, dtype=e.properties.dtype)
         for fqn, e in entries.items() if hasattr(e, "chunks")}
dcp.load(state, checkpoint_id=sys.argv[1], no_dist=True,
         planner=DefaultLoadPlanner(flatten_state_dict=False))
dcp.save({k: v.bfloat16() for k, v in state.items()}, checkpoint_id=sys.argv[2], no_dist=True)
"""


def main() -> None:
    options = arguments(__doc__, "stats", rounds=5, gb=2.0).parse_args()
    with workspace("stats", options.dir, need_bytes=3e9 * options.gb) as root:
        make(root / "float32", options.gb, 4)
        subprocess.run(
            [sys.executable, "-c", CONVERT, str(root / "float32"), str(root / "bfloat16")],
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
        found = {name: measure(root / name, options.rounds) for name in ("float32", "bfloat16")}
    peak = max(f["runs"]["command"]["peak_mb"] for f in found.values())
    result = {
        "what": "stats beside dcp.load into full tensors and torch's reductions; page cache warm",
        "rounds": options.rounds,
        **found,
        "target": {"peak_mb": LIMIT_MB},
        "holds": {"peak": peak < LIMIT_MB},
        "machine": machine(),
    }
    write(options.out, result)
    show(found)


def measure(checkpoint: Path, rounds: int) -> dict[str, object]:
    """All four, in turn, `rounds` times after one that warms the page cache."""
    path = str(checkpoint)
    jobs = {
        "command": (COMMAND, [path]),
        "collect": (COLLECT, [path]),
        "torch": (TORCH, [path, "wide"]),
        "torch32": (TORCH, [path, "narrow"]),
    }
    runs = in_turn({name: partial(measured, *job) for name, job in jobs.items()}, rounds)
    norms = {name: outcomes[0]["norm"] for name, outcomes in runs.items()}
    if abs(norms["command"] / norms["torch"] - 1) > 1e-12:
        raise SystemExit(f"the norms differ: {norms}")
    found = {name: summary(outcomes) for name, outcomes in runs.items()}
    return {
        "bytes": int(runs["collect"][0]["bytes"]),
        "runs": found,
        "ratios": {
            rival: {
                "work": compared(runs["collect"], runs[rival], "s"),
                "process": compared(runs["command"], runs[rival], "wall_s"),
                "peak": compared(runs["command"], runs[rival], "peak_bytes"),
            }
            for rival in ("torch", "torch32")
        },
    }


def summary(outcomes: list[dict[str, float]]) -> dict[str, float]:
    found = {
        "median_s": round(statistics.median(o["s"] for o in outcomes), 3),
        "least_s": round(min(o["s"] for o in outcomes), 3),
        "median_process_s": round(statistics.median(o["wall_s"] for o in outcomes), 3),
        "peak_mb": round(max(o["peak_bytes"] for o in outcomes) / 1e6, 1),
    }
    if "load_s" in outcomes[0]:
        found["median_load_s"] = round(statistics.median(o["load_s"] for o in outcomes), 3)
    return found


def compared(
    ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str
) -> dict[str, float]:
    """Ours over theirs, round by round: median, least and most."""
    found = spread((a[key] / b[key] for a, b in zip(ours, theirs, strict=True)), 4)
    least, most = found["spread"]
    return {"least": least, "median": found["median"], "most": most}


def show(found: dict[str, dict[str, object]]) -> None:
    for name, result in found.items():
        print(f"{name}: {result['bytes'] / 1e9:.2f} GB")  # type: ignore[operator]
        for job, row in result["runs"].items():  # type: ignore[attr-defined]
            print("  " + f"{job:<9}" + "  ".join(f"{k} {v:>8}" for k, v in row.items()))
        for rival, row in result["ratios"].items():  # type: ignore[attr-defined]
            for what, r in row.items():
                print(f"  {what} / {rival}: {r['median']} ({r['least']} to {r['most']})")


if __name__ == "__main__":
    main()
