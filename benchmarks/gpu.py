"""Everything there is to try on one GPU, in one run of less than eight minutes.

    python benchmarks/gpu.py              # on a machine with a GPU
    python benchmarks/gpu.py --dry        # each part small, on the CPU over gloo: that it works

It takes torch (2.6 or later, with CUDA), numpy and psutil, and isal if it is there (checksums are
faster with isal, which `pip download isal` brings). On an image with torch no wheel has to be
carried. Run it from a checkout, which need not be installed.

    seen      what CUDA, nvidia-smi and torch each say of the GPUs
    nccl      1 rank over nccl, into DTensors, FSDP2 and FSDP1, saved and loaded again
    shared    4 ranks on the one GPU, over gloo, into DTensors and FSDP2; nccl and FSDP1 refused
    faults    a byte changed in storage, in the shard on the device, in a replica; a part never
              loaded: each has to be found
    memory    the GPU nearly full: with a budget of what is left it is exact, in waves; with one
              that is too large a rank says that memory ran out
    speed     load and compare of 8 GB beside `torchrun` and a bare `dcp.load`, in turn; memory of a
              rank, on the host and on the device

Every part says what it expected and what came; one that fails does not end the others, and what
there is no time for is left out and named. Writes results/gpu.json after each part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measuring import ROOT, arguments, environ, machine, workspace, write

sys.path.insert(0, str(ROOT))

from inspector.checkpoint import open_checkpoint
from inspector.errors import UsageError
from inspector.verify import machine as machine_of_verify
from inspector.verify.job.launcher import Job
from inspector.verify.preflight import NO_SECOND_MESH, prepare

#: The whole run has to fit in what such a machine is lent for.
LIMIT_S = 450.0
WORKER = "inspector.verify.ranks.worker"
PLANTED = "tests.helpers.device_worker"

MAKE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor, Shard
folder, gb = sys.argv[1], float(sys.argv[2])
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
torch.manual_seed(0)
columns, dtypes = 1024, (torch.bfloat16, torch.float32)
rows = max(int(gb * 1e9 / 8 / columns / 3), 8)
state = {"step": torch.tensor(7), "extra": {"lr": 0.1}}
for i in range(8):
    value = torch.randn(rows, columns).to(dtypes[i % 2])
    state[f"layers.{i}.weight"] = distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None)
dcp.save(state, checkpoint_id=folder)
"""

PLAIN = """
import json, os, sys, time
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, DTensor
path, device, backend, out = sys.argv[1:5]
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if device == "cuda":
    torch.cuda.set_device(rank % torch.cuda.device_count())
dist.init_process_group("cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo")
begin = time.perf_counter()
mesh = init_device_mesh(device, (size,))
state = {}
for fqn, entry in dcp.FileSystemReader(path).read_metadata().state_dict_metadata.items():
    if isinstance(entry, BytesStorageMetadata):
        state[fqn] = None
    elif not entry.size:
        state[fqn] = torch.empty((), dtype=entry.properties.dtype, device=device)
    else:
        rows = -(-entry.size[0] // size)
        mine = max(min(rows, entry.size[0] - rank * rows), 0)
        local = torch.empty((mine, *entry.size[1:]), dtype=entry.properties.dtype, device=device)
        stride = torch.empty(entry.size, device="meta").stride()
        state[fqn] = DTensor.from_local(
            local, mesh, [Shard(0)], run_check=False, shape=entry.size, stride=stride)
dcp.load(state, storage_reader=dcp.FileSystemReader(path))
if device == "cuda":
    torch.cuda.synchronize()
dist.barrier()
work = time.perf_counter() - begin
with open("/proc/self/status") as f:
    peak = next(int(l.split()[1]) * 1024 for l in f if l.startswith("VmHWM"))
cuda = torch.cuda.max_memory_allocated() if device == "cuda" else 0
with open(f"{out}/{rank}.json", "w") as f:
    json.dump({"work_s": work, "peak_rss": peak, "cuda_bytes": cuda}, f)
os._exit(0)
"""


