"""Real torchrun jobs on the samples: the seed's cases by every way, and every sample."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from inspector.verify.spec import VIAS
from tests.conftest import SAMPLES
from tests.verify.roundtrip_jobs import make_spec, odd_tensors, run_batch, run_job

pytestmark = pytest.mark.torchrun


def _samples() -> list[Path]:
    found = {p.parent for p in SAMPLES.rglob(".metadata")}
    found |= {p.parent for p in SAMPLES.rglob("__0.metadata")}
    without = {"broken", "olmo_core_2"}  # torch cannot load OLMo-core's metadata without it
    return sorted(p for p in found if without.isdisjoint(p.parts))


@pytest.mark.parametrize(
    ("size", "fsdp"),
    [
        pytest.param("2x2", "fsdp:4", marks=pytest.mark.torchrun(fast=True)),
        ("2x4", "fsdp:8"),
    ],
)
def test_the_seeds_cases_pass_by_every_way(tmp_path: Path, size: str, fsdp: str) -> None:
    """HSDP -> HSDP and HSDP -> FSDP, even and uneven."""
    specs = {
        f"{model}_{size}-{via}": make_spec(
            tmp_path / f"{model}-{via}",
            SAMPLES / f"{model}_{size}",
            f"hsdp:{size}",
            f"hsdp:{size}",
            fsdp,
            via=via,
        )
        for model in ("hsdp", "hsdp_uneven")
        for via in VIAS
    }
    for name, outcome in run_batch(tmp_path, specs).items():
        outcome.assert_exact()
        ways = {e["via"] for e in outcome.of("tensor")}
        assert ways == {outcome.spec.via}, name


@pytest.mark.parametrize(
    ("mesh", "then"),
    [("fsdp:2", "fsdp:2"), ("fsdp:3", "fsdp:3"), ("fsdp:4", "hsdp:2x2"), ("hsdp:2x2", "fsdp:4")],
)
def test_every_sample_under_every_mesh(tmp_path: Path, mesh: str, then: str) -> None:
    samples = _samples()
    assert len(samples) > 20
    specs = {
        str(path): make_spec(tmp_path / str(i), path, mesh, then) for i, path in enumerate(samples)
    }
    for path, outcome in run_batch(tmp_path, specs).items():
        without = set()
        if outcome.checkpoint.per_rank_metadata:
            # Each rank's `step` is compared, but a joint save can only keep one.
            without = {e.fqn for e in outcome.checkpoint.bytes_entries}
            assert outcome.names == without, path
        outcome.assert_exact(without)


def test_safetensors_are_loaded_as_ranks_load_them(tmp_path: Path) -> None:
    """By torch's HuggingFaceStorageReader: shards, their consolidation, a model of transformers."""
    names = ("hf_dcp_sharded_hsdp_2x2", "hf_dcp_consolidated_2", "hf_dcp_whole_1", "transformers_1")
    specs = {
        f"{name}-{mesh}-{via}": make_spec(
            tmp_path / f"{name}-{mesh}-{via}", SAMPLES / name, mesh, then, via=via
        )
        for name in names
        for mesh, then, via in (("hsdp:2x1", "fsdp:2", "dtensor"), ("fsdp:2", "fsdp:2", "fsdp2"))
    }
    # A file among others is loaded alone; what torch cannot name it does not load at all.
    several = tmp_path / "several"
    several.mkdir()
    for name in ("one", "two"):
        save_file(
            {"lora.weight": torch.full((3, 2), float(len(name)))}, several / f"{name}.safetensors"
        )
    specs["one"] = make_spec(tmp_path / "one", several / "one.safetensors", "fsdp:2", "fsdp:2")
    specs["F4"] = make_spec(tmp_path / "F4", SAMPLES / "safetensors_1", "fsdp:2", "fsdp:2")
    # A shard is gone, and another there twice: the hole is told, the copy is harmless.
    lost = tmp_path / "lost"
    shutil.copytree(SAMPLES / "hf_dcp_sharded_4", lost)
    shutil.copy(lost / "shard-00001-model-00001-of-00001.safetensors", lost / "again.safetensors")
    (lost / "shard-00002-model-00001-of-00001.safetensors").unlink()
    specs["lost"] = make_spec(tmp_path / "lost-job", lost, "fsdp:2", "fsdp:2")
    outcomes = run_batch(tmp_path, specs)
    refused = outcomes.pop("F4")
    assert {e["verdict"] for e in refused.bad} == {"FAILED"}
    assert all("KeyError: 'F4'" in e["detail"] for e in refused.bad)
    assert {e["verdict"] for e in outcomes.pop("lost").bad} == {"MISSING"}
    for outcome in outcomes.values():
        outcome.assert_exact()


