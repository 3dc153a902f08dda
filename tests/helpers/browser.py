"""A headless Chromium, where there is one; the tests that need it are skipped elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Root has no sandbox, and a container little shared memory; what it shows is made here.
_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
_LIMIT_MS = 300_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that ends with the block; skips the test if none is installed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=_ARGUMENTS, timeout=_LIMIT_MS
        )
        try:
            yield browser
        finally:
            browser.close()