@dataclasses.dataclass
class Bench:
    """What all parts share.

    Attributes:
        root: Where everything is written.
        is_dry: On the CPU, and small.
        gb: Size of the checkpoint of `speed`.
        rounds: Of `speed`, if there is time for so many.
        until: When it has to be over, on the monotonic clock.
    """

    root: Path
    is_dry: bool
    gb: float
    rounds: int
    until: float

    @property
    def device(self) -> str:
        return "cpu" if self.is_dry else "cuda"

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()

    def checkpoint(self, name: str, gb: float) -> Path:
        """A checkpoint of four ranks, made by torch itself."""
        folder = self.root / name
        if not folder.exists():
            torchrun(MAKE, [str(folder), str(gb)], 4, self.root / "make")
        return folder

    @property
    def small(self) -> Path:
        return self.checkpoint("small", 0.01 if self.is_dry else 0.2)

    def verify(self, path: Path, mesh: str, **options: Any) -> dict[str, Any]:
        """One job of our own, by the same road as the command; what it came to."""
        worker, faults = options.pop("worker", WORKER), options.pop("faults", {})
        options.setdefault("device", self.device)
        begin = time.monotonic()
        plan = prepare(open_checkpoint(str(path)), mesh, timeout_s=120, **options)
        plan.check()
        place = self.root / "job"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "faults.json").write_text(json.dumps(faults))
        spec = dataclasses.replace(plan.spec, events_dir=str(place / "events"))
        job = Job(spec, expected=plan.expected, scratch_parent=str(self.root), worker=worker)
        cuda = [0] * spec.world_size
        with job.start():
            for event in job.events():
                rank, held = event.get("rank"), event.get("cuda_bytes")
                if isinstance(rank, int) and isinstance(held, int):
                    cuda[rank] = max(cuda[rank], held)
                if self.left_s < 0:
                    job.kill()
        assert job.result is not None
        byes = [dict(rank.extra) for rank in job.snapshot().ranks]
        names = ("verdict", "why", "backend", "device", "elapsed_s", "phases", "bytes_read")
        return {
            **{name: job.result.get(name) for name in names},
            "mesh": mesh,
            "via": spec.via,
            "waves": plan.num_waves,
            "memory_bytes": spec.memory_bytes,
            "different": job.result["tensors"]["different"],
            "failures": [(f["rank"], f["kind"]) for f in job.result["failures"]],
            "torch_reads": job.result["torch_reads"],
            "work_s": max((b.get("elapsed_s") or 0 for b in byes), default=0),
            "peak_rss": [b.get("peak_rss_bytes") for b in byes],
            "peak_anon": [b.get("peak_anon_bytes") for b in byes],
            "cuda_bytes": cuda,
            "wall_s": round(time.monotonic() - begin, 3),
        }

    def expect(self, verdict: str, path: Path, mesh: str, **options: Any) -> dict[str, Any]:
        """A job, and whether its verdict is the one expected."""
        found = self.verify(path, mesh, **options)
        found |= {"expected": verdict, "holds": found["verdict"] == verdict}
        backend = options.get("backend")
        if backend is not None:
            found["holds"] = found["holds"] and found["backend"] == backend
        return found


