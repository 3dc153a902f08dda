"""What is known before a job starts: device, memory, bytes to read, scratch, command lines."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.safetensors.reader import read_safetensors
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.text import format_bytes
from inspector.errors import UsageError
from inspector.layout.geometry import torch_chunk_bounds
from inspector.layout.mesh import Mesh
from inspector.report.verify_text import meshes_text, plan_text
from inspector.verify import machine, preflight
from inspector.verify import machine as interpreter
from inspector.verify.machine import Gpu
from inspector.verify.preflight import NO_SECOND_MESH, Preflight, prepare
from inspector.verify.selection import loading, reloading
from tests.conftest import SAMPLES

CUDA = interpreter.Interpreter("/python", "2.9", True)
CPU = interpreter.Interpreter("/python", "2.9", False)


def _open(name: str) -> Checkpoint:
    return read_dcp(open_storage(str(SAMPLES / name)))


def _prepare(monkeypatch: pytest.MonkeyPatch, mesh: str, **options: Any) -> Preflight:
    found = options.pop("interpreter", CUDA)
    monkeypatch.setattr(preflight, "examine", lambda python, inspected: found)
    gpus = options.pop("gpus", [])
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    why = options.pop("why", "")
    monkeypatch.setattr(machine, "why_no_gpu", lambda: why)
    free = options.pop("free", 64 << 30)
    monkeypatch.setattr(machine, "free_memory", lambda: free)
    return prepare(_open("hsdp_2x2"), mesh, **options)


@pytest.mark.parametrize(
    ("mesh", "num_gpus", "device", "expected"),
    [
        ("fsdp:4", 0, "auto", ("cpu", "gloo")),
        ("fsdp:4", 1, "auto", ("cuda", "gloo")),
        ("fsdp:4", 4, "auto", ("cuda", "nccl")),
        ("fsdp:4", 8, "cuda", ("cuda", "nccl")),
        ("fsdp:4", 8, "cpu", ("cpu", "gloo")),
    ],
)
def test_device_and_backend(
    monkeypatch: pytest.MonkeyPatch,
    mesh: str,
    num_gpus: int,
    device: str,
    expected: tuple[str, str],
) -> None:
    plan = _prepare(monkeypatch, mesh, gpus=[Gpu("H", 80 << 30)] * num_gpus, device=device)
    assert (plan.spec.device, plan.spec.backend) == expected
    if expected == ("cuda", "gloo"):
        assert "4 ranks share 1 GPU, over gloo" in plan.notes[0]
        assert plan.spec.memory_bytes <= (80 << 30) // 8
    assert all(line.isprintable() for line in plan_text(plan))


def test_memory_is_that_of_the_tensors_not_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's shards and the largest payload; a job of 576 bytes does not want gigabytes."""
    plan = _prepare(monkeypatch, "fsdp:4")
    checkpoint = _open("hsdp_2x2")
    shards = sum(
        -(-tensor.shape[0] // 2) * math.prod(tensor.shape[1:]) * 4  # of hsdp:2x2: float32
        for tensor in map(checkpoint.columns.tensor, range(checkpoint.num_tensors))
    )
    payload = int(checkpoint.columns.byte_length.max())
    assert plan.spec.then == ("hsdp:2x2",)
    assert (plan.num_waves, plan.rank_bytes) == (1, shards + payload)
    said = " ".join(plan_text(plan))
    assert f"memory of a rank: {format_bytes(shards + payload)} of tensors and about 250" in said
    assert "CUDA" not in said

    # What is allowed shows where it cuts the job up.
    tight = _prepare(monkeypatch, "fsdp:4", memory_bytes=(payload + 150) * 10 // 9)
    assert tight.num_waves > 1
    assert payload < tight.rank_bytes <= payload + 150
    assert f"at a time, in {tight.num_waves} waves, and about" in " ".join(plan_text(tight))

    cuda = _prepare(monkeypatch, "fsdp:2", gpus=[Gpu("H", 80 << 30)] * 2)
    assert "of Python and torch, and more of CUDA" in " ".join(plan_text(cuda))


def test_the_same_mesh_twice_is_no_slip_of_the_pen(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _prepare(monkeypatch, "fsdp:5")
    assert plan.spec.then == ("fsdp:5",)
    assert "under fsdp:5, saved, then fsdp:5 again, 5 ranks" in next(plan_text(plan))
    assert meshes_text("fsdp:4", ()) == "fsdp:4"
    assert meshes_text("a", ("b", "b", "a")) == "a then b, saved, then b again then a"


def test_gpus_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu("H", None)]
    plan = _prepare(monkeypatch, "fsdp:2", gpus=gpus, interpreter=CPU)
    assert plan.spec.device == "cpu"
    assert "without CUDA" in plan.notes[0]
    with pytest.raises(UsageError, match="without CUDA"):
        _prepare(monkeypatch, "fsdp:2", gpus=gpus, interpreter=CPU, device="cuda")
    with pytest.raises(UsageError, match="no NVIDIA GPU"):
        _prepare(monkeypatch, "fsdp:2", device="cuda")


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _prepare(monkeypatch, "hsdp:2x2")
    assert plan.spec.then == ("fsdp:4",)
    assert plan.problems == ()
    assert plan.num_bytes == plan.spec.sample * sum(_open("hsdp_2x2").columns.num_bytes)
    assert set(plan.expected.names) == set(_open("hsdp_2x2").columns.fqns)
    assert 0 < plan.spec.memory_bytes < (64 << 30) / 4
    assert _prepare(monkeypatch, "fsdp:4").spec.then == ("hsdp:2x2",)
    assert _prepare(monkeypatch, "fsdp:3").spec.then == ("fsdp:3",)
    plan = _prepare(monkeypatch, "fsdp:3", then=NO_SECOND_MESH)
    assert (plan.spec.then, plan.scratch_bytes) == ((), 0)


def test_no_scratch_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda folder: 1000)
    plan = _prepare(monkeypatch, "fsdp:2", scratch=str(tmp_path))
    with pytest.raises(UsageError, match="of scratch space"):
        plan.check()
    _prepare(monkeypatch, "fsdp:2", then=NO_SECOND_MESH).check()


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="before they load anything"):
        _prepare(monkeypatch, "fsdp:64", free=1 << 30).check()


