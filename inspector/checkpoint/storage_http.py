"""`HttpFiles`: sizes and ranges of files on a web server, which lists no folder.

Through fsspec's session, so that its configuration (proxies, headers, trust) holds; its own
`cat_file` would take a whole file for a range where a server ignores ranges.
"""

from __future__ import annotations

import email.utils
from typing import Any
from urllib.parse import quote, urlsplit

from inspector.checkpoint.storage import Entry
from inspector.checkpoint.storage_calls import Calls
from inspector.checkpoint.storage_fsspec import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, users_setting
from inspector.errors import StorageError

__all__ = ["HttpFiles"]

#: A file up to this size is read whole from a server that ignores ranges.
_MAX_WHOLE_BYTES = 16 << 20


class HttpFiles:
    """Files of a web server, by their addresses; a query goes with every one of them.

    Args:
        fs: fsspec's http file system.
        query: What stands after the `?` of the address, or an empty string.
    """

    has_listing = False

    def __init__(self, fs: Any, query: str) -> None:
        self._fs = fs
        self._query = f"?{query}" if query else ""
        self.calls = Calls(fs.loop)
        self.endpoint = ""

    @staticmethod
    def options() -> dict[str, Any]:
        """What the file system is made with; the user's own settings go before it."""
        from aiohttp import ClientTimeout

        own = {"timeout": ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)}
        users = users_setting("client_kwargs", "http", "https")
        return {"client_kwargs": {**own, **users} if isinstance(users, dict) else own}

    def _url(self, path: str) -> Any:
        scheme, _, rest = path.partition("://")
        host, slash, name = rest.partition("/")
        self.endpoint = f"{scheme}://{urlsplit(path).netloc.rpartition('@')[2]}"
        return self._fs.encode_url(f"{scheme}://{host}{slash}{quote(name, safe='/%')}{self._query}")

    async def info(self, path: str) -> dict[str, Any]:
        """Size and time by a HEAD, or by the first byte where HEAD is not allowed."""
        session = await self._fs.set_session()
        plain = {"Accept-Encoding": "identity"}
        async with session.head(
            self._url(path), allow_redirects=True, headers=plain, **self._fs.kwargs
        ) as answer:
            if answer.status not in (403, 405, 501):
                answer.raise_for_status()
                size = answer.headers.get("Content-Length")
                if size is not None:
                    return _info(path, int(size), answer)
        self.calls.asked()
        first = {**plain, "Range": "bytes=0-0"}
        async with session.get(self._url(path), headers=first, **self._fs.kwargs) as answer:
            if answer.status == 416:
                return _info(path, 0, answer)
            answer.raise_for_status()
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if not total.isdigit():
                total = answer.headers.get("Content-Length", "") if answer.status == 200 else ""
            return _info(path, int(total) if total.isdigit() else None, answer)

    async def read(self, path: str, start: int, length: int | None) -> bytes:
        """A range; empty if it begins past the end.

        Raises:
            StorageError: The server ignores ranges, and the file is large.
        """
        session = await self._fs.set_session()
        headers = {"Accept-Encoding": "identity"}
        if start or length is not None:
            end = "" if length is None else str(start + length - 1)
            headers["Range"] = f"bytes={start}-{end}"
        async with session.get(self._url(path), headers=headers, **self._fs.kwargs) as answer:
            if answer.status == 416:
                return b""
            answer.raise_for_status()
            if "Range" not in headers or answer.status == 206:
                data: bytes = await answer.read()
                return data
            size = int(answer.headers.get("Content-Length", _MAX_WHOLE_BYTES + 1))
            if size > _MAX_WHOLE_BYTES:
                answer.close()
                raise StorageError(
                    f"{self.endpoint} answers a range with the whole file",
                    "serve it with a server that knows Range requests, or copy it here",
                )
            data = await answer.read()
            return data[start:] if length is None else data[start : start + length]

    def list(self, path: str) -> Any:
        raise NotImplementedError

    def tree(self, path: str) -> Any:
        raise NotImplementedError

    def entry(self, info: dict[str, Any], base: str) -> Entry:
        """What `info` found, as an entry, named relative to the folder `base`."""
        name = str(info["name"]).removeprefix(base).strip("/")
        if info["size"] is None:
            return Entry(name, "other", problem="the server tells no size")
        return Entry(name, "file", info["size"], info["mtime"])


def _info(path: str, size: int | None, answer: Any) -> dict[str, Any]:
    modified = None
    try:
        modified = email.utils.parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError, TypeError):
        pass  # It tells none, or none that can be read.
    return {"name": path, "size": size, "mtime": modified}
