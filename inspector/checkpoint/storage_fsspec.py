"""`FsspecFiles`: listings, sizes and ranges of any file system that fsspec knows.

It opens nothing itself: `Calls` runs what its methods give. Listings of fsspec's own cache are
never used, since they would be as old as the process.
"""

from __future__ import annotations

import datetime
import logging
from typing import Any

from inspector.checkpoint.storage import Entry
from inspector.checkpoint.storage_calls import Calls
from inspector.checkpoint.storage_errors import is_past_end
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["FsspecFiles", "file_system"]

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
_EXTRAS |= {"abfss": "azure", "adl": "azure", "http": "http", "https": "http"}
_CONNECT_TIMEOUT_S = 5
#: Longest silence of a server that has begun to answer, or has been asked.
_READ_TIMEOUT_S = 10


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, new and with its caches off, and the path in it.

    Raises:
        StorageError: It is not installed, or the URL cannot be meant.
    """
    import fsspec
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    if scheme not in fsspec.available_protocols():
        raise StorageError(
            f"{printable(scheme)}:// is not a known scheme",
            "known are s3, gs, az, abfs, http, https, memory, and what else fsspec has",
        )
    options: dict[str, Any] = {"skip_instance_cache": True}
    if scheme in ("s3", "s3a"):
        options["config_kwargs"] = _s3_config(fsspec.config.conf, scheme)
    # What goes wrong is raised; these would say it once more on stderr, with addresses.
    for name in ("asyncio", "botocore", "aiobotocore", "aiohttp", "fsspec", "s3fs", "gcsfs"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        fs, path = url_to_fs(url, **options)
    except ImportError as error:
        hint = str(error)
        if scheme in _EXTRAS:
            hint = f"pip install 'hsdp-inspect[{_EXTRAS[scheme]}]'"
        raise StorageError(f"{scheme}:// needs a package that is not installed", hint) from error
    except Exception as error:
        what = printable(str(error) or type(error).__name__, 300)
        raise StorageError(f"cannot open {printable(url)}: {what}") from error
    fs.dircache.use_listings_cache = False
    if scheme in ("s3", "s3a"):
        fs.retries = 1  # `Calls` tries again; both together would take minutes to give up.
    return fs, path.rstrip("/")


def _s3_config(conf: dict[str, Any], scheme: str) -> dict[str, Any]:
    own = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"mode": "standard", "total_max_attempts": 1},
    }
    users = conf.get(scheme, conf.get("s3", {})).get("config_kwargs")
    return {**own, **users} if isinstance(users, dict) else own


class FsspecFiles:
    """Files of an fsspec file system, by their full paths in it."""

    has_listing = True

    def __init__(self, fs: Any, scheme: str) -> None:
        self._fs = fs
        self._is_async = bool(getattr(fs, "async_impl", False))
        self._is_s3 = scheme in ("s3", "s3a") and hasattr(fs, "_lsdir")
        self._is_hooked = False
        self.calls = Calls(fs.loop if self._is_async else None, counts=not self._is_s3)

    @property
    def endpoint(self) -> str:
        """The server, or an empty string."""
        client = getattr(self._fs, "_s3", None)
        return str(client.meta.endpoint_url) if client is not None else ""

    def list(self, path: str) -> Any:
        """The entries of a folder, as fsspec's dictionaries; an empty list if there is none."""
        if self._is_s3:
            return self._s3_list(path)
        if self._is_async:
            return self._list(path)
        try:
            return self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []

    def tree(self, path: str) -> Any:
        """Every file below a folder, in as few requests as the file system allows."""
        if self._is_s3:
            return self._s3_list(path, delimiter="")
        find = self._fs._find if self._is_async else self._fs.find
        return find(path, detail=True)

    def info(self, path: str) -> Any:
        """One entry; raises FileNotFoundError."""
        return (self._fs._info if self._is_async else self._fs.info)(path)

    def read(self, path: str, start: int, length: int | None) -> Any:
        """A range; empty if it begins past the end."""
        end = None if length is None else start + length
        if self._is_async:
            return self._read(path, start, end)
        return self._fs.cat_file(path, start=start, end=end)

    async def _list(self, path: str) -> Any:
        try:
            return await self._fs._ls(path, detail=True)
        except FileNotFoundError:
            return []

    async def _s3_list(self, path: str, delimiter: str = "/") -> Any:
        # s3fs's own `ls` of an empty prefix goes on to list all that lies beside it.
        await self._hook()
        return await self._fs._lsdir(path, refresh=True, delimiter=delimiter)

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        await self._hook()
        try:
            data: bytes = await self._fs._cat_file(path, start=start, end=end)
        except Exception as error:
            if is_past_end(error):
                return b""
            raise
        return data

    async def _hook(self) -> None:
        """Count requests where botocore sends them: pages of a listing, redirections."""
        if self._is_s3 and not self._is_hooked:
            self._is_hooked = True
            client = await self._fs.set_session()
            client.meta.events.register("before-send.s3", self.calls.asked)

    def entry(self, info: dict[str, Any], base: str) -> Entry:
        """A dictionary of fsspec's as an entry, named relative to the folder `base`."""
        full = str(info["name"])
        name = full.strip("/").removeprefix(base.strip("/")).strip("/")
        if info.get("type") == "directory" or full.endswith("/"):
            return Entry(name, "folder")
        size = info.get("size")
        return Entry(name, "file", int(size) if size is not None else None, _modified(info))


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
