"""Damage that more than one checkpoint could have become: `repair` alone leaves it as it is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import TensorProperties

from inspector.repair.run import RepairRequest, repair
from inspector.report.progress import PayloadLine
from sample_ckpts.maker import editing as ed
from tests.helpers.repair_table import craft, loaded


def _rows(first: int, last: int) -> torch.Tensor:
    return torch.arange(16.0).reshape(4, 4)[first:last].clone()


_FILE = "__0_0.distcp"
_HALVES = [("__0_0.distcp", (0, 0), _rows(0, 2)), ("__1_0.distcp", (2, 0), _rows(2, 4))]
_WHOLE = [(_FILE, (0, 0), _rows(0, 4))]


def _chunk_far_away(folder: Path) -> None:
    """The first of two chunks said to begin behind the second, outside of the tensor."""
    ed.move_chunk(folder, "a", 0, offsets=[4, 0], sizes=[2, 4])


def _dtypes_exchanged(folder: Path) -> None:
    """Two tensors of one shape, one of int32, each with the other's payload."""
    _, offset, length = ed.place(folder, "a")
    payload = ed.saved(torch.arange(16, dtype=torch.int32).reshape(4, 4))
    assert len(payload) == length
    data = (folder / _FILE).read_bytes()
    (folder / _FILE).write_bytes(data[:offset] + payload + data[offset + length :])
    ed.edit(
        folder,
        lambda metadata: setattr(
            metadata.state_dict_metadata["a"], "properties", TensorProperties(dtype=torch.int32)
        ),
    )
    shutil.copytree(folder, folder.with_name("good"))
    ed.swap_stored(folder, ("a", 0), ("b", 0))


def _two_at_zero(folder: Path) -> None:
    """Both storage entries zeroed: one of them is at byte 0, and nothing tells which."""
    for name in "ba":
        ed.set_stored(folder, name, offset=0, length=0)


def _zero_and_lost(folder: Path) -> None:
    """The second's entry zeroed, the first's lost: the second seems to begin at byte 0."""
    ed.set_stored(folder, "b", offset=0, length=0)
    ed.set_stored(folder, "a", offset=77_777)


def _both_ends(folder: Path) -> None:
    """A range over two payloads, of which it begins one and ends the other."""
    _, _, length = ed.place(folder, "a")
    ed.set_stored(folder, "b", offset=0, length=2 * length)
    ed.set_stored(folder, "a", offset=77_777)


def _first_of_two_gone(folder: Path) -> None:
    """The payload of one overwritten, the entry of the other gone: no room was inserted."""
    ed.patch_payload(folder, "a", 0, lambda payload: bytes(len(payload)))
    ed.drop_entry(folder, "b")


def _same_name_elsewhere(folder: Path) -> None:
    """Two entries in files of one name, in two folders that are not this one."""
    ed.set_stored(folder, "b", relative_path=f"../x/{_FILE}", offset=0)
    ed.set_stored(folder, "a", relative_path=f"../y/{_FILE}", offset=0)


@pytest.mark.parametrize(
    "pieces, plant",
    [(_HALVES, _chunk_far_away), (_WHOLE, _dtypes_exchanged), (_WHOLE, _two_at_zero),
     (_WHOLE, _zero_and_lost), (_WHOLE, _both_ends), (_WHOLE, _first_of_two_gone),
     (_WHOLE, _same_name_elsewhere)],
    ids=lambda value: getattr(value, "__name__", "of"),
)  # fmt: skip
def test_what_is_not_certain_is_left_or_right(
    pieces: list[tuple[str, tuple[int, ...], torch.Tensor]],
    plant: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    bad, good, out = tmp_path / "bad", tmp_path / "good", tmp_path / "out"
    craft(bad, (4, 4), pieces, ("a", "b"))
    plant(bad)
    if not good.exists():
        craft(good, (4, 4), pieces, ("a", "b"))
    report = repair(str(bad), RepairRequest(str(out)), lambda: PayloadLine(sys.stderr))
    assert report.before.exit_code == 1
    if report.verdict == "repaired":
        intact = loaded(good)
        for name, value in loaded(out).items():
            assert value.dtype == intact[name].dtype and torch.equal(value, intact[name])
    else:
        assert not out.exists() and report.plan.unrepaired
