"""A path or a URL -> its `Storage`. What reads URLs is imported only for one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from inspector.checkpoint.outside import without_scheme
from inspector.checkpoint.storage.base import Entry, Storage, address_of, is_url
from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["fetch_files", "open_storage"]


def open_storage(path: str) -> Storage:
    """The storage at a path or URL. Does not look whether anything is there.

    Raises:
        StorageError: A URL whose file system is not installed, or that cannot be meant.
    """
    path = without_scheme(address_of(path))
    if not is_url(path):
        return LocalStorage(path)
    # lazy: fsspec and asyncio are for URLs alone
    from inspector.checkpoint.storage.remote.storage import open_remote

    return open_remote(path)


def fetch_files(storage: Storage, files: Sequence[Entry], paths: Sequence[str]) -> None:
    """Copy files of a remote storage to new local files, with many requests at a time.

    Args:
        storage: Where they lie.
        files: Entries of its listing.
        paths: Where each goes.

    Raises:
        StorageError: One cannot be read, or there is no room for them.
    """
    num_bytes = sum(file.num_bytes or 0 for file in files)
    where = os.path.dirname(paths[0]) if paths else ""
    if where and shutil.disk_usage(where).free < num_bytes:
        what = f"it is said to have {num_bytes:,} bytes, and {printable(where)} has no room for it"
        raise StorageError(f"cannot fetch {printable(storage.root)}: {what}")
    # lazy: fsspec and asyncio are for URLs alone
    from inspector.checkpoint.storage.ahead import SEGMENT_BYTES, read_ahead

    ranges = ((file.name, 0, file.num_bytes or 0) for file in files)
    ahead = read_ahead(storage, ranges, num_ahead=8)
    read = storage.read if ahead is None else ahead.read
    try:
        for file, path in zip(files, paths, strict=True):
            size = file.num_bytes or 0
            with open(path, "xb") as copy:
                for at in range(0, size, SEGMENT_BYTES):
                    copy.write(read(file.name, at, min(SEGMENT_BYTES, size - at)))
    finally:
        if ahead is not None:
            ahead.close()
