"""`verify`'s load-and-compare beside a plain `torchrun` + `dcp.load` of the same checkpoint.

    python benchmarks/verify_load.py [--gb 2] [--rounds 5] [--mesh fsdp:2 --mesh hsdp:2x2 ...]

Makes a checkpoint with torch's own `dcp.save` of four processes in a temporary folder, then runs,
in turn and on the same mesh, each a whole torchrun job:

    plain   DTensors on the mesh, `dcp.load` into them, and nothing else
    verify  the worker of `hsdp-inspect verify` with no second mesh: fill with poison, the same
            `dcp.load`, then every byte compared with an independent read, every CRC32, the replicas

The files are in the page cache for both, which is the hardest case: nothing waits for the disk.
`median_s` is torchrun from start to end, as a user waits for it; `median_work_s` what is left of
it after the ranks have joined their group (the slowest rank). Peak memory is a rank's: the
resident set's high-water mark, and its anonymous part, looked at every 20 ms. Writes
results/verify_load.json.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from deep_check import make
from measuring import ROOT, arguments, environ, in_turn, machine, workspace, write

sys.path.insert(0, str(ROOT))

from inspector.layout.mesh import Mesh
from inspector.verify.spec import JobSpec

WATCH = """
import threading
def _anon():
    with open("/proc/self/status") as f:
        return {k: int(v.split()[0]) * 1024 for k, _, v in (l.partition(":") for l in f)
                if k in ("RssAnon", "VmHWM")}
peak = {"RssAnon": 0, "VmHWM": 0}
def _look():
    while True:
        for k, v in _anon().items():
            peak[k] = max(peak[k], v)
        time.sleep(0.02)
threading.Thread(target=_look, daemon=True).start()
"""

PLAIN = (
    "import json, os, sys, time\n"
    + WATCH
    + """
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, DTensor
path, sizes, out = sys.argv[1], tuple(map(int, sys.argv[2].split("x"))), sys.argv[3]
dist.init_process_group("gloo")
rank = dist.get_rank()
begin = time.perf_counter()
mesh = init_device_mesh("cpu", sizes)
placements = [Replicate()] * (len(sizes) - 1) + [Shard(0)]
metadata = dcp.FileSystemReader(path).read_metadata()
state = {}
for fqn, entry in metadata.state_dict_metadata.items():
    if isinstance(entry, BytesStorageMetadata):
        state[fqn] = None
        continue
    shards, shard = sizes[-1], rank % sizes[-1]
    rows = -(-entry.size[0] // shards)
    mine = max(min(rows, entry.size[0] - shard * rows), 0)
    local = torch.empty((mine, *entry.size[1:]), dtype=entry.properties.dtype)
    state[fqn] = DTensor.from_local(local, mesh, placements, run_check=False, shape=entry.size,
                                    stride=torch.empty(entry.size, device="meta").stride())
dcp.load(state, storage_reader=dcp.FileSystemReader(path))
dist.barrier()
work = time.perf_counter() - begin
for k, v in _anon().items():
    peak[k] = max(peak[k], v)
with open(f"{out}/{rank}.json", "w") as f:
    json.dump({"work_s": work, **peak}, f)
os._exit(0)
"""
)

VERIFY = (
    "import atexit, json, os, sys, time\n"
    + WATCH
    + """
from inspector.verify.ranks import worker
leave, out, rank = os._exit, sys.argv[2], os.environ["RANK"]
def _exit(code):
    for k, v in _anon().items():
        peak[k] = max(peak[k], v)
    with open(f"{out}/{rank}.json", "w") as f:
        json.dump(peak, f)
    leave(code)
os._exit = _exit
worker.main()
"""
)


def run(world: int, script: str, arguments: list[str], out: Path) -> tuple[float, list[Any]]:
    """One torchrun job: seconds from start to end, and what each rank wrote."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    file = out / "script.py"
    file.write_text(script)
    env = environ(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world), str(file), *arguments]
    begin = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return wall, [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]


def plain(checkpoint: Path, mesh: Mesh, out: Path) -> dict[str, float]:
    sizes = "x".join(map(str, mesh.sizes))
    wall, ranks = run(mesh.world_size, PLAIN, [str(checkpoint), sizes, str(out)], out)
    return {"wall_s": wall, "work_s": max(r["work_s"] for r in ranks), **peaks(ranks)}


