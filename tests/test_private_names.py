"""Private names of other libraries that this project uses: each with the versions that have it.

Whoever raises a bound in `pyproject.toml` reads here what may break; a name that is used and not
listed fails.
"""

from __future__ import annotations

import ast
import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import inspector

ROOT = Path(inspector.__file__).parent

#: Distribution, where the name is, the name, and the newest version that it was seen in.
NAMES = [
    ("textual", "textual", "_xterm_parser", "8.2.8"),
    ("textual", "textual.app.App", "_fatal_error", "8.2.8"),
    ("textual", "textual.app.App", "_close_messages_no_wait", "8.2.8"),
    ("textual", "textual.app.App", "_exception", "8.2.8"),
    ("textual", "textual.app.App", "_driver", "8.2.8"),
    ("textual", "textual.driver.Driver", "_app", "8.2.8"),
    ("textual", "textual.drivers.linux_driver.LinuxDriver", "_writer_thread", "8.2.8"),
    ("textual", "textual.widget.Widget", "_get_component_classes", "8.2.8"),
    ("rich", "rich", "_wrap", "15.0.0"),
    ("torch", "torch.distributed.checkpoint.filesystem", "_StorageInfo", "2.13.0"),
    ("torch", "torch.distributed.tensor", "_utils", "2.14.1"),
    ("torch", "torch.distributed.tensor.placement_types", "_StridedShard", "2.14.1"),
    ("fsspec", "fsspec.asyn.AsyncFileSystem", "_cat_file", "2026.9.0"),
    ("fsspec", "fsspec.asyn.AsyncFileSystem", "_find", "2026.9.0"),
    ("fsspec", "fsspec.asyn.AsyncFileSystem", "_info", "2026.9.0"),
    ("fsspec", "fsspec.asyn.AsyncFileSystem", "_ls", "2026.9.0"),
    ("s3fs", "s3fs.core.S3FileSystem", "_call_s3", "2026.9.0"),
    ("s3fs", "s3fs.core.S3FileSystem", "_s3", "2026.9.0"),
    ("gcsfs", "gcsfs.GCSFileSystem", "_request", "2026.10.1"),
    ("gcsfs", "gcsfs.GCSFileSystem", "_location", "2026.10.1"),
    ("gcsfs", "gcsfs.GCSFileSystem", "_call", "2026.10.1"),
]
#: Read with a default, so that a version without it works likewise.
OPTIONAL = {"_timeout_kwargs"}
#: Set by an `__init__`, so that a class does not show it.
SET_LATER = {"_app", "_driver", "_writer_thread", "_exception", "_s3"}
#: Not called here: we define it anew, and the library calls it.
DEFINED_ANEW = {"_fatal_error"}


@pytest.mark.parametrize(("package", "place", "name", "seen"), NAMES)
def test_the_installed_version_has_it(package: str, place: str, name: str, seen: str) -> None:
    try:
        installed = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    module, _, kind = place.rpartition(".")
    if kind[:1].isupper():
        holder = importlib.import_module(module)
        source = Path(holder.__file__ or "").read_text(encoding="utf-8")
        is_there = hasattr(getattr(holder, kind), name)
        is_there |= name in SET_LATER and f"self.{name}" in source
    else:
        is_there = hasattr(importlib.import_module(place), name) or bool(
            importlib.import_module(f"{place}.{name}")
        )
    assert is_there, f"{package} {installed} lacks {name}, which {seen} has"


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _used(nodes: list[ast.AST]) -> set[str]:
    """Private names that a module takes from another, or from itself."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("inspector"):
            if node.level == 0:
                found |= {part for part in (node.module or "").split(".") if _private(part)}
                found |= {alias.name for alias in node.names if _private(alias.name)}
        elif isinstance(node, ast.Import):
            found |= {p for a in node.names for p in a.name.split(".") if _private(p)}
        elif isinstance(node, ast.Attribute) and _private(node.attr):
            found.add(node.attr)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr", "setattr")
            and isinstance(node.args[1], ast.Constant)
            and _private(str(node.args[1].value))
        ):
            found.add(str(node.args[1].value))
    return found


def _own(nodes: list[ast.AST]) -> set[str]:
    """Private names that a module of ours defines: functions, classes, attributes, fields."""
    own: set[str] = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            own.add(node.value)
    return own


# Standard library and Python: no other library's.
_PYTHON = {"_asdict", "_replace", "_fields", "_exit", "_make"}


def test_no_other_private_name_is_used() -> None:
    files = sorted(ROOT.rglob("*.py"))
    own = _PYTHON | {path.stem for path in files}
    places: dict[str, list[str]] = {}
    for path in files:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        own |= _own(nodes)
        for name in _used(nodes):
            places.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    listed = {name for _, _, name, _ in NAMES} | OPTIONAL
    used = {name: where for name, where in places.items() if name not in own - listed}
    assert set(used) <= listed, {name: used[name] for name in set(used) - listed}
    # And nothing is listed that is not used any more.
    assert listed - OPTIONAL - DEFINED_ANEW <= set(used), listed - set(used)
