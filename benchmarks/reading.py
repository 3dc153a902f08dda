"""What reads stored bytes, beside the same done plainly or with torch: times and peak memory.

    python benchmarks/reading.py deep_check [--gb 2] [--rounds 7] [--dir DIR]
    python benchmarks/reading.py stats      [--gb 1] [--rounds 5] [--torch-rounds 2] [--dir DIR]
    python benchmarks/reading.py diff       [--gb 1] [--rounds 5] [--torch-rounds 2] [--dir DIR]
    python benchmarks/reading.py remote     [--gb 0.5] [--rounds 5] [--torch-rounds 2]
        [--latency-ms 30]

Checkpoints are made with torch's own `dcp.save` of several processes in a temporary folder. All
that is compared runs in turn, each in a fresh process, with the files in the page cache, the
hardest case, as nothing waits for the disk. torch runs with as many threads as there are cores,
and where it takes many times as long, in the first `--torch-rounds` alone.
`median_s` is the work inside of a process, without imports, `median_process_s` the process from
start to end; of a command as it is typed both are that. Peak memory is that of the process and of
its child together. Each writes results/NAME.json.

deep_check  `read`: every data file once, in 8 MiB blocks. `deep`, `values`: `open_checkpoint` and
            `check_payloads`, what `check --deep` adds to `check`. `command`: `check --deep --json`.
            `cold`: the files are evicted before each run (posix_fadvise).
stats       float32 and, half as large, bfloat16. `command`: `stats --json`. `collect`:
            `open_checkpoint` and `collect_stats`. `torch`: `dcp.load` into full tensors; of each in
            float64 what `stats` gives. `torch32`: the same, in the tensor's own type and without a
            histogram: the least that anyone does. The norms must agree.
diff        `ours`: `diff A B --values --json`. `torch`: `dcp.load` of both into whole tensors, then
            `torch.equal`; where that is false, how many elements differ, where the first is, the
            largest absolute and relative difference. Of one alone: `seal`; `hashlib`: `dcp.load`
            and `hashlib.sha256` of each tensor; `sha256sum`: every data file hashed in one thread.
remote      On moto's S3 server on loopback, which counts requests and bytes of objects and answers
            after a wait, as a store in another building does. `least`: one listing (a page for
            1,000 files), one request for `.metadata`, and for what a command reads of the data
            files as many requests of 8 MiB as it takes, file by file. Its rival is torch's
            `FsspecReader`, and `dcp.load` through it, in one process. `plain`: a process whose 16
            threads ask for every 8 MiB of the data files with `http.client`, and drop them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from measuring import (
    ROOT,
    arguments,
    dispatch,
    environ,
    evict,
    in_turn,
    machine,
    run_code,
    seconds,
    spread,
    workspace,
    write,
)

__all__ = ["make"]

# The same numbers on every rank; a shard of them along `dim` is kept.
MAKE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.device_mesh import init_device_mesh
rank, world, folder, store, gb, dim, noise = sys.argv[1:]
rank, world, gb, dim = int(rank), int(world), float(gb), int(dim)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
state, left, layer, number = {}, int(gb * 1e9) // 4, 0, 0
width = 2048
while left > 0:
    for name, times in (("attn.wqkv", 3), ("attn.wo", 1), ("mlp.w1", 4), ("norm", 0)):
        rows = max(min(times * width, left // width), 8) // 8 * 8
        number += 1
        torch.manual_seed(number)
        block = torch.randn(8, width)
        whole = (torch.arange(rows // 8).add(1).rsqrt()[:, None, None] * block).reshape(rows, width)
        local = whole.chunk(world, dim)[rank].clone()
        if noise:
            local *= 1 + 1e-4
        tensor = DTensor.from_local(local, mesh, [Shard(dim)], run_check=False)
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

# A command as it is typed; which exit codes are right comes first.
COMMAND = """
import sys
from inspector.__main__ import main
try:
    main(sys.argv[2:])
except SystemExit as done:
    assert str(done.code or 0) in sys.argv[1], done.code
