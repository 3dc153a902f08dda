"""The rules of the house, measured: rooms, circles, names used twice, lazy imports, long files.

`python -m tests.helpers.house` prints them; `tests/test_house.py` holds them.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "inspector"

MAX_FILES = 12
MAX_LINES = 500

#: Modules in which an import may stand inside a function without a word, and why.
LAZY = {
    "inspector.__main__": "the screen and the command line are imported when they are asked for",
    "inspector.cli": "a command is imported when it is asked for",
    "inspector.tui.launch": "reading begins before Textual is imported",
    "inspector.tui.app": "the first frame does without what other screens take",
    "inspector.tui.screens": "the first frame does without what other screens take",
    "inspector.tui.kit.view": "the first frame does without what a filter takes",
    "inspector.tui.tensors": "the first frame does without what other panes take",
    "inspector.checkpoint.child": "the child imports nothing that its request does not take",
    "inspector.verify.ranks": "torch is imported when the job is known to be possible",
}
#: A word on the line itself, or on the one above, that says why.
REASON = "# lazy:"


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: Dotted.
        num_lines: Of text.
        tree: Its syntax.
        lines: Its text.
    """

    name: str
    num_lines: int
    tree: ast.Module
    lines: tuple[str, ...]

    @property
    def room(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Import:
    """An import of one module by another.

    Attributes:
        name: The imported module.
        line: Where it stands.
        is_lazy: Inside a function.
        is_for_types: Under `if TYPE_CHECKING`.
    """

    name: str
    line: int
    is_lazy: bool
    is_for_types: bool


def modules(root: Path = ROOT) -> dict[str, Module]:
    """Every file of the package but the empty `__init__`, by its dotted name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        lines = tuple(text.splitlines())
        found[name] = Module(name, len(lines), ast.parse(text), lines)
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """What a module imports, of this package and others."""

    def visit(node: ast.AST, lazy: bool, types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
                yield from visit(child, inside, True)
                continue
            if isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    name = full if full in known else child.module
                    yield Import(name, child.lineno, inside, types)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, inside, types)
            yield from visit(child, inside, types)

    return visit(module.tree, False, False)


def files_of_rooms(known: dict[str, Module], root: Path = ROOT) -> dict[str, int]:
    """How many files each room holds, without its `__init__`."""
    rooms: Counter[str] = Counter()
    for path in (root / PACKAGE).rglob("*.py"):
        if path.name != "__init__.py":
            rooms[".".join(path.parent.relative_to(root).parts)] += 1
    return dict(rooms)


def circles(known: dict[str, Module]) -> list[list[str]]:
    """Modules that import each other, by whatever kind of import: strongly connected parts."""
    graph = {
        name: sorted({i.name for i in imports(module, known)} & known.keys() - {name})
        for name, module in known.items()
    }
    order: list[str] = []
    seen: set[str] = set()
    for name in graph:
        _after(name, graph, seen, order)
    back: dict[str, list[str]] = defaultdict(list)
    for name, targets in graph.items():
        for target in targets:
            back[target].append(name)
    seen = set()
    found = []
    for name in reversed(order):
        part: list[str] = []
        _after(name, back, seen, part)
        if len(part) > 1:
            found.append(sorted(part))
    return found


def _after(start: str, graph: dict[str, list[str]], seen: set[str], order: list[str]) -> None:
    """Depth first from `start`: names in the order in which they are left."""
    if start in seen:
        return
    seen.add(start)
    stack = [(start, iter(graph.get(start, [])))]
    while stack:
        name, rest = stack[-1]
        for target in rest:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(graph.get(target, []))))
                break
        else:
            order.append(name)
            stack.pop()


def names_used_twice(known: dict[str, Module]) -> dict[str, list[str]]:
    """Public classes of one name: where they stand. A class inside a class is its owner's."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in known.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module.name)
    return {name: where for name, where in sorted(found.items()) if len(where) > 1}


def lazy_imports(known: dict[str, Module]) -> list[str]:
    """Imports inside functions that neither `LAZY` nor a word on the line explains."""
    found = []
    for module in known.values():
        if any(module.name == m or module.name.startswith(f"{m}.") for m in LAZY):
            continue
        for one in imports(module, known):
            if not one.is_lazy or one.is_for_types:
                continue
            near = module.lines[max(0, one.line - 2) : one.line]
            if not any(REASON in line for line in near):
                found.append(f"{module.name}:{one.line} imports {one.name}")
    return found


def long_modules(known: dict[str, Module]) -> dict[str, int]:
    """Modules over the limit, with their lines."""
    return {m.name: m.num_lines for m in known.values() if m.num_lines > MAX_LINES}


def main() -> None:
    """Print all of it."""
    known = modules()
    rooms = files_of_rooms(known)
    for room, num_files in sorted(rooms.items()):
        lines = sum(m.num_lines for m in known.values() if m.room == room)
        mark = "  TOO MANY" if num_files > MAX_FILES else ""
        print(f"{room:34} {num_files:3} files {lines:6,} lines{mark}")
    total = sum(module.num_lines for module in known.values())
    print(f"{len(rooms)} rooms, {sum(rooms.values())} files, {total:,} lines")
    for title, what in (
        ("circles", circles(known)),
        ("class names used twice", names_used_twice(known)),
        ("modules too long", long_modules(known)),
        ("lazy imports without a reason", lazy_imports(known)),
    ):
        print(f"{title}: {len(what)}")
        for one in what.items() if isinstance(what, dict) else what:
            print(f"  {one}")


if __name__ == "__main__":
    sys.exit(main())
