"""Listing a local folder asks the system for no more than the listing does not tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inspector.checkpoint.storage.local import LocalStorage
from inspector.checkpoint.storage.opening import open_storage


def test_a_listing_does_not_ask_again_what_is_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    storage = LocalStorage(str(tmp_path))
    one_by_one = {name: storage.stat(name) for name in os.listdir(tmp_path)}

    def refuse(path: object) -> bool:
        raise AssertionError("the listing knows")

    monkeypatch.setattr(os.path, "islink", refuse)
    listed = {entry.name: entry for entry in storage.list()}
    assert listed == one_by_one
    kinds = {name: (entry.kind, entry.is_link) for name, entry in listed.items()}
    assert kinds == {
        "file": ("file", False),
        "folder": ("folder", False),
        "link": ("file", True),
        "dangling": ("other", True),
        "loop": ("other", True),
        "fifo": ("other", False),
    }


@pytest.mark.parametrize("scheme", ["file", "FILE", "File"])
def test_an_address_of_a_local_file(tmp_path: Path, scheme: str) -> None:
    assert open_storage(f"{scheme}://{tmp_path}").local_path("") == str(tmp_path)
