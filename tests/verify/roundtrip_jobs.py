"""Verification jobs as tests run them: one of its own, or many in one torchrun (imports cost most).

Run by torchrun, this file is the test's worker: `roundtrip_jobs.py SPECS.json` verifies one spec
after the other in one process group, as `inspector.verify.ranks.worker` does one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import Mesh
from inspector.report.documents.verification import EVENTS
from inspector.verify.spec import JobSpec
from tests.helpers import planted_worker
from tests.helpers.schemas import fault

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """A job that has ended: its spec and its events."""

    spec: JobSpec
    events: list[dict[str, Any]]
    code: int = 0
    stderr: str = ""

    def of(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    @property
    def bad(self) -> list[dict[str, Any]]:
        """The `tensor` events that are neither equal nor empty."""
        return [e for e in self.of("tensor") if e["verdict"] not in ("EXACT", "EMPTY")]

    @property
    def words(self) -> Counter[tuple[str, str]]:
        return Counter((e["phase"], e["verdict"]) for e in self.of("tensor"))

    @property
    def names(self) -> set[str]:
        return {e["fqn"] for e in self.bad}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.spec.path)

    def assert_whole(self) -> None:
        """No rank failed, all said bye, and every payload had its CRC looked at once."""
        for event in self.events:
            assert not (what := fault(event, EVENTS[event["event"]])), f"{event}: {what}"
        assert not self.of("failed"), self.of("failed")
        assert len(self.of("bye")) == self.spec.world_size
        num_payloads = [e["num_payloads"] for e in self.of("plan") if "num_payloads" in e]
        byes = self.of("bye")
        seen = sum(e["payloads_checked"] + e["payloads_unsummed"] for e in byes)
        assert [seen] == num_payloads
        left = [p for p in Path(self.spec.scratch_dir).rglob("*") if p.is_file()]
        assert not left, left

    def assert_exact(self, without: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Every element of every entry but some was compared, after each load, and is equal."""
        self.assert_whole()
        checkpoint = self.checkpoint
        wanted = {i: t.fqn for i, t in enumerate(checkpoint.tensors)}
        first: dict[str, int] = {}
        for i, entry in enumerate(checkpoint.bytes_entries):
            first.setdefault(entry.fqn, checkpoint.num_tensors + i)
        wanted |= {i: fqn for fqn, i in first.items()}
        wanted = {i: fqn for i, fqn in wanted.items() if fqn not in without}
        meshes = [Mesh.parse(self.spec.mesh), *map(Mesh.parse, self.spec.then)]
        for hop, mesh in enumerate(meshes, -1):
            phase = "compare" if hop < 0 else "recheck"
            told = [
                e
                for e in self.of("tensor")
                if e["phase"] == phase and e.get("hop", -1) == hop and e["fqn"] not in without
            ]
            words = Counter(e["verdict"] for e in told)
            assert set(words) <= {"EXACT", "EMPTY"}, (phase, words, self.bad[:3])
            reports = Counter(e["entry"] for e in told)
            assert reports == dict.fromkeys(wanted, mesh.world_size), (phase, reports)
            compared = Counter[int]()
            for e in told:
                assert e["mesh"] == str(mesh)
                assert (e["verdict"] == "EMPTY") == (e["num_elements"] == 0)
                compared[e["entry"]] += e["num_compared"]
            for i in wanted:
                if i < checkpoint.num_tensors:
                    tensor = checkpoint.tensors[i]
                    copies = mesh.num_replicas if tensor.shape else mesh.world_size
                    chunks = tensor.num_elements * copies
                    # Per-rank metadata holds a chunk of a replicated tensor once for each rank.
                    assert compared[i] == chunks or checkpoint.per_rank_metadata, tensor.fqn
                    assert compared[i] >= chunks
                else:
                    assert compared[i] > 0


def make_spec(
    folder: Path,
    path: Path | str,
    mesh: str,
    *then: str,
    faults: dict[str, Any] | None = None,
    **fields: Any,
) -> JobSpec:
    """A spec with an events and a scratch folder of its own under `folder`.

    `faults` are planted in the ranks (`tests.helpers.planted_faults`).
    """
    for name in ("events", "scratch"):
        (folder / name).mkdir(parents=True)
    if faults:
        (folder / planted_worker.FILE).write_text(json.dumps(faults))
    return JobSpec(
        path=str(path),
        mesh=mesh,
        then=then,
        events_dir=str(folder / "events"),
        scratch_dir=str(folder / "scratch"),
        timeout_s=600,
        **fields,
    )


