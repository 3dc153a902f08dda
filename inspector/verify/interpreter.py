"""The interpreter that is to run the ranks: is it there, and does it have torch?

Asked of the interpreter itself, in a process that looks without importing: torch's own import
takes seconds, and the front end never pays for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

from inspector.checkpoint.text import printable
from inspector.errors import UsageError

__all__ = ["Interpreter", "examine"]

_TIMEOUT_S = 60.0
_LOOK = """
import importlib.util as util, json, os, re, sys
def has(name):
    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
facts = {"python": list(sys.version_info[:2]), "torch": None, "cuda": False}
facts["missing"] = [name for name in ("torch", "numpy") if not has(name)]
if has("torch"):
    facts["torch"] = "?"
    for folder in util.find_spec("torch").submodule_search_locations or ():
        try:
            text = open(os.path.join(folder, "version.py"), encoding="utf-8").read()
        except OSError:
            continue
        version = re.search(r"^__version__\\b[^=\\n]*= *['\\"]([^'\\"]+)", text, re.M)
        facts["torch"] = version[1] if version else "?"
        facts["cuda"] = bool(re.search(r"^(cuda|hip)\\b[^=\\n]*= *['\\"]", text, re.M))
print("\\n" + json.dumps(facts))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter that can run the ranks.

    Attributes:
        path: What is run.
        torch: Its torch's version, `?` if that could not be read.
        has_cuda: Whether that torch was built for GPUs.
    """

    path: str
    torch: str
    has_cuda: bool


def examine(python: str = "") -> Interpreter:
    """Look at an interpreter (default: the one that runs this).

    Raises:
        UsageError: It is not there, is no Python 3.10 or later, or lacks torch.
    """
    path = python or sys.executable
    shown = printable(path, 200)
    found = shutil.which(path)
    if found is None:
        raise UsageError(
            f"--python {shown}: there is no such program", "give the path of a Python interpreter"
        )
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the user named
            [found, "-c", _LOOK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        facts = json.loads(done.stdout.splitlines()[-1])
        version, missing = tuple(facts["python"]), facts["missing"]
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{shown} does not answer as a Python interpreter does",
            "--python takes the interpreter of the environment that has torch",
        ) from error
    if missing:
        raise UsageError(
            f"{shown} has no {' and no '.join(missing)}, which the ranks need",
            "--python EXE runs them in another environment, such as the one you train in",
        )
    if version < (3, 10):
        raise UsageError(
            f"{shown} is Python {'.'.join(map(str, version))}, too old for the ranks",
            "--python takes a Python 3.10 or later",
        )
    return Interpreter(found, str(facts["torch"]), bool(facts["cuda"]))
