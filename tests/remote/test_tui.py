"""The screen on a checkpoint behind a URL."""

from __future__ import annotations

import threading

from inspector.tui.app import InspectApp
from tests.conftest import SAMPLES
from tests.remote.s3_server import S3Server
from tests.tui.app_driver import opened, press, screen_text, until, words


async def test_it_opens_and_its_bytes_are_checked(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "hsdp_2x4", "screen")
    async with opened(url) as (app, pilot):
        assert url in screen_text(app)
        assert len(s3.asked) == 2, s3.asked
        await press(pilot, "c", shows="every byte read")
        # What lies there now is looked at, not what was read when it was opened.
        assert len(s3.asked) == 2 + 2 + 8


async def test_a_long_address_keeps_its_scheme_and_its_end(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "hsdp_2x4", "team/a-folder-of-a-long-name/" * 3 + "step-100")
    async with opened(url, size=(80, 24)) as (app, _):
        first = screen_text(app).splitlines()[0]
        assert first.strip().startswith("s3://…") and "step-100" in first


async def test_keys_are_heard_while_the_server_is_silent(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "run", "run")
    answer = threading.Event()
    s3.fault = lambda _: answer
    app = InspectApp(url)
    try:
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: bool(s3.asked) and "looking at the folder" in words(app))
            await pilot.press("escape")
            await until(pilot, lambda: app.return_code == 2 or not app.is_running)
    finally:
        answer.set()


async def test_a_run_folder_is_listed_and_read_anew(s3: S3Server) -> None:
    url = s3.put_folder(SAMPLES / "run", "anew")
    async with opened(url) as (app, pilot):
        await until(pilot, lambda: "newest sound: step-200" in words(app))
        s3.put_folder(SAMPLES / "run" / "step-200", "anew/step-400")
        await press(pilot, "r", shows="newest sound: step-400")


async def test_a_server_that_is_not_there_is_said(s3: S3Server, monkeypatch: object) -> None:
    app = InspectApp("s3://no-such-bucket/x")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "there is no such bucket" in words(app))
