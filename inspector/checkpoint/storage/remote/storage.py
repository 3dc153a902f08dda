"""`RemoteStorage`: a folder behind a URL, seen as it was when it was first listed.

The rule this module keeps: a request is made only for what is not known yet. A folder is listed
once; sizes and times come from that listing; what lies in folders below comes, for all of them
together, from one listing of the whole tree. Opening the URL anew sees the storage anew.
"""

from __future__ import annotations

import inspect
import posixpath
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from inspector.checkpoint.storage.base import Entry, Used, keep_address
from inspector.checkpoint.storage.remote.bounds import (
    LISTING_S,
    MAX_UNSIZED_BYTES,
    BadAnswerError,
    answer_s,
)
from inspector.checkpoint.storage.remote.calls import Calls, in_threads
from inspector.checkpoint.storage.remote.errors import bad_answer, in_words, is_transient, status_of
from inspector.checkpoint.storage.remote.filesystem import FsspecFiles, file_system
from inspector.checkpoint.storage.remote.http import HttpFiles
from inspector.checkpoint.text import printable, redact
from inspector.checkpoint.workers import until
from inspector.errors import Cancelled, StorageError, UnreachableError

__all__ = ["LISTED_S", "RemoteStorage", "open_remote"]

#: What one request fetches of a file that is read whole.
_PART_BYTES = 16 << 20
#: A tree that takes longer to list is listed folder by folder, as far as it is looked into.
_TREE_S = 5.0
#: A listing is bounded by itself; this is for file systems of which that cannot be asked.
LISTED_S = LISTING_S + 10.0
_METADATA = ".metadata"
#: Of a file system that answers one question at a time.
_MAX_CONNECTIONS = 4


class RemoteFiles(Protocol):
    """Files by their full paths; what a method gives is run by `calls`."""

    has_listing: bool
    calls: Calls

    @property
    def endpoint(self) -> str: ...
    @property
    def has_tree(self) -> bool: ...
    def list(self, path: str) -> Any: ...
    def tree(self, path: str) -> Any: ...
    def info(self, path: str) -> Any: ...
    def read(self, path: str, start: int, length: int | None) -> Any: ...
    def entry(self, info: dict[str, Any], base: str) -> Entry: ...


