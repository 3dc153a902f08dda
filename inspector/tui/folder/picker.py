"""`PickerScreen`: the checkpoints of a folder, to choose one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.find.search import discover, newest
from inspector.checkpoint.find.step_folders import Found
from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import format_bytes, format_time, plural, printable
from inspector.checks.run import check_folder, judge_run
from inspector.checks.steps import Judged
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Background, Stop
from inspector.tui.commands import command
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.key_bar import KeyBar
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.view import TableView, View
from inspector.tui.kit.virtual_table import Column, TableSource, VirtualTable
from inspector.tui.session import Folder, Loaded

__all__ = ["PickerScreen"]

FOUND_COLUMNS = (
    Column("path", "Checkpoint", min_width=16, flex=1, cut="middle"),
    Column("step", "Step", min_width=6, max_width=12, align="right", descending_first=True),
    Column("state", "State", width=10),
    Column("verdict", "Verdict", width=14),
    Column("size", "Size", width=10, align="right", descending_first=True),
    Column("files", "Files", width=6, align="right", priority=2, descending_first=True),
    Column("modified", "Modified", width=19, priority=1, descending_first=True),
    Column("detail", "", min_width=12, max_width=50, priority=3, sortable=False),
)


_STATE_STYLES = {
    "complete": "ok",
    "rewritten?": "warning",
    "unfinished": "warning",
    "unreadable": "error",
}
#: Green is for what was read: here metadata and file sizes alone were.
_VERDICT_STYLES = {"sound": "", "damaged": "error", "suspicious": "error", "unreadable": "error"}


class FoundSource(TableSource):
    """The checkpoints of a folder, and their verdicts as they come in."""

    def __init__(self, found: tuple[Found, ...]) -> None:
        self.found = found
        self.verdicts: dict[int, str] = {}
        #: What is wrong with the step that a row is a part of.
        self.notes: dict[int, str] = {}
        #: The row that another is to be compared with.
        self.marked: int | None = None

    @property
    def num_rows(self) -> int:
        return len(self.found)

    def cell(self, row: int, column_key: str) -> Cell:
        item = self.found[row]
        cells: dict[str, Cell] = {
            "path": (f"[A] {item.path or '.'}", "accent")
            if row == self.marked
            else item.path or ".",
            "step": "" if item.step is None else str(item.step),
            "state": (item.state_word, _STATE_STYLES.get(item.state_word, "")),
            "verdict": self._verdict(row),
            "size": format_bytes(item.num_bytes),
            "files": str(item.num_files),
            "modified": (format_time(item.modified_s), "dim"),
            "detail": (item.detail or self.notes.get(row, ""), "dim"),
        }
        return cells[column_key]

    def sort_key(self, column_key: str) -> SortKeys | None:
        found = self.found
        if column_key == "path":
            return [item.path for item in found]
        if column_key == "state":
            return [item.state_word for item in found]
        if column_key == "verdict":
            return [self.verdicts.get(row, "") for row in range(len(found))]
        numbers = {
            "step": [-1 if item.step is None else item.step for item in found],
            "size": [item.num_bytes for item in found],
            "files": [item.num_files for item in found],
            "modified": [item.modified_s or 0.0 for item in found],
        }
        return np.asarray(numbers[column_key]) if column_key in numbers else None

    def _verdict(self, row: int) -> Cell:
        verdict = self.verdicts.get(row)
        if verdict is None:
            return ("...", "dim")
        # As the badge of an open one says it: nothing else was read.
        said = "metadata sound" if verdict == "sound" else verdict
        return (said, _VERDICT_STYLES.get(verdict, "dim"))

    def marker(self, row: int) -> str:
        if self.verdicts.get(row) in ("damaged", "suspicious", "unreadable"):
            return "error"
        word = self.found[row].state_word
        return "" if word == "complete" else _STATE_STYLES[word]


_LOOK_S = 0.5
# Every so many of those the folder is listed anew: a run goes on while one looks at it.
_LOCAL_LOOKS = 20
_REMOTE_LOOKS = 120


class FoundView(TableView):
    """The table, and its filter."""

    def __init__(self) -> None:
        empty = "No checkpoint is under this folder, or none matches the filter"
        super().__init__(VirtualTable(FOUND_COLUMNS, empty_text=empty), id="found")

    def compose(self) -> ComposeResult:
        yield self._table

    async def on_mount(self) -> None:
        await self.prepare_filter()

    def copy_choices(self) -> list[tuple[str, str]]:
        row = self.table.cursor_row
        return [] if row is None else [("path", printable(self._names[row]))]

    def show_found(self, source: FoundSource) -> None:
        """Show the checkpoints of a folder, as far as the filter lets them."""
        self._names = [item.path or "." for item in source.found]
        self.table.set_source(source)
        self.refilter()


def _list_anew(path: str, stop: Stop) -> Folder:
    """Look through a folder; for a thread."""
    return Folder(path, discover(folder_of(path)))


def _judge(
    folder: Folder, found: Sequence[Found], tell: Callable[[Judged], object], stop: Stop
) -> None:
    """Judge checkpoints by their metadata and file sizes; for a thread."""
    # The progress callback is also how a reading is stopped when the screen goes away.
    judged = check_folder(
        folder.run.storage,
        # The newest first: which one to resume from is what is waited for.
        found=reversed(found),
        progress=lambda done, total: stop(),
    )
    for item in judged:
        if stop():
            return
        tell(item)


class PickerScreen(Screen[None]):
    """Step, state, size and time of every checkpoint under a folder."""

    DEFAULT_CSS = """
    PickerScreen > #picker-head { height: 2; padding: 0 1; background: $panel; }
    """

    BINDINGS = [
        command(
            "o",
            "open_found",
            "Open",
            "Open the checkpoint under the cursor (enter, too).",
            footer=True,
        ),
        command("m", "mark", "Mark", "Mark a checkpoint, to compare another.", footer=True),
        command(
            "d",
            "compare",
            "Compare",
            "Compare the marked checkpoint (A) with the one under the cursor (B).",
            footer=True,
        ),
        command("r", "reload", "Reload", "Look through the folder anew.", footer=True),
        command("escape", "back", "Back", "Leave what is open: the filter, the mark."),
    ]
    AUTO_FOCUS = "VirtualTable"

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder
        self._source = FoundSource(folder.found)
        self._numbers: dict[Found, int] = {}
        self._list = FoundView()
        self._judged: list[Judged] = []
        self._opening = ""
        self._run_said = ""
        self._said = ""
        self._judging = Background[Folder](self, self._judged_all, "checking a folder")
        self._looking = Background[Folder](self, self._looked, "looking for new steps")
        #: From the thread: a checkpoint was judged.
        self._found_out = partial(self.call_later, self._show_judged)
        self._looks = 0
        self._lost = ""

    def compose(self) -> ComposeResult:
        yield Static(markup=False, id="picker-head")
        yield self._list
        yield KeyBar()

    def on_mount(self) -> None:
        self._show(self._folder)
        self.set_interval(_LOOK_S, self._look)

    def _look(self) -> None:
        self._look_at_run()
        self._looks += 1
        is_remote = self._folder.run.storage.local_path("") is None
        if self._looks >= (_REMOTE_LOOKS if is_remote else _LOCAL_LOOKS) and self.is_current:
            self._look_for_new()

    def _look_for_new(self) -> None:
        """List the folder anew, unless something of it is being read already."""
        if not (self._judging.is_busy or self._looking.is_busy):
            self._looks = 0
            self._looking.ask(self._folder, partial(_list_anew, self._folder.path))

    def _looked(self, before: Folder, outcome: Folder | InspectError) -> None:
        """The folder as it is listed now: what stands as it stood keeps its verdict."""
        if before is not self._folder or isinstance(outcome, Cancelled):
            return  # It was read anew meanwhile.
        lost = outcome.message if isinstance(outcome, InspectError) else ""
        if lost != self._lost:
            self._lost = lost
            self._draw_head()
        if isinstance(outcome, InspectError):
            return
        if outcome.found != before.found:
            self._show_anew(outcome)
        known = {item.found for item in self._judged}
        # What is being written, or taken away, is judged when it stands still.
        still = [f for f in outcome.found if f not in known and f in set(before.found)]
        if still:
            self._judging.ask(self._folder, partial(_judge, self._folder, still, self._found_out))
        elif len(known) == len(outcome.found) and outcome.found != before.found:
            self._say_steps()

    def _show_anew(self, folder: Folder) -> None:
        """Show what is there now, the cursor, the mark and all verdicts where they were."""
        table, source = self._list.table, self._source
        names = [item.path for item in self._folder.found]
        here = None if table.cursor_row is None else names[table.cursor_row]
        marked = None if source.marked is None else names[source.marked]
        new = [item.path or "." for item in folder.found if item.path not in set(names)]
        self._take(folder)
        rows = {item.path: row for row, item in enumerate(folder.found)}
        self._source.marked = None if marked is None else rows.get(marked)
        there = set(folder.found)
        self._judged = [item for item in self._judged if item.found in there]
        for item in self._judged:
            self._source.verdicts[self._numbers[item.found]] = item.word
        if here in rows:
            table.select_row(rows[here])
        self._draw_head()
        if new:
            shown = printable(new[-1], 80)
            more = f" and {len(new) - 1:,} more" if len(new) > 1 else ""
            self.notify(f"{shown}{more}", title="New", markup=False)

    def _look_at_run(self) -> None:
        """Say how far a verification is that was begun in one of the checkpoints."""
        run = getattr(self.app, "verification", None)
        said = ""
        if run is not None and self.is_current:
            from inspector.tui.verification.control import standing_of  # lazy: only with a run

            word, _ = standing_of(run) or ("starting", "")
            name = printable(run.path.rstrip("/").rpartition("/")[2], 60)
            said = f"verifying {name}: {word}" if run.is_alive else f"verified {name}: {word}"
        if said != self._run_said:
            self._run_said = said
            self._draw_head()

    def _show(self, folder: Folder) -> None:
        latest = newest(folder.run)
        self._say(f"newest complete: {latest.path or '.'}" if latest else "none is complete")
        self._take(folder)
        if latest is not None:
            self._list.table.select_row(folder.found.index(latest))
        self._judged = []
        self._judging.ask(folder, partial(_judge, folder, folder.found, self._found_out))

    def _take(self, folder: Folder) -> None:
        self._folder = folder
        self._source = FoundSource(folder.found)
        self._numbers = {found: number for number, found in enumerate(folder.found)}
        self._list.show_found(self._source)

    def _judged_all(self, folder: Folder, outcome: object) -> None:
        if isinstance(outcome, InspectError) and not isinstance(outcome, Cancelled):
            self.notify(
                outcome.message, title="Checking them failed", severity="error", markup=False
            )

    def _show_judged(self, item: Judged) -> None:
        number = self._numbers.get(item.found)
        if number is None or number in self._source.verdicts:
            return  # Of a folder that was read anew meanwhile, or told by both readings of it.
        self._judged.append(item)
        self._source.verdicts[number] = item.word
        self.query_one(VirtualTable).refresh_rows()
        if len(self._judged) == len(self._folder.found):
            self._say_steps()

    def _say_steps(self) -> None:
        """Every checkpoint is judged: which step is the newest sound one, and what is wrong."""
        run = judge_run(self._folder.run, self._judged)
        rows = {item: row for row, item in enumerate(self._folder.found)}
        for step in run.steps:
            if len(step.parts) > 1 or step.lacks:
                for part in step.parts:
                    if step.why_not and part.found.state == "complete":
                        self._source.notes[rows[part.found]] = step.why_not
        self.query_one(VirtualTable).refresh_rows()
        sound, best = run.newest_sound, run.newest_resumable
        said = ["none is sound" if sound is None else f"newest sound: {sound.path or '.'}"]
        if run.newest_by:
            said[0] += f" ({run.newest_by})"
        if sound is not None:
            said[0] += ", bytes unread"
            if any(part.found.is_overwritten for part in sound.parts):
                said[0] += ", perhaps half overwritten"
        if best != sound:
            said.append(f"to resume from: {'none' if best is None else best.path or '.'}")
        said += [finding.message for finding in run.findings]
        said += [f"not looked at: {where}" for where, _ in run.run.not_looked_at]
        self._say(" · ".join(said))

    def _say(self, said: str) -> None:
        self._said = said
        self._draw_head()

    def _draw_head(self) -> None:
        facts = [plural(len(self._folder.found), "checkpoint")]
        if self._list.table.num_lines < len(self._folder.found):
            facts[0] = f"{self._list.count_text} checkpoints"
        marked = self._source.marked
        if marked is None:
            facts.append(printable(self._said))
        else:
            name = printable(self._folder.found[marked].path or ".", 80)
            facts.append(f"A is {name}; d compares it with the one under the cursor, B")
        if self._run_said:
            facts.insert(1, self._run_said)
        if self._lost:
            # The path stands above.
            why = self._lost.removeprefix(f"{printable(self._folder.path)}: ")
            facts.insert(0, f"as it was: {printable(why, 200)}")
        path = Text(printable(self._folder.path), "bold")
        text = Text("\n").join([path, Text(" · ".join(facts))])
        self.query_one("#picker-head", Static).update(text)

    def on_view_counted(self, event: View.Counted) -> None:
        event.stop()
        self._draw_head()

    # Keys.

    def action_back(self) -> None:
        if not self._list.back() and self._source.marked is not None:
            self._mark(None)

    def action_mark(self) -> None:
        row = self._list.table.cursor_row
        self._mark(None if row == self._source.marked else row)

    def _mark(self, row: int | None) -> None:
        self._source.marked = row
        self._list.table.refresh_rows()
        self._draw_head()

    def action_compare(self) -> None:
        marked, row = self._source.marked, self._list.table.cursor_row
        if row is None:
            return
        if marked is None:
            self._mark(row)
            self.notify("It is marked as A: now go to another, and press d again.")
            return
        if marked == row:
            self.notify("This is the marked one: go to another.")
            return
        from inspector.tui.diff.opening import PairOf  # lazy: the list of a folder shows without
        from inspector.tui.diff.screen import open_pair  # lazy: the list of a folder shows without

        open_pair(self.app, PairOf(self._path_of(marked), self._path_of(row)))

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        self._open(event.row)

    def action_open_found(self) -> None:
        row = self.query_one(VirtualTable).cursor_row
        if row is not None:
            self._open(row)

    def _open(self, row: int) -> None:
        # lazy: the list of a folder shows without
        from inspector.tui.screens.loading import LoadingScreen

        path = self._opening = self._path_of(row)
        self.app.push_screen(LoadingScreen.of(path, whole_folder=False), self._opened)

    def _path_of(self, row: int) -> str:
        item = self._folder.found[row]
        base = self._folder.path.rstrip("/") if is_url(self._folder.path) else self._folder.path
        return f"{base.rstrip('/')}/{item.path}" if item.path else base

    def _opened(self, outcome: object) -> None:
        # lazy: the list of a folder shows without
        from inspector.tui.screens.error import ErrorScreen

        # lazy: the list of a folder shows without
        from inspector.tui.screens.main import MainScreen

        if isinstance(outcome, Loaded):
            self.app.push_screen(MainScreen(outcome, from_picker=True))
        elif isinstance(outcome, InspectError) and not isinstance(outcome, Cancelled):
            error = ErrorScreen(outcome, can_go_back=True, path=self._opening)
            self.app.push_screen(error, self._after_error)

    def _after_error(self, answer: str | None) -> None:
        if answer == "again":
            self.action_open_found()

    def action_reload(self) -> None:
        # lazy: the list of a folder shows without
        from inspector.tui.screens.loading import LoadingScreen

        self.app.push_screen(LoadingScreen.of(self._folder.path), self._reloaded)

    def _reloaded(self, outcome: object) -> None:
        if isinstance(outcome, Folder):
            self._show(outcome)
            self.notify("Looked through the folder anew.")
