"""The rules of the house (docs/architecture.md) hold; `tests/helpers/house.py` measures them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.house import (
    MAX_FILES,
    ROOT,
    Module,
    circles,
    files_of_rooms,
    lazy_imports,
    long_modules,
    modules,
    names_used_twice,
)

#: Imports inside functions that no word explains: the number may only fall.
MAX_LAZY_IMPORTS = 0


@pytest.fixture(scope="module")
def known() -> dict[str, Module]:
    return modules()


def test_a_room_holds_at_most_twelve_files(known: dict[str, Module]) -> None:
    assert {r: n for r, n in files_of_rooms(known).items() if n > MAX_FILES} == {}


def test_the_architecture_names_every_room(known: dict[str, Module]) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {room.removeprefix("inspector.") for room in files_of_rooms(known)} - {"inspector"}
    named = set(re.findall(r"`([a-z/]+?)/?`", page))
    assert {r for r in rooms if not {r.replace(".", "/"), r.rpartition(".")[2]} & named} == set()


def test_no_module_is_too_long(known: dict[str, Module]) -> None:
    assert long_modules(known) == {}


def test_modules_import_in_no_circle(known: dict[str, Module]) -> None:
    assert circles(known) == []


def test_a_public_class_is_found_once(known: dict[str, Module]) -> None:
    assert names_used_twice(known) == {}


def test_imports_stand_at_the_top_or_say_why(known: dict[str, Module]) -> None:
    lazy = lazy_imports(known)
    assert len(lazy) <= MAX_LAZY_IMPORTS, "\n".join(lazy)


def test_a_module_that_is_run_begins_when_all_of_it_is_there(known: dict[str, Module]) -> None:
    begins = {}
    for name, module in known.items():
        for place, node in enumerate(module.tree.body, 1):
            if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
                begins[name] = len(module.tree.body) - place
    assert begins["inspector.verify.ranks.worker"] == 0
    assert set(begins.values()) == {0}, begins


def test_the_measures_see_what_breaks_a_rule(tmp_path: Path) -> None:
    room = tmp_path / "inspector" / "room"
    room.mkdir(parents=True)
    for i in range(MAX_FILES + 1):
        (room / f"m{i}.py").write_text("x = 1\n" * (501 if i == 5 else 1))
    (room / "a.py").write_text("from inspector.room.b import B\nclass Chosen: ...\n")
    (room / "b.py").write_text(
        "class Chosen: ...\ndef f():\n    import inspector.room.c\n"
        "def g():\n    # lazy: it says why\n    import inspector.room.m1\n"
    )
    (room / "c.py").write_text("import inspector.room.a\n")
    found = modules(tmp_path)
    assert files_of_rooms(found, tmp_path)["inspector.room"] == MAX_FILES + 4
    assert long_modules(found) == {"inspector.room.m5": 501}
    assert circles(found) == [["inspector.room.a", "inspector.room.b", "inspector.room.c"]]
    assert list(names_used_twice(found)) == ["Chosen"]
    assert lazy_imports(found) == ["inspector.room.b:3 imports inspector.room.c"]
