"""`AzureFiles`: a container of Azure Blob Storage, through adlfs's client and credentials.

The client is asked directly: adlfs's own `ls` lists, beside a folder, every other one whose name
begins with that folder's (`step-1`: also `step-10`, `step-100`), and neither it nor `find` lets
the client's four tries, a minute together, be left to `Calls`.
"""

from __future__ import annotations

from typing import Any

from inspector.checkpoint.storage_errors import is_past_end
from inspector.checkpoint.storage_fsspec import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, FsspecFiles

__all__ = ["AzureFiles"]


class AzureFiles(FsspecFiles):
    """Files of a container, by `container/name`."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs, counts=False)
        self._each: dict[str, Any] = {
            "connection_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            **getattr(fs, "_timeout_kwargs", {}),  # The user's own.
            "retry_total": 0,
            "raw_request_hook": self.calls.asked,
        }

    @property
    def endpoint(self) -> str:
        client = self._fs.service_client
        return f"{client.scheme}://{client.primary_hostname}"

    async def list(self, path: str) -> Any:
        container, prefix = _split(path)
        client = self._fs.service_client.get_container_client(container)
        blobs = client.walk_blobs(prefix and f"{prefix}/", ["metadata"], "/", **self._each)
        return [_info(container, blob) async for blob in blobs]

    async def tree(self, path: str) -> Any:
        container, prefix = _split(path)
        client = self._fs.service_client.get_container_client(container)
        blobs = client.list_blobs(prefix and f"{prefix}/", ["metadata"], **self._each)
        return [_info(container, blob) async for blob in blobs]

    async def info(self, path: str) -> Any:
        container, name = _split(path)
        client = self._fs.service_client.get_blob_client(container, name)
        return _info(container, await client.get_blob_properties(**self._each))

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        container, name = _split(path)
        client = self._fs.service_client.get_blob_client(container, name)
        length = None if end is None else end - start
        try:
            stream = await client.download_blob(start, length, max_concurrency=1, **self._each)
            data: bytes = await stream.readall()
        except Exception as error:
            if is_past_end(error):
                return b""
            raise
        return data


def _split(path: str) -> tuple[str, str]:
    container, _, name = path.partition("/")
    return container, name


def _info(container: str, blob: Any) -> dict[str, Any]:
    """A blob, or what a listing calls a prefix, as one of fsspec's dictionaries."""
    name = f"{container}/{blob.name}"
    marks = {key.lower(): value for key, value in (blob.get("metadata") or {}).items()}
    if "size" not in blob or marks.get("hdi_isfolder") == "true":
        return {"name": name, "type": "directory"}
    return {"name": name, "size": blob.size, "last_modified": blob.last_modified}
