"""Addresses: what is hidden of them, what they mean, and what cannot be opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import register_implementation
from fsspec.spec import AbstractFileSystem
from hypothesis import given
from hypothesis import strategies as st

from inspector.checkpoint.find.locate import folder_of, locate
from inspector.checkpoint.storage.ahead import SEGMENT_BYTES, segments_of
from inspector.checkpoint.storage.base import is_url, parent_of
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.storage.remote.storage import RemoteStorage
from inspector.checkpoint.text import printable, redact
from inspector.checkpoint.workers import until
from inspector.errors import Cancelled, StorageError
from tests.conftest import run_python


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/key", "s3://bucket/key"),
        ("cannot read s3://bucket/key: why", "cannot read s3://bucket/key: why"),
        ("https://user:word@host/a", "https://***@host/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://host/a?X-Amz-Signature=12&b=3", "https://host/a?***"),
        ("at https://u:p@h/a?sig=1 and ftp://u:p@h/b", "at https://***@h/a?*** and ftp://***@h/b"),
        ("s3://AKIA:se/cr+et@bucket/key", "s3://***@bucket/key"),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("http://[::1]:9000/a", None),
        ("a?b=c", None),
        ("name://", None),
    ],
)
def test_secrets_in_addresses_are_hidden(text: str, shown: str | None) -> None:
    assert redact(text) == (shown or text)
    assert printable(text) == (shown or text)


@given(st.from_regex(r"[a-z0-9/%+:=-]{4,30}", fullmatch=True))
def test_no_part_of_a_password_is_left(password: str) -> None:
    url = f"s3://AKIAKEY:{password}@bucket/path"
    assert redact(url) == "s3://***@bucket/path"


def test_what_is_an_address() -> None:
    assert is_url("s3://b/k") and is_url("memory://x") and is_url("git+ssh://x")
    assert not is_url("/a/b") and not is_url("a:b") and not is_url("./s3:/b")


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("/a/b/.metadata", "/a/b"),
        (".metadata", "."),
        ("s3://bucket/a/.metadata", "s3://bucket/a"),
        ("s3://bucket/.metadata", "s3://bucket"),
        ("https://host/a/.metadata?sig=1", "https://host/a?sig=1"),
    ],
)
def test_the_folder_of_a_file(path: str, parent: str) -> None:
    assert parent_of(path) == parent


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("foo://x", "foo:// is not a known scheme"),
        ("s3://", "names no place"),
        ("s3:///folder", "names no place"),
        ("gs://", "names no place"),
        ("s3://AKIA:secret@bucket/x", "takes no keys in the address"),
    ],
)
def test_addresses_that_cannot_be_meant(url: str, said: str) -> None:
    with pytest.raises(StorageError, match=said) as raised:
        open_storage(url)
    assert raised.value.hint
    assert len(raised.value.hint) < 120, "a list of forty schemes helps nobody"
    assert "secret" not in raised.value.message


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://b/k", "s3fs", "s3"),
        ("gs://b/k", "gcsfs", "gcs"),
        ("az://b/k", "adlfs", "azure"),
        ("https://h/k", "aiohttp", "http"),
    ],
)
def test_a_package_that_is_not_there(url: str, module: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules['{module}'] = None\n"
        f"from inspector.__main__ import main; main(['show', '{url}'])"
    )
    done = run_python("-c", code)
    scheme = url.partition("://")[0]
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines() == [
        f"hsdp-inspect: {scheme}:// needs a package that is not installed",
        f"  hint: pip install 'hsdp-inspect[{extra}]'",
    ]


@pytest.fixture
def memory() -> fsspec.AbstractFileSystem:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    return fs


def test_a_storage_is_as_it_was_when_it_was_listed(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/run/a/.metadata", b"\x80.")
    memory.pipe("/run/b", b"1234")
    storage = open_storage("memory://run")
    assert [(e.name, e.kind, e.num_bytes) for e in storage.list()] == [
        ("a", "folder", None),
        ("b", "file", 4),
    ]
    memory.pipe("/run/c", b"")
    assert [e.name for e in storage.list()] == ["a", "b"]
    assert [e.name for e in open_storage("memory://run").list()] == ["a", "b", "c"]
    assert storage.join("a").list()[0].name == ".metadata"
    assert storage.stat("a/.metadata") is not None
    assert storage.stat("a/none") is None and storage.stat("none") is None


def test_ranges_past_the_end_are_short(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/run/f", b"0123456789")
    storage = open_storage("memory://run")
    assert storage.read("f") == b"0123456789"
    assert storage.read("f", 8, 10) == b"89"
    assert storage.read("f", 10, 1) == b"" == storage.read("f", 3, 0)
    assert storage.used is not None
    assert storage.used.num_bytes == 12
    with pytest.raises(StorageError, match="no such file"):
        storage.read("nothing")


def test_what_is_not_there(memory: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(StorageError, match="no such file") as raised:
        folder_of("memory://nothing")
    assert "spelling" in raised.value.hint
    memory.pipe("/run/step-1/.metadata", b"\x80.")
    found = locate("memory://run")
    assert isinstance(found, list)
    assert [item.path for item in found] == ["step-1"]


# --- what one request fetches


def test_near_ranges_are_fetched_together() -> None:
    found = segments_of([("a", 0, 100), ("a", 100, 50), ("a", 1000, 10), ("b", 0, 5)])
    assert [(s.path, s.start, s.end) for s in found] == [("a", 0, 1010), ("b", 0, 5)]


def test_far_ranges_are_not() -> None:
    found = segments_of([("a", 0, 100), ("a", 1 << 24, 50), ("a", 0, 10)])
    assert [(s.start, s.end) for s in found] == [(0, 100), (1 << 24, (1 << 24) + 50), (0, 10)]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 1 << 26), st.integers(0, 1 << 25)),
        max_size=8,
    )
)
def test_segments_hold_every_range_and_are_no_larger_than_said(
    ranges: list[tuple[str, int, int]],
) -> None:
    segments = segments_of(ranges)
    assert all(0 < s.end - s.start <= SEGMENT_BYTES for s in segments)
    for path, offset, length in ranges:
        at = offset
        while at < offset + length:
            holding = [s for s in segments if s.path == path and s.start <= at < s.end]
            assert holding
            at = holding[0].end


class InTurn(MemoryFileSystem):  # type: ignore[misc]
    """Answers one question at a time, each connection for itself, when several have asked."""

    protocol = "memory"
    find = AbstractFileSystem.find  # From folder to folder, as most file systems do.
    asked: ClassVar[list[str]] = []
    met: ClassVar[threading.Barrier | None] = None
    refused: ClassVar[str] = ""

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self.asked.append(path)
        if path.endswith(self.refused or "?"):
            raise PermissionError(path)
        if self.met is not None:
            self.met.wait(60)
        return super().ls(path, detail, **kwargs)


@pytest.fixture
def in_turn() -> Iterator[type[InTurn]]:
    register_implementation("memory", InTurn, clobber=True)
    for step in range(4):
        InTurn(skip_instance_cache=True).pipe(f"/in-turn/step-{step}/.metadata", b"x")
    InTurn.asked.clear()
    try:
        yield InTurn
    finally:
        InTurn.met, InTurn.refused = None, ""
        InTurn(skip_instance_cache=True).rm("/in-turn", recursive=True)
        register_implementation("memory", MemoryFileSystem, clobber=True)


def test_folders_of_a_storage_that_answers_in_turn_are_listed_side_by_side(
    in_turn: type[InTurn],
) -> None:
    storage = open_storage("memory://in-turn")
    assert isinstance(storage, RemoteStorage)
    names = [entry.name for entry in storage.list()]
    in_turn.asked.clear()
    in_turn.met = threading.Barrier(4)  # In turn, the first would wait for the others in vain.
    storage.list_ahead(names)
    in_turn.met = None
    assert [entry.name for name in names for entry in storage.list(name)] == [".metadata"] * 4
    assert sorted(in_turn.asked) == [f"/in-turn/step-{step}" for step in range(4)]


def test_a_folder_that_could_not_be_listed_ahead_says_why(in_turn: type[InTurn]) -> None:
    storage = open_storage("memory://in-turn")
    assert isinstance(storage, RemoteStorage)
    in_turn.refused = "step-2"
    storage.list_ahead([f"step-{step}" for step in range(4)])
    assert storage.list("step-3")
    with pytest.raises(StorageError, match="step-2"):
        storage.list("step-2")


def test_listing_ahead_is_cancelled(in_turn: type[InTurn]) -> None:
    storage = open_storage("memory://in-turn")
    assert isinstance(storage, RemoteStorage)
    barrier = in_turn.met = threading.Barrier(5)
    try:
        with until(lambda: barrier.n_waiting == 4), pytest.raises(Cancelled):
            storage.list_ahead([f"step-{step}" for step in range(4)])
    finally:
        barrier.abort()
