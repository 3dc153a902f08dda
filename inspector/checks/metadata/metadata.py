"""What the metadata itself tells: its entries, names, classes, version, and who can read it.

The rule this module keeps: torch is never imported. Which torch is installed is told by its
package, and what that torch does with an old or a new pickle was measured.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from inspector.checkpoint.dtypes import SINCE
from inspector.checkpoint.model import Checkpoint, Provenance
from inspector.checkpoint.text import is_printable, plural, printable
from inspector.checks.findings import Finding

__all__ = [
    "check_metadata",
    "installed_torch",
    "lacking_classes",
    "num_unreadable",
    "reading_notes",
]

_KNOWN_VERSION = (1, 0, 0)
_MAX_SHOWN = 3
_MAX_NAME = 120
# By the specification of installed projects (PEP 376, PEP 427): no version has a hyphen in it.
_TORCH_WHEEL = re.compile(r"torch-([^-]+)\.dist-info")
# Part of a torch installation, or of Python.
_AT_HOME = frozenset({"torch", "builtins", "__builtin__", "pathlib", "collections", "_codecs"})


@cache
def installed_torch() -> str | None:
    """The version of the torch package in this environment, or None; torch is not imported."""
    # A wheel's folder is named by its version. Asked once: a run has hundreds of checkpoints.
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if (found := _TORCH_WHEEL.fullmatch(name)) is not None:
                    return found[1]
    # lazy: with the parser of mail that it imports, it takes 40 ms
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def check_metadata(checkpoint: Checkpoint) -> list[Finding]:
    """Findings about the entries, names, classes and version of the metadata."""
    return [
        *_unsafe(checkpoint),
        *_malformed(checkpoint),
        *_of_later_kinds(checkpoint),
        *_names(checkpoint),
        *_unknown(checkpoint),
        *_trailing(checkpoint),
        *_version(checkpoint.provenance),
    ]


def _unsafe(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.unsafe_globals:
        named = ", ".join(printable(g, 80) for g in checkpoint.unsafe_globals[:_MAX_SHOWN])
        yield Finding(
            "metadata-unsafe",
            f".metadata names code to be run: {named}"
            + (" and more" if len(checkpoint.unsafe_globals) > _MAX_SHOWN else "")
            + "; it was not run here",
            "runs it while reading the metadata, without a word",
            "do not load this checkpoint; find out where it comes from",
        )


def _malformed(checkpoint: Checkpoint) -> Iterator[Finding]:
    by_fqn: dict[str, list[str]] = {}
    for entry in checkpoint.malformed:
        if not entry.is_later:
            by_fqn.setdefault(entry.fqn, []).append(entry.what)
    for fqn, whats in by_fqn.items():
        subject = f"{printable(fqn, _MAX_NAME)}: " if fqn else ""
        more = f" (and {plural(len(whats) - 1, 'fault')} more)" if len(whats) > 1 else ""
        yield Finding(
            "entry-malformed",
            f"{subject}{printable(whats[0], 300)}{more}; it was left out",
            _fate(whats[0]) if checkpoint.format == "dcp" else "raises SafetensorError or KeyError",
            "no torch writes this: take .metadata from the original, or load an earlier checkpoint"
            if checkpoint.format == "dcp"
            else "fetch the file again from where it was written",
            fqn=fqn or None,
        )


def _of_later_kinds(checkpoint: Checkpoint) -> Iterator[Finding]:
    later = [entry for entry in checkpoint.malformed if entry.is_later]
    if later:
        first = later[0]
        more = f" (and {plural(len(later) - 1, 'entry', 'entries')} more)" if later[1:] else ""
        yield Finding(
            "metadata-unknown-class",
            f"{printable(first.fqn, _MAX_NAME)}: {printable(first.what, 300)}, a class of torch's "
            f"own modules that no torch known here has (up to 2.15){more}: it was left out",
            "raises AssertionError: metadata is None; global metadata read failed, if it lacks the "
            "class",
            "load it with the torch that wrote it, or a later one, and see whether there is a "
            "newer hsdp-inspect; if no torch has the class, take .metadata from the original",
            fqn=first.fqn,
        )


def _fate(what: str) -> str:
    if what.startswith(("its layout", "its memory format")):
        return "raises AssertionError: metadata is None; ... KeyError or ValueError"
    return "depends on the value: a negative size loads silently and wrong, others raise"


def _names(checkpoint: Checkpoint) -> Iterator[Finding]:
    for fqn in dict.fromkeys(checkpoint.fqns):
        if not is_printable(fqn):
            yield _unprintable("entry", fqn, fqn=fqn)
    for file in checkpoint.files:
        if not is_printable(file.path):
            yield _unprintable("file", file.path, file=file.path)


def _unprintable(
    noun: str, text: str, *, fqn: str | None = None, file: str | None = None
) -> Finding:
    return Finding(
        "name-unprintable",
        f"{printable(text, _MAX_NAME)}: the name of this {noun} has characters that a terminal "
        "obeys or does not show",
        "loads it; its errors print the name as it is",
        "find out who named it so: such names can hide what they are",
        fqn=fqn,
        file=file,
    )


def _unknown(checkpoint: Checkpoint) -> Iterator[Finding]:
    for full in checkpoint.unknown_globals:
        package = full.partition(".")[0]
        if package == "torch":
            yield _not_of_torch(full)
            continue
        yield Finding(
            "metadata-unknown-class",
            f".metadata holds an object of {printable(full, _MAX_NAME)}, which is not known; it "
            "was passed over",
            f"imports {printable(package, 60)}, and raises ModuleNotFoundError if it cannot",
            "install that package where you load the checkpoint",
        )


def _of_torch(full: str, what: str) -> Finding:
    name = printable(full.rpartition(".")[2], 60)
    return Finding(
        "metadata-unknown-class",
        f".metadata holds an object of {printable(full, _MAX_NAME)}, {what}",
        "raises AssertionError: metadata is None; global metadata read failed: Can't get attribute "
        f"'{name}', if it lacks the class",
        "load it with the torch that wrote it, or a later one",
    )


def lacking_classes(checkpoint: Checkpoint) -> list[Finding]:
    """Notes on classes of torch in the metadata that the installed torch lacks.

    Its source is searched for their names; it is not imported.
    """
    torchs = [full for full in checkpoint.provenance.classes if full.startswith("torch.")]
    found = []
    for full in torchs:
        if _is_lacking(full):
            what = f"which the installed torch ({installed_torch()}) lacks: it cannot read this"
            found.append(_of_torch(full, what))
    return found


def num_unreadable(checkpoint: Checkpoint) -> int:
    """How many classes of the metadata no torch known here has, nor the installed one."""
    torchs = [full for full in checkpoint.unknown_globals if full.startswith("torch.")]
    release = re.match(r"(\d{1,4})\.(\d{1,4})", installed_torch() or "")
    is_known = release is not None and (int(release[1]), int(release[2])) <= _NEWEST_KNOWN
    return sum(
        (is_known and full.rpartition(".")[2] in _RECORDS) or _is_lacking(full) for full in torchs
    )


#: Of these it is known where every torch has them, up to this one; the gate maps them by name.
_RECORDS = frozenset(
    "Metadata MetadataIndex TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata "
    "TensorProperties StorageMeta _StorageInfo".split()
)
_NEWEST_KNOWN = (2, 15)


@cache
def _is_lacking(full: str) -> bool:
    """Whether a module of torch surely has no such class; False if its source does not tell."""
    module, _, name = full.rpartition(".")
    parts = module.split(".")[1:]
    if module == "torch":
        return False
    folder = _torch_folder()
    if not all(part.isidentifier() for part in [*parts, name]):
        return folder is not None  # No class has such a name.
    if folder is None:
        return False
    source = _source(folder.joinpath(*parts))
    if source is None:
        # Not there: unless its package makes it up (torch kept old names alive so).
        package = _source(folder.joinpath(*parts[:-1]))
        return package is not None and "sys.modules" not in package
    if re.search(rf"\b{name}\b", source):
        return False
    return not re.search(r"^def __getattr__|import \*|globals\(\)|setattr\(sys", source, re.M)


def _source(path: Path) -> str | None:
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        try:
            return file.read_text("utf-8", "replace")
        except OSError:
            continue
    return None


@cache
def _torch_folder() -> Path | None:
    try:
        spec = find_spec("torch")
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def _not_of_torch(full: str) -> Finding:
    """A name in torch's own modules that no torch known here has."""
    module, _, name = full.rpartition(".")
    torch_version = installed_torch()
    mine = f"torch {torch_version}" if torch_version else "torch of up to 2.15"
    return Finding(
        "metadata-unknown-class",
        f".metadata names {printable(full, _MAX_NAME)}, which no torch known here has (up to "
        f"2.15): it is of a later one, or damaged; {mine} cannot read this checkpoint",
        "raises AssertionError: metadata is None; ... "
        f"{printable(module, 80)} has no attribute {printable(name, 60)!r}",
        "load it with the torch that wrote it; if that is the installed one, take .metadata from "
        "the original",
    )


