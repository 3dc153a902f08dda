"""Checkpoints of torch versions that the installed torch cannot read, by known values."""

from __future__ import annotations

import pytest

from inspector.checkpoint import open_checkpoint
from tests.conftest import GOLDEN

BANDS = {
    "1.13.1": "1.13",
    "2.0.1": "2.0 to 2.2",
    "2.1.2": "2.0 to 2.2",
    "2.2.2": "2.0 to 2.2",
    "2.3.1": "2.3",
    "2.4.1": "2.4 to 2.6",
    "2.6.0": "2.4 to 2.6",
    "2.8.0": "2.7 to 2.8",
    "2.10.0": "2.9 to 2.14",
    "2.14.1": "2.9 to 2.14",
    "2.15.0": "2.15 or later",
}

# (shape, rows of each chunk over the four ranks); see golden/make.py: w 64x16, u 10x4, h 24x8.
ROWS = {"w": (16, [16, 16, 16, 16]), "u": (4, [3, 3, 3, 1]), "h": (8, [6, 6, 6, 6])}


@pytest.mark.parametrize("version", sorted(p.name for p in GOLDEN.iterdir()))
def test_every_golden_names_its_band_of_torch_versions(version: str) -> None:
    for case in sorted((GOLDEN / version).iterdir()):
        provenance = open_checkpoint(str(case)).provenance
        # A checkpoint without tensors has less to tell a version by.
        assert provenance.torch_band == BANDS[version], case.name
        assert provenance.torch_evidence


@pytest.mark.parametrize(
    ("case", "prefix"),
    [("1.13.1/st_flat", ""), ("2.15.0/st_flat", ""), ("2.15.0/fsdp4", "model.")],
)
def test_chunks_that_torch_cannot_read_are_the_ones_that_were_written(
    case: str, prefix: str
) -> None:
    checkpoint = open_checkpoint(str(GOLDEN / case))
    tensors = {tensor.fqn: tensor for tensor in checkpoint.tensors}
    assert set(tensors) == {prefix + name for name in ("w", "u", "h", "plain", "scalar")}
    for name, (width, rows) in ROWS.items():
        tensor = tensors[prefix + name]
        assert tensor.shape == (sum(rows), width)
        assert tensor.dtype == ("float32" if name != "h" else tensor.dtype)
        boxes = sorted(zip(tensor.offsets.tolist(), tensor.sizes.tolist(), strict=True))
        starts = [sum(rows[:i]) for i in range(4)]
        assert boxes == [
            ([start, 0], [count, width]) for start, count in zip(starts, rows, strict=True)
        ]
        ranks = checkpoint.chunk_ranks(tensor.file)
        by_row = sorted(zip(tensor.offsets[:, 0].tolist(), ranks.tolist(), strict=True))
        assert [rank for _, rank in by_row] == [0, 1, 2, 3]
        itemsize = 4 if name != "h" else 2
        assert (tensor.byte_length >= tensor.sizes.prod(axis=1) * itemsize).all()
    assert tensors[prefix + "plain"].shape == (6,)
    assert tensors[prefix + "scalar"].shape == ()
    for file in checkpoint.files:
        assert file.num_bytes is not None
        assert file.referenced_bytes == file.num_bytes
    assert tensors[prefix + "h"].dtype == ("float16" if case.startswith("1.13") else "bfloat16")


def test_bytes_entries_of_1_13() -> None:
    checkpoint = open_checkpoint(str(GOLDEN / "1.13.1" / "st_nested"))
    assert [entry.fqn for entry in checkpoint.bytes_entries] == ["model", "step", "obj"]
    assert [entry.byte_length for entry in checkpoint.bytes_entries] == [5787, 431, 999]
    assert checkpoint.num_tensors == 0
