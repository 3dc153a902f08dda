"""The load plan of every rank beside torch's own planner, and how both grow with the ranks.

    python benchmarks/load_plan.py [--tensors 1000] [--chunks 1024] [--ranks 64 256 1024]

Makes the metadata of `--tensors` tensors of 8,192 rows that `--chunks` ranks saved, by
`tests.helpers`, and plans its load under `fsdp:N` for every N of `--ranks`, both sides from
metadata that is read already:

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
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from measuring import RESULTS, environ, machine, seconds, write  # noqa: E402

ROWS, WIDTH = 8192, 64


def sample(num_ranks: int, count: int) -> list[int]:
    """Ranks to time: the first, the last, and some evenly between."""
    return sorted({round(i * (num_ranks - 1) / max(count - 1, 1)) for i in range(count)})


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def torch_side(folder: str, ranks: list[int], count: int) -> dict[str, Any]:
    """One rank's plan by torch, for some ranks of every mesh."""
    import torch.distributed as dist
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_dtensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    gc.disable()
    metadata = FileSystemReader(folder).read_metadata()
    found: dict[str, Any] = {"ranks": {}}
    for world_size in ranks:
        took_s, num_reads = [], {}
        for rank in sample(world_size, count):
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
            mesh = init_device_mesh("cpu", (world_size,))
            state = {
                fqn: empty_dtensor(entry.size, device_mesh=mesh, placements=[Shard(0)])
                for fqn, entry in metadata.state_dict_metadata.items()
            }
            took, plan = timed(lambda s=state: create_default_local_load_plan(s, metadata))
            took_s.append(took)
            num_reads[rank] = len(plan.items)
            dist.destroy_process_group()
        found["ranks"][world_size] = {**seconds(took_s, 6), "num_reads": num_reads}
    return found


def our_side(folder: str, ranks: list[int], count: int, rounds: int) -> dict[str, Any]:
    """Everybody's plan by the inspector, and the reads of some ranks."""
    import resource

    from inspector.checkpoint.dcp import read_dcp
    from inspector.checkpoint.storage.opening import open_storage
    from inspector.layout.mesh import Mesh
    from inspector.layout.reads.load_plan import Planner

    checkpoint = read_dcp(open_storage(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    planner = Planner(checkpoint)
    prepare = [timed(lambda: Planner(checkpoint))[0] for _ in range(rounds)]
    found: dict[str, Any] = {"prepare": seconds(prepare, 6), "ranks": {}}
    for world_size in ranks:
        mesh = Mesh("fsdp", (world_size,))
        plans = [timed(lambda m=mesh: planner.plan(m)) for _ in range(rounds)]
        plan = plans[0][1]
        listed, num_reads = [], {}
        for rank in sample(world_size, count):
            took, reads = timed(lambda p=plan, r=rank: list(p.reads(r)))
            listed.append(took)
            num_reads[rank] = len(reads)
            if len(reads) != plan.ranks.num_reads[rank]:
                raise SystemExit(f"rank {rank} of {world_size}: {len(reads)} reads are listed")
        found["ranks"][world_size] = {
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
    command = [sys.executable, __file__, "--side", side, "--folder", folder]
    command += ["--tensors", str(options.tensors), "--chunks", str(options.chunks)]
    command += ["--rounds", str(options.rounds), "--sample", str(options.sample)]
    command += ["--ranks", *map(str, options.ranks)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=environ(OMP_NUM_THREADS="1")
    )
    return json.loads(done.stdout) if done.stdout else None


def rows_of(theirs: dict[str, Any], ours: dict[str, Any]) -> list[dict[str, Any]]:
    """The table: a row for each number of ranks."""
    prepare = ours["prepare"]["median_s"]
    rows = []
    for text, rank in theirs["ranks"].items():
        own, num = ours["ranks"][text], int(text)
        if rank["num_reads"] != own["num_reads"]:
            raise SystemExit(f"{num} ranks: {rank['num_reads']} reads, ours {own['num_reads']}")
        whole = rank["median_s"] * num
        plan = own["plan"]["median_s"]
        listed = plan + own["reads_of_a_rank"]["median_s"] * num
        rows.append(
            {
                "ranks": num,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=1024)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sample", type=int, default=5, help="ranks that are timed")
    parser.add_argument("--side", choices=("make", "torch", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS / "load_plan.json")
    options = parser.parse_args()
    if options.side == "make":
        make_checkpoint(options.folder, options.tensors, options.chunks)
    elif options.side == "torch":
        print(json.dumps(torch_side(options.folder, options.ranks, options.sample)))
        sys.stdout.flush()
        os._exit(0)
    elif options.side == "ours":
        print(json.dumps(our_side(options.folder, options.ranks, options.sample, options.rounds)))
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
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
            f"{row['ratio_with_every_read']:>9.0f}x{row['ratio_to_one_rank']:>10.1f}x"
        )
    write(options.out, document)


if __name__ == "__main__":
    main()
