"""`GcsFiles`: a bucket of Google Cloud Storage, through gcsfs and its JSON API."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from inspector.checkpoint.storage_errors import NoBucketError
from inspector.checkpoint.storage_fsspec import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    FsspecFiles,
    users_setting,
)

__all__ = ["GcsFiles"]

#: gcsfs's own setting. Where it is on, gcsfs asks once more, by gRPC, what kind of bucket it is.
_ZONAL_BUCKETS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"


class GcsFiles(FsspecFiles):
    """Files of a bucket, by `bucket/name`."""

    def __init__(self, fs: Any) -> None:
        once = getattr(type(fs)._request, "__wrapped__", None)
        super().__init__(fs, counts=once is None)
        if once is not None:
            # `Calls` tries again; gcsfs's six tries of its own would take minutes to give up.
            fs._request = partial(self._request, partial(once, fs))

    @staticmethod
    def options() -> dict[str, Any]:
        os.environ.setdefault(_ZONAL_BUCKETS, "false")  # Before gcsfs is imported.
        if users_setting("requests_timeout", "gs", "gcs") is not None:
            return {}
        from aiohttp import ClientTimeout

        # Without one gcsfs waits for ever.
        patience = ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        return {"requests_timeout": patience}

    @property
    def endpoint(self) -> str:
        return str(self._fs._location)

    def list(self, path: str) -> Any:
        return self._listed(path, "/")

    def tree(self, path: str) -> Any:
        return self._listed(path, "")

    def info(self, path: str) -> Any:
        # A folder is never asked for: it is what a listing shows.
        return self._fs._get_object(path)

    async def _request(self, once: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.asked()
        return await once(*args, **kwargs)

    async def _listed(self, path: str, delimiter: str) -> Any:
        # gcsfs's own `ls` and `find` of an empty folder ask for more.
        bucket = path.partition("/")[0]
        try:
            files, folders = await self._fs._do_list_objects(path, delimiter=delimiter)
        except FileNotFoundError as error:
            raise NoBucketError(bucket) from error
        below = [{"name": f"{bucket}/{name}", "type": "directory"} for name in folders]
        return [*below, *files]
