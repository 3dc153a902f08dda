"""What this machine has to offer a job: GPUs, memory, disk. Without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from inspector.checkpoint.text import printable
from inspector.errors import UsageError
from inspector.verify.import_path import clean_environment, empty_folder, find_program

__all__ = ["Gpu", "Interpreter", "examine", "free_disk", "free_memory", "gpus", "roomiest"]

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; `free_bytes` is None where nobody says."""

    name: str
    free_bytes: int | None


def gpus() -> list[Gpu]:
    """The GPUs that torch will see: nvidia's, less what CUDA_VISIBLE_DEVICES hides."""
    found = _asked() or _listed()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    # As CUDA reads it: the list ends at the first entry that is no device.
    chosen = []
    for word in (word.strip() for word in visible.split(",")):
        if word.isdigit() and int(word) < len(found):
            chosen.append(found[int(word)])
        elif word.startswith(("GPU-", "MIG-")) and found:
            chosen.append(found[0])
        else:
            break
    return chosen


def _asked() -> list[Gpu]:
    """By nvidia-smi: names and free memory."""
    program = find_program("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - the program on the PATH, with our own arguments
            query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    found = []
    for line in done.stdout.splitlines():
        name, _, free = line.rpartition(",")
        free = free.strip()
        found.append(Gpu(name.strip(), int(free) << 20 if free.isdigit() else None))
    return found


def _listed() -> list[Gpu]:
    """By the driver's own list, where nvidia-smi is not installed."""
    try:
        names = os.listdir("/proc/driver/nvidia/gpus")
    except OSError:
        return []
    return [Gpu("NVIDIA GPU", None) for _ in names]


def free_memory() -> int:
    """Bytes that processes can still take: the machine's, or the container's if that is less."""
    available, container = int(psutil.virtual_memory().available), _cgroup()
    return available if container is None else min(available, container)


def _cgroup() -> int | None:
    """What the container's limit leaves; its page cache can be taken back."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = (root / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    if not limit.isdigit():
        return None
    cache = re.search(r"^inactive_file (\d+)", stat, re.MULTILINE)
    return max(0, int(limit) - used + (int(cache[1]) if cache else 0))


def free_disk(folder: str | Path) -> int | None:
    """Free bytes on the disk that a folder is on, or would be; None if nobody says."""
    path = Path(folder).absolute()
    for place in (path, *path.parents):
        if place.exists():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def roomiest(*folders: str | Path) -> str:
    """The folder with the most room, one in memory (tmpfs) only if there is no other.

    Args:
        folders: Where to look, besides the system's folder for temporary files.
    """
    places = [str(folder) for folder in folders] + [tempfile.gettempdir()]
    return max(places, key=lambda p: (not _in_memory(p), free_disk(p) or 0))


def _in_memory(folder: str) -> bool:
    path = os.path.realpath(folder)
    try:
        mounts = [(m.mountpoint, m.fstype) for m in psutil.disk_partitions(all=True)]
    except OSError:
        return False
    holding = [(m, kind) for m, kind in mounts if path == m or path.startswith(m.rstrip("/") + "/")]
    return bool(holding) and max(holding, key=lambda item: len(item[0]))[1] in ("tmpfs", "ramfs")


_EXAMINE_TIMEOUT_S = 60.0
_LEAST_TORCH = (2, 6)
# On Linux a plain install brings gigabytes of CUDA libraries.
_CPU_WAY = " (without GPUs: --index-url https://download.pytorch.org/whl/cpu)"
_LOOK = """
import sys
sys.path[:] = [part for part in sys.path if part]
import importlib.util as util, json, os, re
def has(name):
    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
facts = {"python": list(sys.version_info[:2]), "torch": None, "cuda": False}
facts["missing"] = [name for name in ("torch", "numpy") if not has(name)]
facts["safetensors"] = has("safetensors")
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
        has_safetensors: Whether the safetensors package is there, by which torch reads such files.
    """

    path: str
    torch: str
    has_cuda: bool
    has_safetensors: bool = True


def examine(python: str = "", inspected: str = "") -> Interpreter:
    """Look at an interpreter (default: the one that runs this).

    Args:
        python: Its path or name.
        inspected: The checkpoint, from whose folder it must import nothing.

    Raises:
        UsageError: It is not there, is no Python 3.10 or later, or lacks torch 2.6 or later.
    """
    path = python or sys.executable
    shown = printable(path, 200)
    found = find_program(path, inspected)
    if found is None:
        raise UsageError(
            f"--python {shown}: there is no such program", "give the path of a Python interpreter"
        )
    try:
        with empty_folder() as folder:
            done = subprocess.run(  # noqa: S603 - the interpreter that the user named
                [found, "-c", _LOOK],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_EXAMINE_TIMEOUT_S,
                check=False,
                cwd=folder,
                env=clean_environment(inspected=inspected),
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
            f"pip install {' '.join(missing)} there{_CPU_WAY if 'torch' in missing else ''}, or "
            "--python EXE runs them in another environment, such as the one you train in",
        )
    if version < (3, 10):
        raise UsageError(
            f"{shown} is Python {'.'.join(map(str, version))}, too old for the ranks",
            "--python takes a Python 3.10 or later",
        )
    torch = str(facts["torch"])
    numbers = re.match(r"(\d+)\.(\d+)", torch)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < _LEAST_TORCH:
        raise UsageError(
            f"{shown} has torch {printable(torch, 40)}; the ranks need 2.6 or later",
            "--python takes the interpreter of an environment with a newer torch",
        )
    return Interpreter(found, torch, bool(facts["cuda"]), bool(facts.get("safetensors")))
