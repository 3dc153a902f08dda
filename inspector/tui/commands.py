"""THE command table: one row is a binding, a palette entry, a footer hint and a line of help.

Add a command here and an `action_<id>` on the screen named by `scope`; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from textual.binding import Binding, BindingType

__all__ = ["COMMANDS", "KEYS", "VIEWS", "Command", "bindings"]


@dataclass(frozen=True, slots=True)
class Command:
    """Something the user can ask for.

    Attributes:
        id: Name of the action (`action_<id>` on the screen, or on the app for scope `app`).
        keys: Keys, the first of them shown in footer and help.
        title: Two or three words, for the palette and the footer.
        help: One sentence.
        scope: `app`, `main`, `picker`, `diff`, `replay` or `error`: the screen that has the action.
        footer: Whether the footer shows it.
        args: Arguments of the action, as Textual writes them: `('files')`.
        views: Views of the screen where the key has this meaning, with blanks between; empty for
            all of them.
    """

    id: str
    keys: str
    title: str
    help: str
    scope: str = "main"
    footer: bool = False
    args: str = ""
    views: str = ""

    @property
    def action(self) -> str:
        prefix = "app." if self.scope == "app" else "screen."
        return f"{prefix}{self.id}{self.args}"

    @property
    def shown_key(self) -> str:
        """The first key as a person types it."""
        names = {"question_mark": "?", "slash": "/", "colon": ":", "escape": "esc"}
        names |= {"plus": "+", "minus": "-", "right": "→", "left": "←"}
        names |= {"greater_than_sign": ">", "less_than_sign": "<"}
        names |= {"left_square_bracket": "[", "right_square_bracket": "]"}
        names |= {"comma": ",", "full_stop": "."}
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
        "show_view",
        "5",
        "Load plan",
        "What every rank of a mesh would read, and how much memory that takes.",
        args="('plan')",
    ),
    Command(
        "show_view",
        "6",
        "Values",
        "The numbers of the tensor under the cursor: figures, histogram, map, every element.",
        args="('values')",
    ),
    Command(
        "show_view",
        "7",
        "Statistics",
        "All tensors that were read: those with NaN first, then odd norms.",
        args="('stats')",
    ),
    Command(
        "filter",
        "slash",
        "Filter",
        "Show only names with every word you type; !word leaves names out.",
        footer=True,
        views="tensors files findings verify plan stats",
    ),
    Command(
        "values",
        "slash",
        "Go to",
        "Values: type an index, such as 12, 0, 7.",
        footer=True,
        args="('goto')",
        views="values",
    ),
    Command(
        "values",
        "f",
        "First NaN",
        "Values: go to the first NaN; from there, to the first infinity.",
        footer=True,
        args="('bad')",
        views="values",
    ),
    Command(
        "values",
        "less_than_sign",
        "Least",
        "Values: go to the least number.",
        args="('least')",
        views="values",
    ),
    Command(
        "values",
        "greater_than_sign",
        "Largest",
        "Values: go to the largest number.",
        args="('largest')",
        views="values",
    ),
    Command(
        "values",
        "right_square_bracket",
        "Next slice",
        "Values: the next 2-d slice of a tensor of more dims.",
        footer=True,
        args="('slice')",
        views="values",
    ),
    Command(
        "values",
        "left_square_bracket",
        "Slice before",
        "Values: the 2-d slice before.",
        args="('slice_back')",
        views="values",
    ),
    Command(
        "values",
        "d",
        "Dims",
        "Values: choose other dims as rows and columns.",
        args="('dims')",
        views="values",
    ),
    Command(
        "values",
        "full_stop",
        "Next tensor",
        "Values: the next tensor of the list.",
        args="('next')",
        views="values",
    ),
    Command(
        "values",
        "comma",
        "Tensor before",
        "Values: the tensor before.",
        args="('previous')",
        views="values",
    ),
    Command(
        "values",
        "m",
        "Map",
        "Values: what the map shows: root mean square, largest |value|, mean.",
        args="('quantity')",
        views="values",
    ),
    Command(
        "values",
        "a",
        "Axis",
        "Values: the histogram over the values, or over powers of two of |value|.",
        args="('scale')",
        views="values",
    ),
    Command(
        "values",
        "z",
        "Zoom",
        "Values: give the view to the numbers or the map, whichever has the keys, and back.",
        footer=True,
        args="('zoom')",
        views="values",
    ),
    Command(
        "values",
        "x",
        "Stop or read",
        "Values: stop what is being read; or read what was not.",
        args="('stop')",
        views="values",
    ),
    Command(
        "zoom",
        "z",
        "Zoom",
        "Give the whole screen to the tensor under the cursor, and back.",
        footer=True,
        views="tensors",
    ),
    Command(
        "toggle_tree",
        "b",
        "Tree",
        "Show or hide the tree of modules.",
        footer=True,
        views="tensors",
    ),
    Command(
        "info",
        "i",
        "Summary",
        "What this checkpoint is, who wrote it, and the evidence for both.",
    ),
    Command("copy", "y", "Copy", "Copy the name, the file's path or the whole row."),
    Command("pause", "space", "Pause", "Hold the display; the job runs on.", footer=True),
    Command(
        "cancel_job",
        "x",
        "Stop job",
        "Stop the verification; asks first.",
        footer=True,
        views="verify",
    ),
    Command("output", "o", "Ranks", "The ranks one by one, and what they printed.", footer=True),
    Command(
        "statistics",
        "u",
        "Statistics",
        "Read the numbers of every tensor: NaN, norms, ranked; again to stop.",
    ),
    Command(
        "plan_mesh",
        "m",
        "Mesh",
        "Load plan: type a mesh, such as hsdp:8x64.",
        footer=True,
        views="plan",
    ),
    Command(
        "plan_size",
        "plus,equals_sign",
        "More shards",
        "Load plan: the next number of shards that divides evenly.",
        args="('shard', 1)",
        views="plan",
    ),
    Command(
        "plan_size",
        "minus",
        "Fewer shards",
        "Load plan: the number of shards before.",
        args="('shard', -1)",
        views="plan",
    ),
    Command(
        "plan_size",
        "greater_than_sign",
        "More replicas",
        "Load plan: twice as many replicas.",
        args="('replicate', 1)",
        views="plan",
    ),
    Command(
        "plan_size",
        "less_than_sign",
        "Fewer replicas",
        "Load plan: half as many replicas; one is FSDP.",
        args="('replicate', -1)",
        views="plan",
    ),
    Command(
        "plan_kind",
        "f",
        "FSDP or HSDP",
        "Load plan: the other kind, with the same ranks.",
        views="plan",
    ),
    Command(
        "plan_worst",
        "w",
        "Worst rank",
        "Load plan: the rank that reads most.",
        footer=True,
        views="plan",
    ),
    Command(
        "plan_empty",
        "e",
        "Empty",
        "Load plan: the tensors that leave ranks without an element.",
        footer=True,
        views="plan",
    ),
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
    Command("sort", "s", "Sort", "Sort the table by its next column.", args="(False)"),
    Command("sort", "S", "Turn order", "Turn the order of the table round.", args="(True)"),
    Command("compare_with", "D", "Compare with", "Say how another checkpoint differs from this."),
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
    Command("filter", "slash", "Filter", "Show only some paths.", scope="picker", footer=True),
    Command("mark", "m", "Mark", "Mark a checkpoint, to compare another.", "picker", footer=True),
    Command(
        "compare",
        "d",
        "Compare",
        "Compare the marked checkpoint (A) with the one under the cursor (B).",
        scope="picker",
        footer=True,
    ),
    Command("sort", "s", "Sort", "Sort by the next column.", "picker", args="(False)"),
    Command("sort", "S", "Turn order", "Turn the order round.", "picker", args="(True)"),
    Command("reload", "r", "Reload", "Look through the folder anew.", scope="picker", footer=True),
    Command("back", "escape", "Back", "Leave what is open: the filter, the mark.", "picker"),
    Command(
        "compare",
        "c",
        "Compare values",
        "Compare every value, whatever the shardings; again to stop.",
        scope="diff",
        footer=True,
    ),
    Command(
        "compare_one",
        "m",
        "This tensor",
        "Compare the values of this tensor alone, and draw where they differ.",
        scope="diff",
        footer=True,
    ),
    Command("filter", "slash", "Filter", "Show only some names.", scope="diff", footer=True),
    Command(
        "next_group",
        "f",
        "Verdicts",
        "Show the rows of the next verdict alone; after the last, all.",
        scope="diff",
        footer=True,
        args="(1)",
    ),
    Command("next_group", "F", "Verdict before", "The verdict before.", "diff", args="(-1)"),
    Command("next_difference", "n", "Next", "Next row that differs.", "diff", True, "(1)"),
    Command("next_difference", "N", "Before", "The one before.", "diff", args="(-1)"),
    Command("show_group", "a", "All", "Show the rows of every verdict.", "diff", args="('')"),
    *(
        Command("show_group", key, f"Only {title}", f"Show {what}.", "diff", args=f"('{group}')")
        for key, group, title, what in (
            ("1", "NON_FINITE", "NON_FINITE", "what is NaN or infinite on one side"),
            ("2", "DIFFER", "DIFFER", "what differs by more than the tolerance"),
            ("3", "SHAPE", "SHAPE", "what has another shape"),
            ("4", "DTYPE", "DTYPE", "what has another dtype"),
            ("5", "NOT_COMPARED", "NOT_COMPARED", "what was not compared, or could not be"),
            ("6", "CLOSE", "CLOSE", "what differs within the tolerance"),
            ("7", "EXACT", "EXACT", "what is the same, bit for bit"),
            ("8", "ONLY_A", "A's", "what A alone has"),
            ("9", "ONLY_B", "B's", "what B alone has"),
            ("0", "RENAMED", "renamed", "what is the same under another name"),
        )
    ),
    Command("zoom", "z", "Zoom", "Give this row the whole view, and back.", "diff", footer=True),
    Command("sort", "s", "Sort", "Sort by the next column.", "diff", args="(False)"),
    Command("sort", "S", "Turn order", "Turn the order round.", "diff", args="(True)"),
    Command("copy", "y", "Copy", "Copy the name, or what differs.", "diff"),
    Command("reload", "r", "Reload", "Read both anew.", "diff"),
    Command("back", "escape", "Back", "Leave what is open: filter, verdict, zoom.", "diff"),
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

#: By the name of an action of the main screen: the views that have it, for those that not all have.
VIEWS: dict[str, frozenset[str]] = {
    command.id: frozenset(command.views.split())
    for command in COMMANDS
    if command.scope == "main" and command.views
}


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
            priority=command.keys == "slash",
            id=f"{command.scope}.{command.id}{command.args}",
        )