def _by_hand(checkpoint: Checkpoint, mesh: Mesh) -> int:
    """Bytes of every payload that shares an element with a rank's shard, rank by rank."""
    total = 0
    for tensor in checkpoint.tensors:
        for chunk in range(tensor.num_chunks):
            length = int(tensor.byte_length[chunk])
            if not tensor.shape:
                total += length * mesh.world_size
                continue
            if not tensor.sizes[chunk].all():
                continue
            starts, lengths = torch_chunk_bounds(tensor.shape[0], mesh.num_shards)
            low, size = int(tensor.offsets[chunk][0]), int(tensor.sizes[chunk][0])
            for start, count in zip(starts.tolist(), lengths.tolist(), strict=True):
                if max(low, start) < min(low + size, start + count):
                    total += length * mesh.num_replicas
    return total


@pytest.mark.parametrize("name", ["fsdp_4", "hsdp_uneven_2x4", "fsdp2_adamw_4", "dtypes_4"])
@pytest.mark.parametrize("mesh", ["fsdp:1", "fsdp:2", "fsdp:3", "hsdp:2x4", "fsdp:64"])
def test_bytes_to_read(name: str, mesh: str) -> None:
    checkpoint = _open(name)
    reads = loading(checkpoint, range(checkpoint.num_tensors), Mesh.parse(mesh))
    assert reads.read_bytes == _by_hand(checkpoint, Mesh.parse(mesh))
    assert reads.needed_bytes >= checkpoint.tensor_bytes * Mesh.parse(mesh).num_replicas


def test_bytes_to_read_again() -> None:
    for old, new in ((2, 4), (4, 2), (3, 4), (6, 4), (5, 5)):
        height = math.lcm(old, new) * 10
        pairs = 0
        for a in np.split(np.arange(height), old):
            for b in np.split(np.arange(height), new):
                pairs += bool(len(np.intersect1d(a, b)))
        reads = reloading(height * old, Mesh("fsdp", (old,)), Mesh("hsdp", (2, new)))
        assert reads.read_bytes == 2 * height * pairs
        assert reads.needed_bytes == 2 * height * old


def test_the_interpreter_of_this_very_test() -> None:
    found = interpreter.examine()
    assert found.torch[0].isdigit()
    assert Path(found.path).exists()


def test_the_roomiest_folder_is_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_in_memory", lambda folder: folder == "/b")
    monkeypatch.setattr(machine, "free_disk", {"/a": 5, "/b": 50, "/tmp": 1}.get)
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: "/tmp")
    assert machine.roomiest("/a", "/b") == "/a"


def test_safetensors_are_loaded_by_torchs_own_reader_or_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = read_safetensors(open_storage(str(SAMPLES / "hf_dcp_sharded_4")))

    def ready(version: str = "2.13.0", has: bool = True, path: str = checkpoint.path) -> Preflight:
        found = interpreter.Interpreter("/python", version, False, has)
        monkeypatch.setattr(preflight, "examine", lambda python, inspected: found)
        return prepare(dataclasses.replace(checkpoint, path=path), "fsdp:2")

    assert len(ready().expected.names) == 8 and not ready().problems
    for options, why in (
        ({"version": "2.7.1"}, "came with torch 2.8"),
        ({"has": False}, "no safetensors"),
        ({"path": "memory://hub/model"}, "local files alone"),
    ):
        with pytest.raises(UsageError, match=why):
            ready(**options)


def test_files_that_torch_reads_beside_the_checkpoint_are_told(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "transformers_1", tmp_path / "c")
    shutil.copy(
        next((SAMPLES / "hf_dcp_whole_1").glob("*.safetensors")), tmp_path / "c/extra.safetensors"
    )
    plan = prepare(read_safetensors(open_storage(str(tmp_path / "c"))), "fsdp:2", device="cpu")
    assert any("extra.safetensors" in note for note in plan.notes)


@pytest.mark.parametrize("version", ["2.5.1", "2.5.1+cu121", "1.13.1", "2.0"])
def test_a_torch_that_is_too_old_is_told(version: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    answer = json.dumps({"python": [3, 11], "torch": version, "cuda": False, "missing": []})
    python.write_text(f"#!/bin/sh\necho '{answer}'\n")
    python.chmod(0o755)
    with pytest.raises(UsageError, match=f"torch {version.partition('+')[0]}.*2.6"):
        interpreter.examine(str(python))


@pytest.mark.parametrize("version", ["2.6.0", "2.15.0.dev20260101+cpu", "3.0a0", "?", "garbage"])
def test_a_torch_that_may_do_is_taken(version: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    answer = json.dumps({"python": [3, 11], "torch": version, "cuda": False, "missing": []})
    python.write_text(f"#!/bin/sh\necho '{answer}'\n")
    python.chmod(0o755)
    assert interpreter.examine(str(python)).torch == version