"""

# Every entry of a checkpoint, whole.
TORCH = """
import sys, time, json, hashlib, torch, warnings
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
warnings.simplefilter("ignore")
begin = time.perf_counter()
def load(folder):
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {fqn: torch.empty(e.size, dtype=e.properties.dtype)
             for fqn, e in entries.items() if hasattr(e, "chunks")}
    dcp.load(state, checkpoint_id=folder, no_dist=True,
             planner=DefaultLoadPlanner(flatten_state_dict=False))
    return state
"""


def make(folder: Path, gb: float, world: int, dim: int = 0, noise: str = "") -> Path:
    """A checkpoint of about this size, saved by `world` processes, cut along `dim`."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        place = [str(world), str(folder), f"{scratch}/store", str(gb), str(dim), noise]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", MAKE, str(rank), *place], env=environ(OMP_NUM_THREADS="1")
            )
            for rank in range(world)
        ]
        codes = [rank.wait() for rank in ranks]
    if any(codes) or not (folder / ".metadata").exists():
        raise SystemExit("the checkpoint was not written")
    return folder


def measured(code: str, told: list[str]) -> dict[str, Any]:
    """What code in a fresh process printed last, the process's time and its peak memory."""
    ran = run_code(code, told)
    said = ran.answer if code is not COMMAND else {"s": ran.wall_s, "out": ran.out}
    return {**said, "wall_s": ran.wall_s, "cpu_s": ran.cpu_s, "peak_bytes": ran.peak_bytes}


def medians(outcomes: list[dict[str, Any]]) -> dict[str, float]:
    """Of some runs of one thing."""
    return {
        "median_s": round(statistics.median(o["s"] for o in outcomes), 4),
        "least_s": round(min(o["s"] for o in outcomes), 4),
        "median_process_s": round(statistics.median(o["wall_s"] for o in outcomes), 4),
        "median_cpu_s": round(statistics.median(o["cpu_s"] for o in outcomes), 4),
        "peak_mb": round(max(o["peak_bytes"] for o in outcomes) / 1e6, 1),
    }


# deep_check

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
from inspector.checkpoint.find.locate import folder_of
from inspector.checks.payload.payloads import check_payloads
begin = time.perf_counter()
checkpoint = open_checkpoint(sys.argv[1])
report = check_payloads(checkpoint, folder_of(sys.argv[1]), values=sys.argv[2] == "values")
elapsed = time.perf_counter() - begin
assert not report.findings and not report.checked.not_checked, report
print(json.dumps({"s": elapsed, "bytes": report.checked.payload_bytes,
                  "payloads": report.checked.payloads}))
"""


def deep_check(told: list[str]) -> None:
    """`check --deep` beside a plain read of the same files."""
    options = arguments(deep_check.__doc__, "deep_check", rounds=7, gb=2.0).parse_args(told)
    with workspace("deep", options.dir, need_bytes=3e9 * options.gb) as root:
        result = _deep(make(root / "step-1", options.gb, 4), options.rounds)
    write(options.out, result)
    print(json.dumps(result, indent=1))


def _deep(checkpoint: Path, rounds: int) -> dict[str, object]:
    files = sorted(str(p) for p in checkpoint.glob("*.distcp"))
    jobs = {
        "read": (READ, files),
        "deep": (DEEP, [str(checkpoint), "deep"]),
        "values": (DEEP, [str(checkpoint), "values"]),
        "command": (COMMAND, ["0", "check", "--deep", str(checkpoint), "--json"]),
    }

    def cold_run(code: str, told: list[str]) -> dict[str, float]:
        evict(files)
        return measured(code, told)

    warm = in_turn({name: partial(measured, *job) for name, job in jobs.items()}, rounds)
    cold = in_turn(
        {name: partial(cold_run, *job) for name, job in jobs.items()},
        min(rounds, 5),
        warm_up=False,
    )
    results = {"warm": _beside_reading(warm), "cold": _beside_reading(cold)}
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
        "machine": machine("isal"),
    }


def _beside_reading(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Medians, and ratios of them to the plain read's."""
    found = {name: medians(outcomes) for name, outcomes in runs.items()}
    for value in found.values():
        for key, ratio in (
            ("median_s", "ratio_to_read"),
            ("median_process_s", "process_ratio"),
            ("median_cpu_s", "cpu_ratio"),
        ):
            value[ratio] = round(value[key] / found["read"][key], 3)
    return found


