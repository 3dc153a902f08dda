"""THE command table: one row is a binding, a palette entry, a footer hint and a line of help.

Add a command here and an `action_<id>` on the screen named by `scope`; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from textual.binding import Binding, BindingType

__all__ = ["COMMANDS", "KEYS", "Command", "bindings"]


@dataclass(frozen=True, slots=True)
class Command:
    """Something the user can ask for.

    Attributes:
        id: Name of the action (`action_<id>` on the screen, or on the app for scope `app`).
        keys: Keys, the first of them shown in footer and help.
        title: Two or three words, for the palette and the footer.
        help: One sentence.
        scope: `app`, `main`, `picker`, `replay` or `error`: the screen that has the action.
        footer: Whether the footer shows it.
        args: Arguments of the action, as Textual writes them: `('files')`.
    """

    id: str
    keys: str
    title: str
    help: str
    scope: str = "main"
    footer: bool = False
    args: str = ""

    @property
    def action(self) -> str:
        prefix = "app." if self.scope == "app" else "screen."
        return f"{prefix}{self.id}{self.args}"

    @property
    def shown_key(self) -> str:
        """The first key as a person types it."""
        names = {"question_mark": "?", "slash": "/", "colon": ":", "escape": "esc"}
        names |= {"plus": "+", "minus": "-", "right": "→", "left": "←"}
        first = self.keys.partition(",")[0]
        return names.get(first, first.replace("ctrl+", "^"))


COMMANDS: tuple[Command, ...] = (
    Command(
        "show_view",
        "1",
        "Tensors",
        "Every tensor: how it is cut up, and where its chunks lie.",
        args="('tensors')",
    ),
    Command(
        "show_view",
        "2",
        "Files",
        "Every data file: its size, and what lies in it.",
        args="('files')",
    ),
    Command(
        "show_view",
        "3",
        "Findings",
        "Everything that is wrong, and what torch would do about it.",
        args="('findings')",
    ),
    Command(
        "show_view",
        "4",
        "Verify",
        "The verification: each rank and each tensor as it happens.",
        args="('verify')",
    ),
    Command(
        "filter",
        "slash",
        "Filter",
        "Show only names with every word you type; !word leaves names out.",
        footer=True,
    ),
    Command(
        "zoom",
        "z",
        "Zoom",
        "Give the whole screen to the tensor under the cursor, and back.",
        footer=True,
    ),
    Command("toggle_tree", "b", "Module tree", "Show or hide the tree of modules.", footer=True),
    Command(
        "info",
        "i",
        "Summary",
        "What this checkpoint is, who wrote it, and the evidence for both.",
    ),
    Command("copy", "y", "Copy", "Copy the name, the file's path or the whole row."),
    Command(
        "check_bytes",
        "c",
        "Check bytes",
        "Read every stored byte, compare its checksum, look for NaN; again to stop.",
        footer=True,
    ),
    Command(
        "verify",
        "v",
        "Verify",
        "Load it under a mesh with torchrun, and compare every bit; asks first.",
        footer=True,
    ),
    Command("pause", "space", "Pause", "Hold the display; the job runs on.", footer=True),
    Command("cancel_job", "x", "Stop job", "Stop the verification; asks first.", footer=True),
    Command("output", "o", "Ranks", "The ranks one by one, and what they printed.", footer=True),
    Command("next_finding", "n", "Next finding", "Go to the next finding, where it is."),
    Command("previous_finding", "N", "Previous finding", "Go to the finding before."),
    Command("reload", "r", "Reload", "Read the checkpoint anew."),
    Command("back", "escape", "Back", "Leave what is open: the filter, the zoom, the checkpoint."),
    Command(
        "open_found",
        "o",
        "Open",
        "Open the checkpoint under the cursor (enter does so, too).",
        scope="picker",
        footer=True,
    ),
    Command("reload", "r", "Reload", "Look through the folder anew.", scope="picker", footer=True),
    Command("reload", "r", "Try again", "Read it anew.", scope="error", footer=True),
    Command(
        "back", "escape", "Back", "Back to the folder's checkpoints.", scope="error", footer=True
    ),
    Command("play", "space", "Pause", "Hold the recording, or go on.", scope="replay", footer=True),
    Command(
        "speed",
        "plus,equals_sign",
        "Faster",
        "Play it faster.",
        scope="replay",
        footer=True,
        args="(1)",
    ),
    Command("speed", "minus", "Slower", "Play it slower.", "replay", args="(-1)"),
    Command("seek", "right", "Forward", "Go on by a twentieth.", "replay", args="(1)"),
    Command("seek", "left", "Back", "Go back by a twentieth.", "replay", args="(-1)"),
    Command("jump", "end", "End", "Go to the end.", "replay", footer=True, args="(True)"),
    Command("jump", "home", "Start", "Go to the start.", "replay", args="(False)"),
    Command("output", "o", "Ranks", "The ranks, and what they printed.", "replay", footer=True),
    Command("filter", "slash", "Filter", "Show only some names.", "replay", footer=True),
    Command("copy", "y", "Copy", "Copy the name or the verdict.", "replay"),
    Command("back", "escape", "Back", "Leave what is open.", "replay"),
    Command(
        "toggle_theme",
        "t",
        "Light or dark",
        "Switch between the dark and the light theme.",
        scope="app",
    ),
    Command("help", "question_mark,f1", "Help", "What every key does.", scope="app", footer=True),
    Command(
        "command_palette",
        "ctrl+p,colon",
        "Commands",
        "Find any command by its name.",
        scope="app",
        footer=True,
    ),
    Command(
        "screenshot",
        "f12",
        "Screenshot",
        "Save the screen as an SVG picture in the current folder.",
        scope="app",
    ),
    Command(
        "suspend_process",
        "ctrl+z",
        "Suspend",
        "Back to the shell for a while; fg returns.",
        scope="app",
    ),
    Command("quit", "q", "Quit", "Leave hsdp-inspect.", scope="app", footer=True),
)

#: Keys of the lists and maps, for the help: they belong to whatever has the focus.
KEYS: tuple[tuple[str, str], ...] = (
    ("j k ↓ ↑", "move"),
    ("g G", "first and last"),
    ("^d ^u PgDn PgUp", "half a page, a page"),
    ("h l ← →", "columns of a table, nodes of the tree, chunks of the map"),
    ("s S", "sort by the next column, turn the order round (or click a header)"),
    ("enter", "open what is under the cursor"),
    ("space", "open or close a node of the tree"),
    ("tab shift+tab", "next and previous pane"),
)


def bindings(scope: str) -> list[BindingType]:
    """The bindings of a screen (or of the app)."""
    return list(_bindings(command for command in COMMANDS if command.scope == scope))


def _bindings(commands: Iterable[Command]) -> Iterator[Binding]:
    for command in commands:
        yield Binding(
            command.keys,
            f"{command.id}{command.args}",
            command.title,
            show=command.footer,
            key_display=command.shown_key,
            tooltip=command.help,
            # The keys after it may come in the same burst (a paste, a slow line): it must have
            # moved the focus before they are handed out.
            priority=command.id == "filter",
            id=f"{command.scope}.{command.id}{command.args}",
        )