def torchrun(script: str, told: list[str], world: int, out: Path) -> float:
    """Seconds of one torchrun of a script.

    Raises:
        RuntimeError: It failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "script.py").write_text(script)
    env = environ(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr=127.0.0.1", "--nproc-per-node", str(world), str(out / "script.py")]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, *told], env=env, capture_output=True, text=True, check=False, timeout=240
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return time.perf_counter() - begin


# --- the parts; each yields a name and what came of it


def seen(bench: Bench) -> Iterator[tuple[str, Any]]:
    code = (
        "import json, torch; c = torch.cuda; print(json.dumps({'torch': torch.__version__, "
        "'cuda': torch.version.cuda, 'nccl': list(c.nccl.version()) if c.is_available() else None, "
        "'gpus': [[c.get_device_name(i), c.mem_get_info(i)[0]] for i in range(c.device_count())]}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch_says = json.loads(done.stdout)
    found = machine_of_verify.gpus()
    ours = [[gpu.name, gpu.free_bytes, gpu.uuid] for gpu in found]
    # Free memory changes from one look to the next: names and number are what has to agree.
    agrees = [gpu.name for gpu in found] == [name for name, _ in torch_says["gpus"]]
    yield (
        "gpus",
        {
            "torch": torch_says,
            "ours": ours,
            "why_none": machine_of_verify.why_no_gpu(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "holds": agrees and (bench.is_dry or bool(ours and ours[0][1])),
        },
    )


def nccl(bench: Bench) -> Iterator[tuple[str, Any]]:
    backend = "gloo" if bench.is_dry else "nccl"
    for via in ("dtensor", "fsdp2", "fsdp1"):
        yield via, bench.expect("exact", bench.small, "fsdp:1", via=via, backend=backend)


def shared(bench: Bench) -> Iterator[tuple[str, Any]]:
    for via, mesh in (("dtensor", "hsdp:2x2"), ("fsdp2", "fsdp:4")):
        yield via, bench.expect("exact", bench.small, mesh, via=via, backend="gloo")
    if not bench.is_dry:
        for name, options in (("nccl", {"backend": "nccl"}), ("fsdp1", {"via": "fsdp1"})):
            try:
                bench.verify(bench.small, "fsdp:4", **options)
                yield f"{name} refused", {"holds": False}
            except UsageError as error:
                yield f"{name} refused", {"holds": True, "said": str(error)}


def faults(bench: Bench) -> Iterator[tuple[str, Any]]:
    fqn = "layers.1.weight"
    plans: dict[str, dict[str, Any]] = {
        "flip_loaded": {"rank": 1, "fqn": fqn},
        "skip_region": {"rank": 0, "fqn": fqn},
        "diverge_replica": {"rank": 3, "fqn": fqn},
    }
    for name, fault in plans.items():
        options = {"then": NO_SECOND_MESH, "worker": PLANTED, "faults": {name: fault}}
        found = bench.expect("differs", bench.small, "hsdp:2x2", **options)
        found["holds"] = found["holds"] and found["different"] == [fqn]
        yield name, found
    damaged = bench.root / "damaged"
    shutil.copytree(bench.small, damaged)
    file = max(damaged.glob("*.distcp"), key=lambda path: path.stat().st_size)
    with open(file, "r+b") as data:
        data.seek(file.stat().st_size * 2 // 5)  # Half would be where two payloads meet.
        byte = data.read(1)
        data.seek(-1, os.SEEK_CUR)
        data.write(bytes([byte[0] ^ 1]))
    yield "in storage", bench.expect("differs", damaged, "fsdp:1", then=NO_SECOND_MESH)


@contextlib.contextmanager
def a_full_gpu(left: int) -> Iterator[None]:
    """Another process holds all of the GPU but so many bytes."""
    code = (
        "import sys, torch; free = torch.cuda.mem_get_info()[0]; "
        f"held = torch.empty(free - {left}, dtype=torch.uint8, device='cuda'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "held\n":
            raise RuntimeError("the GPU could not be filled")
        yield
    finally:
        holder.kill()
        holder.wait()


def memory(bench: Bench) -> Iterator[tuple[str, Any]]:
    if bench.is_dry:
        options = {"worker": PLANTED, "faults": {"oom": {"rank": 0}}}
        found = bench.expect("failed", bench.small, "fsdp:1", **options)
        found["holds"] = found["holds"] and [0, "out-of-memory"] in map(list, found["failures"])
        yield "too much", found
        yield "waves", bench.expect("exact", bench.small, "fsdp:1", memory_bytes=4 << 20)
        return
    big = bench.checkpoint("medium", 2.0)
    with a_full_gpu(left=1500 << 20):
        found = bench.expect("exact", big, "fsdp:1", then=NO_SECOND_MESH)
        found["holds"] = found["holds"] and found["waves"] > 1
        yield "waves", found
        options = {"then": NO_SECOND_MESH, "memory_bytes": 8 << 30}
        found = bench.expect("failed", big, "fsdp:1", **options)
        found["holds"] = found["holds"] and [0, "out-of-memory"] in map(list, found["failures"])
        yield "too much", found


def speed(bench: Bench) -> Iterator[tuple[str, Any]]:
    big = bench.checkpoint("big", bench.gb)
    num_bytes = sum(path.stat().st_size for path in big.iterdir())
    for world, backend in ((1, "gloo" if bench.is_dry else "nccl"), (4, "gloo")):
        out = bench.root / "out"
        plain_s, plain_work, ours_s, ours_work, last = [], [], [], [], {}
        ranks: list[dict[str, Any]] = []
        for number in range(bench.rounds + 1):
            begin = time.monotonic()
            told = [str(big), bench.device, backend, str(out)]
            wall = torchrun(PLAIN, told, world, out)
            ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]
            last = bench.expect("exact", big, f"fsdp:{world}", then=NO_SECOND_MESH, backend=backend)
            if number:  # The first brings the files into the page cache.
                plain_s.append(wall)
                plain_work.append(max(rank["work_s"] for rank in ranks))
                ours_s.append(last["wall_s"])
                ours_work.append(last["work_s"])
            if number and bench.left_s < 2.5 * (time.monotonic() - begin):
                break
        yield (
            f"{world} ranks",
            {
                "bytes": num_bytes,
                "rounds": len(plain_s),
                "plain_median_s": statistics.median(plain_s),
                "plain_work_s": statistics.median(plain_work),
                "verify_median_s": statistics.median(ours_s),
                "verify_work_s": statistics.median(ours_work),
                "ratio": statistics.median(ours_s) / statistics.median(plain_s),
                "ratio_work": statistics.median(ours_work) / statistics.median(plain_work),
                "plain_peak_rss": max(rank["peak_rss"] for rank in ranks),
                "plain_cuda_bytes": max(rank["cuda_bytes"] for rank in ranks),
                "last": last,
                "holds": last["holds"],
            },
        )


PARTS: dict[str, Callable[[Bench], Iterator[tuple[str, Any]]]] = {
    "seen": seen,
    "nccl": nccl,
    "shared": shared,
    "faults": faults,
    "memory": memory,
    "speed": speed,
}
#: What a part takes at least; one for which there is less is left out.
LEAST_S = {"speed": 90.0, "memory": 60.0}


def main() -> None:
    parser = arguments(__doc__ or "", "gpu", rounds=3, gb=8.0)
    parser.add_argument("--dry", action="store_true", help="small, on the CPU, over gloo")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="[default: all]")
    options = parser.parse_args()
    if not options.dry and not machine_of_verify.gpus():
        why = machine_of_verify.why_no_gpu() or "there is no GPU here"
        sys.exit(f"gpu.py: {why}; --dry tries each part on the CPU")
    begin = time.monotonic()
    gb, rounds = (0.02, 1) if options.dry else (options.gb, options.rounds)
    result: dict[str, Any] = {"what": "one GPU", "dry": options.dry, "machine": machine()}
    parts: dict[str, dict[str, Any]] = {}
    with workspace("gpu", options.dir, need_bytes=3e9 * gb) as root:
        os.environ |= {"XDG_STATE_HOME": str(root / "state"), "PYTHONPATH": str(ROOT)}
        bench = Bench(root, options.dry, gb, rounds, begin + (1e6 if options.dry else LIMIT_S))
        for name in options.part or PARTS:
            told = parts[name] = {}
            if bench.left_s < LEAST_S.get(name, 30.0):
                told["left out"] = {"holds": False, "why": f"{bench.left_s:.0f} s were left"}
            else:
                try:
                    for case, found in PARTS[name](bench):
                        told[case] = found
                        held = "holds" if found["holds"] else "DOES NOT HOLD"
                        print(
                            f"{time.monotonic() - begin:6.1f} s {name}: {case}: {held}", flush=True
                        )
                except Exception as error:
                    told["error"] = {"holds": False, "why": traceback.format_exc()[-3000:]}
                    print(f"{name}: {type(error).__name__}: {error}", flush=True)
            failing = [
                f"{p}: {c}" for p, cs in parts.items() for c, f in cs.items() if not f["holds"]
            ]
            result |= {"parts": parts, "failing": failing}
            result["elapsed_s"] = round(time.monotonic() - begin, 1)
            if not options.dry or options.out != parser.get_default("out"):
                write(options.out, result)
    print(json.dumps(result["failing"]))
    sys.exit(bool(result["failing"]))


if __name__ == "__main__":
    main()
