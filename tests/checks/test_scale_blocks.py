"""Block-quantised weights whose blocks torch's reader takes for others: torch is asked beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.quantized_hf_storage import QuantizedHuggingFaceStorageReader

from inspector.checks.findings import Finding
from inspector.checks.judge import check

ROWS, COLUMNS = 128, 512


def quantised(folder: Path, block: int, with_index: bool = True) -> Path:
    """A weight of ones whose blocks of `block` x `block` have the scales 1, 2, 3, ..."""
    folder.mkdir()
    scales = -(-ROWS // block), -(-COLUMNS // block)
    tensors = {
        "l.weight": torch.ones(ROWS, COLUMNS).to(torch.float8_e4m3fn),
        "l.weight_scale_inv": torch.arange(1.0, 1 + scales[0] * scales[1]).reshape(scales),
        "norm.weight": torch.ones(4),
    }
    save_file(tensors, folder / "model.safetensors")
    if with_index:
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def told(folder: Path) -> list[Finding]:
    findings = check(str(folder)).findings
    return [found for found in findings if "scales of other blocks" in found.message]


def is_right_by_torch(folder: Path, block: int, block_size: int = 128) -> bool:
    state = {"l.weight": torch.zeros(ROWS, COLUMNS)}
    reader = QuantizedHuggingFaceStorageReader(str(folder), block_size=block_size)
    dcp.load(state, storage_reader=reader, no_dist=True)
    rows, columns = torch.arange(ROWS) // block, torch.arange(COLUMNS) // block
    expected = 1.0 + rows[:, None] * -(-COLUMNS // block) + columns
    return torch.equal(state["l.weight"], expected)


def test_blocks_of_128_are_read_right_and_not_told(tmp_path: Path) -> None:
    folder = quantised(tmp_path / "c", 128)
    assert is_right_by_torch(folder, 128)
    assert not told(folder)


@pytest.mark.parametrize("block", [32, 64])
def test_smaller_blocks_are_told_as_torch_takes_other_scales(tmp_path: Path, block: int) -> None:
    folder = quantised(tmp_path / "c", block)
    assert not is_right_by_torch(folder, block)
    assert is_right_by_torch(folder, block, block_size=block)
    (note,) = told(folder)
    assert (note.code, note.severity, note.fqn) == ("payload-format", "note", "l.weight")
    assert note.torch_does.endswith("multiplies by other scales, silently")
    assert note.hint == f"give the reader block_size={block}"


def test_larger_blocks_are_told_as_torch_raises(tmp_path: Path) -> None:
    folder = quantised(tmp_path / "c", 256)
    with pytest.raises(CheckpointException, match="IndexError"):
        is_right_by_torch(folder, 256)
    (note,) = told(folder)
    assert note.torch_does.endswith("raises IndexError")
    assert note.hint == "give the reader block_size=256"


def test_without_an_index_the_reader_opens_nothing_and_nothing_is_told(tmp_path: Path) -> None:
    folder = quantised(tmp_path / "c", 64, with_index=False)
    with pytest.raises(CheckpointException, match=r"index\.json"):
        is_right_by_torch(folder, 64)
    assert not told(folder)