def verify(checkpoint: Path, mesh: Mesh, out: Path) -> dict[str, float]:
    job = out.parent / "job"
    shutil.rmtree(job, ignore_errors=True)
    (job / "events").mkdir(parents=True)
    spec = JobSpec(str(checkpoint), str(mesh), events_dir=str(job / "events"))
    (job / "spec.json").write_text(spec.to_json())
    wall, ranks = run(mesh.world_size, VERIFY, [str(job / "spec.json"), str(out)], out)
    events = [
        json.loads(line)
        for file in sorted((job / "events").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    byes = [e for e in events if e["event"] == "bye"]
    verdicts = {e["verdict"] for e in events if e["event"] == "tensor"}
    payloads = next(e["num_payloads"] for e in events if "num_payloads" in e)
    assert len(byes) == mesh.world_size, "a rank did not finish"
    assert verdicts == {"EXACT"}, verdicts
    assert sum(e["payloads_checked"] for e in byes) == payloads
    return {"wall_s": wall, "work_s": max(e["elapsed_s"] for e in byes), **peaks(ranks)}


def peaks(ranks: list[Any]) -> dict[str, float]:
    return {
        "peak_rss_mb": max(r["VmHWM"] for r in ranks) / 1e6,
        "peak_anon_mb": max(r["RssAnon"] for r in ranks) / 1e6,
    }


def measure(checkpoint: Path, mesh: Mesh, rounds: int, out: Path) -> dict[str, Any]:
    """Both, in turn, `rounds` times after one that only warms the page cache."""

    def told(name: str, job: Callable[..., dict[str, float]]) -> dict[str, float]:
        outcome = job(checkpoint, mesh, out)
        print(mesh, name, {k: round(v, 2) for k, v in outcome.items()}, file=sys.stderr)
        return outcome

    jobs = {"plain": plain, "verify": verify}
    runs = in_turn({name: partial(told, name, job) for name, job in jobs.items()}, rounds)
    summary = {
        name: {
            "median_s": round(statistics.median(o["wall_s"] for o in outcomes), 3),
            "least_s": round(min(o["wall_s"] for o in outcomes), 3),
            "median_work_s": round(statistics.median(o["work_s"] for o in outcomes), 3),
            "least_work_s": round(min(o["work_s"] for o in outcomes), 3),
            "peak_rss_mb": round(max(o["peak_rss_mb"] for o in outcomes), 1),
            "peak_anon_mb": round(max(o["peak_anon_mb"] for o in outcomes), 1),
        }
        for name, outcomes in runs.items()
    }
    ratio = {
        key: round(summary["verify"][key] / summary["plain"][key], 3) for key in summary["plain"]
    }
    return {"mesh": str(mesh), "runs": summary, "ratio": ratio}


def main() -> None:
    parser = arguments(__doc__ or "", "verify_load", rounds=5, gb=2.0)
    parser.add_argument("--mesh", action="append", help="default: fsdp:2 and hsdp:2x2")
    options = parser.parse_args()
    with workspace("verify", options.dir, need_bytes=3e9 * options.gb) as root:
        checkpoint = root / "step-1"
        make(checkpoint, options.gb, 4)
        num_bytes = sum(p.stat().st_size for p in checkpoint.iterdir())
        meshes = [Mesh.parse(text) for text in options.mesh or ["fsdp:2", "hsdp:2x2"]]
        found = [measure(checkpoint, mesh, options.rounds, root / "out") for mesh in meshes]
    result = {
        "what": "verify's load and compare beside plain torchrun and dcp.load, warm page cache",
        "bytes": num_bytes,
        "rounds": options.rounds,
        "meshes": found,
        "target": {"wall_ratio": 1.5, "peak_ratio": 1.3},
        "holds": {
            "wall": all(m["ratio"]["median_s"] <= 1.5 for m in found),
            "peak_rss": all(m["ratio"]["peak_rss_mb"] <= 1.3 for m in found),
            "peak_anon": all(m["ratio"]["peak_anon_mb"] <= 1.3 for m in found),
        },
        "machine": machine(),
    }
    write(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
