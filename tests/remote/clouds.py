"""Google's and Azure's stores on loopback: emulators, watched by a relay before them.

gs  gcp-storage-emulator, in this process
az  Azurite, a Node.js program that somebody has started; AZURITE_ENDPOINT says where
"""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from tests.remote.watched import Watched, closed_port, files_below, relay

#: Where it runs, or an empty string.
AZURITE = os.environ.get("AZURITE_ENDPOINT", "").rstrip("/")
#: Azurite's only account, known to everybody.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass
class Cloud(Watched):
    """A running emulator with one bucket, behind a relay."""

    bucket: str = "ckpts"
    upstream: str = ""

    scheme: ClassVar[str]
    #: What is said where there are no credentials.
    hint: ClassVar[str]

    def env(self, url: str = "") -> dict[str, str]:
        """What leads to it, or to another address."""
        raise NotImplementedError

    def put(self, name: str, data: bytes) -> None:
        """Write an object, past the relay."""
        raise NotImplementedError

    def put_folder(self, folder: Path, prefix: str) -> str:
        """Upload every file below a folder; the URL of the copy."""
        for name, data in files_below(folder):
            self.put(f"{prefix}/{name}", data)
        self.forget()
        return f"{self.scheme}://{self.bucket}/{prefix}"


class Google(Cloud):
    """gcp-storage-emulator."""

    scheme = "gs"
    hint = "gcloud auth"

    def env(self, url: str = "") -> dict[str, str]:
        return {
            "STORAGE_EMULATOR_HOST": url or self.url,
            # Without it, gcsfs looks for a machine of Google's for 15 seconds.
            "NO_GCE_CHECK": "true",
            "CLOUDSDK_CONFIG": "/no-such-folder",
        }

    def put(self, name: str, data: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        kind = "application/octet-stream"
        if not data:  # The emulator takes an empty body only in parts.
            query, kind = "uploadType=multipart", "multipart/related; boundary=b"
            about = json.dumps({"name": name})
            data = (
                f"--b\r\nContent-Type: application/json\r\n\r\n{about}\r\n"
                "--b\r\nContent-Type: application/octet-stream\r\n\r\n\r\n--b--\r\n"
            ).encode()
        address = f"{self.upstream}/upload/storage/v1/b/{self.bucket}/o?{query}"
        request = urllib.request.Request(address, data, {"Content-Type": kind})  # noqa: S310
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310


class Azure(Cloud):
    """Azurite."""

    scheme = "az"
    hint = "AZURE_STORAGE_CONNECTION_STRING"

    def env(self, url: str = "") -> dict[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection(url or self.url)}

    def connection(self, url: str, key: str = AZURE_KEY) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={key};"
            f"BlobEndpoint={url};"
        )

    def client(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection(self.upstream))

    def put(self, name: str, data: bytes) -> None:
        with self.client() as client:
            client.get_blob_client(self.bucket, name).upload_blob(data, overwrite=True)


@contextmanager
def google() -> Iterator[Cloud]:
    """An emulator with one bucket; skips if it, or gcsfs, is not installed."""
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    cloud = Google(upstream=closed_port())
    host, port = urllib.parse.urlsplit(cloud.upstream).netloc.split(":")
    server = emulator.create_server(host, int(port), in_memory=True, default_bucket=cloud.bucket)
    server.start()
    try:
        with relay(cloud, cloud.upstream):
            yield cloud
    finally:
        server.stop()


@contextmanager
def azure() -> Iterator[Cloud]:
    """A new container of the Azurite that runs; skips if none does, or without adlfs."""
    if not AZURITE:
        pytest.skip("az:// is tested where AZURITE_ENDPOINT names a running Azurite")
    pytest.importorskip("adlfs")
    endpoint = AZURITE
    if not endpoint.endswith(AZURE_ACCOUNT):
        endpoint += f"/{AZURE_ACCOUNT}"
    cloud = Azure(bucket=f"ckpts-{uuid4().hex[:12]}", upstream=endpoint)
    with cloud.client() as client:
        client.create_container(cloud.bucket)
        try:
            with relay(cloud, endpoint):
                yield cloud
        finally:
            client.delete_container(cloud.bucket)
