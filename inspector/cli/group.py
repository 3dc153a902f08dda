"""Arguments -> one call -> one exit code; decides between screen, text and JSON.

stdout is the answer alone; errors and progress go to stderr, in a plain line or two. The exit
code is 0 (done, nothing wrong), 1 (done, something is wrong) or 2 (could not be done).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from inspector._version import __version__
from inspector.cli.options import (
    RankRequest,
    filter_option,
    form_of,
    formats,
    output_option,
    rank_options,
)
from inspector.cli.output import (
    Destination,
    has_screen,
    prefetched,
    print_pieces,
    read_one,
    terminal_width,
)
from inspector.errors import UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.find.search import RunListing
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.payload.scan.literals import Literal
    from inspector.checkpoint.storage.base import Storage

__all__ = ["cli", "options_with_values", "run_command"]

# On a terminal a table stops here; piped, it never does.
_MAX_TERMINAL_ROWS = 200


#: The modules of `inspector.cli` whose `commands` are in the group beside those below.
_MODULES = {
    "diff": "diff",
    "export": "export",
    "plan": "plan",
    "repair": "export",
    "replay": "verify",
    "seal": "diff",
    "stats": "stats",
    "verify": "verify",
    "watch": "watch",
}


class _Commands(click.Group):
    """Imports the command that is asked for; `hsdp-inspect PATH` is `hsdp-inspect open PATH`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *_MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            module = import_module(f"inspector.cli.{_MODULES[cmd_name]}")
            for command in module.commands:
                self.add_command(command)
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((arg for arg in args if arg == "--" or not arg.startswith("-")), None)
        if first is not None and first not in self.list_commands(ctx):
            args.insert(0, "open")
        return super().parse_args(ctx, args)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 nothing is wrong, 1 something is wrong, 2 it could not be done. "
        "--debug shows where an error came from; an unforeseen one is kept in last-error.txt in "
        "the state folder. Of the screen: --theme NAME, --serve [PORT], --allow-verify."
    ),
)
@click.version_option(__version__, "-V", "--version", prog_name="hsdp-inspect")
def cli() -> None:
    """Look inside a PyTorch distributed checkpoint: `hsdp-inspect PATH`.

    PATH is a folder with .metadata in it, a folder with checkpoints under it, or a URL
    (s3://, gs://, az://, memory:// ...). On a terminal it opens the screen; otherwise it prints
    what `show` prints. With --serve [PORT] browsers of this machine show the screen, by an address
    that is printed. Nothing in the checkpoint is ever changed, and no code in it is run.
    """


@cli.command("open", hidden=True)
@click.argument("path")
@click.option("--tui/--no-tui", default=None, help="Open the screen, or print text.")
@click.option(
    "--serve",
    "port",
    is_flag=False,
    flag_value=0,
    type=click.IntRange(0, 65535),
    metavar="[PORT]",
    help="Serve the screen to browsers of this machine, on 127.0.0.1. [default: a free port]",
)
@click.option("--allow-verify", is_flag=True, help="With --serve: verifications may be started.")
@click.option("--served", type=click.Choice(["look", "verify"]), hidden=True)
@click.option("--theme", default="", metavar="NAME", help="dark, light, or one of Textual's.")
def open_command(
    path: str,
    tui: bool | None,
    port: int | None,
    allow_verify: bool,
    served: str | None,
    theme: str,
) -> int:
    """Open the screen on PATH (a checkpoint, or a folder with checkpoints under it)."""
    if port is not None:
        return _serve(path, port, allow_verify=allow_verify)
    if allow_verify:
        raise UsageError("--allow-verify is for --serve", "add --serve [PORT]")
    if not (has_screen() if tui is None else tui):
        return _show(path, as_json=False, chunks=False, filter_text="")
    return _open_screen(path, served, theme)


@cli.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option("--chunks", is_flag=True, help="List every chunk: its box, file, bytes and rank.")
@filter_option("names that")
def show(path: str, as_json: bool, chunks: bool, filter_text: str) -> int:
    """Print what is in a checkpoint: tensors, placements, chunks, files."""
    return _show(path, as_json=as_json, chunks=chunks, filter_text=filter_text)


