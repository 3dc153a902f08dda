"""`FsspecFiles`: listings, sizes and ranges of any file system that fsspec knows.

It opens nothing itself: `Calls` runs what its methods give. Listings of fsspec's own cache are
never used, since they would be as old as the process. S3, Google's and Azure's stores have
subclasses in modules of their own, which ask for less and give up sooner.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from typing import Any

from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.storage.remote.bounds import BadAnswerError
from inspector.checkpoint.storage.remote.calls import Calls, in_thread
from inspector.checkpoint.storage.remote.errors import is_past_end, not_opened
from inspector.checkpoint.text import printable
from inspector.errors import Cancelled, StorageError

__all__ = ["FsspecFiles", "file_system", "users_setting"]

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
_EXTRAS |= {"abfss": "azure", "adl": "azure", "http": "http", "https": "http"}
#: Storages in which folders of files lie; fsspec knows wrappers, archives and views of them too.
SCHEMES = frozenset(
    "abfs abfss adl arrow_hdfs az box dbfs dropbox ftp gcs gdrive gs hdfs hf http https lakefs "
    "memory oci ocilake oss s3 s3a sftp smb ssh tos tosfs webdav webhdfs".split()
)
#: No store takes files as large.
_MAX_FILE_BYTES = 1 << 53
#: Libraries that would say once more on stderr what they raise, with addresses.
_LOGGERS = (
    "asyncio botocore aiobotocore aiohttp fsspec s3fs gcsfs google adlfs azure msal urllib3".split()
)


def file_system(url: str, make_options: Callable[[], dict[str, Any]]) -> tuple[Any, str]:
    """The file system of a URL, new and with its caches off, and the path in it.

    Raises:
        StorageError: It is not installed, or the URL cannot be meant.
        Cancelled: The thread was told to stop.
    """
    import fsspec  # lazy: only a URL takes it
    from fsspec.core import url_to_fs  # lazy: only a URL takes it

    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        hint = "known are s3, gs, az, abfs, http, https, hf, hdfs, sftp, memory and a few more"
        if scheme in fsspec.available_protocols():
            # A cache, an archive, a folder of another, a notebook: what is behind it is meant.
            hint = "give a path on this machine, or the address of the storage itself"
        raise StorageError(f"{printable(scheme)}:// is not a known scheme", hint)
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())

    def make() -> tuple[Any, str]:
        fs, path = url_to_fs(url, skip_instance_cache=True, **make_options())
        return fs, path

    try:
        # gcsfs looks for credentials now: for 15 seconds where there are none.
        fs, path = in_thread(make)
    except (Cancelled, KeyboardInterrupt):
        raise
    except ImportError as error:
        hint = str(error)
        if scheme in _EXTRAS:
            hint = f"pip install 'hsdp-inspect[{_EXTRAS[scheme]}]'"
        raise StorageError(f"{scheme}:// needs a package that is not installed", hint) from error
    except Exception as error:
        reason, hint = not_opened(error, scheme)
        raise StorageError(f"cannot open {printable(url)}: {printable(reason)}", hint) from error
    fs.dircache.use_listings_cache = False
    return fs, path.rstrip("/")


def users_setting(name: str, *schemes: str) -> Any:
    """What the user set of a file system by fsspec's own ways (FSSPEC_S3, a file), or None."""
    from fsspec.config import conf  # lazy: only a URL takes it

    for scheme in schemes:
        if name in conf.get(scheme, {}):
            return conf[scheme][name]
    return None


class FsspecFiles:
    """Files of an fsspec file system, by their full paths in it."""

    has_listing = True

    def __init__(self, fs: Any, *, counts: bool = True) -> None:
        self._fs = fs
        self._is_async = bool(getattr(fs, "async_impl", False))
        self.calls = Calls(fs.loop if self._is_async else None, counts=counts)

    @staticmethod
    def options() -> dict[str, Any]:
        """What the file system is made with; the user's own settings go before it."""
        return {}

    @property
    def has_tree(self) -> bool:
        """Whether a tree is listed by more than a walk from folder to folder, one by one."""
        from fsspec.spec import AbstractFileSystem  # lazy: only a URL takes it

        return self._is_async or type(self._fs).find is not AbstractFileSystem.find

    def another(self) -> FsspecFiles:
        """The same files by a connection of its own, for another thread."""
        fs = self._fs
        made = type(fs)(*fs.storage_args, **{**fs.storage_options, "skip_instance_cache": True})
        made.dircache.use_listings_cache = False
        return type(self)(made, counts=self.calls.counts)

    @property
    def endpoint(self) -> str:
        """The server, or an empty string."""
        return ""

    def list(self, path: str) -> Any:
        """The entries of a folder, as fsspec's dictionaries; an empty list if there is none."""
        if self._is_async:
            return self._list(path)
        try:
            return self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []

    def tree(self, path: str) -> Any:
        """Every file below a folder, in as few requests as the file system allows."""
        find = self._fs._find if self._is_async else self._fs.find
        return find(path, detail=True)

    def info(self, path: str) -> Any:
        """One entry; raises FileNotFoundError."""
        return (self._fs._info if self._is_async else self._fs.info)(path)

    def read(self, path: str, start: int, length: int | None) -> Any:
        """A range; empty if it begins past the end."""
        end = None if length is None else start + length
        if self._is_async:
            return self._read_in(path, start, end)
        return self._fs.cat_file(path, start=start, end=end)

    async def _list(self, path: str) -> Any:
        try:
            return await self._fs._ls(path, detail=True)
        except FileNotFoundError:
            return []

    async def _read_in(self, path: str, start: int, end: int | None) -> bytes:
        try:
            return await self._read(path, start, end)
        except Exception as error:
            if is_past_end(error):
                return b""
            raise

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        """A range; raises what the library does if it begins past the end."""
        data: bytes = await self._fs._cat_file(path, start=start, end=end)
        return data

    def entry(self, info: dict[str, Any], base: str) -> Entry:
        """A dictionary of fsspec's as an entry, named relative to the folder `base`.

        Raises:
            BadAnswerError: It is said to have a size that no file has.
        """
        full = str(info["name"])
        name = full.strip("/").removeprefix(base.strip("/")).strip("/")
        if info.get("type") == "directory" or full.endswith("/"):
            return Entry(name, "folder")
        size = info.get("size")
        if size is None:
            return Entry(name, "file", None, _modified(info))
        if not 0 <= int(size) <= _MAX_FILE_BYTES:
            raise BadAnswerError("it lists a file of a size that none has")
        return Entry(name, "file", int(size), _modified(info))


_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


def _modified(info: dict[str, Any]) -> float | None:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                continue
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None
