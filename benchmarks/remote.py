"""A checkpoint on S3: requests, bytes and time of each command, beside the least and beside torch.

    python benchmarks/remote.py [--gb 0.5] [--rounds 3] [--latency-ms 30]

Makes a checkpoint with torch's own `dcp.save` of four processes, puts it on moto's S3 server on
loopback, and runs each command in a fresh process. The server counts requests and bytes of
objects, and answers each request after a wait, as a store in another building does.

    least     one listing (a page for 1,000 files), one request for `.metadata`, and for what a
              command reads of the data files as many requests of 8 MiB as it takes, file by file
    torch     `FsspecReader(url).read_metadata()`, and `dcp.load` through it, in one process

`ratio` is a command's median time over torch's for the same bytes. Writes results/remote.json.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from deep_check import make
from measuring import (
    ROOT,
    arguments,
    environ,
    in_turn,
    machine,
    run_code,
    spread,
    workspace,
    write,
)

sys.path.insert(0, str(ROOT))

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.storage.ahead import SEGMENT_BYTES, segments_of
from tests.remote.s3_server import S3Server, s3_server
from tests.remote.watched import Asked

TENSOR = "layers.0.mlp.w1.weight"

COMMAND = """
import sys
from inspector.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
"""

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


def run(server: S3Server, delay_s: float, code: str, told: list[str]) -> dict[str, Any]:
    """Run code in a fresh process: what the server was asked, and its time."""

    def wait(_: Asked) -> None:
        time.sleep(delay_s)

    server.forget()
    server.fault = wait
    ran = run_code(code, told, environ(**server.env, OMP_NUM_THREADS="1"))
    return {
        "requests": len(server.asked),
        "listings": len(server.listings),
        "bytes": server.object_bytes,
        "most_at_once": server.most_at_once,
        "s": ran.wall_s,
        "peak_bytes": ran.own_peak_bytes,
    }


def least(folder: Path) -> dict[str, dict[str, int]]:
    """The fewest requests and bytes, from the checkpoint itself."""
    checkpoint = read_dcp(folder_of(str(folder)))
    metadata = (folder / ".metadata").stat().st_size
    opening = 1 + len(checkpoint.folder_files) // 1000 + 1
    files = [file.num_bytes or 0 for file in checkpoint.files]
    tensor = checkpoint.tensors[checkpoint.columns.fqns.index(TENSOR)]
    places = sorted(
        {
            (checkpoint.files[f].path, o, n)
            for f, o, n in zip(
                tensor.file.tolist(),
                tensor.byte_offset.tolist(),
                tensor.byte_length.tolist(),
                strict=True,
            )
        }
    )
    return {
        "show": {"requests": opening, "bytes": metadata},
        "check": {"requests": opening, "bytes": metadata},
        "check --deep": {
            "requests": opening + sum(-(-size // SEGMENT_BYTES) for size in files),
            "bytes": metadata + sum(files),
        },
        "stats of a tensor": {
            "requests": opening + len(segments_of(places)),
            "bytes": metadata + sum(length for _, _, length in places),
        },
    }


def measure(folder: Path, rounds: int, latency_s: float) -> dict[str, Any]:
    """Every command and its rival, in turn."""
    with s3_server() as server:
        url = server.put_folder(folder, "run/step-1")
        jobs = {
            "show": (COMMAND, ["show", "--json", url]),
            "check": (COMMAND, ["check", "--json", url]),
            "check --deep": (COMMAND, ["check", "--deep", "--json", url]),
            "stats of a tensor": (COMMAND, ["stats", "--json", "--filter", TENSOR, url]),
            "torch read_metadata": (READ_METADATA, [url]),
            "torch load of a tensor": (LOAD, [url, TENSOR]),
            "torch load": (LOAD, [url]),
        }
        runs = in_turn(
            {name: partial(run, server, latency_s, *job) for name, job in jobs.items()}, rounds
        )
    rivals = {
        "show": "torch read_metadata",
        "check": "torch read_metadata",
        "check --deep": "torch load",
        "stats of a tensor": "torch load of a tensor",
    }
    lower = least(folder)
    found: dict[str, Any] = {}
    for name, outcomes in runs.items():
        times = spread(outcome["s"] for outcome in outcomes)
        found[name] = {
            "requests": max(outcome["requests"] for outcome in outcomes),
            "bytes": max(outcome["bytes"] for outcome in outcomes),
            "most_at_once": max(outcome["most_at_once"] for outcome in outcomes),
            "peak_mb": round(max(outcome["peak_bytes"] for outcome in outcomes) / 1e6, 1),
            "median_s": times["median"],
            "spread_s": times["spread"],
        }
        if name in lower:
            found[name]["least_requests"] = lower[name]["requests"]
            found[name]["least_bytes"] = lower[name]["bytes"]
    for name, rival in rivals.items():
        found[name]["ratio"] = round(found[name]["median_s"] / found[rival]["median_s"], 3)
        found[name]["rival"] = rival
    return found


def main() -> None:
    parser = arguments(__doc__, "remote", rounds=3, gb=0.5)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    options = parser.parse_args()
    with workspace("remote", options.dir, need_bytes=1.2e9 * options.gb) as root:
        folder = root / "step-1"
        make(folder, options.gb, 4)
        found = measure(folder, options.rounds, options.latency_ms / 1e3)
        files = [path.stat().st_size for path in folder.iterdir()]
    result = {
        "what": "commands on an s3:// checkpoint: requests, bytes of objects, wall time",
        "checkpoint_bytes": sum(files),
        "num_files": len(files),
        "tensor": TENSOR,
        "latency_ms": options.latency_ms,
        "rounds": options.rounds,
        "commands": found,
        "machine": machine("s3fs", "moto"),
    }
    write(options.out, result)
    print(
        f"{'':<24}{'requests':>9}{'least':>7}{'bytes':>14}{'least':>14}{'MB':>8}{'s':>9}{'ratio':>8}"
    )
    for name, row in found.items():
        print(
            f"{name:<24}{row['requests']:>9}{row.get('least_requests', ''):>7}{row['bytes']:>14,}"
            f"{row.get('least_bytes', ''):>14}{row['peak_mb']:>8}{row['median_s']:>9}"
            f"{row.get('ratio', ''):>8}"
        )


if __name__ == "__main__":
    main()