def _trailing(checkpoint: Checkpoint) -> Iterator[Finding]:
    if checkpoint.trailing_bytes:
        yield Finding(
            "metadata-trailing-bytes",
            f".metadata goes on for {plural(checkpoint.trailing_bytes, 'byte')} (or more) after "
            "the end of its pickle",
            "ignores them",
            "a shorter file may have been written over a longer one: compare with the original",
        )


def _version(provenance: Provenance) -> Iterator[Finding]:
    text = provenance.metadata_version
    if text is None:
        return
    numbers = tuple(int(n) for n in re.findall(r"\d{1,9}", text)[:3])
    if not numbers or numbers > _KNOWN_VERSION:
        yield Finding(
            "metadata-version",
            f".metadata is of version {printable(text, 40)}; known here is 1.0.0 (torch 2.9 to "
            "2.15), so something in it may have been missed",
            "loads it: it does not look at the version",
            "see whether there is a newer hsdp-inspect",
        )


def reading_notes(
    provenance: Provenance,
    dtypes: Iterable[str] = (),
    *,
    torch_version: str | None = None,
    python_version: tuple[int, int] | None = None,
    platform: str | None = None,
) -> list[Finding]:
    """Notes on why a torch could not read a checkpoint that is sound.

    Args:
        provenance: What the metadata tells of its writer.
        dtypes: Of its tensors.
        torch_version: The torch that would read; by default the installed one.
        python_version: The Python it runs in; by default this one.
        platform: As `sys.platform`; by default this one.
    """
    python_version = python_version or sys.version_info[:2]
    on_windows = (platform or sys.platform) == "win32"
    found = [
        _torch_note(provenance, torch_version) or _dtype_note(dtypes, torch_version),
        _path_note(provenance, python_version, on_windows=on_windows),
        _packages_note(provenance),
    ]
    return [note for note in found if note is not None]


