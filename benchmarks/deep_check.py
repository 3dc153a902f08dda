"""`check --deep` beside a plain read of the same files: wall time and peak memory.

    python benchmarks/deep_check.py [--gb 2] [--rounds 7] [--dir DIR]

Makes a checkpoint with torch's own `dcp.save` of four processes in a temporary folder, then runs,
in turn and each in a fresh process:

    read   every data file once, in 8 MiB blocks: `while f.read(8 << 20)`
    deep   `open_checkpoint` and `check_payloads`: what `check --deep` adds to `check`
    values the same with `values=True`
    command `hsdp-inspect check --deep`, as it is typed: every check, and its answer as JSON

`warm`: the files are in the page cache, the hardest case for a check, as nothing waits for the
disk. `cold`: they are evicted before each run (posix_fadvise). `median_s` is the work inside the
process, `median_process_s` the process from start to end, with Python's start and imports. Peak
memory is the resident set's, of the process and of its child together. Writes
results/deep_check.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BLOCK = 8 << 20

MAKE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.device_mesh import init_device_mesh
rank, world, folder, gb, store = sys.argv[1:]
rank, world, gb = int(rank), int(world), float(gb)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
torch.manual_seed(rank)
state, left, layer = {}, int(gb * 1e9) // 4, 0
width = 2048
while left > 0:
    for name, times in (("attn.wqkv", 3), ("attn.wo", 1), ("mlp.w1", 4), ("norm", 0)):
        rows = max(min(times * width, left // width), 1)
        local = torch.randn(-(-rows // world), width)
        tensor = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
        state[f"layers.{layer}.{name}.weight"] = tensor
        left -= rows * width
        if left <= 0:
            break
    state[f"optim.{layer}.lr"] = 1e-4
    layer += 1
dcp.save(state, checkpoint_id=folder)
dist.barrier()
dist.destroy_process_group()
"""

READ = """
import sys, time, json
begin = time.perf_counter()
total = 0
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        while data := f.read(8 << 20):
            total += len(data)
print(json.dumps({"s": time.perf_counter() - begin, "bytes": total}))
"""

DEEP = """
import sys, time, json
from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.locate import folder_of
from inspector.checks.payloads import check_payloads
begin = time.perf_counter()
checkpoint = open_checkpoint(sys.argv[1])
report = check_payloads(checkpoint, folder_of(sys.argv[1]), values=sys.argv[2] == "values")
elapsed = time.perf_counter() - begin
assert not report.findings and not report.checked.not_checked, report
print(json.dumps({"s": elapsed, "bytes": report.checked.payload_bytes,
                  "payloads": report.checked.payloads}))
"""

# The command itself, as it is typed: with its start, every other check, and its answer.
COMMAND = """
import sys, time, json
begin = time.perf_counter()
from inspector.__main__ import main
try:
    main(["check", "--deep", sys.argv[1], "--json"])
except SystemExit as done:
    assert not done.code, done.code
print(json.dumps({"s": time.perf_counter() - begin}))
"""


def run(code: str, arguments: list[str]) -> dict[str, float]:
    """Run code in a fresh process: what it printed, its time, its peak memory."""
    script = (
        f"{code}\nimport resource\n"
        "print(json.dumps({'own': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,"
        " 'child': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}))\n"
    )
    # Compiled modules, as an installed package has them.
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir(), "hsdp-deep-pycache"))
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        check=False,
    )
    wall = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr)
    first, second = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    unit = 1 if sys.platform == "darwin" else 1024
    # Added, not the larger of both: parent and child live at the same time.
    return {**first, "wall_s": wall, "peak_bytes": (second["own"] + second["child"]) * unit}


def make(folder: Path, gb: float, world: int) -> None:
    """A checkpoint of about this size, saved by `world` processes."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    MAKE,
                    str(r),
                    str(world),
                    str(folder),
                    str(gb),
                    f"{scratch}/store",
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for r in range(world)
        ]
        for rank in ranks:
            rank.wait()
    if not (folder / ".metadata").exists():
        raise SystemExit("the checkpoint was not written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--dir", help="where to make the checkpoint (default: the temporary folder)"
    )
    parser.add_argument("--out", default=str(HERE / "results" / "deep_check.json"))
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="hsdp-deep-", dir=options.dir))
    if shutil.disk_usage(root).free < 3e9 * options.gb:
        raise SystemExit("not enough room for the checkpoint")
    try:
        checkpoint = root / "step-1"
        make(checkpoint, options.gb, 4)
        result = measure(checkpoint, options.rounds)
    finally:
        shutil.rmtree(root)
        shutil.rmtree(Path(tempfile.gettempdir(), "hsdp-deep-pycache"), ignore_errors=True)
    Path(options.out).parent.mkdir(exist_ok=True)
    Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def evict(files: list[str]) -> None:
    """Drop files from the page cache, where the system lets one."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians, and ratios of them to the plain read's."""
    found = {}
    for name, outcomes in runs.items():
        found[name] = {
            "median_s": round(statistics.median(o["s"] for o in outcomes), 4),
            "least_s": round(min(o["s"] for o in outcomes), 4),
            "median_process_s": round(statistics.median(o["wall_s"] for o in outcomes), 4),
            "peak_mb": round(max(o["peak_bytes"] for o in outcomes) / 1e6, 1),
        }
    for value in found.values():
        for key, ratio in (("median_s", "ratio_to_read"), ("median_process_s", "process_ratio")):
            value[ratio] = round(value[key] / found["read"][key], 3)
    return found


def measure(checkpoint: Path, rounds: int) -> dict[str, object]:
    """All four, in turn, `rounds` times after one that only warms the page cache."""
    files = sorted(str(p) for p in checkpoint.glob("*.distcp"))
    jobs = {
        "read": (READ, files),
        "deep": (DEEP, [str(checkpoint), "deep"]),
        "values": (DEEP, [str(checkpoint), "values"]),
        "command": (COMMAND, [str(checkpoint)]),
    }
    warm: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    cold: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, (code, arguments) in jobs.items():
            outcome = run(code, arguments)
            if turn:
                warm[name].append(outcome)
    for _ in range(max(rounds // 2, 1)):
        for name, (code, arguments) in jobs.items():
            evict(files)
            cold[name].append(run(code, arguments))
    torch_version = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    results = {"warm": summary(warm), "cold": summary(cold)}
    return {
        "what": "check --deep beside one plain read of the same files in 8 MiB blocks",
        "bytes": int(warm["read"][0]["bytes"]),
        "payloads": int(warm["deep"][0]["payloads"]),
        "files": len(files),
        "rounds": rounds,
        **results,
        "target": {"ratio": 1.25, "peak_mb": 300},
        "holds": {
            "ratio_warm": results["warm"]["deep"]["ratio_to_read"] <= 1.25,
            "ratio_cold": results["cold"]["deep"]["ratio_to_read"] <= 1.25,
            "ratio_cold_whole_process": results["cold"]["deep"]["process_ratio"] <= 1.25,
            "peak": results["warm"]["deep"]["peak_mb"] < 300,
        },
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "torch": torch_version,
        },
    }


if __name__ == "__main__":
    main()
