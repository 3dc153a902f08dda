"""`AskPathScreen`: a line to type a path into, and what lies where it leads."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import is_printable, natural_keys, plural, printable
from inspector.errors import InspectError
from inspector.tui.background import Background
from inspector.tui.kit.dialog import Dialog

__all__ = [
    "AskPathScreen",
    "Sibling",
    "SiblingListing",
    "completed",
    "expanded",
    "list_folder",
    "matching_siblings",
]

#: As many are listed, and looked into.
_MAX_NAMES = 2000
#: What makes a folder a checkpoint, as far as a look at so many of its names tells.
_SIGNS = re.compile(r"\.metadata|__\d+\.metadata|.+\.safetensors(\.index\.json)?")
_MAX_SIGNS_SOUGHT = 500
_FILES = (".safetensors",)


@dataclass(frozen=True, slots=True)
class Sibling:
    """One name in a folder.

    Attributes:
        name: As it is typed.
        kind: `checkpoint`, `folder` or `file`.
    """

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class SiblingListing:
    """What lies in a folder.

    Attributes:
        folder: As it was typed, with its slash.
        siblings: By name, as people sort them.
        num_more: Names that are left out: too many, or such as cannot be typed.
        problem: Why it could not be looked into, or empty.
    """

    folder: str
    siblings: tuple[Sibling, ...] = ()
    num_more: int = 0
    problem: str = ""


def expanded(typed: str) -> str:
    """The path that is meant: `~` is the user's folder."""
    typed = typed.strip()
    return typed if is_url(typed) else os.path.expanduser(typed)


def folder_of_typed(typed: str) -> str:
    """The part of what was typed up to the last slash."""
    return typed[: typed.rfind("/") + 1]


def list_folder(folder: str, stop: Callable[[], bool]) -> SiblingListing:
    """What lies in a folder, as `folder_of_typed` gives it; may take long. URLs are not listed."""
    if is_url(folder):
        return SiblingListing(folder)
    found: list[Sibling] = []
    num_more = 0
    try:
        with os.scandir(expanded(folder) or ".") as entries:
            for entry in entries:
                if stop():
                    break
                if len(found) == _MAX_NAMES or not is_printable(entry.name):
                    num_more += 1
                elif kind := _kind(entry):
                    found.append(Sibling(entry.name, kind))
    except OSError as error:
        return SiblingListing(folder, problem=(error.strerror or str(error)).lower())
    keys = natural_keys([sibling.name for sibling in found])
    order = sorted(range(len(found)), key=keys.__getitem__)
    return SiblingListing(folder, tuple(found[n] for n in order), num_more)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if not entry.is_dir():
            return "file" if entry.name.endswith(_FILES) else ""
    except OSError:
        return ""
    try:
        with os.scandir(entry.path) as inside:
            names = (each.name for each in itertools.islice(inside, _MAX_SIGNS_SOUGHT))
            return "checkpoint" if any(map(_SIGNS.fullmatch, names)) else "folder"
    except OSError:
        return "folder"


def matching_siblings(listing: SiblingListing, typed: str) -> list[Sibling]:
    """Those with which the path may go on; hidden ones if their dot was typed."""
    start = typed[len(folder_of_typed(typed)) :]
    return [
        sibling
        for sibling in listing.siblings
        if sibling.name.startswith(start) and (start or not sibling.name.startswith("."))
    ]


def completed(typed: str, siblings: Sequence[Sibling]) -> str:
    """What was typed, with as much more as all of `siblings` have in common."""
    if not siblings:
        return typed
    names = sorted(sibling.name for sibling in siblings)
    # What the first and the last have in common, those between them have too.
    pairs = zip(names[0], names[-1], strict=False)
    common = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    is_whole = len(siblings) == 1 and siblings[0].kind != "file"
    return folder_of_typed(typed) + common + ("/" if is_whole else "")


_STYLES = {"checkpoint": "ok", "folder": "", "file": "dim"}


class PathInput(Input):
    """A path; an absolute one that is pasted takes the place of what was there."""

    @dataclass
    class Steered(Message):
        """A key that is no character: `tab`, `down` or `up`."""

        key: str

    async def _on_key(self, event: events.Key) -> None:
        # No bindings: those come before the characters of the same burst.
        if event.key in ("tab", "down", "up"):
            event.stop()
            event.prevent_default()
            self.post_message(self.Steered(event.key))

    def insert_text_at_cursor(self, text: str) -> None:
        """A slash behind a slash begins anew, unless it is that of a URL."""
        # At once, not when the change is told: more may have been typed by then.
        is_anew = text == "/" and self.cursor_position == len(self.value)
        if is_anew and self.value.endswith("/") and not self.value.endswith(":/"):
            self.value = "/"
            self.cursor_position = 1
        else:
            super().insert_text_at_cursor(text)

    def _on_paste(self, event: events.Paste) -> None:
        pasted = (event.text.splitlines() or [""])[0].strip()
        if pasted.startswith(("/", "~")) or is_url(pasted):
            self.value = pasted
            self.cursor_position = len(pasted)
            event.stop()
            event.prevent_default()