@cli.command()
@click.argument("path")
@click.option("--deep", is_flag=True, help="Read every stored byte and compare its checksum.")
@click.option("--values", is_flag=True, help="Also look for NaN and infinite values (reads all).")
@click.option("--manifest", metavar="FILE", help="Hold the content against a seal (reads all).")
@click.option(
    "--against",
    metavar="FILE",
    help="What the model expects, as for plan: exit 0 means sound and complete for it.",
)
@click.option(
    "--newest", is_flag=True, help="Of a run: only as far as the newest step to resume from."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@formats("text", "json", "github", "html")
@output_option
@rank_options
def check(
    path: str,
    deep: bool,
    values: bool,
    manifest: str | None,
    against: str | None,
    newest: bool,
    as_json: bool,
    form: str | None,
    output: str | None,
    **ranks: Any,
) -> int:
    """Say what is wrong with a checkpoint, and what torch would do about it.

    From the metadata and the file sizes alone, in seconds; --deep reads every byte, alone or by
    many processes (--nproc-per-node); --manifest proves that nothing changed since `seal`. For a
    folder with checkpoints under it: the state of each, and the newest sound one.
    """
    form = form_of(form, as_json=as_json)
    request = RankRequest(**ranks)
    request.check()
    answer = Destination(output, (path,))
    with _uncollected(), prefetched(path) as child:
        from inspector.cli.check import run_check

        return run_check(
            path,
            deep=deep,
            values=values,
            manifest=manifest,
            against=against,
            newest=newest,
            form=form,
            answer=answer,
            prefetched=child,
            ranks=request,
        )


def options_with_values(arguments: Sequence[str]) -> set[str]:
    """The options of the command that is meant after which a value follows."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    context = click.Context(cli)
    command = cli.get_command(context, words[0] if words else "open") or open_command
    return {
        name
        for option in command.params
        if isinstance(option, click.Option)
        and not (option.is_flag or option.count or (option.metavar or "").startswith("["))
        for name in option.opts
    }


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
        if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.info_name == "open":
            hint = "for text and JSON: hsdp-inspect show PATH; for what is wrong: check PATH"
        if isinstance(error, click.BadParameter) and error.param and error.param.name == "port":
            hint = "PATH comes first: hsdp-inspect PATH --serve [PORT]"
        raise UsageError(error.format_message(), hint) from error
    except SystemExit as error:
        # How click ends when the reader of a pipe has gone; its exit code would mean "damaged".
        raise BrokenPipeError from error
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return result if isinstance(result, int) else 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """The collector rests: importing makes what stays, and it would look at that in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _show(path: str, *, as_json: bool, chunks: bool, filter_text: str) -> int:
    with _uncollected(), prefetched(path) as child:
        from inspector.checkpoint.find.locate import locate

        target = locate(path)
        if isinstance(target, list):
            is_narrowed = chunks or bool(filter_text)
            return _show_folder(path, target, as_json=as_json, is_narrowed=is_narrowed)
        checkpoint = read_one(target, child)
        return _show_one(
            checkpoint, target, as_json=as_json, chunks=chunks, filter_text=filter_text
        )


def _show_folder(path: str, found: RunListing, *, as_json: bool, is_narrowed: bool) -> int:
    from inspector.checkpoint.find.search import newest
    from inspector.checkpoint.text import plural, printable
    from inspector.report.json import checkpoints_json
    from inspector.report.text import checkpoints_text

    if is_narrowed:
        chosen = newest(found) or found[-1]
        raise UsageError(
            f"{printable(path, 500)}: a folder of {plural(len(found), 'checkpoint')}; "
            "--chunks and --filter are for one",
            f"give one of them: {printable(path.rstrip('/'), 500)}/{printable(chosen.path, 200)}",
        )
    if as_json:
        print_pieces(checkpoints_json(path, found))
    else:
        print_pieces(checkpoints_text(path, found, terminal_width()), "\n")
    return 2 if found.is_partial else 0


def _show_one(
    checkpoint: Checkpoint, storage: Storage, *, as_json: bool, chunks: bool, filter_text: str
) -> int:
    from inspector.checkpoint.find.locate import matching
    from inspector.layout.writer.written_by import infer

    written_by = infer(checkpoint)
    tensors = entries = None
    if filter_text:
        kept = set(matching(checkpoint.columns.fqns, filter_text))
        tensors = [i for i in checkpoint.tensor_order.tolist() if i in kept]
        kept = set(matching([entry.fqn for entry in checkpoint.bytes_entries], filter_text))
        entries = [i for i in checkpoint.bytes_order.tolist() if i in kept]
        if not tensors and not entries:
            sys.stderr.write("hsdp-inspect: no name matches the filter\n")
    width = terminal_width()
    rows = None if width is None or as_json else _MAX_TERMINAL_ROWS
    shown = checkpoint.bytes_order.tolist() if entries is None else entries
    literals: dict[int, Literal] = {}
    if shown:
        from inspector.checkpoint.payload.scan.literals import read_literals

        literals = read_literals(checkpoint, storage, shown[:rows])
    if as_json:
        from inspector.report.json import show_json

        what = partial(show_json, checkpoint, written_by, tensors=tensors, entries=entries)
        print_pieces(what(chunks=chunks, literals=literals))
        return 0
    from inspector.report.text import show_text

    told = partial(show_text, checkpoint, written_by, tensors=tensors, entries=entries)
    print_pieces(told(chunks=chunks, literals=literals, width=width, max_rows=rows), "\n")
    return 0


def _open_screen(path: str, served: str | None, theme: str) -> int:
    from inspector.tui.launch import run

    if served is None:
        return run(path, theme=theme)
    from inspector.tui.commands import LOOK_ONLY, ON_THE_SPOT

    return run(path, ON_THE_SPOT if served == "verify" else LOOK_ONLY, theme=theme)


def _serve(path: str, port: int, *, allow_verify: bool) -> int:
    from inspector.checkpoint.find.locate import folder_of

    folder_of(path)  # What is not there is told now, and not in the browser.
    try:
        from inspector.web.server import serve
    except ImportError as error:
        raise UsageError(
            f"--serve needs {error.name}, which is not installed",
            "pip install 'hsdp-inspect[web]' installs it",
        ) from error
    serve(path, port, allow_verify=allow_verify)
    return 0
