"""The command in a real pseudo-terminal: how it ends, and what few colours leave of it."""

from __future__ import annotations

import json
import os
import signal
import termios
from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from tests.helpers.terminal import Terminal

pytestmark = pytest.mark.slow

SOUND = "metadata sound"
#: An app that is asked to leave, says so, and does not.
STUCK = """
import os, sys
from inspector.tui.app import InspectApp
InspectApp._end_soon = lambda self, code: os.write(1, b"ASKED")
from inspector.tui.launch import run
sys.exit(run(sys.argv[1]))
"""


#: As `nohup` starts it.
NOHUP = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from inspector.tui.launch import run
sys.exit(run(sys.argv[1]))
"""


def is_open(terminal: Terminal) -> bool:
    return SOUND in terminal.lines[0] and "? Help" in terminal.lines[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_ends_it_gives_the_terminal_back(number: signal.Signals) -> None:
    with Terminal(SAMPLES / "hsdp_2x4") as terminal:
        terminal.until(lambda: is_open(terminal))
        assert terminal.left_on() and terminal.is_raw
        os.kill(terminal.pid, number)
        assert terminal.ended() == (2 if number == signal.SIGINT else 128 + number)
        terminal.until(lambda: not terminal.left_on())
        assert termios.tcgetattr(terminal.other) == terminal.attributes
        assert b"Traceback" not in terminal.written


def test_the_second_signal_ends_it_whatever_the_app_is_at() -> None:
    with Terminal(SAMPLES / "hsdp_2x4", module=("-c", STUCK)) as terminal:
        terminal.until(lambda: is_open(terminal))
        os.kill(terminal.pid, signal.SIGTERM)
        terminal.until(lambda: b"ASKED" in terminal.written)
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.ended() == 128 + signal.SIGTERM
        terminal.until(lambda: not terminal.left_on())
        assert termios.tcgetattr(terminal.other) == terminal.attributes


@pytest.mark.parametrize("module", [("-m", "inspector"), ("-c", NOHUP)], ids=["", "nohup"])
def test_a_window_that_is_closed_ends_it(module: tuple[str, ...]) -> None:
    with Terminal(SAMPLES / "hsdp_2x4", module=module) as terminal:
        terminal.until(lambda: is_open(terminal))
        terminal.hang_up()
        # By the signal, or because nothing can be written any more.
        assert terminal.ended() in (128 + signal.SIGHUP, 2)


def test_what_was_suspended_comes_back_and_can_be_ended() -> None:
    with Terminal(SAMPLES / "hsdp_2x4") as terminal:
        terminal.until(lambda: is_open(terminal))
        terminal.send("\x1a")
        terminal.until(terminal.is_stopped)
        terminal.until(lambda: not terminal.left_on())
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.until(lambda: 1049 in terminal.left_on())
        terminal.send("3")
        terminal.until(lambda: "What is wrong" in terminal.text or "Findings" in terminal.text)
        terminal.send("\x1a")
        terminal.until(terminal.is_stopped)
        os.kill(terminal.pid, signal.SIGTERM)
        os.kill(terminal.pid, signal.SIGCONT)
        assert terminal.ended() == -signal.SIGTERM
        terminal.until(lambda: not terminal.left_on())
        assert termios.tcgetattr(terminal.other) == terminal.attributes


def test_it_can_be_left_before_it_is_complete() -> None:
    # A view that came while the screen was being taken down was an internal error.
    for _ in range(3):
        with Terminal(SAMPLES / "hsdp_2x4") as terminal:
            terminal.until(lambda: "Dtype" in terminal.text)
            terminal.send("q")
            assert terminal.ended() == 0
            assert b"Traceback" not in terminal.written


@pytest.mark.parametrize(
    ("env", "theme"),
    [
        ({"TERM": "xterm", "COLORTERM": None}, "dark"),
        ({"TERM": "xterm", "COLORTERM": None}, "light"),
        ({"TERM": "xterm", "COLORTERM": None}, "ansi-dark"),
        ({"NO_COLOR": "1"}, "dark"),
        ({"NO_COLOR": "1"}, "light"),
    ],
    ids=["16-dark", "16-light", "ansi", "none-dark", "none-light"],
)
def test_what_is_wrong_can_be_read_with_few_colours(env: dict[str, str | None], theme: str) -> None:
    path = SAMPLES / "broken" / "chunk_gap"
    with Terminal("--theme", theme, path, env=env) as terminal:
        terminal.until(lambda: "DAMAGED: 1 error" in terminal.lines[0])
        terminal.send("3")
        terminal.until(lambda: "ERROR chunk-gap" in terminal.text)
        for word in ("DAMAGED: 1 error", "ERROR", "20 of 40 elements", "loads silently"):
            y = next(y for y, line in enumerate(terminal.lines) if word in line)
            x = terminal.lines[y].index(word)
            cells = [terminal.cell(x + n, y) for n in range(len(word))]
            assert all(cell.fg != cell.bg or cell.fg == "default" for cell in cells), word
            if word in ("DAMAGED: 1 error", "ERROR"):
                # Without its colour it stands out all the same.
                assert all(cell.bold for cell in cells)
        # What is chosen, and the open view, are picked out by more than a colour.
        row = next(y for y, line in enumerate(terminal.lines) if line.startswith("▌"))
        assert terminal.cell(4, row).bold or terminal.cell(4, row).reverse


def test_theme_and_view_are_remembered_and_a_theme_that_is_given_is_not(tmp_path: Path) -> None:
    config = tmp_path / "hsdp-inspect" / "config.json"
    env: dict[str, str | None] = {"XDG_CONFIG_HOME": str(tmp_path)}
    with Terminal("--theme", "nord", SAMPLES / "hsdp_2x4", env=env) as terminal:
        terminal.until(lambda: is_open(terminal))
        terminal.send("q")
        assert terminal.ended() == 0
    assert not config.exists()
    with Terminal(SAMPLES / "hsdp_2x4", env=env) as terminal:
        terminal.until(lambda: is_open(terminal))
        terminal.send("2")
        terminal.until(lambda: "__0_0.distcp" in terminal.text)
        dark = terminal.cell(0, 0).bg
        terminal.send("t")
        terminal.until(lambda: terminal.cell(0, 0).bg != dark)
        terminal.send("q")
        assert terminal.ended() == 0
    assert json.loads(config.read_text()) == {"theme": "light", "view": "files"}
    with Terminal(SAMPLES / "hsdp_2x2", env=env) as terminal:
        terminal.until(lambda: "__0_0.distcp" in terminal.text and is_open(terminal))
        assert terminal.cell(0, 0).bg != dark


@pytest.mark.parametrize(
    ("keys", "typed"),
    [
        ("/abc\x15net3", "net3"),
        ("/mn\x7f\x7fnet3.bias", "net3.bias"),
        ("/et3\x01n\x05.bi", "net3.bi"),
        ("/net3\rjj", "net3"),
    ],
)
def test_what_comes_in_one_burst_is_handled_in_its_order(keys: str, typed: str) -> None:
    with Terminal(SAMPLES / "hsdp_2x4") as terminal:
        terminal.until(lambda: is_open(terminal))
        terminal.send(keys)
        terminal.until(lambda: terminal.lines[3].split()[:1] == [typed])
        assert "model.net3.bias" in terminal.text and "net1" not in "".join(terminal.lines[4:])


def test_a_path_that_is_typed_in_one_burst_with_the_key_that_asks_for_it_arrives_whole() -> None:
    with Terminal(SAMPLES / "hsdp_2x4") as terminal:
        terminal.until(lambda: is_open(terminal))
        terminal.send("Dnowhere\x15/n//no/such\r")
        terminal.until(lambda: "nothing is there: /no/such" in terminal.text)