# stats

LIMIT_MB = 400
#: Of torch's time, that is aimed at.
LEAST_OF_TORCH = 0.1

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

REDUCE = (
    TORCH
    + """
wide = sys.argv[2] == "wide"
state = load(sys.argv[1])
found = {}
for fqn, stored in state.items():
    t = stored.double() if wide else stored
    low, high = t.aminmax()
    found[fqn] = [x.item() for x in (low, high, t.mean(), t.std(), torch.linalg.vector_norm(t),
                  t.numel() - t.count_nonzero(), t.isnan().sum(), t.isinf().sum())]
    if wide:
        found[fqn].append(torch.histc(t, 64, low.item(), high.item()).tolist())
print(json.dumps({"s": time.perf_counter() - begin,
                  "norm": sum(x[4] ** 2 for x in found.values()) ** 0.5}))
"""
)

CONVERT = (
    TORCH
    + """
state = {k: v.bfloat16() for k, v in load(sys.argv[1]).items()}
dcp.save(state, checkpoint_id=sys.argv[2], no_dist=True)
"""
)


def stats(told: list[str]) -> None:
    """`stats` beside `dcp.load` into full tensors and torch's own reductions."""
    options = _few_of_torch(arguments(stats.__doc__, "stats", rounds=5, gb=1.0)).parse_args(told)
    with workspace("stats", options.dir, need_bytes=3e9 * options.gb) as root:
        make(root / "float32", options.gb, 4)
        run_code(CONVERT, [str(root / "float32"), str(root / "bfloat16")])
        found = {
            name: _stats(root / name, options.rounds, options.torch_rounds)
            for name in ("float32", "bfloat16")
        }
    peak = max(f["runs"]["command"]["peak_mb"] for f in found.values())
    result = {
        "what": "stats beside dcp.load into full tensors and torch's reductions; page cache warm",
        "rounds": options.rounds,
        "torch_rounds": options.torch_rounds,
        **found,
        "target": {"time": LEAST_OF_TORCH, "peak_mb": LIMIT_MB},
        "holds": {"peak": peak < LIMIT_MB},
        "machine": machine(),
    }
    write(options.out, result)
    print(json.dumps(result, indent=1))