def run_job(spec: JobSpec) -> Outcome:
    """One job as `hsdp-inspect verify` starts it."""
    file = Path(spec.events_dir).parent / "spec.json"
    file.write_text(spec.to_json())
    is_planted = (file.parent / planted_worker.FILE).exists()
    module = planted_worker.__name__ if is_planted else "inspector.verify.ranks.worker"
    done = _torchrun(file.parent, spec.world_size, "-m", module, str(file))
    return dataclasses.replace(_read(spec), code=done.returncode, stderr=done.stderr)


def run_batch(folder: Path, specs: Mapping[str, JobSpec]) -> dict[str, Outcome]:
    """Many jobs of one world size in one process group, one after the other."""
    (world,) = {spec.world_size for spec in specs.values()}
    file = folder / f"specs-{world}.json"
    file.write_text(json.dumps([spec.to_json() for spec in specs.values()]))
    done = _torchrun(folder, world, __file__, str(file))
    assert done.returncode == 0, done.stderr[-6000:]
    return {name: _read(spec) for name, spec in specs.items()}


def odd_tensors() -> dict[str, Any]:
    """Tensors whose payloads are stored in every odd way that torch knows."""
    import torch

    torch.manual_seed(0)
    base = torch.randn(8, 6)
    odd = torch.zeros(5, dtype=torch.float32)
    odd[1:] = torch.tensor([float("nan"), -0.0, float("inf"), float("-inf")])
    tensors = {
        "transposed": base.t(),
        "sliced": base[1:7:2, ::2],
        "expanded": torch.arange(6.0).expand(4, 6),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "offset": torch.randn(100)[37:],
        "non_finite": odd,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "conj": torch.randn(5, 3, dtype=torch.complex64).conj(),
        "conj_t": torch.randn(5, 3, dtype=torch.complex128).t().conj(),
        "neg": torch.randn(7, dtype=torch.complex64).conj().imag,
        "odd_complex": torch.randn(7, dtype=torch.complex128),
        "empty": torch.empty(0, 5),
        "no_columns": torch.empty(5, 0),
    }
    raw = torch.arange(96, dtype=torch.uint8).view(12, 8)
    for name in ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn_x2", "complex32", "uint16"):
        dtype = getattr(torch, name, None)
        if dtype is not None:
            tensors[name] = raw.view(dtype)
    for name in ("uint32", "uint64", "bfloat16", "float16", "int16"):
        tensors[name] = raw.view(getattr(torch, name))
    tensors["bool"] = torch.tensor([True, False, True])
    return tensors


def _torchrun(folder: Path, world: int, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if sys.platform == "linux":
        environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # By default it leaves a folder in the temporary one.
    torchrun += ["--log-dir", str(folder / "logs")]
    return subprocess.run(
        [*torchrun, "--nproc-per-node", str(world), *command],
        capture_output=True,
        text=True,
        env=environ,
        timeout=900,
        cwd=ROOT,
    )


def _read(spec: JobSpec) -> Outcome:
    events = []
    for file in sorted(Path(spec.events_dir).glob("rank-*.jsonl")):
        events += [json.loads(line) for line in file.read_text().splitlines()]
    return Outcome(spec, events)


def _main() -> None:
    from functools import cache

    import torch
    import torch.distributed as dist

    from inspector.verify.ranks import targets
    from inspector.verify.ranks.vitals import Reporter, die_with_parent
    from inspector.verify.ranks.worker import Opening, verify
    from tests.helpers.planted_worker import faults_of

    die_with_parent()
    specs = [JobSpec.from_json(text) for text in json.loads(Path(sys.argv[1]).read_text())]
    dist.init_process_group("gloo")
    # A mesh costs sockets, and there would be hundreds.
    targets.make_grid = cache(targets.make_grid)
    rank = dist.get_rank()
    for spec in specs:
        opening = Opening(spec.path) if rank == 0 else None
        reporter = Reporter(spec.events_dir, rank)
        verify(spec, rank, torch.device("cpu"), reporter, opening, faults_of(spec, rank))
        reporter.writer.close()
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
