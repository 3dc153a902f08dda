"""Options that several commands have: the format of the answer, where it goes, who reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from inspector.errors import UsageError

__all__ = ["RankRequest", "filter_option", "form_of", "formats", "output_option", "rank_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MAX_TIMEOUT_S = 30 * 86400.0
_ABOUT = {"github": "github: annotations for GitHub Actions", "html": "html: one page to send on"}


def formats(*names: str) -> Callable[[_Command], _Command]:
    """The option `--format`, with the names of the formats that the command has."""
    about = "; ".join(_ABOUT[name] for name in names if name in _ABOUT)
    return click.option("--format", "form", type=click.Choice(names), help=f"{about}.")


def filter_option(what: str) -> Callable[[_Command], _Command]:
    """The option `--filter`, for a command that leaves out all of `what` but some by name."""
    about = f"Only {what} hold every word of TEXT; a word after ! must not occur."
    return click.option("--filter", "filter_text", default="", metavar="TEXT", help=about)


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


@dataclass(frozen=True, slots=True)
class RankRequest:
    """Who is to read, as the options of a command say it.

    Attributes:
        nproc_per_node, nnodes, port: As for `verify`; 0 for none given.
        print_command: Print the job, run nothing.
        events: Folder for what the ranks tell, or empty.
        timeout: Without progress for so long, they are stuck; in s.
        python: Interpreter that runs them, or empty.
        shares: Folder of a job whose ranks have read already, or empty.
    """

    nproc_per_node: int = 0
    nnodes: int = 0
    port: int = 0
    print_command: bool = False
    events: str = ""
    timeout: float = 600.0
    python: str = ""
    shares: str = ""

    @property
    def is_asked(self) -> bool:
        """Whether others are to read, or have read."""
        return bool(self.nproc_per_node or self.nnodes or self.print_command or self.shares)

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: Options that do not go together.
        """
        if not 0 < self.timeout <= _MAX_TIMEOUT_S:
            raise UsageError(
                f"--timeout {self.timeout:g}: it is more than 0 seconds and at most 30 days",
                "without progress for so long, the ranks count as stuck",
            )
        if self.nproc_per_node < 0 or self.nnodes < 0:
            raise UsageError("--nproc-per-node and --nnodes are 1 or more")
        if self.shares and (self.nproc_per_node or self.nnodes or self.print_command):
            raise UsageError("--shares is of ranks that have read already", "leave out the others")
        if not self.print_command and (self.nnodes or self.port):
            raise UsageError(
                "--nnodes and --port are for a job that is printed", "--print-command prints it"
            )
        if self.is_asked and not self.shares:
            return
        for name, value in (("--events", self.events), ("--python", self.python)):
            if value:
                raise UsageError(
                    f"{name} is for ranks that read", "--nproc-per-node N says how many"
                )

    @property
    def world_size(self) -> int:
        """How many ranks read."""
        return max(self.nnodes, 1) * max(self.nproc_per_node, 1)


def rank_options(command: _Command) -> _Command:
    """The options that make a `RankRequest`."""
    for option in reversed(
        (
            click.option(
                "--nproc-per-node",
                type=int,
                default=0,
                metavar="N",
                help="Have N processes read, each its share of the bytes (torchrun starts them).",
            ),
            click.option(
                "--print-command", is_flag=True, help="Print the lines that start them elsewhere."
            ),
            click.option("--nnodes", type=int, default=0, help="Nodes of a job that is printed."),
            click.option(
                "--port", type=int, default=0, help="Where its nodes meet.  [default: 29500]"
            ),
            click.option(
                "--events", default="", metavar="DIR", help="Where they write what they find."
            ),
            click.option(
                "--timeout",
                default=600.0,
                metavar="S",
                help="Without progress for so long, they are stuck.",
            ),
            click.option("--python", default="", metavar="EXE", help="Interpreter that runs them."),
            click.option(
                "--shares",
                default="",
                metavar="DIR",
                help="Read nothing: tell what the processes of a printed job have found.",
            ),
        )
    ):
        command = option(command)
    return command
