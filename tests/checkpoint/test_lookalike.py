"""Per-rank torch.save folders: what every command that reads a checkpoint says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.checkpoint.find.locate import locate, read_checkpoint
from inspector.errors import NotACheckpointError


def verl(folder: Path) -> None:
    for rank in range(2):
        for kind in ("model", "optim", "extra_state"):
            (folder / f"{kind}_world_size_2_rank_{rank}.pt").write_bytes(b"x")
    (folder / "huggingface").mkdir()
    (folder / "huggingface" / "config.json").write_text("{}")


def dinov2(folder: Path) -> None:
    for rank in range(2):
        (folder / f"model_final.rank_{rank}.pth").write_bytes(b"x")


def plain(folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"x")


SAYS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "verl": (verl, "a per-rank checkpoint (verl", "model_merger merge"),
    "dinov2": (dinov2, "a per-rank checkpoint (dinov2)", "FSDPCheckpointer"),
    "whole files": (plain, "a folder of whole torch.save files", "torch.load"),
}


def error_of(path: Path) -> NotACheckpointError:
    with pytest.raises(NotACheckpointError) as caught:
        target = locate(str(path))
        assert not isinstance(target, list)
        read_checkpoint(target)
    return caught.value


@pytest.mark.parametrize("name", SAYS)
def test_the_folder_is_named_with_what_reads_it(tmp_path: Path, name: str) -> None:
    make, what, hint = SAYS[name]
    make(tmp_path)
    error = error_of(tmp_path)
    assert what in error.message
    assert hint in error.hint


def test_the_folder_above_names_it(tmp_path: Path) -> None:
    actor = tmp_path / "global_step_5" / "actor"
    actor.mkdir(parents=True)
    verl(actor)
    error = error_of(tmp_path)
    assert "global_step_5/actor in it is a per-rank checkpoint (verl" in error.message


def test_whole_files_below_are_not_told_of(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    plain(tmp_path / "data")
    assert "no checkpoint here" in error_of(tmp_path).message
    assert "data" not in error_of(tmp_path).message.removeprefix(str(tmp_path)).replace(
        ".metadata", ""
    )


def test_one_file_of_a_rank_is_not_called_whole(tmp_path: Path) -> None:
    dinov2(tmp_path)
    error = error_of(tmp_path / "model_final.rank_0.pth")
    assert "one file of a per-rank checkpoint (dinov2)" in error.message
    assert "whole checkpoint" not in error.hint
    plain(tmp_path)
    assert "one whole checkpoint" in error_of(tmp_path / "model.pt").hint
