"""Every sample in a real pseudo-terminal, view after view, at three sizes: what any screen owes.

Nothing is pressed before what it follows from is on the screen, and nothing waits for a time: what
a screen owes is waited for. One app a sample; its window is resized.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector.checkpoint.find.locate import locate
from inspector.checks.findings import Report
from inspector.checks.judge import check, check_storage
from inspector.errors import InspectError
from tests.conftest import SAMPLES
from tests.helpers.terminal import Terminal

pytestmark = pytest.mark.slow

SIZES = [(80, 24), (120, 30), (160, 50)]
#: By key: the view's title in the line of views, and the columns that no row of it may lack.
VIEWS = {
    "2": ("Files", ("Size",)),
    "3": ("Findings", ("Code", "What is wrong")),
    "4": ("Verify", ()),
    "5": ("plan", ()),
    "6": ("Values", ()),
    "7": ("Stats", ()),
    "1": ("Tensors", ("Dtype", "Shape")),
}
FOLDERS = sorted(
    path
    for path in [*SAMPLES.iterdir(), *(SAMPLES / "broken").iterdir()]
    if path.is_dir() and path.name not in ("broken", "maker", "__pycache__")
)


def rows_without(lines: list[str], wanted: tuple[str, ...]) -> Iterator[str]:
    """What the rows of the table with these columns lack of them."""
    at = next((n for n, line in enumerate(lines) if all(w in line for w in wanted)), None)
    if at is None:
        yield f"no table with {wanted}"
        return
    # The tree may stand left of it.
    left = lines[at].find("▕") + 1
    header = lines[at][left:]
    spans = [(m.start(), m.end(), m[0]) for m in re.finditer(r"\S+(?: \S+)*", header)]
    edges = [0, *(end for _, end, _ in spans)]
    for line in lines[at + 1 :]:
        row = line[left:]
        if not row.strip() or "▔" in row:
            return
        for (_, end, title), before in zip(spans, edges, strict=False):
            # A value stands under its title, or begins or ends where that does.
            is_blank = not row[before : end + 1].strip()
            if title in wanted and is_blank and not (title == "Shape" and " bytes " in row):
                yield f"no {title} in {row!r}"


def faults(terminal: Terminal, key: str) -> list[str]:
    """What the open view owes and does not show."""
    title, wanted = VIEWS[key]
    lines = terminal.lines
    found = [f"a number is cut: {line!r}" for line in lines if re.search(r"[0-9]…", line)]
    if "q Quit" not in lines[-1]:
        found.append("the keys are not on the last line")
    match = re.search(rf" {key} (?:Load )?{title}", lines[2], re.IGNORECASE)
    if match is None:
        found.append(f"no {key} {title} in {lines[2]!r}")
    elif not terminal.cell(match.start() + 1, 2).reverse:
        found.append(f"{title} is not open")
    if any(wanted) and not (key == "3" and "nothing is wrong" in terminal.text):
        if key == "3" and not re.search(r"3 Findings [0-9]", lines[2]):
            return found  # There is none to list.
        found += rows_without(lines, wanted)
    return found


def badge_of(report: Report) -> str:
    """What the badge has to say of `check`'s verdict, and of what it rests on."""
    if report.is_empty:
        return " EMPTY"
    if report.is_unread:
        return " NOT READ"
    if report.verdict != "sound":
        count = report.count("error")
        return f" {report.verdict.upper()}: {count} error"
    warnings = report.count("warning")
    said = f"{warnings} warning" + ("s, " if warnings > 1 else ", ") if warnings else ""
    return f" metadata sound, {said}bytes unread"


def show(terminal: Terminal, key: str, badge: str, tab: str) -> None:
    """Open a view, and wait until it shows what it owes, below the verdict and the tabs."""

    def wrong() -> list[str]:
        found = faults(terminal, key)
        if badge not in terminal.lines[0]:
            found.append(f"no {badge!r} in {terminal.lines[0]!r}")
        if tab not in terminal.lines[2]:
            found.append(f"no {tab!r} in {terminal.lines[2]!r}")
        return found

    terminal.send(key)
    terminal.until(lambda: not wrong(), faults=wrong)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: str(p.relative_to(SAMPLES)))
def test_what_every_screen_owes(folder: Path) -> None:
    with Terminal(folder, size=SIZES[0]) as terminal:
        try:
            target = locate(str(folder))
        except InspectError:
            target = None
        if isinstance(target, list):
            tour_of_folder(terminal)
            return
        report = check(str(folder)) if target is None else check_storage(target)
        if report.verdict == "unreadable":
            terminal.until(lambda: "Cannot open it" in terminal.text)
            code = report.findings[0].message[:24]
            terminal.until(lambda: code.split()[0] in terminal.text)
            terminal.send("q")
            assert terminal.ended() == 2
            return
        terminal.until(lambda: badge_of(report) in terminal.lines[0])
        count = len(report.findings)
        tab = f"3 Findings {count}" if count else "3 Findings  "
        for size in SIZES:
            if size != terminal.size:
                terminal.resize(size)
            for key in VIEWS:
                show(terminal, key, badge_of(report), tab)
        terminal.send("q")
        assert terminal.ended() == 0


def tour_of_folder(terminal: Terminal) -> None:
    """The checkpoints of a folder: each row has its state and its verdict."""
    for size in SIZES:
        if size != terminal.size:
            terminal.resize(size)
        terminal.until(
            lambda: (
                "q Quit" in terminal.lines[-1]
                and not list(rows_without(terminal.lines, ("State", "Verdict")))
                and " ... " not in terminal.text
                and not re.search(r"[0-9]…", terminal.text)
            )
        )
    terminal.send("q")
    assert terminal.ended() == 0
