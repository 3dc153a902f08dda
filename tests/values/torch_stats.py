"""The same figures by torch's own reductions, on tensors that torch's own reader loads."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from inspector.values.stats import TensorStats

#: Relative to the root mean square for a mean, to the figure itself for std and L2 norm. Sums of
#: float64 differ by their order; torch adds up in another one.
BOUND = 1e-12


def load(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, as `dcp.load` has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metadata = FileSystemReader(folder).read_metadata()
        state = {
            fqn: torch.empty(entry.size, dtype=entry.properties.dtype)
            for fqn, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        dcp.load(state, checkpoint_id=folder, planner=planner, no_dist=True)
    return state


def expected(tensor: torch.Tensor) -> dict[str, Any]:
    """What `TensorStats` should be, of the finite elements in float64."""
    if tensor.is_complex():
        wide = tensor.to(torch.complex128)
        parts = torch.view_as_real(wide)
        nan, inf = parts.isnan().any(-1), parts.isinf().any(-1)
        numbers = wide.abs()
    else:
        wide = tensor.to(torch.float64)
        nan, inf = wide.isnan(), wide.isinf()
        numbers = wide
    finite = numbers[~(nan | inf)]
    first = (nan | inf).nonzero()
    some = finite.numel() > 0
    # torch has no least of unsigned integers; Python's are exact.
    exact = not (tensor.is_floating_point() or tensor.is_complex())
    order = [int(x) for x in tensor.flatten().tolist()] if exact else []
    return {
        "num_elements": tensor.numel(),
        "num_read": tensor.numel(),
        "low": (min(order) if exact else finite.min().item()) if some else None,
        "high": (max(order) if exact else finite.max().item()) if some else None,
        "mean": finite.mean().item() if some else math.nan,
        "std": finite.std().item() if finite.numel() > 1 else math.nan,
        "l2": torch.linalg.vector_norm(finite).item(),
        "num_zero": int((numbers == 0).sum()),
        "num_nan": int(nan.sum()),
        "num_inf": int(inf.sum()),
        "first_non_finite": tuple(first[0].tolist()) if len(first) else None,
    }


def same(stats: TensorStats, tensor: torch.Tensor, bound: float = BOUND) -> None:
    """Assert that the statistics are torch's: counts, least and largest exactly, sums within."""
    relative = bound
    wanted = expected(tensor)
    scale = wanted["l2"] / math.sqrt(max(stats.num_finite, 1))
    for name, value in wanted.items():
        found = getattr(stats, name)
        where = f"{stats.fqn} ({stats.dtype}): {name} is {found}, not {value}"
        if name in ("mean", "std", "l2") and value == value and not math.isinf(value):
            bound = relative * max(abs(value), scale if name == "mean" else 0.0)
            # Of numbers that are all alike, rounding is all there is.
            bound = max(bound, relative * scale) if name == "std" else bound
            assert abs(found - value) <= bound, where
        else:
            assert found == value or (found != found and value != value), where
    assert stats.num_finite == stats.num_elements - int(
        (
            ~torch.isfinite(tensor.to(torch.complex128) if tensor.is_complex() else tensor.double())
        ).sum()
    )