def open_remote(url: str) -> RemoteStorage:
    """The storage at a URL; nothing is asked yet.

    Raises:
        StorageError: Its file system is not installed, or the URL cannot be meant.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    url = f"{scheme}://{rest}"
    if scheme in ("s3", "s3a") and "@" in rest and ":" in rest.partition("@")[0]:
        raise StorageError(
            f"{scheme}:// takes no keys in the address",
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if scheme != "memory" and (not rest.strip("/") or rest.startswith("/")):
        raise StorageError(f"{printable(url)} names no place", f"write {scheme}://BUCKET/FOLDER")
    if scheme in ("http", "https"):
        address, _, query = url.partition("?")
        fs, base = file_system(address, HttpFiles.options)
        return RemoteStorage(address, base, HttpFiles(fs, query), _Seen(base))
    kind = _kind(scheme)
    fs, base = file_system(url, kind.options)
    return RemoteStorage(url, base, kind(fs), _Seen(base))


def _kind(scheme: str) -> type[FsspecFiles]:
    if scheme in ("s3", "s3a"):
        # lazy: for its URLs alone
        from inspector.checkpoint.storage.remote.s3 import S3Files

        return S3Files
    if scheme in ("gs", "gcs"):
        # lazy: for its URLs alone
        from inspector.checkpoint.storage.remote.gcs import GcsFiles

        return GcsFiles
    if scheme in ("az", "abfs", "abfss"):
        # lazy: for its URLs alone
        from inspector.checkpoint.storage.remote.azure import AzureFiles

        return AzureFiles
    return FsspecFiles


class _Seen:
    """What is known of a storage by now; shared by every folder of it.

    Attributes:
        top: The folder that was opened.
        folders: Entries by full path of their folder.
        entries: Entries that were asked for one by one, by full path; None: not there.
        has_tree: Whether `folders` has everything below `top`; None: it was not asked.
    """

    def __init__(self, top: str) -> None:
        self.top = top
        self.folders: dict[str, dict[str, Entry]] = {}
        self.entries: dict[str, Entry | None] = {}
        self.has_tree: bool | None = None
        self.lock = threading.RLock()


class RemoteStorage:
    """A folder of a remote file system.

    Args:
        url: What the user wrote, without its query.
        base: The folder's full path in the file system.
        files: The file system.
        seen: What is known of it.
    """

    def __init__(self, url: str, base: str, files: RemoteFiles, seen: _Seen) -> None:
        self.root = redact(url.rstrip("/"))
        self.has_listing = files.has_listing
        self.calls = files.calls
        self._url = url.rstrip("/")
        query = files.query if isinstance(files, HttpFiles) else ""
        # So that what is opened anew, from what is shown, is opened as it was.
        keep_address(self.root, self._url + query)
        self._base = base
        self._files = files
        self._seen = seen

    @property
    def used(self) -> Used:
        return self.calls.used

    def local_path(self, path: str) -> str | None:
        return None

    def join(self, folder: str) -> RemoteStorage:
        below = f"{self._url}/{folder}"
        return RemoteStorage(below, self._full(folder), self._files, self._seen)

    # --- what is there

    def list(self, folder: str = "") -> list[Entry]:
        full = self._full(folder)
        with self._seen.lock:
            if not self._files.has_listing:
                return [*self._known(full)]
            if full not in self._seen.folders and not self._is_in_tree(full):
                self._seen.folders[full] = self._listed(folder, full)
            return list(self._seen.folders.get(full, {}).values())

    def list_ahead(self, folders: Iterable[str]) -> None:
        """List folders many at a time, so that `list` has them; what fails, `list` tells."""
        with self._seen.lock:
            full = {self._full(folder): folder for folder in folders}
            missing = [at for at in full if at not in self._seen.folders]
            if not self._files.has_listing or len(missing) < 2 or self._is_in_tree(missing[0]):
                return
            if self.calls.is_concurrent:
                self._list_together(missing)
            elif isinstance(self._files, FsspecFiles):
                self._list_side_by_side(self._files, missing)

    def _list_together(self, missing: Sequence[str]) -> None:
        """Ask for all folders at a time."""

        def asked(path: str) -> Any:
            return lambda: self._files.list(path)

        futures = {at: self.calls.start(asked(at), most_s=LISTED_S) for at in missing}
        try:
            for at, future in futures.items():
                try:
                    infos = self.calls.wait(future)
                except Cancelled:
                    raise
                except Exception:  # noqa: S112 - `list` asks again, and says what is wrong
                    continue
                self._seen.folders[at] = self._entries(infos, at)
        finally:
            for future in futures.values():
                future.cancel()

    def _list_side_by_side(self, first: FsspecFiles, missing: Sequence[str]) -> None:
        """Ask a file system that answers one question at a time: over several connections."""
        paths, lock, over = iter(missing), threading.Lock(), threading.Event()

        def work() -> None:
            with until(over.is_set), suppress(Exception):  # `list` asks again, and says what it is
                files = first.another()
                while not over.is_set():
                    with lock:
                        at = next(paths, None)
                    if at is None:
                        return
                    self._ahead(files, at)

        try:
            in_threads(work, min(_MAX_CONNECTIONS, len(missing)))
        finally:
            over.set()

    def _ahead(self, files: RemoteFiles, at: str) -> None:
        try:
            infos = self.calls.run(lambda: files.list(at))
        except Cancelled:
            raise
        except Exception:
            return
        self._seen.folders[at] = self._entries(infos, at)

    def _known(self, full: str) -> Sequence[Entry]:
        """Of a storage without listings: the metadata, and what was asked for before."""
        self._look([f"{full}/{_METADATA}"])
        return sorted(
            (
                replace(entry, name=path.rpartition("/")[2])
                for path, entry in self._seen.entries.items()
                if entry is not None and posixpath.dirname(path) == full
            ),
            key=lambda entry: entry.name,
        )

    def _listed(self, folder: str, full: str) -> dict[str, Entry]:
        infos = self._ask(folder, lambda: self._files.list(full), most_s=LISTED_S)
        try:
            return self._entries(infos, full)
        except BadAnswerError as error:
            raise self._error(folder, error) from error

    def _entries(self, infos: Any, full: str) -> dict[str, Entry]:
        entries = (self._files.entry(info, full) for info in infos)
        # A marker of the folder itself has no name; a file's own entry is not in it.
        by_name = {e.name: e for e in entries if e.name and "/" not in e.name}
        return {name: by_name[name] for name in sorted(by_name)}

    def _is_in_tree(self, full: str) -> bool:
        """List everything below the top at once, when first a folder below it is asked for."""
        seen = self._seen
        if full == seen.top or not full.startswith(f"{seen.top}/") or not self._files.has_tree:
            return False
        if seen.has_tree is None:
            seen.has_tree = False
            try:
                # Given up after a while, and not told slow: folder by folder it may be quick.
                found = self.calls.run(
                    lambda: self._files.tree(seen.top), patience_s=_TREE_S, most_s=LISTED_S
                )
            except Cancelled:
                seen.has_tree = None
                raise
            except Exception:
                return False  # Each folder then says for itself what is wrong.
            infos = found.values() if isinstance(found, dict) else found
            below = _by_folder([self._files.entry(info, seen.top) for info in infos], seen)
            seen.folders = {**below, **seen.folders}
            seen.has_tree = True
        return seen.has_tree

    def stat(self, path: str) -> Entry | None:
        found = self.stat_all([path])[0]
        if found is not None and found.kind == "other":
            raise StorageError(f"cannot read {self._shown(path)}: {found.problem}")
        return found

    def stat_all(self, paths: Iterable[str]) -> Sequence[Entry | None]:
        with self._seen.lock:
            paths = list(paths)
            if not self._files.has_listing:
                self._look(self._full(path) for path in paths if path)
            return [self._stat(path) for path in paths]

    def _stat(self, path: str) -> Entry | None:
        if not path:
            # A folder is there if something lies in it.
            return Entry("", "folder") if self.list() else self._file_itself()
        if self._files.has_listing:
            self.list(path.rpartition("/")[0])
        found = self._entry_seen(self._full(path))
        return None if found is None else replace(found, name=path)

    def _entry_seen(self, full: str) -> Entry | None:
        """What is known of a file without asking."""
        if not self._files.has_listing:
            return self._seen.entries.get(full)
        folder, _, name = full.rpartition("/")
        return self._seen.folders.get(folder, {}).get(name)

    def _file_itself(self) -> Entry | None:
        """The path taken for a file, since nothing lies in it as a folder."""
        self._look([self._base])
        return self._seen.entries[self._base]

    def _look(self, full: Iterable[str]) -> None:
        """Ask for entries one by one, many at a time."""
        missing = [path for path in dict.fromkeys(full) if path not in self._seen.entries]

        def asked(path: str) -> Any:
            return lambda: self._files.info(path)

        futures: dict[str, Future[Any]] = {}
        if self.calls.is_concurrent:
            futures = {path: self.calls.start(asked(path)) for path in missing}
        try:
            for path in missing:
                self._seen.entries[path] = self._answer(path, asked(path), futures.get(path))
        finally:
            for future in futures.values():
                future.cancel()

    def _answer(self, full: str, make: Any, future: Future[Any] | None) -> Entry | None:
        try:
            info = self.calls.run(make) if future is None else self.calls.wait(future)
        except (Cancelled, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) or status_of(error) in (404, 410):
                return None
            if is_transient(error) or bad_answer(error) is not None:
                # That nothing answers says nothing of the file.
                raise self._error(full.removeprefix(f"{self._base}/"), error) from error
            reason, hint = self._words(error)
            if full in (self._base, f"{self._base}/{_METADATA}"):
                raise StorageError(f"cannot read {self._shown('')}: {reason}", hint) from error
            return Entry(full.rpartition("/")[2], "other", problem=reason)
        try:
            return self._files.entry(info, posixpath.dirname(full))
        except BadAnswerError as error:
            raise self._error(full.removeprefix(f"{self._base}/"), error) from error

    # --- what is in it

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        full = self._full(path)
        size = self._size(full)
        if size is not None:
            rest = max(size - offset, 0)
            length = rest if length is None else min(length, rest)
        if length == 0:
            return b""
        if length is not None and length > MAX_UNSIZED_BYTES:
            what = f"it is said to have {length:,} bytes, more than are read at once"
            raise StorageError(f"cannot read {self._shown(path)}: {what}")
        if length is None or length <= _PART_BYTES or not self.calls.is_concurrent:
            data: bytes = self._ask(
                path,
                lambda: self._fetch(full, offset, length),
                most_s=answer_s(MAX_UNSIZED_BYTES if length is None else length),
            )
            self.calls.received(len(data))
            return data
        end = offset + length
        starts = range(offset, end, _PART_BYTES)
        parts = [self.start_read(path, at, min(_PART_BYTES, end - at)) for at in starts]
        try:
            return b"".join(self.result(path, part) for part in parts)
        finally:
            for part in parts:
                part.cancel()

    def start_read(self, path: str, offset: int, length: int) -> Future[bytes]:
        """Begin to read a range; give the future to `result`, or cancel it."""
        full = self._full(path)
        return self.calls.start(lambda: self._fetch(full, offset, length), most_s=answer_s(length))

    def _fetch(self, full: str, offset: int, length: int | None) -> Any:
        """A range, or an awaitable of it, held against the size that was told before."""
        size = self._size(full)
        promised = 0
        if size is not None:
            rest = max(size - offset, 0)
            promised = rest if length is None else min(rest, length)
        found = self._files.read(full, offset, length)
        return _whole(found, promised) if inspect.isawaitable(found) else _held(found, promised)

    def result(self, path: str, future: Future[bytes]) -> bytes:
        """Wait for what `start_read` began."""
        try:
            data = self.calls.wait(future)
        except (Cancelled, StorageError):
            raise
        except Exception as error:
            raise self._error(path, error) from error
        self.calls.received(len(data))
        return data

    def _size(self, full: str) -> int | None:
        """Size of a file, if it is known without asking."""
        entry = self._entry_seen(full)
        return None if entry is None else entry.num_bytes

    # --- asking

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def _shown(self, path: str) -> str:
        return printable(f"{self.root}/{path}" if path else self.root)

    def _ask(self, path: str, make: Callable[[], Any], *, most_s: float | None = None) -> Any:
        try:
            return self.calls.run(make, most_s=most_s)
        except (Cancelled, StorageError):
            raise
        except Exception as error:
            raise self._error(path, error) from error

    def _words(self, error: Exception) -> tuple[str, str]:
        scheme = self._url.partition("://")[0].lower()
        return in_words(error, scheme, self._files.endpoint)

    def _error(self, path: str, error: Exception) -> StorageError:
        reason, hint = self._words(error)
        what = f"cannot read {self._shown(path)}: {printable(reason, 300)}"
        if not is_transient(error) and bad_answer(error) is None:
            return StorageError(what, hint)
        self.calls.failed()
        return UnreachableError(what, hint)


async def _whole(found: Awaitable[bytes], promised: int) -> bytes:
    return _held(await found, promised)


def _held(data: bytes, promised: int) -> bytes:
    """The bytes of a range, of which so many should be there.

    Raises:
        BadAnswerError: There are fewer.
    """
    if len(data) < promised:
        raise BadAnswerError(
            f"{len(data):,} bytes came where {promised:,} should be: it changed while it was read"
        )
    return data


def _by_folder(entries: list[Entry], seen: _Seen) -> dict[str, dict[str, Entry]]:
    """Files of a whole tree, named relative to its top, as the listing of every folder in it."""
    folders: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        folder, _, name = entry.name.rpartition("/")
        at = f"{seen.top}/{folder}" if folder else seen.top
        if name:
            folders.setdefault(at, {})[name] = replace(entry, name=name)
        while folder:
            above, _, name = folder.rpartition("/")
            at = f"{seen.top}/{above}" if above else seen.top
            folders.setdefault(at, {}).setdefault(name, Entry(name, "folder"))
            folder = above
    return {at: dict(sorted(found.items())) for at, found in folders.items()}
