"""What every rank of a job does, beside torch: planning its load, and loading and comparing.

    python benchmarks/ranks.py load_plan [--tensors 1000] [--chunks 1024] [--ranks 64 256 1024]
        [--axes dp_replicate:2,dp_shard:64,tp:8]

Makes the metadata of `--tensors` tensors of 8,192 rows that `--chunks` ranks saved, by
`tests.helpers`, and plans its load under `fsdp:N` for every N of `--ranks`, and under the mesh of
`--axes`, whose tensor axis cuts rows and columns of the tensors in turn; both sides from metadata
that is read already:

    torch    `create_default_local_load_plan` on DTensors under a fake process group of N ranks.
             Every rank plans for itself, so a few ranks are timed and their median is taken times
             N (`all_ranks_s`); a job pays the time of one rank (`one_rank_s`), on every node, after
             it has got its nodes. The collector of Python is off, which is kinder than a job.
    plan     `Planner(checkpoint)` (once for a checkpoint) and `.plan(mesh)`: the figures of all
             ranks. `.plan` alone is what a change of the mesh costs.
    reads    the same, and every read of every rank listed as torch's planner does; a few ranks
             are timed, and their median is taken times N.

The reads of the ranks that are timed are compared: both sides must make the same number of them.
Writes results/load_plan.json.

    python benchmarks/ranks.py verify_load [--gb 1] [--rounds 5] [--mesh fsdp:2 --mesh hsdp:2x2 ...]
        [--trip hsdp:2x2,fsdp:4]

Makes a checkpoint with torch's own `dcp.save` of four processes in a temporary folder, then runs,
in turn and on the same mesh, each a whole torchrun job:

    plain   DTensors on the mesh, `dcp.load` into them, and nothing else
    verify  the worker of `hsdp-inspect verify` with no second mesh: fill with poison, the same
            `dcp.load`, then every byte compared with an independent read, every CRC32, the replicas

and for `--trip`, two meshes, the whole round trip of each: `dcp.load`, `dcp.save` to a scratch
folder (neither syncs its files), `dcp.load` from there under the second mesh; `verify` compares
after both loads, has the saved folder pass our check, and compares copies.

The files are in the page cache for both, which is the hardest case: nothing waits for the disk.
`median_s` is torchrun from start to end, as a user waits for it; `median_cpu_s` the CPU time of
torchrun and all its ranks, which other work on the machine does not lengthen; `median_work_s` what
is left after the ranks have joined their group (the slowest rank). Ratios are the median of those
of the rounds. Peak memory is a rank's: the resident set's high-water mark, and its anonymous part,
looked at every 20 ms. Writes results/verify_load.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
    seconds,
    workspace,
    write,
)
from reading import make

sys.path.insert(0, str(ROOT))

from inspector.layout.mesh import Mesh
from inspector.verify.spec import JobSpec

ROWS, WIDTH = 8192, 64


def sample(num_ranks: int, count: int) -> list[int]:
    """Ranks to time: the first, the last, and some evenly between."""
    return sorted({round(i * (num_ranks - 1) / max(count - 1, 1)) for i in range(count)})


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


#: What the tensor axis cuts of a tensor: rows and columns in turn.
CUTS = (("layers.*[02468].weight", "tp:0"), ("layers.*[13579].weight", "tp:1"))


def torch_side(folder: str, meshes: list[str], count: int) -> dict[str, Any]:
    """One rank's plan by torch, for some ranks of every mesh."""
    import torch.distributed as dist
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor import empty as empty_dtensor
    from torch.distributed.tensor.placement_types import _StridedShard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    gc.disable()
    metadata = FileSystemReader(folder).read_metadata()
    found: dict[str, Any] = {"ranks": {}}

    def placements(fqn: str, axes: dict[str, int]) -> list[Any]:
        if len(axes) == 1:
            return [Shard(0)]
        dim = int(fqn.split(".")[1]) % 2
        rows = Shard(0) if dim else _StridedShard(0, split_factor=axes["tp"])
        return [Replicate(), rows, Shard(dim)]

    for text in meshes:
        parsed = Mesh.parse(text)
        axes = dict(zip(parsed.axes, parsed.sizes, strict=True))
        world_size = parsed.world_size
        took_s, num_reads = [], {}
        for rank in sample(world_size, count):
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
            mesh = init_device_mesh("cpu", parsed.sizes)
            state = {
                fqn: empty_dtensor(entry.size, device_mesh=mesh, placements=placements(fqn, axes))
                for fqn, entry in metadata.state_dict_metadata.items()
            }
            took, plan = timed(lambda s=state: create_default_local_load_plan(s, metadata))
            took_s.append(took)
            num_reads[rank] = len(plan.items)
            dist.destroy_process_group()
        found["ranks"][text] = {**seconds(took_s, 6), "num_reads": num_reads}
    return found


