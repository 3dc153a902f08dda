"""Findings about values: NaN and infinities, how many each tensor holds, and where the first is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.cover import analyse

if TYPE_CHECKING:
    from inspector.values.nonfinite import NonFinite

__all__ = ["file_at", "value_findings"]

_WHAT: dict[str, tuple[str, str]] = {
    "values-nan": ("NaN", "NaN spreads to whatever is computed from it"),
    "values-inf": ("infinite", "the next step that uses it gives infinities or NaN"),
}


def value_findings(
    tensor: Tensor, found: NonFinite, file_at: Callable[[tuple[int, ...]], str | None]
) -> list[Finding]:
    """Findings of one tensor.

    Args:
        tensor: The tensor.
        found: What its chunks hold, in the tensor's indices.
        file_at: Raw path of the file that holds an element.
    """
    findings = []
    most = "up to " if (found.num_nan or found.num_inf) and _may_overlap(tensor) else ""
    for code, count, first in (
        ("values-nan", found.num_nan, found.first_nan),
        ("values-inf", found.num_inf, found.first_inf),
    ):
        if not count or first is None:
            continue
        noun, effect = _WHAT[code]
        where = f"the first at {format_shape(first)}" if first else "its only one"
        findings.append(
            Finding(
                code,
                "warning",
                f"{printable(tensor.fqn, 200)} ({tensor.dtype}) holds {most}"
                f"{plural(count, f'{noun} value')}, {where}",
                "loads them silently, as they were saved",
                f"{effect}: see whether an earlier checkpoint has it too",
                fqn=tensor.fqn,
                file=file_at(first),
                offsets=first,
                sizes=(1,) * len(first),
                num_elements=min(count, tensor.num_elements),
            )
        )
    return findings


def _may_overlap(tensor: Tensor) -> bool:
    """Whether chunks of different boxes share elements, so that some are counted twice."""
    cover = analyse(tensor.offsets, tensor.sizes, tensor.shape)
    return bool(cover.num_overlap) or not cover.complete


def file_at(checkpoint: Checkpoint, tensor: Tensor) -> Callable[[tuple[int, ...]], str | None]:
    """Finds the file with the chunk that holds an element."""

    def find(index: tuple[int, ...]) -> str | None:
        at = np.array(index, np.int64)
        holds = ((tensor.offsets <= at) & (at - tensor.offsets < tensor.sizes)).all(axis=1)
        chunks = np.flatnonzero(holds & (tensor.file >= 0))
        return checkpoint.files[int(tensor.file[chunks[0]])].path if len(chunks) else None

    return find
