"""`S3Files`: an S3 bucket, through s3fs."""

from __future__ import annotations

from typing import Any

from inspector.checkpoint.storage_fsspec import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    FsspecFiles,
    users_setting,
)

__all__ = ["S3Files"]


class S3Files(FsspecFiles):
    """Files of a bucket, by `bucket/key`."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs, counts=False)
        self._is_hooked = False
        fs.retries = 1  # `Calls` tries again; both together would take minutes to give up.

    @staticmethod
    def options() -> dict[str, Any]:
        own = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        users = users_setting("config_kwargs", "s3a", "s3")
        return {"config_kwargs": {**own, **users} if isinstance(users, dict) else own}

    @property
    def endpoint(self) -> str:
        client = getattr(self._fs, "_s3", None)
        return str(client.meta.endpoint_url) if client is not None else ""

    def list(self, path: str) -> Any:
        return self._listed(path, "/")

    def tree(self, path: str) -> Any:
        return self._listed(path, "")

    async def _listed(self, path: str, delimiter: str) -> Any:
        # s3fs's own `ls` of an empty prefix goes on to list all that lies beside it.
        await self._hook()
        return await self._fs._lsdir(path, refresh=True, delimiter=delimiter)

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        await self._hook()
        return await super()._read(path, start, end)

    async def _hook(self) -> None:
        """Count requests where botocore sends them: pages of a listing, redirections."""
        if not self._is_hooked:
            self._is_hooked = True
            client = await self._fs.set_session()
            client.meta.events.register("before-send.s3", self.calls.asked)
