"""`AzureFiles`: the containers of an Azure account, with bounds.

Azure's client is asked directly: adlfs's own `ls` lists, beside a folder, every other one whose
name begins with that folder's (`step-1`: also `step-10`, `step-100`), and neither it nor `find`
lets the client's four tries, a minute together, be left to `Calls`.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from inspector.checkpoint.storage.remote.bounds import (
    CONNECT_TIMEOUT_S,
    MAX_UNSIZED_BYTES,
    READ_TIMEOUT_S,
    BadAnswerError,
    Listing,
    Tags,
)
from inspector.checkpoint.storage.remote.filesystem import FsspecFiles
from inspector.checkpoint.storage.remote.session import session_options

__all__ = ["AzureFiles"]


class AzureFiles(FsspecFiles):
    """Files of a container, by `container/name`."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs, counts=False)
        self._bounded: Any = None
        self._tags = Tags()
        self._each: dict[str, Any] = {
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            **getattr(fs, "_timeout_kwargs", {}),  # The user's own.
            "retry_total": 0,
            "permit_redirects": False,  # Its headers would go with it to another host.
            "raw_request_hook": self.calls.asked,
        }

    @property
    def endpoint(self) -> str:
        client = self._fs.service_client
        return f"{client.scheme}://{client.primary_hostname}"

    def _client(self) -> Any:
        """The client of adlfs once more, over a session whose answers are bounded."""
        if self._bounded is None:
            import aiohttp  # lazy: an optional package

            # lazy: of Azure's alone
            from azure.core.pipeline.transport import (  # type: ignore[import-not-found, unused-ignore]
                AioHttpTransport,
            )

            client = self._fs.service_client
            # As Azure's own: proxies of the environment, no cookies. But what is compressed is
            # taken apart where it is counted.
            jar = aiohttp.DummyCookieJar()
            session = aiohttp.ClientSession(trust_env=True, cookie_jar=jar, **session_options())
            weakref.finalize(self, _close, self._fs.loop, session)
            self._bounded = type(client)(
                client.url, client.credential, transport=AioHttpTransport(session=session)
            )
        return self._bounded

    async def list(self, path: str) -> Any:
        container, prefix = _split(path)
        client = self._client().get_container_client(container)
        blobs = client.walk_blobs(prefix and f"{prefix}/", ["metadata"], "/", **self._each)
        return await self._paged(container, blobs)

    async def tree(self, path: str) -> Any:
        container, prefix = _split(path)
        client = self._client().get_container_client(container)
        blobs = client.list_blobs(prefix and f"{prefix}/", ["metadata"], **self._each)
        return await self._paged(container, blobs)

    async def _paged(self, container: str, blobs: Any) -> Any:
        listing, pages = Listing(), blobs.by_page()
        async for page in pages:
            infos = [_info(container, blob) async for blob in page]
            for info in infos:
                self._tags.note(info["name"], info.get("etag"))
            listing.add(infos, pages.continuation_token or None)
        return listing.infos

    async def info(self, path: str) -> Any:
        container, name = _split(path)
        client = self._client().get_blob_client(container, name)
        return _info(container, await client.get_blob_properties(**self._each))

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        container, name = _split(path)
        client = self._client().get_blob_client(container, name)
        length = None if end is None else end - start
        stream = await client.download_blob(start, length, max_concurrency=1, **self._each)
        self._tags.check(path, stream.properties.etag)
        if stream.size > (MAX_UNSIZED_BYTES if length is None else length):
            raise BadAnswerError(f"it claims {stream.size:,} bytes of a file")
        data: bytes = await stream.readall()
        return data


def _close(loop: Any, session: Any) -> None:
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(session.close(), loop)


def _split(path: str) -> tuple[str, str]:
    container, _, name = path.partition("/")
    return container, name


def _info(container: str, blob: Any) -> dict[str, Any]:
    """A blob, or what a listing calls a prefix, as one of fsspec's dictionaries."""
    name = f"{container}/{blob.name}"
    marks = {key.lower(): value for key, value in (blob.get("metadata") or {}).items()}
    if "size" not in blob or marks.get("hdi_isfolder") == "true":
        return {"name": name, "type": "directory"}
    told = {"name": name, "size": blob.size, "last_modified": blob.last_modified}
    return {**told, "etag": blob.etag}
