"""Modules with the names of others, planted in a folder; one that is imported leaves its mark."""

from __future__ import annotations

from pathlib import Path

#: What the standard library and our dependencies call their modules.
NAMES = (
    "json torch numpy random click rich textual fsspec isal ml_dtypes platformdirs psutil re zlib "
    "struct typing dataclasses tempfile subprocess threading socket ctypes inspect logging pickle "
    "select shutil signal hashlib datetime locale copy traceback zipfile decimal"
).split()
#: Imported by Python before the program that it is to run has a say.
EARLY = "sitecustomize usercustomize runpy warnings contextlib functools types collections".split()

_SOURCE = """\
import os
os.close(os.open(os.path.join({marks!r}, __name__), os.O_CREAT | os.O_WRONLY))
raise ImportError("this is not the module that you look for")
"""


class PlantedModules:
    """The modules in one folder.

    Args:
        folder: Where they are planted.
        marks: Folder, outside of it, where they leave their marks.
        names: Their names.
    """

    def __init__(self, folder: Path, marks: Path, names: list[str]) -> None:
        self._marks = marks
        marks.mkdir()
        for name in names:
            (folder / f"{name}.py").write_text(_SOURCE.format(marks=str(marks)))

    @property
    def imported(self) -> list[str]:
        """Those that somebody imported."""
        return sorted(mark.name for mark in self._marks.iterdir())
