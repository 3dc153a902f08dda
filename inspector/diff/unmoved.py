"""Weights that are the same in two checkpoints though their optimizer state is not.

The rule this module keeps: a first moment that moved means that the parameter had gradients, so
that a weight that did not move is worth a look; why it did not is for the reader to say.
"""

from __future__ import annotations

from inspector.checks.metadata.optimizer import split_state
from inspector.diff.model import Diff

__all__ = ["UNMOVED", "unmoved_weights"]

UNMOVED = (
    "weights equal while their exp_avg moved: stale, or a learning rate of 0, or steps too small "
    "for the dtype"
)

#: State that follows the gradients of every step.
_FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer"})
_MOVED = frozenset({"DIFFER", "CLOSE", "NON_FINITE"})


def unmoved_weights(diff: Diff) -> tuple[str, ...]:
    """Raw names of the weights, in A's order; none where no values were compared."""
    moved = set()
    for tensor in diff.tensors:
        found = split_state(tensor.fqn) if tensor.verdict in _MOVED else None
        if found is not None and found.slot in _FIRST_MOMENTS:
            moved.add(found.param)
    if not moved:
        return ()
    # The optimizer may know a parameter without the prefix of the model (`model.`).
    return tuple(
        tensor.fqn
        for tensor in diff.tensors
        if tensor.verdict == "EXACT"
        and (tensor.fqn in moved or tensor.fqn.partition(".")[2] in moved)
        and split_state(tensor.fqn) is None
    )
