"""Exports in this process, and what other readers find in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from inspector.checkpoint.find.locate import locate_one, read_checkpoint
from inspector.export.outcome import ExportReport
from inspector.export.run import export
from inspector.export.selection import ExportRequest, select


def exported(source: Path | str, output: Path, **options: Any) -> ExportReport:
    """Export a checkpoint; options of `ExportRequest` and of `export`."""
    storage = locate_one(str(source))
    checkpoint = read_checkpoint(storage)
    mine = {k: options.pop(k) for k in ("allow_damaged", "overwrite", "progress") if k in options}
    selection = select(checkpoint, storage, ExportRequest(**options))
    return export(checkpoint, storage, selection, str(output), **mine)


def loaded(output: Path, form: str) -> dict[str, Any]:
    """The tensors as the format's own reader has them."""
    if form == "safetensors":
        return dict(load_file(output))
    if form == "torch":
        state = torch.load(output, weights_only=True)
        torch.load(output, weights_only=True, mmap=True)
        return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return dict(np.load(output).items())


def bits(value: Any) -> tuple[tuple[int, ...], bytes]:
    """Shape and bytes of a tensor or an array."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return tuple(value.shape), raw
    return value.shape, value.tobytes()
