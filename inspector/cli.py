"""Arguments -> one call -> one exit code; decides between screen, text and JSON.

stdout is the answer alone; errors and progress go to stderr, in a plain line or two. The exit
code is 0 (done, nothing wrong), 1 (done, something is wrong) or 2 (could not be done).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from inspector.__main__ import has_screen
from inspector._version import __version__
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage import Storage

__all__ = ["cli", "run_command"]

# On a terminal a table stops here; piped, it never does.
_MAX_TERMINAL_ROWS = 200


class _DefaultToOpen(click.Group):
    """`hsdp-inspect PATH` is `hsdp-inspect open PATH`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((arg for arg in args if not arg.startswith("-")), None)
        if first is not None and first not in self.commands:
            args.insert(0, "open")
        return super().parse_args(ctx, args)


@click.group(
    cls=_DefaultToOpen,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 nothing is wrong, 1 something is wrong, 2 it could not be done.",
)
@click.version_option(__version__, "-V", "--version", prog_name="hsdp-inspect")
def cli() -> None:
    """Look inside a PyTorch distributed checkpoint: `hsdp-inspect PATH`.

    PATH is a folder with .metadata in it, a folder with checkpoints under it, or a URL
    (s3://, gs://, az://, memory:// ...). On a terminal it opens the screen; otherwise it prints
    what `show` prints. Nothing in the checkpoint is ever changed, and no code in it is run.
    """


@cli.command("open", hidden=True)
@click.argument("path")
@click.option("--tui/--no-tui", default=None, help="Open the screen, or print text.")
@click.option("--debug", is_flag=True, hidden=True)
def open_command(path: str, tui: bool | None, debug: bool) -> int:
    """Open the screen on PATH (a checkpoint, or a folder with checkpoints under it)."""
    if not (has_screen() if tui is None else tui):
        return _show(path, as_json=False, chunks=False, filter_text="")
    return _open_screen(path)


@cli.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option("--chunks", is_flag=True, help="List every chunk: its box, file, bytes and rank.")
@click.option(
    "--filter",
    "filter_text",
    default="",
    metavar="TEXT",
    help="Only names that hold every word of TEXT; a word after ! must not occur.",
)
@click.option("--debug", is_flag=True, hidden=True)
def show(path: str, as_json: bool, chunks: bool, filter_text: str, debug: bool) -> int:
    """Print what is in a checkpoint: tensors, placements, chunks, files."""
    return _show(path, as_json=as_json, chunks=chunks, filter_text=filter_text)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code.

    Raises:
        InspectError: What the command could not do, and mistakes in the command line.
    """
    try:
        result = cli.main(
            list(arguments) or ["--help"], prog_name="hsdp-inspect", standalone_mode=False
        )
    except click.ClickException as error:
        hint = "hsdp-inspect --help lists the commands"
        raise UsageError(error.format_message(), hint) from error
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return result if isinstance(result, int) else 0


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _print(pieces: Iterable[str], end: str = "") -> None:
    # A name may hold what the terminal's encoding lacks; it is shown escaped, not a crash.
    stream: Any = sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    for piece in pieces:
        stream.write(piece + end)


def _locate(path: str) -> Storage | list[Any]:
    """The storage of the one checkpoint at `path`, or what was found under it."""
    from inspector.checkpoint.locate import locate

    return locate(path)


def _show(path: str, *, as_json: bool, chunks: bool, filter_text: str) -> int:
    target = _locate(path)
    if isinstance(target, list):
        from inspector.report import json as report_json
        from inspector.report import text as report_text

        if as_json:
            _print(report_json.checkpoints_json(path, target))
        else:
            _print(report_text.checkpoints_text(path, target, _width()), "\n")
        return 0
    return _show_one(target, as_json=as_json, chunks=chunks, filter_text=filter_text)


def _show_one(storage: Storage, *, as_json: bool, chunks: bool, filter_text: str) -> int:
    from inspector.checkpoint.select import matching
    from inspector.layout.written_by import infer

    checkpoint = _read(storage)
    written_by = infer(checkpoint)
    tensors = entries = None
    if filter_text:
        kept = set(matching(checkpoint.columns.fqns, filter_text))
        tensors = [i for i in checkpoint.tensor_order.tolist() if i in kept]
        kept = set(matching([entry.fqn for entry in checkpoint.bytes_entries], filter_text))
        entries = [i for i in checkpoint.bytes_order.tolist() if i in kept]
        if not tensors and not entries:
            sys.stderr.write("hsdp-inspect: no name matches the filter\n")
    if as_json:
        from inspector.report.json import show_json

        _print(show_json(checkpoint, written_by, tensors=tensors, entries=entries, chunks=chunks))
        return 0
    from inspector.report.text import show_text

    width = _width()
    rows = None if width is None else _MAX_TERMINAL_ROWS
    _print(
        show_text(
            checkpoint,
            written_by,
            tensors=tensors,
            entries=entries,
            chunks=chunks,
            width=width,
            max_rows=rows,
        ),
        "\n",
    )
    return 0


def _read(storage: Storage) -> Checkpoint:
    """Read a checkpoint, with a line of progress on a terminal if it takes long."""
    from inspector.checkpoint.dcp import read_dcp
    from inspector.report.progress import ReadingLine

    with ReadingLine(sys.stderr) as line:
        return read_dcp(storage, progress=line)


def _open_screen(path: str) -> int:
    from inspector.tui.launch import run

    return run(path)
