"""Where the Python processes of a job may import from: never from the folder that is inspected.

An interpreter that is started with `-c` or `-m` looks for modules where it stands, and an empty
or relative part of PYTHONPATH means the same. A checkpoint is data: a `json.py` that lies in it
must not run because somebody stood there. So each process of a job starts in a folder of our own,
and PYTHONPATH keeps only what names another place, from the root.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from inspector.checkpoint.own_folders import temporary_folder
from inspector.checkpoint.storage.base import is_url

__all__ = ["clean_environment", "clean_path", "empty_folder", "find_program"]

_VARIABLE = "PYTHONPATH"


def clean_path(path: str, inspected: str = "", here: str = "") -> str:
    """A list of folders without the one that is stood in, and without what lies in a checkpoint.

    Args:
        path: The value of PYTHONPATH, or of PATH.
        inspected: The checkpoint; empty or a URL for none on this machine.
        here: The working folder that relative parts mean (default: this process's).

    Returns:
        What is left of it, each part absolute.
    """
    try:
        here = here or os.getcwd()
    except OSError:
        here = os.sep  # It was removed: nothing can be imported from it either.
    checkpoint = ""
    if inspected and not is_url(inspected):
        checkpoint = os.path.realpath(os.path.join(here, inspected))
    kept = []
    for part in filter(None, path.split(os.pathsep)):
        place = os.path.realpath(os.path.join(here, part))
        is_inside = checkpoint and os.path.commonpath([place, checkpoint]) == checkpoint
        is_here = not os.path.isabs(part) and place == os.path.realpath(here)
        if not is_here and not is_inside:
            kept.append(os.path.abspath(os.path.join(here, part)))
    return os.pathsep.join(kept)


def clean_environment(base: Mapping[str, str] | None = None, inspected: str = "") -> dict[str, str]:
    """An environment for another interpreter, which then imports nothing from where it stands."""
    env = dict(os.environ if base is None else base)
    path = clean_path(env.pop(_VARIABLE, ""), inspected)
    if path:
        env[_VARIABLE] = path
    # Python 3.11 and later; before that, only where the process stands protects it.
    env["PYTHONSAFEPATH"] = "1"
    # torchrun runs the ranks with it, instead of the interpreter that was chosen.
    env.pop("PYTHON_EXEC", None)
    return env


def find_program(name: str, inspected: str = "") -> str | None:
    """Where a program is, from the root; one that merely lies where one stands is not found."""
    places = clean_path(os.environ.get("PATH", os.defpath), inspected)
    found = shutil.which(name, path=places)
    # Not resolved: the interpreter of a virtual environment is a link, and has to stay one.
    return None if found is None else os.path.abspath(found)


@contextmanager
def empty_folder() -> Iterator[str]:
    """A folder with nothing in it, to start a process in."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(temporary_folder())
        except OSError:
            path = os.sep  # No disk has room; there is no code in the root of the file system.
        yield path
