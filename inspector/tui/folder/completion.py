"""What lies where a path is being typed, and what the rest of it may be. Pure; no widget."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import is_printable, natural_keys

__all__ = [
    "Sibling",
    "SiblingListing",
    "completed",
    "expanded",
    "folder_of_typed",
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
