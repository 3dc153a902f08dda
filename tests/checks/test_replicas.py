"""What only the bytes tell: copies that differ, pieces whose boxes are wrong, a dtype of before."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.tensor import DTensor, Replicate, Shard

from tests.cases.makers import full
from tests.checks.editing import judged
from tests.checks.ranks import StateDict, mesh_of, save_as_ranks, save_per_rank, sharded
from tests.conftest import run_cli

needs_no_collectives = pytest.mark.skipif(
    "use_collectives" not in inspect.signature(dcp.save).parameters,
    reason="torch before 2.9 knows no metadata of every rank's own",
)


# -- copies ------------------------------------------------------------------------------------


def per_rank(other: Callable[[int], StateDict]) -> Callable[[int], StateDict]:
    return lambda rank: {"a": sharded(full(8), mesh_of(4), Shard(0)), **other(rank)}


@needs_no_collectives
def test_what_each_rank_may_have_of_its_own_is_no_error(tmp_path: Path) -> None:
    def other(rank: int) -> StateDict:
        own = full(3) + rank
        local = {"w": {"slot_of_nobody": own}}
        return {
            "loss": torch.tensor(float(rank)),
            "dropout_rng": own,
            "grad_scaler": {"found": own},
            "optim": {"state": local},
        }

    folder = save_per_rank(tmp_path, 4, per_rank(other))
    report = judged(folder)
    assert {(f.code, f.severity) for f in report.findings} == {("replicas-differ", "warning")}
    assert len(report.findings) == 4
    assert report.verdict == "sound"


@needs_no_collectives
def test_what_is_nan_in_every_copy_is_counted_once(tmp_path: Path) -> None:
    def other(rank: int) -> StateDict:
        return {"w": torch.tensor([[1.0, torch.nan], [torch.nan, 2.0]])}

    folder = save_per_rank(tmp_path, 4, per_rank(other))
    (finding,) = run_cli("check", folder, "--values", "--json").json()["findings"]
    assert (finding["code"], finding["num_elements"]) == ("values-nan", 2)
    assert "holds 2 NaN values, the first at [0, 1]" in finding["message"]


@needs_no_collectives
def test_a_copy_that_differs_is_told_with_its_first_index(tmp_path: Path) -> None:
    def other(rank: int) -> StateDict:
        w = full(4, 3)
        if rank == 2:
            w[1, 2] = -7
            w[3, 0] = torch.nan
        return {"w": w, "nan": torch.full((2,), torch.nan)}

    folder = save_per_rank(tmp_path, 4, per_rank(other))
    report = judged(folder)
    (finding,) = report.findings
    assert (finding.code, finding.severity, finding.fqn) == ("replicas-differ", "error", "w")
    assert (finding.offsets, finding.num_elements) == ((1, 2), 2)
    assert "rank 0 stored 5.0, rank 2 -7.0" in finding.message
    assert finding.file == "__2_0.distcp"
    assert report.verdict == "damaged"
    with pytest.raises(Exception, match=r"."):
        FileSystemReader(folder).read_metadata(rank=4)


@needs_no_collectives
def test_copies_of_shards_are_compared_too(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        mesh = mesh_of(2, 2)
        return {"w": sharded(full(4, 3) + (rank == 3), mesh, Replicate(), Shard(0))}

    (finding,) = judged(save_per_rank(tmp_path, 4, make)).findings
    assert (finding.offsets, finding.num_elements) == ((2, 0), 6)
    assert "6 elements of 12" in finding.message


@needs_no_collectives
def test_a_ranks_own_state_is_no_error(tmp_path: Path) -> None:
    def other(rank: int) -> StateDict:
        torch.manual_seed(rank)
        return {"rng": torch.get_rng_state(), "position": torch.tensor(rank), "b": full(3)}

    report = judged(save_per_rank(tmp_path, 4, per_rank(other)))
    assert {(f.code, f.severity, f.fqn) for f in report.findings} == {
        ("replicas-differ", "warning", "rng"),
        ("replicas-differ", "warning", "position"),
    }
    assert report.verdict == "sound"


@needs_no_collectives
def test_local_state_that_every_rank_keeps_is_no_error(tmp_path: Path) -> None:
    # The same is lost where one file of metadata is written (test_shapes.py).
    def make(rank: int) -> StateDict:
        p = sharded(full(16, 8), mesh_of(4), Shard(0))
        return {"model": {"w": p}, "optim": {"state": {"w": {"exp_avg": p.to_local()}}}}

    report = judged(save_per_rank(tmp_path, 4, make))
    assert [(f.code, f.severity) for f in report.findings] == [("replicas-differ", "warning")]
    assert "a rank's own piece" in report.findings[0].hint


@needs_no_collectives
def test_copies_that_are_alike_are_not_told(tmp_path: Path) -> None:
    def other(rank: int) -> StateDict:
        return {"w": full(4, 3), "nan": torch.full((2,), torch.nan), "t": full(3, 5).T}

    assert not judged(save_per_rank(tmp_path, 4, per_rank(other))).findings


# -- boxes -------------------------------------------------------------------------------------


def uneven(lengths: tuple[int, ...], rows: int) -> Callable[[int], StateDict]:
    def make(rank: int) -> StateDict:
        mesh = mesh_of(len(lengths))
        first = sum(lengths[:rank])
        local = full(rows, 4)[first : first + lengths[rank]].contiguous()
        w = DTensor.from_local(
            local, mesh, [Shard(0)], run_check=False, shape=torch.Size((rows, 4)), stride=(4, 1)
        )
        return {"w": w, "v": sharded(full(4, 3), mesh, Shard(0))}

    return make


def test_pieces_that_fill_the_tensor_are_told(tmp_path: Path) -> None:
    report = judged(save_as_ranks(tmp_path, 3, uneven((1, 4, 1), 6)))
    hints = {f.hint for f in report.findings}
    assert {f.code for f in report.findings} == {"payload-mismatch"}
    (hint,) = hints
    assert "all data is there" in hint
    assert "[0:1, 0:4] is in __0_0.distcp at byte" in hint
    assert "[1:5, 0:4] is in __1_0.distcp at byte" in hint
    assert "[5:6, 0:4] is in __2_0.distcp at byte" in hint
    # As it says: the pieces, read where it says, are the tensor.
    import re
    from io import BytesIO

    pieces = []
    for name, at in re.findall(r"is in (\S+) at byte (\d+)", hint):
        (info,) = [
            v
            for k, v in FileSystemReader(tmp_path).read_metadata().storage_data.items()
            if k.fqn == "w" and v.relative_path == name
        ]
        assert info.offset == int(at)
        data = (tmp_path / name).read_bytes()[int(at) : int(at) + info.length]
        pieces.append(torch.load(BytesIO(data), weights_only=True))
    assert torch.equal(torch.cat(pieces), full(6, 4))


def test_pieces_that_do_not_fill_the_tensor_are_not(tmp_path: Path) -> None:
    report = judged(save_as_ranks(tmp_path, 3, uneven((1, 2, 1), 6)))
    assert report.findings
    assert not any("all data" in f.hint for f in report.findings)


@needs_no_collectives
def test_stats_tells_of_copies_that_differ(tmp_path: Path) -> None:
    folder = save_per_rank(tmp_path, 4, per_rank(lambda rank: {"w": full(2, 2) + (rank == 1)}))
    ran = run_cli("stats", folder, "--json")
    assert ran.code == 0
    assert ran.json()["replicas_differ"] == [
        {"fqn": "w", "num_elements": 4, "num_different": 4, "first_index": [0, 0], "ranks": [0, 1]}
    ]
    text = run_cli("stats", folder).out
    assert "1 with copies that differ" in text
    assert "w: 4 elements of 4, the first at [0, 0]: rank 0 has 0.0, rank 1 1.0" in text


# -- shards that are copies of each other --------------------------------------------------------


def cut(make: Callable[[int], torch.Tensor], *names: str) -> Callable[[int], StateDict]:
    """Tensors of two shards, each as `make(rank)` says, as fully_shard holds them."""

    def state(rank: int) -> StateDict:
        mesh = mesh_of(2)
        return {
            name: DTensor.from_local(make(rank), mesh, (Shard(0),), run_check=False)
            for name in names
        } | {"norm": sharded(torch.ones(4), mesh, Shard(0))}

    return state


def drawn(rank: int, seed: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def test_shards_that_all_have_the_same_numbers_are_told(tmp_path: Path) -> None:
    same = save_as_ranks(tmp_path / "same", 2, cut(lambda rank: drawn(rank, 0), "a", "b"))
    (finding,) = judged(same).findings
    assert (finding.code, finding.severity) == ("local-state", "warning")
    assert "2 of 2 tensors" in finding.message
    other = save_as_ranks(tmp_path / "other", 2, cut(lambda rank: drawn(rank, rank), "a", "b"))
    assert judged(other).findings == ()


@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (2, 0, 3)])
def test_shards_without_elements_are_no_copies_of_each_other(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """Two boxes with nothing in them have one CRC, and no first value to hold others against."""
    folder = save_as_ranks(tmp_path, 2, cut(lambda rank: torch.empty(shape), "a", "b"))
    assert judged(folder).findings == ()
    for command in (
        ["check", "--deep", "--values"],
        ["stats", "--histogram"],
        ["show", "--chunks"],
    ):
        assert run_cli(command[0], folder, *command[1:]).code == 0
    target = {"a": torch.ones(2 * shape[0], *shape[1:])}
    dcp.load(target, checkpoint_id=folder, no_dist=True)


def test_one_tensor_of_equal_shards_may_be_meant(tmp_path: Path) -> None:
    """Experts that were copied from one, say."""

    def state(rank: int) -> StateDict:
        experts = cut(lambda r: drawn(r, 0), "experts")(rank)
        return experts | cut(lambda r: drawn(r, r), "b", "c")(rank)

    (finding,) = judged(save_as_ranks(tmp_path, 2, state)).findings
    assert (finding.severity, finding.fqn) == ("note", "experts")