class AskPathScreen(Dialog[str]):
    """Dismissed with the path as it was typed, or with nothing."""

    DEFAULT_CSS = """
    AskPathScreen > Vertical {
        width: 90%; max-width: 100; height: auto; max-height: 92%;
        padding: 0 2; background: $surface; border: round $primary;
    }
    AskPathScreen Static { width: 1fr; }
    AskPathScreen Input, AskPathScreen Input:focus {
        height: 1; border: none; padding: 0 1; margin: 1 0 0 0; background: $boost;
    }
    AskPathScreen OptionList, AskPathScreen OptionList:focus {
        height: 10; border: none; background: $surface; padding: 0; margin: 0;
        scrollbar-size-vertical: 1;
    }
    AskPathScreen #path-said { height: 1; }
    AskPathScreen #path-hint { color: $text-muted; margin: 1 0 0 0; }
    """

    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(
        self, question: str, value: str = "", *, does: str = "compares", beside: str = ""
    ) -> None:
        """Ask.

        Args:
            question: Printable.
            value: Stands in the line already.
            does: What enter does then.
            beside: The raw name of a checkpoint there; the one before it is chosen already.
        """
        super().__init__()
        self._question = question
        self._value = value
        self._does = does
        self._beside = beside
        self._listing = SiblingListing("")
        self._offered: list[Sibling] = []
        self._completes = False
        # What enter was pressed on and is not there: that stays said until another is typed.
        self._missing = ""
        self._listing_of: Background[str] = Background(self, self._listed, "listing a folder")
        self._looking: Background[str] = Background(self, self._looked, "looking for a path")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            yield PathInput(
                self._value, placeholder="a checkpoint folder, or a URL", select_on_focus=False
            )
            yield Static("", markup=False, id="path-said")
            choices = OptionList(markup=False)
            choices.can_focus = False
            yield choices
            yield Static(
                f"tab completes · ↓ ↑ choose · enter {self._does} · esc cancels",
                markup=False,
                id="path-hint",
            )

    def on_mount(self) -> None:
        self._list(self._value)

    # What lies there.

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._list(event.value)

    def _list(self, typed: str) -> None:
        if typed.strip() != self._missing:
            self._missing = ""
        folder = folder_of_typed(typed)
        if folder == self._listing.folder and self._listing.siblings:
            self._offer()
        else:
            if not self._missing:
                self._say("", "")
            self._listing_of.ask(folder, lambda stop: list_folder(folder, stop))

    def _listed(self, folder: str, listing: SiblingListing | InspectError) -> None:
        if isinstance(listing, SiblingListing):
            self._listing = listing
            self._offer()
            if self._completes:
                self._complete()

    def _offer(self) -> None:
        """Show the names with which the path may go on."""
        self._offered = matching_siblings(self._listing, self._typed)
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options(Option(_line(sibling)) for sibling in self._offered)
        names = [sibling.name for sibling in self._offered]
        choices.highlighted = None
        if self._typed == self._value and self._beside in names:
            before = names.index(self._beside) - 1
            if before >= 0 and self._offered[before].kind == "checkpoint":
                choices.highlighted = before
        listing = self._listing
        if self._missing:
            return
        if listing.problem:
            self._say(f"cannot be looked into: {listing.problem}", "warning")
        elif listing.num_more:
            self._say(f"{plural(listing.num_more, 'name')} more, not shown", "dim")
        else:
            self._say("", "")

    def _say(self, said: str, style: str) -> None:
        self.query_one("#path-said", Static).update(Text.assemble((printable(said, 300), style)))

    @property
    def _typed(self) -> str:
        return self.query_one(PathInput).value

    def _type(self, path: str) -> None:
        field = self.query_one(PathInput)
        field.value = path
        field.cursor_position = len(path)

    # Keys.

    @property
    def _chosen(self) -> Sibling | None:
        row = self.query_one(OptionList).highlighted
        return None if row is None or row >= len(self._offered) else self._offered[row]

    def on_path_input_steered(self, event: PathInput.Steered) -> None:
        event.stop()
        if event.key == "tab":
            self._complete()
        else:
            self._move(1 if event.key == "down" else -1)

    def _complete(self) -> None:
        """Complete what was typed by the name that is chosen, or by what all have in common."""
        typed, chosen = self._typed, self._chosen
        self._completes = folder_of_typed(typed) != self._listing.folder
        if self._completes:
            return  # As soon as it is known what lies there.
        # Keys may come faster than the list below follows.
        fitting = matching_siblings(self._listing, typed)
        self._type(completed(typed, [chosen] if chosen in fitting else fitting))

    def _move(self, steps: int) -> None:
        """Choose the next name, or the one before."""
        choices = self.query_one(OptionList)
        if self._offered:
            here = choices.highlighted
            first = 0 if steps > 0 else len(self._offered) - 1
            choices.highlighted = first if here is None else (here + steps) % len(self._offered)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._take(self._offered[event.option_index])

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        chosen = self._chosen
        if chosen is not None and chosen in matching_siblings(self._listing, event.value):
            self._take(chosen)
        elif path := event.value.strip():
            self._looking.ask(path, lambda stop: is_url(path) or os.path.lexists(expanded(path)))

    def _take(self, sibling: Sibling) -> None:
        """A name was chosen: a folder is gone into, a checkpoint is what was asked for."""
        path = completed(self._typed, [sibling])
        self._type(path)
        if sibling.kind != "folder":
            self.dismiss(path)

    def _looked(self, path: str, is_there: bool | InspectError) -> None:
        if is_there is True:
            self.dismiss(path)
        else:
            self._missing = path
            self._say(f"nothing is there: {path}", "error")

    def action_cancel(self) -> None:
        self.dismiss("")


def _line(sibling: Sibling) -> Text:
    name = printable(sibling.name, 200) + ("" if sibling.kind == "file" else "/")
    text = Text.assemble((name, _STYLES[sibling.kind]))
    if sibling.kind == "checkpoint":
        text.append("  checkpoint", "dim")
    return text
