"""Options that several commands have: the format of the answer, and where it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from inspector.errors import UsageError

__all__ = ["form_of", "formats", "output_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_ABOUT = {
    "github": "github: annotations for GitHub Actions",
    "html": "html: one page to send on",
}


def formats(*names: str) -> Callable[[_Command], _Command]:
    """The option `--format`, with the names of the formats that the command has."""
    about = "; ".join(_ABOUT[name] for name in names if name in _ABOUT)
    return click.option("--format", "form", type=click.Choice(names), help=f"{about}.")


def output_option(command: _Command) -> _Command:
    """The option `--output`."""
    about = "Write the answer there instead, outside the checkpoint."
    return click.option("--output", metavar="FILE", help=about)(command)


def form_of(form: str | None, *, as_json: bool) -> str:
    """The format that is meant by `--format` and `--json` together.

    Raises:
        UsageError: They exclude each other.
    """
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other", "give one of them")
    return "json" if as_json else form or "text"
