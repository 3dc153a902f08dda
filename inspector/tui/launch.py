"""Start the screen on a path, or on two: reading begins before Textual is even imported."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from inspector.checkpoint.child.isolated import prefetch
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.tui.diff.opening import PairOf

__all__ = ["run", "run_diff"]

# A checkpoint that is read by the time Textual is imported is on the very first frame.
_PATIENCE_S = 0.1
# Metadata larger than this takes longer to read than it takes to import Textual.
_MAX_PREVIEW_BYTES = 4 << 20


def run(path: str, closed: frozenset[str] = frozenset(), *, theme: str = "") -> int:
    """Open the screen on `path`; the exit code when it is left.

    Args:
        path: What the user gave; empty if the screen is to ask for it.
        closed: Actions that there are none of.
        theme: `dark`, `light` or one of Textual's, in place of the one that was chosen last.

    Raises:
        UsageError: There is no such theme.
    """
    # Importing makes a hundred thousand objects that stay: the collector only looks at them in
    # vain. The app turns it on when its screen is complete.
    gc.disable()
    # The child unpickles on one core while this process imports Textual on another. A thread
    # could not: importing holds the interpreter's lock.
    prefetched = prefetch(path, _MAX_PREVIEW_BYTES) if path else None
    from inspector.tui.app import InspectApp
    from inspector.tui.preferences import remembered
    from inspector.tui.tensors.preview import Preview
    from inspector.tui.theme import theme_named, theme_names

    preview = None
    if prefetched is not None:
        preview = Preview.of(path, prefetched.header(_PATIENCE_S))
    if theme and theme_named(theme) is None:
        raise UsageError(f"there is no theme {theme}", f"one of: {', '.join(theme_names())}")
    # Who looks from a browser chooses for this time alone.
    memory = remembered(theme, is_kept=not closed)
    app = InspectApp(path, preview=preview, prefetched=prefetched, closed=closed, memory=memory)
    code = app.run_to_end()
    return 2 if code is None else code


def run_diff(pair: PairOf, *, with_values: bool = False, allow_close: bool = False) -> int:
    """Show how two checkpoints differ until the user leaves.

    Args:
        pair: What is to be compared; both as paths.
        with_values: Whether to compare the values at once.
        allow_close: Whether CLOSE is exit code 0 too.

    Returns:
        The exit code, for what was compared when the user left: 0 same, 1 different, 2 if not all
        could be compared.
    """
    gc.disable()
    a, b = pair.paths
    children = prefetch(a), prefetch(b)
    from inspector.tui.one_screen import DiffApp

    app = DiffApp(pair, with_values=with_values, allow_close=allow_close, prefetched=children)
    code = app.run_to_end()
    return 2 if code is None else code
