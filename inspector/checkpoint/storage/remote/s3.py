"""`S3Files`: a bucket of S3, with bounds."""

from __future__ import annotations

import datetime
import inspect
from typing import Any

from inspector.checkpoint.storage.remote.bounds import (
    CONNECT_TIMEOUT_S,
    MAX_ERROR_BYTES,
    MAX_TEXT_BYTES,
    MAX_UNSIZED_BYTES,
    READ_TIMEOUT_S,
    Listing,
    Tags,
    answer_s,
    check_range,
    read_body,
    within,
)
from inspector.checkpoint.storage.remote.calls import MAX_IN_FLIGHT
from inspector.checkpoint.storage.remote.filesystem import FsspecFiles, users_setting

__all__ = ["S3Files"]


class S3Files(FsspecFiles):
    """Files of a bucket, by `bucket/key`; botocore's client is asked directly, with bounds."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs, counts=False)
        self._is_hooked = False
        self._tags = Tags()
        fs.retries = 1  # `Calls` tries again; both together would take minutes to give up.

    @staticmethod
    def options() -> dict[str, Any]:
        own = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            # botocore's own is 10 (MAX_POOL_CONNECTIONS), so that six of ours would wait.
            "max_pool_connections": MAX_IN_FLIGHT,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            **_bounded_session(),
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
        # s3fs's own `ls` of an empty prefix goes on to list all that lies beside it, and follows
        # any number of pages.
        await self._hook()
        bucket, _, key = path.partition("/")
        client = await self._fs.get_s3(bucket)
        asked = {"Bucket": bucket, "Prefix": key and f"{key}/", "Delimiter": delimiter}
        pages = Listing()
        token: str | None = None
        while True:
            more = {} if token is None else {"ContinuationToken": token}
            page = await within(
                client.list_objects_v2(**asked, **more, **self._fs.req_kw), answer_s(0)
            )
            token = page.get("NextContinuationToken") or "" if page.get("IsTruncated") else None
            below = page.get("CommonPrefixes", [])
            infos: list[dict[str, Any]] = [
                {"name": f"{bucket}/{f['Prefix']}", "type": "directory"} for f in below
            ]
            infos += [
                {"name": f"{bucket}/{f['Key']}", "size": f["Size"], "mtime": _time(f)}
                for f in page.get("Contents", [])
            ]
            if delimiter:
                for found in page.get("Contents", []):
                    self._tags.note(f"{bucket}/{found['Key']}", found.get("ETag"))
            pages.add(infos, token)
            if token is None:
                return pages.infos

    async def _read(self, path: str, start: int, end: int | None) -> bytes:
        await self._hook()
        bucket, _, key = path.partition("/")
        asked = {}
        if start or end is not None:
            asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, **asked)
        body = answer["Body"]
        try:
            self._tags.check(path, answer.get("ETag"))
            length = None if end is None else end - start
            limit = check_range(answer.get("ContentRange"), start, length) if asked else None
            if limit is None:
                limit = MAX_UNSIZED_BYTES if length is None else length
            return await read_body(body.read, limit)
        finally:
            body.close()

    async def _hook(self) -> None:
        """Count requests where botocore sends them: pages of a listing, redirections."""
        if not self._is_hooked:
            self._is_hooked = True
            client = await self._fs.set_session()
            client.meta.events.register("before-send.s3", self.calls.asked)


def _time(found: dict[str, Any]) -> float | None:
    modified = found.get("LastModified")
    return modified.timestamp() if isinstance(modified, datetime.datetime) else None


def _bounded_session() -> dict[str, Any]:
    """The way in which aiobotocore sends requests, bounded; nothing where it takes no other.

    What is no file's content is read here, as far as it may go: botocore reads it to its end,
    whatever its length. And nothing is followed to another host: aiohttp would take the session
    token along.
    """
    # lazy: botocore is for S3 alone
    from aiobotocore.config import AioConfig  # type: ignore[import-untyped, unused-ignore]

    # lazy: of S3 alone
    from aiobotocore.httpsession import (  # type: ignore[import-untyped, unused-ignore]
        AIOHTTPSession,
    )

    if "http_session_cls" not in inspect.signature(AioConfig.__init__).parameters:
        return {}

    class Staying:
        def __init__(self, session: Any) -> None:
            self._session = session

        def request(self, *args: Any, **kwargs: Any) -> Any:
            return self._session.request(*args, **{**kwargs, "allow_redirects": False})

    class BoundedSession(AIOHTTPSession):  # type: ignore[misc, unused-ignore]
        async def _get_session(self, *args: Any, **kwargs: Any) -> Any:
            return Staying(await super()._get_session(*args, **kwargs))

        async def send(self, request: Any) -> Any:
            is_content, request.stream_output = request.stream_output, True
            answer = await super().send(request)
            if not is_content or answer.status_code >= 300:
                most = MAX_ERROR_BYTES if answer.status_code >= 300 else MAX_TEXT_BYTES
                answer._content = await read_body(answer.raw.content.read, most)
            return answer

    return {"http_session_cls": BoundedSession}
