"""Folders of our own: the cache, the state, temporary ones. Nobody else reads or plants there.

They are made for this user alone, whatever the umask is. What is read from them again is opened
without following a link and without waiting at a FIFO. A temporary folder is named after the
process that made it, so that the next one can tell whether it was left behind.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inspector.checkpoint.outside import is_inspected

__all__ = [
    "open_own",
    "private_folder",
    "read_own",
    "remove_abandoned",
    "start_of",
    "state_dir",
    "system_id",
    "temporary_folder",
    "write_whole",
]

_MODE = 0o700
_ALIVE = 1
_OTHER_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a folder of our own is made there
_PREFIX = "hsdp-inspect-tmp-"
_NAME = re.compile(
    re.escape(_PREFIX) + r"(?P<system>[0-9a-f]{8})-(?P<pid>\d{1,10})-(?P<start>\d+)-.+"
)


def state_dir() -> Path:
    """The folder of what is kept from one run of the tool to the next, this user's."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "hsdp-inspect")


def private_folder(path: Path, top: Path) -> None:
    """Make a folder for this user alone, and those between it and `top`; mend what is there.

    Args:
        path: The folder.
        top: The outermost one that is ours; what is above it is made as any folder is.

    Raises:
        OSError: It cannot be made.
    """
    top.parent.mkdir(parents=True, exist_ok=True)
    below = path.relative_to(top).parts
    for depth in range(len(below) + 1):
        _make(top.joinpath(*below[:depth]))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(_MODE)
    except FileExistsError:
        if not folder.is_dir():
            raise
    info = folder.stat()
    # An older version left it open, or the umask closed it to ourselves.
    if stat.S_IMODE(info.st_mode) != _MODE and _is_mine(info):
        folder.chmod(_MODE)


def open_own(path: str | Path) -> int:
    """A descriptor of a regular file of this user, to read; never a link, a FIFO or a device.

    Raises:
        OSError: It is none, or cannot be read.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    fd = os.open(path, flags)
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and _is_mine(info):
        return fd
    os.close(fd)
    raise OSError(f"{path} is no file of this user")


def read_own(path: str | Path, max_bytes: int = 1 << 20) -> str:
    """The text of a file that `open_own` opens.

    Raises:
        OSError, ValueError: It is none, is larger, or is no text.
    """
    with open(open_own(path), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes")
    return data.decode("utf-8")


def write_whole(
    path: str | Path,
    pieces: Iterable[bytes | memoryview],
    *,
    mode: int = 0o666,
    is_synced: bool = True,
) -> None:
    """Put a file in the place of another, so that a reader finds the one or the other whole.

    Args:
        path: The file; a link is replaced, not followed.
        pieces: Its content.
        mode: Its permissions, before the umask.
        is_synced: Whether it is also whole after a power cut; otherwise a reader is to tell.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    # Two containers may have the same process number, a name that can be guessed may be a link,
    # and one that is made from the file's may be too long.
    beside = os.path.join(os.path.dirname(path), f".hsdp-inspect-{os.urandom(8).hex()}.tmp")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(fd, "wb") as file:
            file.writelines(pieces)
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


@contextmanager
def temporary_folder() -> Iterator[str]:
    """An empty folder for this user alone, which is removed at the end.

    If this process is killed, the next one that wants such a folder removes it.

    Raises:
        OSError: There is no room for one.
    """
    # lazy: as in `_places`
    import tempfile

    remove_abandoned()
    where = place_outside()
    pid = os.getpid()
    prefix = f"{_PREFIX}{system_id()}-{pid}-{start_of(pid) or 0}-"
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=where, ignore_cleanup_errors=True
    ) as folder:
        os.chmod(folder, _MODE)
        yield folder


def place_outside() -> str:
    """Where temporary folders and files go: the usual place, unless it lies in what is looked at.

    Raises:
        OSError: Every such place does.
    """
    where = next((place for place in _places() if not is_inspected(place)), None)
    if where is None:
        raise OSError(errno.EROFS, "every temporary folder lies in what is looked at")
    return where


def remove_abandoned() -> None:
    """Remove the temporary folders of processes that were killed before they could."""
    found: list[os.DirEntry[str]] = []
    for place in _places():
        try:
            with os.scandir(place) as entries:
                found += [entry for entry in entries if entry.name.startswith(_PREFIX)]
        except OSError:
            continue
    for entry in found:
        name = _NAME.fullmatch(entry.name)
        # Of another host or container, whose processes cannot be seen from here: it stays.
        if name is None or name["system"] != system_id():
            continue
        pid, began = int(name["pid"]), int(name["start"])
        started = start_of(pid)
        # Another process has its number by now, if both are known.
        is_over = started is None or (started > _ALIVE and began > _ALIVE and started != began)
        try:
            info = entry.stat(follow_symlinks=False)
            if is_over and pid != os.getpid() and stat.S_ISDIR(info.st_mode) and _is_mine(info):
                shutil.rmtree(entry.path, ignore_errors=True)
        except OSError:
            continue


def _places() -> list[str]:
    """Where temporary folders may be; the first is taken, unless it lies in what is looked at."""
    # lazy: it imports `random`, and opening a checkpoint does without
    import tempfile

    others = [place for place in _OTHER_PLACES if os.access(place, os.W_OK | os.X_OK)]
    return list(dict.fromkeys([tempfile.gettempdir(), *others]))


def _is_mine(info: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or info.st_uid == os.getuid()


def start_of(pid: int) -> int | None:
    """When a process was started, in ticks (`_ALIVE` where nobody says); None if it is over."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is its name, in parentheses, and may hold anything.
            fields = file.read().rpartition(b")")[2].split()
        # A zombie holds nothing any more.
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        if os.path.isdir("/proc/self"):
            return None
    except (OSError, ValueError, IndexError):
        pass  # No descriptor is left, say: that is no sign that it is over.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # It is there, and is another user's.
    return _ALIVE


def system_id() -> str:
    """Short for the machine since it was started, and the processes that are seen from here."""
    # lazy: rarely asked for
    import hashlib  # With the first temporary folder: opening a checkpoint does without.

    words = [os.uname().nodename] if hasattr(os, "uname") else []
    try:
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        words.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass
    return hashlib.sha256("|".join(words).encode("utf-8", "replace")).hexdigest()[:8]
