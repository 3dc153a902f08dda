"""`hsdp-inspect` and `python -m inspector`.

`hsdp-inspect PATH` on a terminal goes straight to the screen, past the command line's parser,
which takes longer to import than a small checkpoint takes to read. Everything else is `cli`'s.
"""

from __future__ import annotations

import os
import sys


def _forget_working_folder() -> None:
    """Import nothing more from the folder that is stood in, which may be a checkpoint.

    `python -m inspector`, and an empty part of PYTHONPATH, put it before everything else. It stays
    if this package lies there, and if PYTHONPATH names it from the root.
    """
    try:
        here = os.getcwd()
    except OSError:
        here = ""
    named = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]
    kept = {os.path.dirname(os.path.dirname(os.path.abspath(__file__))), *named}
    sys.path[:] = [part for part in sys.path if part in kept or part not in ("", ".", here)]


if __name__ == "__main__":
    _forget_working_folder()

import errno  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import NoReturn  # noqa: E402

from inspector.cli.output import drop_stdout, has_screen, only_own_commands  # noqa: E402
from inspector.errors import InspectError  # noqa: E402

__all__ = ["COMMANDS", "main"]

#: Words that are commands, not paths (a path of that name is given as `./show`).
COMMANDS = frozenset(
    {
        "check",
        "diff",
        "export",
        "open",
        "plan",
        "repair",
        "replay",
        "seal",
        "show",
        "stats",
        "verify",
        "watch",
    }
)

#: Commands that leave nothing behind to be put away: no screen, no job.
_PLAIN = frozenset({"check", "export", "plan", "seal", "show", "stats"})

#: Commands that multiply no matrices, and start nothing that does.
_WITHOUT_BLAS = _PLAIN | {"diff", "repair"}

#: 128 + SIGPIPE's number, as a shell tells of a process that it ended.
_SIGPIPE = 141


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    if args is None:
        _forget_working_folder()
    arguments = sys.argv[1:] if args is None else list(args)
    debug = bool(os.environ.get("HSDP_INSPECT_DEBUG"))
    if "--debug" in arguments:
        arguments, is_asked = _without_debug(arguments)
        debug = debug or is_asked
    # A stream that the shell closed (`2>&-`) is none at all for Python.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    only_own_commands()
    command = arguments[0] if args is None and arguments else ""
    is_plain = command in _PLAIN
    if command in _WITHOUT_BLAS:
        # Its threads take a while to start on a machine of 100 cores, and wait for work in a loop.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = _guarded(lambda: _run(arguments), debug)
    if debug:
        _tell_requests()
        _tell_tracebacks()
    if is_plain:
        _leave(code)
    sys.exit(code)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without the option `--debug`, and whether it is among them.

    It is taken anywhere, but for what follows `--`, and what is the value of another option.
    """
    from inspector.cli.group import options_with_values

    with_values = options_with_values(arguments)
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            kept += [argument, *rest]
        elif argument in with_values:
            kept.append(argument)
            kept += [value for value in [next(rest, None)] if value is not None]
        elif argument != "--debug":
            kept.append(argument)
    return kept, len(kept) < len(arguments)


def _leave(code: int) -> NoReturn:
    """End the process at once: taking numpy down takes longer than a small check."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody is there to read it
    os._exit(code)


def _run(arguments: list[str]) -> int:
    is_path = len(arguments) == 1 and arguments[0] not in COMMANDS
    is_path = is_path and not arguments[0].startswith("-")
    if (is_path or not arguments) and has_screen():
        from inspector.tui.launch import run

        # Without a path, the screen asks for one.
        return run(arguments[0] if arguments else "")
    from inspector.cli.group import run_command

    return run_command(arguments)


def _guarded(action: Callable[[], int], debug: bool) -> int:
    """The exit code of `action`; whatever it raises becomes a plain line or two on stderr."""
    code = None
    try:
        code = action()
        sys.stdout.flush()
    except InspectError as error:
        if debug:
            return _traced(error)
        _complain(error.message, error.hint)
        code = error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted", "")
        code = 2
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone; Python must not complain of it at its end. It
        # does not make anything sound: a verdict stands, and where there is none yet it is the
        # code of a process that SIGPIPE ended.
        drop_stdout()
        code = _SIGPIPE if code is None else code
    except OSError as error:
        if debug:
            return _traced(error)
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            return _internal(error)
        _complain(f"the answer could not be written: {error.strerror}", "")
        # What is left in the buffer would fail once more when Python ends.
        drop_stdout()
        code = 2
    except Exception as error:
        if debug:
            return _traced(error)
        return _internal(error)
    return code


def _traced(error: Exception) -> int:
    """Where an error came from; what may be a secret is hidden here too."""
    from inspector.redaction import traceback_text

    sys.stderr.write(traceback_text(error))
    return 2


def _tell_requests() -> None:
    """What a remote storage was asked, if any was."""
    calls = sys.modules.get("inspector.checkpoint.storage.remote.calls")
    if calls is not None:
        used = calls.total()
        sys.stderr.write(
            f"hsdp-inspect: {used.requests:,} requests, {used.num_bytes:,} bytes fetched\n"
        )


def _internal(error: Exception) -> int:
    from inspector.crash import internal_error

    said = internal_error(error)
    _complain(said.message, said.hint)
    return 2


def _tell_tracebacks() -> None:
    """The tracebacks of errors that a thread or the screen turned into words."""
    crash = sys.modules.get("inspector.crash")
    for said in crash.kept_tracebacks() if crash is not None else ():
        sys.stderr.write(said)


def _complain(message: str, hint: str) -> None:
    from inspector.checkpoint.text import printable

    # A path of thousands of characters must not bury what is wrong with it.
    words = [w if len(w) <= 500 else f"{w[:200]}[...]{w[-100:]}" for w in message.split()]
    lines = [f"hsdp-inspect: {' '.join(words)}"] + ([f"  hint: {hint}"] if hint else [])
    try:
        sys.stderr.write("".join(printable(line) + "\n" for line in lines))
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # Nobody is there to read it; the exit code still tells.


if __name__ == "__main__":
    main()
