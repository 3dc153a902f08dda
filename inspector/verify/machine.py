"""What this machine has to offer a job: GPUs, memory, disk. Without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Gpu", "free_disk", "free_memory", "gpus", "roomiest"]

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
    program = shutil.which("nvidia-smi")
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
    found = [n for n in (_meminfo(), _cgroup()) if n is not None]
    if not found:
        try:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
        except (ValueError, OSError, AttributeError):
            found.append(4 << 30)
    return min(found)


def _meminfo() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


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
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    path = os.path.realpath(folder)
    mounts = [line.split()[1:3] for line in lines if len(line.split()) > 2]
    holding = [(m, kind) for m, kind in mounts if path == m or path.startswith(m.rstrip("/") + "/")]
    return bool(holding) and max(holding, key=lambda item: len(item[0]))[1] in ("tmpfs", "ramfs")
