"""Some rows of a tensor as a tensor of their own: what is loaded where the whole does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from inspector.checkpoint.model import Tensor

__all__ = ["RowBlock"]


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of a tensor, of which several blocks one after the other make the whole.

    Attributes:
        first, last: The rows from `first` up to, and without, `last`.
        number: Which block it is, from 0.
        count: How many there are.
    """

    first: int
    last: int
    number: int
    count: int

    def of(self, tensor: Tensor) -> Tensor:
        """The rows as a tensor: its row 0 is `first`, and chunks lie relative to that.

        A chunk that begins before the block has a negative offset, one that ends after it reaches
        out of the shape: so it is still the payload that is stored, and whoever reads boxes takes
        of it what lies in the block. Chunks without a row in it are left out.
        """
        low, high = tensor.offsets[:, 0], tensor.offsets[:, 0] + tensor.sizes[:, 0]
        meets = (low < self.last) & (high > self.first)
        offsets = tensor.offsets[meets].copy()
        offsets[:, 0] -= self.first
        return replace(
            tensor,
            shape=(self.last - self.first, *tensor.shape[1:]),
            offsets=offsets,
            sizes=tensor.sizes[meets],
            file=tensor.file[meets],
            byte_offset=tensor.byte_offset[meets],
            byte_length=tensor.byte_length[meets],
        )

    def owns(self, tensor: Tensor) -> npt.NDArray[np.bool_]:
        """Which chunks are this block's: each is exactly one's, shape (num_chunks,)."""
        row = np.clip(tensor.offsets[:, 0], 0, tensor.shape[0] - 1)
        return (row >= self.first) & (row < self.last)