def our_side(folder: str, meshes: list[str], count: int, rounds: int) -> dict[str, Any]:
    """Everybody's plan by the inspector, and the reads of some ranks."""
    import resource

    from inspector.checkpoint.dcp import read_dcp
    from inspector.checkpoint.storage.opening import open_storage
    from inspector.layout.reads.load_plan import Planner
    from inspector.layout.target.file import PlacementLine
    from inspector.layout.target.rules import TargetPlacements

    checkpoint = read_dcp(open_storage(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planner = Planner(checkpoint)
    prepare = [timed(lambda: Planner(checkpoint))[0] for _ in range(rounds)]
    found: dict[str, Any] = {"prepare": seconds(prepare, 6), "ranks": {}}
    lines = [PlacementLine.parse(*cut) for cut in CUTS]
    for text in meshes:
        mesh = Mesh.parse(text)
        world_size = mesh.world_size
        rules = None if mesh.is_plain else TargetPlacements(mesh, None, lines)
        plans = [timed(lambda m=mesh, r=rules: planner.plan(m, r)) for _ in range(rounds)]
        plan = plans[0][1]
        listed, num_reads = [], {}
        for rank in sample(world_size, count):
            took, reads = timed(lambda p=plan, r=rank: list(p.reads(r)))
            listed.append(took)
            num_reads[rank] = len(reads)
            if len(reads) != plan.ranks.num_reads[rank]:
                raise SystemExit(f"rank {rank} of {world_size}: {len(reads)} reads are listed")
        found["ranks"][text] = {
            "plan": seconds((took for took, _ in plans), 6),
            "reads_of_a_rank": seconds(listed, 6),
            "num_reads": num_reads,
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak_mb_above_the_checkpoint"] = round((peak - before) / 1024, 1)
    return found


def make_checkpoint(folder: str, num_tensors: int, num_chunks: int) -> None:
    """Metadata of tensors cut by `num_chunks` ranks."""
    import torch

    from tests.helpers.make_metadata import make

    gc.disable()
    tensors = [(f"layers.{i}.weight", (ROWS, WIDTH), torch.float32) for i in range(num_tensors)]
    make(Path(folder), tensors, num_chunks)
    # Freeing millions of objects one by one takes as long again.
    os._exit(0)


def child(side: str, folder: str, options: argparse.Namespace) -> Any:
    """One side in a process of its own, so that neither carries the other's memory."""
    command = [sys.executable, __file__, "load_plan", "--side", side, "--folder", folder]
    command += ["--tensors", str(options.tensors), "--chunks", str(options.chunks)]
    command += ["--rounds", str(options.rounds), "--sample", str(options.sample)]
    command += ["--ranks", *map(str, options.ranks), "--axes", *options.axes]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=environ(OMP_NUM_THREADS="1")
    )
    return json.loads(done.stdout) if done.stdout else None


def rows_of(theirs: dict[str, Any], ours: dict[str, Any]) -> list[dict[str, Any]]:
    """The table: a row for each number of ranks."""
    prepare = ours["prepare"]["median_s"]
    rows = []
    for text, rank in theirs["ranks"].items():
        own, num = ours["ranks"][text], Mesh.parse(text).world_size
        if rank["num_reads"] != own["num_reads"]:
            raise SystemExit(f"{text}: {rank['num_reads']} reads, ours {own['num_reads']}")
        whole = rank["median_s"] * num
        plan = own["plan"]["median_s"]
        listed = plan + own["reads_of_a_rank"]["median_s"] * num
        rows.append(
            {
                "ranks": num,
                "mesh": text,
                "torch_one_rank_s": rank["median_s"],
                "torch_all_ranks_s": round(whole, 3),
                "torch_spread_s": [rank["least_s"], rank["most_s"]],
                "plan_s": plan,
                "plan_spread_s": [own["plan"]["least_s"], own["plan"]["most_s"]],
                "prepare_and_plan_s": round(prepare + plan, 6),
                "with_every_read_s": round(prepare + listed, 3),
                "ratio_plan": round(whole / (prepare + plan), 1),
                "ratio_with_every_read": round(whole / (prepare + listed), 1),
                "ratio_to_one_rank": round(rank["median_s"] / (prepare + plan), 2),
                "reads_of_a_rank": next(iter(rank["num_reads"].values())),
            }
        )
    return rows


def load_plan(told: list[str]) -> None:
    """The load plan of every rank beside torch's own planner."""
    parser = arguments(load_plan.__doc__, "load_plan", rounds=7)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=1024)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--axes", nargs="*", default=["dp_replicate:2,dp_shard:64,tp:8"])
    parser.add_argument("--sample", type=int, default=5, help="ranks that are timed")
    parser.add_argument("--side", choices=("make", "torch", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(told)
    meshes = [*(f"fsdp:{n}" for n in options.ranks), *options.axes]
    if options.side == "make":
        make_checkpoint(options.folder, options.tensors, options.chunks)
    elif options.side == "torch":
        print(json.dumps(torch_side(options.folder, meshes, options.sample)))
        sys.stdout.flush()
        os._exit(0)
    elif options.side == "ours":
        print(json.dumps(our_side(options.folder, meshes, options.sample, options.rounds)))
    else:
        plan_both(options)


def plan_both(options: argparse.Namespace) -> None:
    """Make, time both sides, print, write."""
    with tempfile.TemporaryDirectory() as parent:
        folder = f"{parent}/checkpoint"
        child("make", folder, options)
        ours = child("ours", folder, options)
        theirs = child("torch", folder, options)
    rows = rows_of(theirs, ours)
    document = {
        "what": "the load plan of all ranks beside create_default_local_load_plan of each rank",
        "tensors": options.tensors,
        "chunks": options.tensors * options.chunks,
        "saved_by": f"fsdp:{options.chunks}",
        "rounds": options.rounds,
        "ranks_timed_of_torch": options.sample,
        "prepare_s": ours["prepare"],
        "peak_mb_above_the_checkpoint": ours["peak_mb_above_the_checkpoint"],
        "rows": rows,
        "machine": machine(),
    }
    print(
        f"{document['tensors']:,} tensors, {document['chunks']:,} chunks; prepared once in", end=""
    )
    print(f" {ours['prepare']['median_s']:.3f} s; {ours['peak_mb_above_the_checkpoint']} MB")
    print(f"{'ranks':>6}{'torch, a rank':>15}{'all ranks':>12}{'plan':>10}{'+ reads':>10}", end="")
    print(f"{'ratio':>10}{'+ reads':>10}{'to a rank':>11}")
    for row in rows:
        print(f"{row['ranks']:>6}{row['torch_one_rank_s']:>13.3f} s", end="")
        print(
            f"{row['torch_all_ranks_s']:>10.1f} s"
            f"{row['plan_s']:>8.3f} s{row['with_every_read_s']:>8.2f} s{row['ratio_plan']:>9.0f}x"
            f"{row['ratio_with_every_read']:>9.0f}x{row['ratio_to_one_rank']:>10.1f}x  "
            f"{row['mesh']}"
        )
    write(options.out, document)


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
path, out, scratch = sys.argv[1], sys.argv[3], sys.argv[4]
meshes = [tuple(map(int, text.split("x"))) for text in sys.argv[2].split(",")]
dist.init_process_group("gloo")
rank = dist.get_rank()
begin = time.perf_counter()
def load(path, sizes):
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
    return state
state = load(path, meshes[0])
if len(meshes) > 1:
    dcp.save(state, storage_writer=dcp.FileSystemWriter(scratch, sync_files=False))
    del state
    load(scratch, meshes[1])
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


Cost = dict[str, float]


def torchrun(
    world: int, script: str, arguments: list[str], out: Path
) -> tuple[Cost, list[dict[str, Any]]]:
    """One torchrun job: seconds from start to end and of CPU time, and what each rank wrote."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    file = out / "script.py"
    file.write_text(script)
    env = environ(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world), str(file), *arguments]
    begin, before = time.perf_counter(), os.times()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - begin, os.times()
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    cpu = after.children_user + after.children_system - before.children_user
    cost = {"wall_s": wall, "cpu_s": cpu - before.children_system}
    return cost, [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]


def plain(checkpoint: Path, meshes: list[Mesh], out: Path) -> Cost:
    sizes = ",".join("x".join(map(str, mesh.sizes)) for mesh in meshes)
    scratch = out.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    told = [str(checkpoint), sizes, str(out), str(scratch)]
    cost, ranks = torchrun(meshes[0].world_size, PLAIN, told, out)
    shutil.rmtree(scratch, ignore_errors=True)
    return {**cost, "work_s": max(r["work_s"] for r in ranks), **peaks(ranks)}


def verify(checkpoint: Path, meshes: list[Mesh], out: Path) -> Cost:
    mesh, job = meshes[0], out.parent / "job"
    shutil.rmtree(job, ignore_errors=True)
    (job / "events").mkdir(parents=True)
    (job / "scratch").mkdir()
    spec = JobSpec(
        str(checkpoint),
        str(mesh),
        then=tuple(map(str, meshes[1:])),
        events_dir=str(job / "events"),
        scratch_dir=str(job / "scratch"),
    )
    (job / "spec.json").write_text(spec.to_json())
    cost, ranks = torchrun(mesh.world_size, VERIFY, [str(job / "spec.json"), str(out)], out)
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
    return {**cost, "work_s": max(e["elapsed_s"] for e in byes), **peaks(ranks)}


def peaks(ranks: list[Any]) -> Cost:
    return {
        "peak_rss_mb": max(r["VmHWM"] for r in ranks) / 1e6,
        "peak_anon_mb": max(r["RssAnon"] for r in ranks) / 1e6,
    }


#: What is said of several runs: their median, and of memory the most.
TIMES, PEAKS = ("wall_s", "cpu_s", "work_s"), ("peak_rss_mb", "peak_anon_mb")


def measure(checkpoint: Path, meshes: list[Mesh], rounds: int, out: Path) -> dict[str, Any]:
    """Both, in turn, `rounds` times after one that only warms the page cache."""
    text = " -> ".join(map(str, meshes))

    def told(name: str, job: Callable[..., Cost]) -> Cost:
        outcome = job(checkpoint, meshes, out)
        print(text, name, {k: round(v, 2) for k, v in outcome.items()}, file=sys.stderr)
        return outcome

    jobs = {"plain": plain, "verify": verify}
    runs = in_turn(
        {name: partial(told, name, job) for name, job in jobs.items()}, rounds, warm_up="plain"
    )
    summary = {}
    for name, outcomes in runs.items():
        found = {}
        for key in TIMES:
            seen = [o[key] for o in outcomes]
            found[f"median_{key}"] = round(statistics.median(seen), 3)
            found[f"least_{key}"] = round(min(seen), 3)
        for key in PEAKS:
            found[key] = round(max(o[key] for o in outcomes), 1)
        # A name that those who read the results know.
        found["median_s"], found["least_s"] = found["median_wall_s"], found["least_wall_s"]
        summary[name] = found
    ratio = {key: round(summary["verify"][key] / summary["plain"][key], 3) for key in PEAKS}
    pairs = list(zip(runs["plain"], runs["verify"], strict=True))
    for key in TIMES:
        ratio[f"median_{key}"] = round(statistics.median(b[key] / a[key] for a, b in pairs), 3)
    ratio["median_s"] = ratio["median_wall_s"]
    return {"mesh": text, "runs": summary, "ratio": ratio}


def verify_load(told: list[str]) -> None:
    """`verify`'s load and compare, and its round trip, beside plain `torchrun` and DCP."""
    parser = arguments(verify_load.__doc__, "verify_load", rounds=5, gb=1.0)
    parser.add_argument("--mesh", action="append", help="default: fsdp:2, fsdp:4 and hsdp:2x2")
    parser.add_argument("--trip", action="append", help="default: hsdp:2x2,fsdp:4")
    options = parser.parse_args(told)
    with workspace("verify", options.dir, need_bytes=4e9 * options.gb) as root:
        checkpoint = root / "step-1"
        make(checkpoint, options.gb, 4)
        num_bytes = sum(p.stat().st_size for p in checkpoint.iterdir())
        loads = options.mesh or ["fsdp:2", "fsdp:4", "hsdp:2x2"]
        trips = options.trip or ["hsdp:2x2,fsdp:4"]
        found = [
            measure(
                checkpoint, [Mesh.parse(t) for t in text.split(",")], options.rounds, root / "o"
            )
            for text in [*loads, *trips]
        ]
    most = {m["mesh"]: 1.5 if "->" in m["mesh"] else 1.0 for m in found}
    result = {
        "what": "verify beside plain torchrun and dcp.load, or load, save, load; warm page cache",
        "bytes": num_bytes,
        "rounds": options.rounds,
        "meshes": found,
        "target": {"ratio": most, "peak_ratio": 1.0},
        "holds": {
            "wall": all(m["ratio"]["median_wall_s"] <= most[m["mesh"]] for m in found),
            "cpu": all(m["ratio"]["median_cpu_s"] <= most[m["mesh"]] for m in found),
            "peak_rss": all(m["ratio"]["peak_rss_mb"] <= 1.0 for m in found),
            "peak_anon": all(m["ratio"]["peak_anon_mb"] <= 1.0 for m in found),
        },
        "machine": machine(),
    }
    write(options.out, result)
    print(json.dumps(result, indent=1))


SUBJECTS = {"load_plan": load_plan, "verify_load": verify_load}

if __name__ == "__main__":
    dispatch(__doc__, SUBJECTS)
