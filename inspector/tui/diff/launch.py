"""Start the screen on two checkpoints: reading begins before Textual is even imported."""

from __future__ import annotations

import gc

from inspector.checkpoint.child.isolated import prefetch
from inspector.tui.diff.opening import PairOf

__all__ = ["run"]


def run(pair: PairOf, *, with_values: bool = False, allow_close: bool = False) -> int:
    """Show how two checkpoints differ until the user leaves.

    Args:
        pair: What is to be compared; both as paths.
        with_values: Whether to compare the values at once.
        allow_close: Whether CLOSE is exit code 0 too.

    Returns:
        The exit code, for what was compared when the user left: 0 same, 1 different, 2 if not all
        could be compared.
    """
    # As in `launch.run`: the app turns it on again.
    gc.disable()
    a, b = pair.paths
    children = prefetch(a), prefetch(b)
    from inspector.tui.diff.app import DiffApp

    app = DiffApp(pair, with_values=with_values, allow_close=allow_close, prefetched=children)
    code = app.run_to_end()
    return 2 if code is None else code