def _note(message: str, torch_does: str, hint: str) -> Finding:
    return Finding("metadata-version", message, torch_does, hint)


def _torch_note(provenance: Provenance, torch_version: str | None) -> Finding | None:
    band, first = provenance.torch_band, provenance.first_torch
    if first not in ((1, 13), (2, 15)):
        return None
    torch_version, release = _release(torch_version)
    if release is None:
        return None
    if first == (2, 15) and release < first:
        return _note(
            f"torch {torch_version} is installed and cannot read this checkpoint, though it is "
            f"written as torch {band} does: {provenance.torch_evidence}, where it expects 5",
            "raises AssertionError: metadata is None; global metadata read failed: too many values "
            "to unpack (expected 5)",
            "load it with torch 2.15 or later",
        )
    if band == "1.13" and release >= (2, 0):
        return _note(
            f"torch {torch_version} is installed and cannot read this checkpoint, though it is "
            f"written as torch 1.13 does: its {provenance.torch_evidence} are others by now",
            "raises KeyError: MetadataIndex(...) (measured with torch 2.13 and 2.15)",
            "load it with torch 1.13, and save it again with a later one",
        )
    return None


def _release(torch_version: str | None) -> tuple[str, tuple[int, int] | None]:
    """A torch's version, by default the installed one's, and its major and minor number."""
    version = torch_version or installed_torch() or ""
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return version, (int(numbers[1]), int(numbers[2])) if numbers else None


def _dtype_note(dtypes: Iterable[str], torch_version: str | None) -> Finding | None:
    """Element types that the torch does not have."""
    torch_version, release = _release(torch_version)
    if release is None:
        return None
    lacking = sorted((SINCE[dtype], dtype) for dtype in set(dtypes) if dtype in SINCE)
    if not lacking or release >= lacking[-1][0]:
        return None
    (major, minor), dtype = lacking[-1]
    return _note(
        f"torch {torch_version} is installed and cannot read this checkpoint: a tensor is of "
        f"{dtype}, which torch {major}.{minor} and later have",
        f"raises AttributeError: Can't get attribute {dtype!r} on <module 'torch'>",
        f"load it with torch {major}.{minor} or later",
    )


def _path_note(
    provenance: Provenance, python_version: tuple[int, int], *, on_windows: bool
) -> Finding | None:
    paths = [c for c in provenance.classes if c.startswith("pathlib.")]
    for path in paths:
        if path.startswith("pathlib._local.") and python_version < (3, 13):
            mine = ".".join(map(str, python_version))
            return _note(
                f"Python {mine} cannot read this checkpoint, which Python 3.13 or later wrote: its "
                "save path is an object of pathlib._local",
                "raises AssertionError: metadata is None; ... No module named 'pathlib._local'",
                "load it with Python 3.13 or later, or save it with a str as checkpoint_id",
            )
        alien = "PosixPath" if on_windows else "WindowsPath"
        if path.endswith("." + alien):
            return _note(
                f"this system cannot read this checkpoint: its save path is a {alien}",
                f"raises AssertionError: metadata is None; ... cannot instantiate '{alien}' on "
                "your system",
                "load it on the kind of system that wrote it, or save it with a str as "
                "checkpoint_id",
            )
    return None


def _packages_note(provenance: Provenance) -> Finding | None:
    """Known classes of other packages (Megatron-Core, OLMo-core) that are not installed."""
    roots = {c.partition(".")[0]: c for c in provenance.classes}
    for root in sorted(roots.keys() - _AT_HOME):
        if _is_installed(root):
            continue
        return _note(
            f".metadata holds objects of {printable(roots[root], _MAX_NAME)}, which is not "
            "installed here",
            f"raises ModuleNotFoundError: No module named {printable(root, 60)!r}",
            f"install {printable(root, 60)} where you load the checkpoint",
        )
    return None


def _is_installed(package: str) -> bool:
    # The name comes from the pickle: only a plain one is looked up, and nothing is imported.
    if not package.isidentifier():
        return False
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
