"""A dtype that plan caching kept: told as a warning, with or without reading all bytes."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultSavePlanner

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checks.findings import Finding
from inspector.checks.payload.packed import with_stored_dtypes
from tests.checks.editing import judged

pytestmark = pytest.mark.skipif(
    "enable_plan_caching" not in inspect.signature(DefaultSavePlanner).parameters,
    reason="torch before 2.7 caches no plans",
)
VALUES = torch.arange(8192).remainder(250).reshape(64, 128)
KEPT = [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float64, torch.uint8),
    (torch.float16, torch.bfloat16),
    (torch.float32, torch.float64),
    (torch.float16, torch.float64),
]


def saved(folder: Path, first: torch.dtype, then: torch.dtype) -> Path:
    """Two saves of one process with a cached plan; the second, which must not be refused."""
    for number, dtype in enumerate((first, then)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            planner = DefaultSavePlanner(enable_plan_caching=True)
            # The plan is cached by the kind of the planner and the names, sizes and offsets.
            state = {f"w.{folder.name}": VALUES.to(dtype), f"b.{folder.name}": torch.ones(3)}
            dcp.save(state, checkpoint_id=folder / str(number), no_dist=True, planner=planner)
    return folder / "1"


def recorded(folder: Path, fqn: str) -> torch.dtype:
    found = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata[fqn]
    return found.properties.dtype  # type: ignore[union-attr]


@pytest.mark.parametrize(("first", "then"), KEPT)
def test_a_kept_dtype_is_a_warning_as_torch_loads_it(
    tmp_path: Path, first: torch.dtype, then: torch.dtype
) -> None:
    folder = saved(tmp_path / str(first), first, then)
    fqn = f"w.{first}"
    if recorded(folder, fqn) == then:
        pytest.skip("this torch does not keep it")
    target = {fqn: torch.zeros(64, 128, dtype=then)}
    dcp.load(target, checkpoint_id=folder, no_dist=True)
    assert torch.equal(target[fqn], VALUES.to(then))
    wide = first.itemsize != then.itemsize
    told: list[tuple[Finding, ...]] = [judged(folder, deep=deep).findings for deep in (False, True)]
    assert len(told[0]) == wide
    for found in told[not wide :]:
        (finding,) = found
        assert (finding.code, finding.severity, finding.fqn) == ("payload-mismatch", "warning", fqn)
        assert (
            f"its elements are {str(then)[6:]}, {str(first)[6:]} by the metadata" in finding.message
        )
        assert f"exact into {str(then)[6:]}" in finding.torch_does
        assert "enable_plan_caching" in finding.hint and "different saves" not in finding.hint
    assert judged(folder, deep=False).verdict == judged(folder, deep=True).verdict == "sound"


def test_a_file_of_another_save_in_the_place_of_one_stays_damage(tmp_path: Path) -> None:
    """Two dtypes of one size: of one tensor's chunks only those of the strange file differ."""
    from torch.distributed.tensor import Shard

    from tests.checks.ranks import mesh_of, save_as_ranks, sharded

    def made(dtype: torch.dtype) -> Path:
        def state(rank: int) -> dict[str, object]:
            return {"w": sharded(VALUES.to(dtype), mesh_of(2), Shard(0))}

        return save_as_ranks(tmp_path / str(dtype), 2, state)

    half, brain = made(torch.float16), made(torch.bfloat16)
    assert judged(half, deep=True).verdict == "sound"
    name = "__1_0.distcp"
    (half / name).write_bytes((brain / name).read_bytes())
    report = judged(half, deep=True)
    (finding,) = (f for f in report.findings if f.code == "payload-mismatch")
    assert (finding.severity, report.verdict) == ("error", "damaged")
    assert "1 of its 2 chunks" in finding.message


def test_too_few_bytes_for_either_dtype_stay_damage(tmp_path: Path) -> None:
    folder = saved(tmp_path / "cut", torch.float32, torch.bfloat16)
    metadata = dcp.FileSystemReader(folder).read_metadata()
    import pickle

    for index, info in metadata.storage_data.items():
        if index.fqn == "w.cut":
            info.length -= 64
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(BaseException, match=r"."):
        target = {"w.cut": torch.zeros(64, 128, dtype=torch.bfloat16)}
        dcp.load(target, checkpoint_id=folder, no_dist=True)
    report = judged(folder, deep=False)
    assert report.verdict == "damaged"
    assert "range-too-short" in {f.code for f in report.findings}


def test_what_is_verified_is_loaded_in_the_stored_dtype(tmp_path: Path) -> None:
    folder = saved(tmp_path / "verified", torch.float16, torch.bfloat16)
    if recorded(folder, "w.verified") == torch.bfloat16:
        pytest.skip("this torch does not keep it")
    checkpoint, stored = with_stored_dtypes(open_checkpoint(str(folder)), LocalStorage(str(folder)))
    assert stored == {"w.verified": "bfloat16"}
    assert {t.fqn: t.dtype for t in checkpoint.tensors} == {**stored, "b.verified": "float32"}
    same, none = with_stored_dtypes(
        open_checkpoint(str(folder.parent / "0")), LocalStorage(str(folder.parent / "0"))
    )
    assert none == {} and same.columns.properties == open_checkpoint(same.path).columns.properties


class Remote(LocalStorage):
    """A folder whose files have no path here; what is read is counted."""

    reads = 0

    def local_path(self, path: str) -> str | None:
        return None

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        return super().read(path, offset, length)


@pytest.mark.parametrize(("first", "then"), KEPT)
def test_remote_storage_is_looked_at_too(
    tmp_path: Path, first: torch.dtype, then: torch.dtype
) -> None:
    folder = saved(tmp_path / f"{first}-there", first, then)
    fqn = f"w.{first}-there"
    if recorded(folder, fqn) == then:
        pytest.skip("this torch does not keep it")
    _, stored = with_stored_dtypes(open_checkpoint(str(folder)), Remote(str(folder)))
    assert stored == {fqn: str(then)[6:]}


def test_little_is_read_of_what_is_usual(tmp_path: Path) -> None:
    state = {f"w{i}": torch.ones(4, 4, dtype=torch.bfloat16) for i in range(200)}
    state |= {f"b{i}": torch.ones(4) for i in range(200)}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    there = Remote(str(tmp_path))
    assert with_stored_dtypes(open_checkpoint(str(tmp_path)), there)[1] == {}
    assert 0 < there.reads < 100
