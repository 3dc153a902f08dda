"""moto's S3 server on loopback: what it was asked, and faults on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.remote.watched import Asked, Watched, files_below, reset

BUCKET = "ckpts"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIALOOPBACKONLY",
    "AWS_SECRET_ACCESS_KEY": "never-a-real-secret/key",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class S3Server(Watched):
    """A running server with one bucket."""

    @property
    def env(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def put_folder(self, folder: Path, prefix: str) -> str:
        """Upload every file below a folder; the URL of the copy."""
        client = self.client()
        for name, data in files_below(folder):
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)
        self.forget()
        return f"s3://{BUCKET}/{prefix}"


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Watched:
    """moto's application, watched, and disturbed where the test says so."""

    def __init__(self, server: S3Server) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = server

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = Asked(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_RANGE", ""),
        )
        with self._server.watch(asked) as fault:
            if fault == "reset":
                return _reset(environ)
            if isinstance(fault, int):
                asked.status = fault
                body = b"<Error><Code>%s</Code></Error>" % _CODES.get(fault, b"Fault")
                start_response(f"{fault} Fault", [("Content-Length", str(len(body)))])
                return [body]
            return self._answer(asked, environ, start_response)

    def _answer(self, asked: Asked, environ: Any, start_response: Any) -> Iterable[bytes]:
        def started(status: str, headers: Any, *more: Any) -> Any:
            asked.status = int(status.split()[0])
            return start_response(status, headers, *more)

        body = list(self._app(environ, started))
        asked.num_bytes = sum(map(len, body)) if asked.method == "GET" else 0
        return body


_CODES = {403: b"AccessDenied", 500: b"InternalError", 503: b"SlowDown"}


def _reset(environ: dict[str, Any]) -> Iterator[bytes]:
    reset(environ["werkzeug.socket"])
    raise ConnectionError("reset on purpose")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with one empty bucket, on a free port of loopback."""
    server = S3Server()
    http = make_server("127.0.0.1", 0, _Watched(server), threaded=True, request_handler=_Quiet)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        server.client().create_bucket(Bucket=BUCKET)
        server.forget()
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
