"""What changed in a folder since it was read, by sizes and times."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from inspector.checkpoint.find.changes import changes, is_same_save
from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.errors import StorageError
from tests.conftest import SAMPLES

KINDS = ["hsdp_2x2", "per_rank_metadata_2", "transformers_1", "file_per_item_2", "nemo_2/weights"]


@pytest.mark.parametrize("name", KINDS)
def test_nothing_changed_where_nothing_did(name: str) -> None:
    storage = folder_of(str(SAMPLES / name))
    checkpoint = read_checkpoint(storage)
    assert changes(checkpoint, storage) == ""
    assert is_same_save(checkpoint, read_checkpoint(storage))


def test_each_kind_of_change_is_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    storage = folder_of(str(folder))
    checkpoint = read_checkpoint(storage)
    (folder / "notes.txt").write_text("of nobody's concern")
    assert changes(checkpoint, storage) == ""

    data = (folder / "__0_0.distcp").read_bytes()
    os.utime(folder / "__0_0.distcp", (1, 1))
    assert changes(checkpoint, storage) == "__0_0.distcp is changed"
    (folder / "__1_0.distcp").unlink()
    (folder / "__9_0.distcp").write_bytes(data)
    os.utime(folder / ".metadata", (1, 1))
    assert changes(checkpoint, storage) == (
        ".metadata changed, __1_0.distcp is gone, __0_0.distcp is changed, __9_0.distcp is new"
    )
    assert not is_same_save(checkpoint, read_checkpoint(storage))
    (folder / ".metadata").unlink()
    assert changes(checkpoint, storage).startswith(".metadata is gone")
    shutil.rmtree(folder)
    with pytest.raises(StorageError, match="no such file"):
        changes(checkpoint, storage)


def test_the_index_of_safetensors_counts(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "transformers_1", tmp_path / "ckpt"))
    storage = folder_of(str(folder))
    checkpoint = read_checkpoint(storage)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text() + " ")
    assert changes(checkpoint, storage) == "model.safetensors.index.json is changed"
