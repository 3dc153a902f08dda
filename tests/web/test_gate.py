"""Who gets in to the served screen, and what is said to those who do not."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("textual_serve")

from aiohttp import ClientSession, WSServerHandshakeError
from aiohttp.test_utils import TestServer

from inspector.cli.group import run_command
from inspector.errors import InspectError, UsageError
from inspector.web.server import WebServer
from tests.conftest import SAMPLES

TOKEN = "the-token"  # noqa: S105 - of a server that ends with the test
PATHS = ["", "ws", "page.js", "terminal.js", "terminal.css", "mono.ttf"]
FOLDER = str(SAMPLES / "fsdp_4")


@pytest.fixture
async def base() -> AsyncIterator[str]:
    # No session is let in: what it would start is not reached.
    server = TestServer(WebServer("<b>title</b>\x1b[1m", ["/no/such/program"], TOKEN).app())
    await server.start_server(host="127.0.0.1")
    yield f"http://127.0.0.1:{server.port}"
    await server.close()


async def status(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> int:
    async with ClientSession() as client, client.request(method, url, headers=headers) as answer:
        assert answer.headers.get("Access-Control-Allow-Origin") is None
        if answer.status != 400:  # The page's answers, and refusals; not aiohttp's own.
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Referrer-Policy"] == "no-referrer"
        return answer.status


async def test_the_page_and_its_files_are_there(base: str) -> None:
    for path in set(PATHS) - {"ws"}:
        assert await status(f"{base}/{TOKEN}/{path}") == 200, path
    port = base.rpartition(":")[2]
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "LOCALHOST:9999"):
        assert await status(f"{base}/{TOKEN}/", {"Host": host, "Origin": f"http://{host}"}) == 200


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_is_answered_without_the_token(base: str, path: str) -> None:
    for token in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%00", "é", f"/{TOKEN}"):
        assert await status(f"{base}/{token}/{path}") == 403, token
    assert await status(f"{base}/{path}?token={TOKEN}") == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1:80@evil.example",
        "127.0.0.2",
        "0.0.0.0",  # noqa: S104 - a name that is refused
        "",
        "127.0.0.1:x",
        "[::1",
    ],
)
async def test_a_foreign_name_is_refused(base: str, host: str) -> None:
    for path in PATHS:
        answered = await status(f"{base}/{TOKEN}/{path}", {"Host": host})
        assert answered in (400, 403), path


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1:{port}/",
        "",
    ],
)
async def test_a_foreign_page_is_refused(base: str, origin: str) -> None:
    origin = origin.replace("{port}", base.rpartition(":")[2])
    for path in PATHS:
        assert await status(f"{base}/{TOKEN}/{path}", {"Origin": origin}) == 403, path
    async with ClientSession() as client:
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect(f"{base}/{TOKEN}/ws", headers={"Origin": origin})
        assert refused.value.status == 403


async def test_other_files_and_methods_are_none(base: str) -> None:
    for path in ("x", "..", "%2e%2e/server.py", "../../server.py", "js/textual.js", "download/x"):
        assert await status(f"{base}/{TOKEN}/{path}") in (403, 404), path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert await status(f"{base}/{TOKEN}/", method=method) == 405


async def test_the_page_asks_for_nothing_elsewhere_and_escapes_its_title(base: str) -> None:
    async with ClientSession() as client, client.get(f"{base}/{TOKEN}/") as answer:
        text = await answer.text()
    assert "<title>hsdp-inspect &lt;b&gt;title&lt;/b&gt;\\x1b[1m</title>" in text
    assert f'data-session-websocket-url="{base.replace("http", "ws")}/{TOKEN}/ws"' in text
    assert text.count("://") == 1  # the websocket


# The command line.


@pytest.mark.parametrize("lacking", ["textual_serve", "aiohttp"])
def test_a_package_that_lacks_is_named(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("inspector.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(UsageError, match="--serve needs") as refused:
        run_command([FOLDER, "--serve"])
    assert "hsdp-inspect[web]" in refused.value.hint


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InspectError, match=f"cannot listen on 127.0.0.1:{port}"):
            run_command([FOLDER, "--serve", str(port)])


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["/no/such/folder", "--serve"], ""),
        ([FOLDER, "--serve", "70000"], "PATH comes first"),
        (["--serve", FOLDER], "PATH comes first"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(args: list[str], hint: str) -> None:
    with pytest.raises(InspectError) as told:
        run_command(args)
    assert hint in told.value.hint


def test_allow_verify_is_for_serve() -> None:
    with pytest.raises(UsageError, match="--allow-verify is for --serve"):
        run_command([FOLDER, "--allow-verify"])