def test_fsdp_ways_on_every_dtype(tmp_path: Path) -> None:
    """What cannot be a parameter goes the DTensor way, and says so."""
    names = ("dtypes_4", "fsdp2_hsdp_2x2_adamw")
    specs = {
        f"{name}-{via}": make_spec(
            tmp_path / f"{name}-{via}", SAMPLES / name, "hsdp:2x2", "fsdp:4", via=via
        )
        for name in names
        for via in ("fsdp2", "fsdp1")
    }
    for outcome in run_batch(tmp_path, specs).values():
        outcome.assert_exact()
        by_name = {e["fqn"]: e["via"] for e in outcome.of("tensor")}
        assert set(by_name.values()) == {"dtensor", outcome.spec.via}
        for tensor in outcome.checkpoint.tensors:
            if not tensor.shape or ".state." in tensor.fqn:
                assert by_name[tensor.fqn] == "dtensor"
            elif tensor.dtype in ("float32", "bfloat16") and tensor.num_elements:
                assert by_name[tensor.fqn] == outcome.spec.via


def test_odd_payloads_by_every_way(tmp_path: Path) -> None:
    """Strided, conjugated, NaN, zstd, big names; and what cannot be a DTensor is left out."""
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    state = {**odd_tensors(), "lr": 0.1, "a.b": torch.ones(5), "a": torch.ones(3), "": [1, "x"]}
    quantised = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    dcp.save({**state, "quantised": quantised}, checkpoint_id=plain, no_dist=True)
    specs = {via: make_spec(tmp_path / via, plain, "fsdp:3", "hsdp:3x1", via=via) for via in VIAS}
    specs["url"] = make_spec(tmp_path / "url", f"file://{plain}", "fsdp:3", "fsdp:3")
    if importlib.util.find_spec("zstandard"):
        extension = pytest.importorskip("torch.distributed.checkpoint._extension")
        writer = dcp.FileSystemWriter(packed, _extensions=[extension.ZStandard()])
        dcp.save(state, storage_writer=writer, no_dist=True)
        specs["zstd"] = make_spec(tmp_path / "zstd", packed, "fsdp:3", "fsdp:3")
    for name, outcome in run_batch(tmp_path, specs).items():
        without = set() if name == "zstd" else {"quantised"}
        assert outcome.names == without, outcome.bad[:3]
        outcome.assert_exact(without)


@pytest.mark.torchrun(fast=True)
def test_a_job_of_its_own_in_waves(tmp_path: Path) -> None:
    """The real worker, with so little memory that the checkpoint goes in many waves."""
    path = SAMPLES / "fsdp2_adamw_4"
    spec = make_spec(tmp_path, path, "fsdp:2", "hsdp:2x1", "fsdp:2", memory_bytes=12_000)
    outcome = run_job(spec)
    assert outcome.code == 0, outcome.stderr
    outcome.assert_exact()
    (waves,) = {e["waves"] for e in outcome.of("plan")}
    assert waves > 3
    hello = outcome.of("hello")
    assert {e["rank"] for e in hello} == {0, 1}
    assert all(e["device"] == "cpu" for e in hello)
    phases = [e["phase"] for e in outcome.of("phase") if e["rank"] == 1]
    once = ["load", "compare", "replicas"]
    hop = ["save", "reload", "recheck", "replicas"]
    assert phases == (once + hop + hop) * waves
    # Rank 0 judges every folder it saved.
    checked = [e["checked"] for e in outcome.of("phase") if "checked" in e]
    assert checked == ["sound"] * 2 * waves
    for phase in ("load", "compare", "save", "reload", "recheck"):
        for rank in (0, 1):
            last = [e for e in outcome.of("progress") if e["phase"] == phase and e["rank"] == rank][
                -1
            ]
            assert last["bytes_done"] == last["bytes_total"] > 0, last
            assert last["tensors_done"] == last["tensors_total"] > 0, last


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    path = SAMPLES / "fsdp2_adamw_4"
    specs = {
        "filter": make_spec(tmp_path / "a", path, "fsdp:2", filter="exp_avg !exp_avg_sq"),
        "sample": make_spec(tmp_path / "b", path, "fsdp:2", sample=0.1),
        "memory": make_spec(tmp_path / "c", path, "fsdp:2", memory_bytes=2500),
    }
    for name, outcome in run_batch(tmp_path, specs).items():
        outcome.assert_whole()
        told = outcome.of("tensor")
        left = {e["fqn"] for e in told if e["verdict"] == "NOT_VERIFIED"}
        seen = {e["fqn"] for e in told if e["verdict"] == "EXACT"}
        names = {
            *outcome.checkpoint.columns.fqns,
            *(e.fqn for e in outcome.checkpoint.bytes_entries),
        }
        assert left, name
        assert seen, name
        assert left | seen == names, name
        assert not left & seen, name
        (groups,) = [e["left_out"] for e in outcome.of("plan") if "left_out" in e]
        assert sum(g["count"] for g in groups) == len(left)
        if name == "filter":
            assert all("exp_avg" in fqn and "exp_avg_sq" not in fqn for fqn in seen)
        if name == "sample":
            assert len(seen) == -(-len(names) // 10)
        if name == "memory":
            assert "more memory" in groups[0]["why"]
