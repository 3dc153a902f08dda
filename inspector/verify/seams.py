"""Where a job can be interfered with: nowhere, unless somebody who starts the ranks says so.

The rank calls these at the places where something could go wrong that no planted byte of a
checkpoint stands for. Here they do nothing. The tests run ranks with seams of their own, to see the
comparison find what those do; no file, option or variable of a user leads there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.checkpoint.planner import LoadPlan

    from inspector.verify.ranks.bits import Local

__all__ = ["Seams"]


class Seams:
    """What one rank passes on its way."""

    def enter(self, phase: str) -> None:
        """A phase begins on this rank."""

    def load_plan(self, phase: str) -> Callable[[LoadPlan], LoadPlan] | None:
        """The edit of the local plan of `load` or `reload`, or None."""
        return None

    def save_plan(self) -> Callable[[Any, Metadata], Any] | None:
        """The edit of the global save plan, or None."""
        return None

    def loaded(self, phase: str, fqn: str, local: Local) -> None:
        """A shard was loaded and is about to be compared, in `compare` or `recheck`."""

    def compared(self, phase: str, fqn: str, local: Local) -> None:
        """A shard was compared; its replicas come next."""
