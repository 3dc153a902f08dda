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

from inspector.checkpoint.text import printable
from inspector.errors import UsageError
from inspector.verify.import_path import clean_environment, empty_folder, find_program

try:
    import psutil
except ImportError:
    # The ranks' interpreter may lack it: on Linux /proc says the same.
    psutil = None

__all__ = [
    "Gpu",
    "Interpreter",
    "examine",
    "free_disk",
    "free_memory",
    "gpus",
    "roomiest",
    "why_no_gpu",
]

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: Its model.
        free_bytes: Its free memory; None where nobody says (of a MIG slice, say).
        uuid: What CUDA_VISIBLE_DEVICES may call it (`GPU-...`); empty where that is not known.
    """

    name: str
    free_bytes: int | None
    uuid: str = ""


def gpus() -> list[Gpu]:
    """The GPUs that CUDA finds, in its order: by the driver itself, as torch's runtime will.

    What CUDA_VISIBLE_DEVICES hides, repeats or cuts off, and what MIG leaves, the driver knows
    best; nvidia-smi, which lists all, in another order, only tells their free memory.
    """
    return _look_for_gpus()[0]


def why_no_gpu() -> str:
    """Why CUDA finds none; empty where there is nothing of NVIDIA's at all."""
    return _look_for_gpus()[1]


def _look_for_gpus() -> tuple[list[Gpu], str]:
    program = find_program("nvidia-smi")
    if program is None and not any(map(os.path.exists, _NVIDIA)):
        return [], ""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-I", "-S", "-c", _ASK_DRIVER],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DRIVER_TIMEOUT_S,
            check=False,
            env=clean_environment(),
        )
        told = json.loads(done.stdout)
        error, found = str(told["error"]), [(str(n), str(u)) for n, u in told["devices"]]
    except subprocess.TimeoutExpired:
        return [], f"CUDA does not answer within {_DRIVER_TIMEOUT_S:.0f} s"
    except (OSError, ValueError, LookupError, TypeError):
        return [], "CUDA cannot be asked: its driver ended the process that did"
    if error:
        return [], f"CUDA cannot be initialised here ({printable(error, 100)})"
    if not found:
        return [], "CUDA finds no GPU here (CUDA_VISIBLE_DEVICES may hide them)"
    free = {} if program is None else _free_by_uuid(program)
    # Only what nvidia-smi lists under the very name is surely called so: no slice of a GPU is.
    return [Gpu(name, free.get(u), u if u in free else "") for name, u in found], ""


def _free_by_uuid(program: str) -> dict[str, int | None]:
    """The free bytes of each GPU of this machine, by nvidia-smi."""
    query = [program, "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - the program on the PATH, with our own arguments
            query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return {}
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        uuid, _, free = (part.strip() for part in line.partition(","))
        found[uuid] = int(free) << 20 if free.isdigit() else None
    return found


#: Where there is a driver of NVIDIA's, with nvidia-smi or without.
_NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidiactl")
#: The first look at eight GPUs that nobody uses takes the driver a while.
_DRIVER_TIMEOUT_S = 60.0
#: In a process of its own: what cuInit does stays with who called it.
_ASK_DRIVER = """
import ctypes, json
def ask():
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "libcuda.so.1 cannot be loaded", []
    def failed(code):
        name = ctypes.c_char_p()
        if not hasattr(cuda, "cuGetErrorName") or cuda.cuGetErrorName(code, ctypes.byref(name)):
            return "error %d" % code
        return (name.value or b"?").decode("ascii", "replace")
    code = cuda.cuInit(0)
    if code == 100:  # CUDA_ERROR_NO_DEVICE
        return "", []
    if code:
        return failed(code), []
    count, found = ctypes.c_int(), []
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return failed(code), []
    for i in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        uuid = (ctypes.c_ubyte * 16)()
        code = cuda.cuDeviceGet(ctypes.byref(device), i) or cuda.cuDeviceGetName(name, 256, device)
        if code:
            return failed(code), []
        ask_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
        ask_uuid(uuid, device)
        text = bytes(uuid).hex()
        parts = [text[:8], text[8:12], text[12:16], text[16:20], text[20:]]
        found.append([name.value.decode("utf-8", "replace"), "GPU-" + "-".join(parts)])
    return "", found
error, devices = ask()
print(json.dumps({"error": error, "devices": devices}))
"""


def free_memory() -> int:
    """Bytes that processes can still take: the machine's, or the container's if that is less."""
    return min([_available(), *_cgroup_room()])


def _available() -> int:
    """What the machine has, page cache that can be taken back among it."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.findall(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)[0]) << 10
    except (OSError, ValueError, IndexError):
        return int(psutil.virtual_memory().available) if psutil is not None else 1 << 30


def _cgroup_room() -> list[int]:
    """What each limit above this process leaves: a container's, a batch job's."""
    root = Path("/sys/fs/cgroup")
    found = [_room_in(root)]
    try:
        rows = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        rows = []
    for row in rows:
        _, _, rest = row.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds not in ("", "memory") or ".." in path:
            continue
        top = root / kinds if kinds else root
        below = Path(path.lstrip("/")).parts
        found += [_room_in(top.joinpath(*below[:n])) for n in range(len(below) + 1)]
    return [room for room in found if room is not None]


def _room_in(group: Path) -> int | None:
    """What one cgroup (of either version) leaves; its page cache can be taken back."""
    for limit, usage in _CGROUP_FILES:
        try:
            most = (group / limit).read_text(encoding="ascii").strip()
            used = int((group / usage).read_text(encoding="ascii"))
            stat = (group / "memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
        if not most.isdigit():
            continue
        cache = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)
        return max(0, int(most) - used + (int(cache[1]) if cache else 0))
    return None


_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


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
    if psutil is None:
        return False
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
