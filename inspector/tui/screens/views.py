"""The views of the main screen: their keys and titles, and how each is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from inspector.tui.commands import VIEW_KEYS, command

if TYPE_CHECKING:
    from inspector.tui.kit.view import View
    from inspector.tui.preferences import Memory

__all__ = ["VIEWS", "VIEW_COMMANDS", "first_view", "import_panes", "other_views"]

# Id, title and title in full of each, in the order of their keys; and what it shows.
_VIEWS = (
    ("tensors", "Tensors", "Tensors", "Every tensor: how it is cut up, where its chunks lie."),
    ("files", "Files", "Files", "Every data file: its size, and what lies in it."),
    (
        "findings",
        "Findings",
        "Findings",
        "Everything that is wrong, and what torch would do about it.",
    ),
    (
        "verify",
        "Verify",
        "Verification",
        "The verification: each rank and each tensor as it happens.",
    ),
    (
        "plan",
        "Load plan",
        "Load plan",
        "What every rank of a mesh would read, and how much memory that takes.",
    ),
    (
        "values",
        "Values",
        "Values",
        "The numbers of the tensor under the cursor: figures, histogram, map.",
    ),
    (
        "stats",
        "Stats",
        "Statistics",
        "All tensors that were read: those with NaN first, then odd norms.",
    ),
)

#: (id, key, title) of each.
VIEWS = tuple((view, VIEW_KEYS[view], title) for view, title, _, _ in _VIEWS)

#: The key of each: `show_view(id)` of the screen.
VIEW_COMMANDS = [
    command(VIEW_KEYS[view], f"show_view('{view}')", title, about)
    for view, _, title, about in _VIEWS
]

#: Those that a screen may open with: they say something at once, and read no bytes for it.
_TO_BEGIN_WITH = frozenset({"files", "findings", "plan"})


def first_view(memory: Memory) -> str:
    """The view that was open last, if a screen may open with it; else empty."""
    return memory.now.view if memory.now.view in _TO_BEGIN_WITH else ""


async def import_panes() -> None:
    """Import what the first view does without in the first frame; takes a tenth of a second.

    In a thread: the interpreter goes from one to another in the midst of an import, too, so that
    keys wait for no more than a piece of it.
    """
    await asyncio.to_thread(_import_panes)


def _import_panes() -> None:
    import inspector.tui.kit.key_bar
    import inspector.tui.kit.lines
    import inspector.tui.tensors.detail
    import inspector.tui.tensors.tree  # noqa: F401


def _import_views() -> None:
    import inspector.tui.files.view
    import inspector.tui.findings.view
    import inspector.tui.plan.view
    import inspector.tui.values.statistics
    import inspector.tui.values.view
    import inspector.tui.verification.view  # noqa: F401


async def other_views() -> AsyncIterator[View]:
    """The views that are not the first frame's, each made when it is asked for."""
    await asyncio.to_thread(_import_views)
    from inspector.tui.files.view import FilesView

    yield FilesView()
    from inspector.tui.findings.view import FindingsView

    yield FindingsView()
    from inspector.tui.verification.view import VerificationView

    yield VerificationView()
    from inspector.tui.plan.view import LoadPlanView

    yield LoadPlanView()
    from inspector.tui.values.view import ValuesView
    from inspector.tui.values.work import Known

    known = Known()
    yield ValuesView(known)
    from inspector.tui.values.statistics import StatisticsView

    yield StatisticsView(known)
