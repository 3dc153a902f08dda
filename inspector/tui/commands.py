"""Commands: what the `BINDINGS` of views and screens are made of.

The rule this module keeps: a command is written once, where its action is. Footer, palette and help
are made from the bindings themselves, so none of them can tell of a key that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.binding import Binding

if TYPE_CHECKING:
    from textual.app import App

__all__ = [
    "CHECK_BYTES",
    "LAST_IN_FOOTER",
    "LIST_KEYS",
    "LOOK_ONLY",
    "ON_THE_SPOT",
    "VIEW_KEYS",
    "command",
    "is_closed",
    "shown_key",
]

#: Actions that write a file where the app runs, or stop it there: not for a browser elsewhere.
ON_THE_SPOT = frozenset({"screenshot", "suspend_process", "values('save')"})
#: With what starts jobs, too: who may only look has none of them.
LOOK_ONLY = ON_THE_SPOT | {"verify"}


#: Actions that the footer shows where there is room when all others are there.
LAST_IN_FOOTER = frozenset({"axis", "step_axis"})


def is_closed(app: App[int], action: str) -> bool:
    """Whether the app was started without an action; its keys are not told of then."""
    return action in getattr(app, "closed_actions", ())


#: The key of each view of the main screen, by the view's id.
VIEW_KEYS = {
    "tensors": "1",
    "files": "2",
    "findings": "3",
    "verify": "4",
    "plan": "5",
    "values": "6",
    "stats": "7",
}
CHECK_BYTES = "c"

_SHOWN = {
    "question_mark": "?",
    "slash": "/",
    "colon": ":",
    "escape": "esc",
    "plus": "+",
    "minus": "-",
    "right": "→",
    "left": "←",
    "greater_than_sign": ">",
    "less_than_sign": "<",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "comma": ",",
    "full_stop": ".",
}


def shown_key(keys: str) -> str:
    """The first of some keys, as a person types it: `esc`, `?`, `^z`."""
    first = keys.partition(",")[0]
    return _SHOWN.get(first, first.replace("ctrl+", "^"))


def command(
    keys: str, action: str, title: str, about: str, *, footer: bool = False, priority: bool = False
) -> Binding:
    """A binding that footer, palette and help tell of.

    Args:
        keys: Keys, with commas between; the first is shown.
        action: `name` or `name(args)`: `action_name` of the class in whose `BINDINGS` it stands.
        title: Two or three words, for footer and palette.
        about: One sentence, for help and palette.
        footer: Whether the footer shows it.
        priority: Whether it comes before the keys of what has the focus.
    """
    return Binding(
        keys,
        action,
        title,
        show=footer,
        key_display=shown_key(keys),
        tooltip=about,
        # The keys after it may come in the same burst (a paste, a slow line): it must have
        # moved the focus before they are handed out.
        priority=priority or keys == "slash",
    )


#: Keys of the lists and maps, for the help: they belong to whatever has the focus.
LIST_KEYS: tuple[tuple[str, str], ...] = (
    ("j k ↓ ↑", "move"),
    ("g G home end", "first and last"),
    ("^d ^u ^f ^b PgDn PgUp", "half a page, a page"),
    ("h l ← →", "columns of a table, nodes of the tree, chunks of the map"),
    ("H L shift+← shift+→", "a page of columns of the numbers"),
    ("s S", "sort by the next column, turn the order round (or click a header)"),
    ("enter", "open what is under the cursor"),
    ("space", "open or close a node of the tree"),
    ("tab shift+tab", "next and previous pane"),
)
