"""`Preferences`: what the screen remembers of its user: theme, last view, last mesh.

They stand in `~/.config/hsdp-inspect/config.json` (or under `XDG_CONFIG_HOME`), which a person may
edit, link to or make unwritable: what it holds beside is kept, and what it holds that makes no
sense is passed over and left as it is.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from inspector.checkpoint.own_folders import private_folder, write_whole

__all__ = ["Memory", "Preferences", "config_path", "remembered"]

_MAX_BYTES = 1 << 16
_MAX_CHARS = 200


def config_path() -> Path:
    """Where they stand."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config, "hsdp-inspect", "config.json")


class Preferences(NamedTuple):
    """What was chosen last; empty where nothing was.

    Attributes:
        theme: `dark`, `light`, or one of Textual's.
        view: The id of the view that was open when the screen was left.
        mesh: Of the verification that was started last.
    """

    theme: str = ""
    view: str = ""
    mesh: str = ""

    @classmethod
    def read(cls) -> Preferences:
        """As they stand in the file; what cannot be read is empty."""
        held = _read(config_path()) or {}
        return cls(*(_word(held.get(name)) for name in cls._fields))


class Memory:
    """The preferences of a running screen, written when it is left if they are others by then.

    Args:
        preferences: As they are at the beginning.
        is_kept: Whether they are written; otherwise they last as long as the screen.
    """

    def __init__(self, preferences: Preferences | None = None, *, is_kept: bool = False) -> None:
        self.now = preferences or Preferences()
        self._then = self.now
        self._is_kept = is_kept

    def take(self, **chosen: str) -> None:
        self.now = self.now._replace(**chosen)

    def write(self) -> None:
        """Write what was chosen since the beginning; where that cannot be, it is forgotten."""
        chosen = {
            name: value
            for name, value in self.now._asdict().items()
            if value != getattr(self._then, name)
        }
        if not chosen or not self._is_kept:
            return
        path = config_path()
        try:
            held = _read(path) if path.exists() else {}
            if held is not None:  # Else it is somebody's who made a mistake in it, to mend.
                _write(path, {**held, **chosen})
                self._then = self.now
        except (OSError, RecursionError):
            pass


def remembered(theme: str = "", *, is_kept: bool = True) -> Memory:
    """What this user chose before; a theme that is given now is not kept for the next time."""
    preferences = Preferences.read()
    return Memory(preferences._replace(theme=theme or preferences.theme), is_kept=is_kept)


def _word(value: object) -> str:
    is_word = isinstance(value, str) and len(value) <= _MAX_CHARS and value.isprintable()
    return str(value) if is_word else ""


def _read(path: Path) -> dict[str, Any] | None:
    """What the file holds; None if that is no JSON object, or there is no file."""
    try:
        # A FIFO would be waited for.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            held = json.loads(file.read(_MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def _write(path: Path, held: dict[str, Any]) -> None:
    """Write it whole or not at all; a link stays one.

    Raises:
        OSError: It cannot be written.
        RecursionError: What it holds is nested deeper than can be written.
    """
    text = json.dumps(held, indent=2) + "\n"
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        private_folder(path.parent, path.parent)
    write_whole(path, [text.encode()], mode=0o600)