def _few_of_torch(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--torch-rounds", type=int, default=2, help="of those, torch runs in")
    return parser


def _stats(checkpoint: Path, rounds: int, torch_rounds: int) -> dict[str, Any]:
    path = str(checkpoint)
    jobs = {
        "command": (COMMAND, ["0", "stats", path, "--json"]),
        "collect": (COLLECT, [path]),
        "torch": (REDUCE, [path, "wide"]),
        "torch32": (REDUCE, [path, "narrow"]),
    }
    runs = in_turn(
        {name: partial(measured, *job) for name, job in jobs.items()},
        rounds,
        fewer=dict.fromkeys(("torch", "torch32"), torch_rounds),
    )
    told = json.loads(runs["command"][0]["out"])["tensors"]
    norm, theirs = sum(t["l2"] ** 2 for t in told) ** 0.5, runs["torch"][0]["norm"]
    if abs(norm / theirs - 1) > 1e-12:
        raise SystemExit(f"the norms differ: {norm}, torch {theirs}")
    return {
        "bytes": int(runs["collect"][0]["bytes"]),
        "runs": {name: medians(outcomes) for name, outcomes in runs.items()},
        "ratios": {
            rival: {
                "work": _to_median(runs["collect"], runs[rival], "s"),
                "process": _to_median(runs["command"], runs[rival], "wall_s"),
                "cpu": _to_median(runs["command"], runs[rival], "cpu_s"),
                "peak": _to_median(runs["command"], runs[rival], "peak_bytes"),
            }
            for rival in ("torch", "torch32")
        },
    }


def _to_median(
    ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str
) -> dict[str, float]:
    """Each of ours over the median of theirs: median, least and most."""
    median = statistics.median(b[key] for b in theirs)
    found = spread((a[key] / median for a in ours), 4)
    least, most = found["spread"]
    return {"least": least, "median": found["median"], "most": most}


# diff

COMPARE = (
    TORCH
    + """
a, b = load(sys.argv[1]), load(sys.argv[2])
result = {}
for fqn, x in a.items():
    y = b[fqn]
    if torch.equal(x, y):
        result[fqn] = True
    else:
        differs = x != y
        gap = (x.double() - y.double()).abs()
        scale = torch.maximum(x.double().abs(), y.double().abs())
        first = differs.reshape(-1).to(torch.uint8).argmax()
        result[fqn] = [int(differs.sum()), int(first), float(gap.max()),
                       float((gap / scale.clamp_min(1e-300)).max())]
print(json.dumps({"s": time.perf_counter() - begin, "result": result}))
"""
)

HASH = (
    TORCH
    + """
for x in load(sys.argv[1]).values():
    hashlib.sha256(x.numpy().data).hexdigest()
print(json.dumps({"s": time.perf_counter() - begin}))
"""
)

SHA256SUM = """
import sys, hashlib
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        digest = hashlib.sha256()
        while data := f.read(1 << 20):
            digest.update(data)
print("{}")
"""


def diff(told: list[str]) -> None:
    """`diff --values` and `seal` beside the same done with torch."""
    options = _few_of_torch(arguments(diff.__doc__, "diff", rounds=5, gb=1.0)).parse_args(told)
    with workspace("diff", options.dir, need_bytes=3e9 * options.gb) as root:
        result = _diff(root, options.gb, options.rounds, options.torch_rounds)
    write(options.out, result)
    print(json.dumps(result, indent=1))


def _diff(root: Path, gb: float, rounds: int, torch_rounds: int) -> dict[str, object]:
    """Every comparison, and the seal; two checkpoints lie there at a time."""
    a = make(root / "a", gb, 4)
    files = sorted(str(p) for p in a.glob("*.distcp"))
    num_bytes = sum(os.path.getsize(path) for path in files)
    cases = {
        "b": ("fsdp:4 beside fsdp:8, equal", 8, 0, ""),
        "columns": ("fsdp:4 beside the second dim cut in 4, equal", 4, 1, ""),
        "other": ("fsdp:4 beside fsdp:8, every element different", 8, 0, "noise"),
    }
    diffs = {}
    for name, (what, world, dim, noise) in cases.items():
        other = make(root / name, gb, world, dim, noise)
        result = _processes(
            {
                "ours": (COMMAND, ["01", "diff", str(a), str(other), "--values", "--json"]),
                "torch": (COMPARE, [str(a), str(other)]),
            },
            rounds,
            torch_rounds,
        )
        diffs[name] = {"what": what, **result, "ratio": _beside(result, "ours", "torch")}
        shutil.rmtree(other)
    seal = ["0", "seal", str(a), "--output", str(root / "a.json"), "--force"]
    seals = _processes(
        {"seal": (COMMAND, seal), "hashlib": (HASH, [str(a)]), "sha256sum": (SHA256SUM, files)},
        rounds,
        torch_rounds,
    )
    return {
        "what": "diff --values and seal, as they are typed, beside torch on whole tensors",
        "bytes_a_side": num_bytes,
        "files_of_a": len(files),
        "rounds": rounds,
        "torch_rounds": torch_rounds,
        "target": {"time": LEAST_OF_TORCH},
        "diff": diffs,
        "seal": {
            **seals,
            "gb_per_s": round(num_bytes / 1e9 / seals["seal"]["median_s"], 3),
            "ratio": _beside(seals, "seal", "hashlib"),
            "ratio_to_sha256sum": _beside(seals, "seal", "sha256sum"),
        },
        "machine": machine("isal"),
    }


def _processes(
    jobs: Mapping[str, tuple[str, list[str]]], rounds: int, torch_rounds: int
) -> dict[str, dict[str, float]]:
    """All jobs, in turn; times are of whole processes."""
    runs = in_turn(
        {name: partial(measured, *job) for name, job in jobs.items()},
        rounds,
        fewer=dict.fromkeys(("torch", "hashlib"), torch_rounds),
    )
    return {
        name: {
            **seconds(o["wall_s"] for o in outcomes),
            "median_cpu_s": round(statistics.median(o["cpu_s"] for o in outcomes), 3),
            "peak_mb": round(max(o["peak_bytes"] for o in outcomes) / 1e6, 1),
        }
        for name, outcomes in runs.items()
    }


def _beside(result: dict[str, dict[str, float]], ours: str, rival: str) -> dict[str, float]:
    """Ours to the rival's."""
    a, b = result[ours], result[rival]
    return {
        "time": round(a["median_s"] / b["median_s"], 3),
        "cpu": round(a["median_cpu_s"] / b["median_cpu_s"], 3),
        "time_least": round(a["least_s"] / b["most_s"], 3),
        "time_most": round(a["most_s"] / b["least_s"], 3),
        "peak_memory": round(a["peak_mb"] / b["peak_mb"], 4),
    }


# remote

TENSOR = "layers.0.mlp.w1.weight"

READ_METADATA = """
import sys
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
FsspecReader(sys.argv[1]).read_metadata()
"""

LOAD = """
import sys, warnings, torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader
warnings.simplefilter("ignore")
reader = FsspecReader(sys.argv[1])
wanted = sys.argv[2:]
state = {}
for name, entry in reader.read_metadata().state_dict_metadata.items():
    if wanted and name not in wanted:
        continue
    tensor = hasattr(entry, "size")
    state[name] = torch.empty(entry.size, dtype=entry.properties.dtype) if tensor else None
dcp.load(state, storage_reader=reader, no_dist=True)
"""

PLAIN = """
import http.client, queue, sys, threading
host, block, *files = sys.argv[1:]
wanted = queue.SimpleQueue()
for path, size in zip(files[::2], map(int, files[1::2])):
    for first in range(0, size, int(block)):
        wanted.put((path, first, min(first + int(block), size)))
total = []
def read():
    connection = http.client.HTTPConnection(host)
    while True:
        try:
            path, first, end = wanted.get_nowait()
        except queue.Empty:
            return
        connection.request("GET", path, headers={"Range": f"bytes={first}-{end - 1}"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 206 and len(body) == end - first, answer.status
        total.append(len(body))
threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sum(total) == sum(map(int, files[1::2]))
"""

#: Of the rate of plain parallel range reads, the least that `check --deep` is to reach.
LEAST_RATE = 0.9

#: The commands, and what torch does for the same bytes.
RIVALS = {
    "show": "torch read_metadata",
    "check": "torch read_metadata",
    "check --deep": "torch load",
    "stats of a tensor": "torch load of a tensor",
}


def remote(told: list[str]) -> None:
    """A checkpoint on S3: requests, bytes and time of each command, beside torch."""
    parser = _few_of_torch(arguments(remote.__doc__, "remote", rounds=5, gb=0.5))
    parser.add_argument("--latency-ms", type=float, default=30.0)
    options = parser.parse_args(told)
    with workspace("remote", options.dir, need_bytes=1.2e9 * options.gb) as root:
        folder = make(root / "step-1", options.gb, 4)
        found = _remote(folder, options.rounds, options.torch_rounds, options.latency_ms / 1e3)
        files = [path.stat().st_size for path in folder.iterdir()]
    result = {
        "what": "commands on an s3:// checkpoint: requests, bytes of objects, wall time",
        "checkpoint_bytes": sum(files),
        "num_files": len(files),
        "tensor": TENSOR,
        "latency_ms": options.latency_ms,
        "rounds": options.rounds,
        "torch_rounds": options.torch_rounds,
        "commands": found,
        "machine": machine("s3fs", "moto"),
    }
    write(options.out, result)
    print(json.dumps(result, indent=1))


def _remote(folder: Path, rounds: int, torch_rounds: int, latency_s: float) -> dict[str, Any]:
    """Every command and its rival, in turn."""
    sys.path.insert(0, str(ROOT))
    from inspector.checkpoint.storage.ahead import SEGMENT_BYTES
    from tests.remote.s3_server import BUCKET, s3_server

    with s3_server() as server:
        url = server.put_folder(folder, "run/step-1")
        client, asked = server.client(), []
        for path in folder.glob("*.distcp"):
            key = {"Bucket": BUCKET, "Key": f"run/step-1/{path.name}"}
            signed = client.generate_presigned_url("get_object", key, ExpiresIn=86400)
            asked += [signed.removeprefix(server.url), str(path.stat().st_size)]
        host = server.url.removeprefix("http://")
        jobs = {
            "show": (COMMAND, ["0", "show", "--json", url]),
            "check": (COMMAND, ["0", "check", "--json", url]),
            "check --deep": (COMMAND, ["0", "check", "--deep", "--json", url]),
            "stats of a tensor": (COMMAND, ["0", "stats", "--json", "--filter", TENSOR, url]),
            "torch read_metadata": (READ_METADATA, [url]),
            "torch load of a tensor": (LOAD, [url, TENSOR]),
            "torch load": (LOAD, [url]),
            "plain": (PLAIN, [host, str(SEGMENT_BYTES), *asked]),
        }

        def ask(code: str, told: list[str]) -> dict[str, Any]:
            server.forget()
            server.fault = lambda _: time.sleep(latency_s)
            ran = run_code(code, told, environ(**server.env, OMP_NUM_THREADS="1"))
            return {
                "requests": len(server.asked),
                "bytes": server.object_bytes,
                "most_at_once": server.most_at_once,
                "peak_bytes": ran.own_peak_bytes,
                "s": ran.wall_s,
            }

        runs = in_turn(
            {name: partial(ask, *job) for name, job in jobs.items()},
            rounds,
            fewer=dict.fromkeys(RIVALS.values(), torch_rounds),
        )
    lower = _least(folder)
    found: dict[str, Any] = {}
    for name, outcomes in runs.items():
        times = spread(outcome["s"] for outcome in outcomes)
        most = {key: max(o[key] for o in outcomes) for key in outcomes[0]}
        found[name] = {
            **{key: most[key] for key in ("requests", "bytes", "most_at_once")},
            "peak_mb": round(most["peak_bytes"] / 1e6, 1),
            "median_s": times["median"],
            "spread_s": times["spread"],
        }
        if name in lower:
            found[name] |= {f"least_{key}": number for key, number in lower[name].items()}
    for name, rival in RIVALS.items():
        found[name]["ratio"] = round(found[name]["median_s"] / found[rival]["median_s"], 3)
        found[name]["rival"] = rival
    deep = found["check --deep"]
    deep["of_plain_rate"] = round(found["plain"]["median_s"] / deep["median_s"], 3)
    deep["least_of_plain_rate"] = LEAST_RATE
    return found


def _least(folder: Path) -> dict[str, dict[str, int]]:
    """The fewest requests and bytes, from the checkpoint itself."""
    from inspector.checkpoint.dcp import read_dcp
    from inspector.checkpoint.find.locate import folder_of
    from inspector.checkpoint.storage.ahead import SEGMENT_BYTES, segments_of

    checkpoint = read_dcp(folder_of(str(folder)))
    metadata = (folder / ".metadata").stat().st_size
    opening = 1 + len(checkpoint.folder_files) // 1000 + 1
    files = [file.num_bytes or 0 for file in checkpoint.files]
    tensor = checkpoint.tensors[checkpoint.columns.fqns.index(TENSOR)]
    columns = (tensor.file.tolist(), tensor.byte_offset.tolist(), tensor.byte_length.tolist())
    places = sorted({(checkpoint.files[f].path, o, n) for f, o, n in zip(*columns, strict=True)})
    deep = sum(-(-size // SEGMENT_BYTES) for size in files)
    of_tensor = sum(length for _, _, length in places)
    return {
        "show": {"requests": opening, "bytes": metadata},
        "check": {"requests": opening, "bytes": metadata},
        "check --deep": {"requests": opening + deep, "bytes": metadata + sum(files)},
        "stats of a tensor": {
            "requests": opening + len(segments_of(places)),
            "bytes": metadata + of_tensor,
        },
    }


SUBJECTS: dict[str, Callable[[list[str]], None]] = {
    "deep_check": deep_check,
    "stats": stats,
    "diff": diff,
    "remote": remote,
}

if __name__ == "__main__":
    dispatch(__doc__, SUBJECTS)
