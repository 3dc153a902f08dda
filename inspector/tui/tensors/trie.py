"""`ModuleTrie`: the tensors of a checkpoint as a tree of modules, made where it is looked at.

The rule this module keeps: a node's children are found when they are first asked for, from the
tensors below it; opening a tree of 100,000 tensors costs one pass over their names.

Runs of numbered siblings with the same names below them (`layers.0` to `layers.79`) fold into
one node, whose children are the numbered ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["ModuleTrie", "TrieNode"]

Ints: TypeAlias = npt.NDArray[np.int64]


class TrieNode(NamedTuple):
    """One node.

    A NamedTuple, since a level may have 100,000 of them and no other value is made as fast.

    Attributes:
        kind: `module`, `tensor`, or `fold` for numbered siblings shown as one.
        name: What its line says; raw. A module with one tensor below is that tensor, and its
            name has the rest of the path (`q_proj.weight`).
        prefix: Path of the node; of a fold, its parent's.
        members: The tensors below it, in the checkpoint's order.
        num_bytes: Their bytes.
        num_alike: Of a fold: how many siblings it stands for.
    """

    kind: Literal["module", "tensor", "fold"]
    name: str
    prefix: tuple[str, ...]
    members: Ints | tuple[int, ...]
    num_bytes: int
    num_alike: int = 0

    @property
    def indices(self) -> Ints:
        return np.asarray(self.members, dtype=np.int64)

    @property
    def num_tensors(self) -> int:
        return len(self.members)


class ModuleTrie:
    """The tree over a list of names.

    Args:
        names: Raw names of all tensors.
        num_bytes: Bytes of each.
        paths: Path of each, where a dot in the name is not what parts it; None cuts every name
            at its dots.
        fold_above: Numbered siblings that are alike fold if there are more than this.
    """

    def __init__(
        self,
        names: Sequence[str],
        num_bytes: Sequence[int],
        paths: Sequence[tuple[str, ...]] | None = None,
        *,
        fold_above: int = 8,
    ) -> None:
        self._names = names
        self._num_bytes = num_bytes
        self._paths = paths
        self._fold_above = fold_above
        self._children: dict[int, tuple[TrieNode, ...]] = {}
        every = np.arange(len(names), dtype=np.int64)
        self.root = TrieNode("module", "", (), every, sum(num_bytes))

    def children(self, node: TrieNode) -> tuple[TrieNode, ...]:
        """The nodes below `node`: numbers in their order, other names as they first come."""
        if node.kind == "tensor":
            return ()
        # Nodes live as long as the trie, so an id stands for one node.
        if (known := self._children.get(id(node))) is None:
            known = self._children[id(node)] = self._fold(node, self._group(node))
        return known

    def look_ahead(self) -> ModuleTrie:
        """Find the nodes that a tree shows first, down to where it branches; returns itself."""
        below = self.children(self.root)
        while len(below) == 1:
            below = self.children(below[0])
        return self

    def _group(self, node: TrieNode) -> list[TrieNode]:
        """The children, before numbers are put in order and folded."""
        prefix = node.prefix
        groups: dict[str, list[int]] = {}
        leaves: list[TrieNode] = []

        def leaf(part: str, index: int) -> None:
            path = (*prefix, part)
            leaves.append(TrieNode("tensor", part, path, (index,), self._num_bytes[index]))

        if self._paths is None:
            lone = self._lone_child(node)
            if lone is not None:
                return [lone]
            self._group_names(node, groups, leaf)
        else:
            depth = len(prefix)
            for index in map(int, node.members):
                path = self._paths[index]
                if len(path) > depth + 1:
                    groups.setdefault(path[depth], []).append(index)
                else:
                    leaf(path[depth] if len(path) > depth else "", index)
        nodes = [self._node(key, prefix, group) for key, group in groups.items()]
        if leaves and nodes:
            return sorted(nodes + leaves, key=lambda n: int(n.members[0]))
        return nodes or leaves

    def _group_names(
        self, node: TrieNode, groups: dict[str, list[int]], leaf: Callable[[str, int], None]
    ) -> None:
        """Tensors by the next part of their name."""
        # All names below a node begin with its prefix: it is not cut again.
        start = sum(len(part) + 1 for part in node.prefix)
        names = self._names
        run: str | tuple[str, ...] = ()
        group: list[int] = []
        for index in node.indices.tolist():
            name = names[index]
            # Most names continue a run of the one before.
            if name.startswith(run, start):
                group.append(index)
                continue
            dot = name.find(".", start)
            if dot < 0:
                leaf(name[start:], index)
            else:
                run = name[start : dot + 1]
                group = groups.setdefault(name[start:dot], [])
                group.append(index)

    def _lone_child(self, node: TrieNode) -> TrieNode | None:
        """The only child, where all names begin with it: found without looking at each."""
        if len(node.members) < 2:
            return None
        names = list(map(self._names.__getitem__, node.indices.tolist()))
        low, high = min(names), max(names)  # what these two share, all share
        start = sum(len(part) + 1 for part in node.prefix)
        dot = low.find(".", start)
        if dot < 0 or not high.startswith(low[: dot + 1]):
            return None
        key = low[start:dot]
        return TrieNode("module", key, (*node.prefix, key), node.members, node.num_bytes)

    def _node(self, key: str, prefix: tuple[str, ...], group: list[int]) -> TrieNode:
        path = (*prefix, key)
        if len(group) > 1:
            total = sum(map(self._num_bytes.__getitem__, group))
            return TrieNode("module", key, path, np.array(group, np.int64), total)
        index = group[0]
        if self._paths is not None:
            path = self._paths[index]
        else:
            start = sum(len(part) + 1 for part in path)
            path = (*path, *self._names[index][start:].split("."))
        rest = ".".join(path[len(prefix) :])
        return TrieNode("tensor", rest, path, (index,), self._num_bytes[index])

    def _fold(self, node: TrieNode, nodes: list[TrieNode]) -> tuple[TrieNode, ...]:
        """Numbers among themselves in number order, and those that are alike as one."""
        depth = len(node.prefix)
        places = [i for i, n in enumerate(nodes) if _is_number(n.prefix[depth])]
        numbered = sorted((nodes[i] for i in places), key=lambda n: int(n.prefix[depth]))
        for i, child in zip(places, numbered, strict=True):
            nodes[i] = child
        if len(numbered) <= self._fold_above:
            return tuple(nodes)
        alike: dict[tuple[object, ...], list[TrieNode]] = {}
        for child in numbered:
            alike.setdefault(self._below(child, depth + 1), []).append(child)
        folds: dict[int, TrieNode | None] = {}
        for members in alike.values():
            if len(members) > self._fold_above:
                folds.update((id(member), None) for member in members)
                folds[id(members[0])] = self._fold_of(node, members)
        shown = [folds.get(id(child), child) for child in nodes]
        return tuple(child for child in shown if child is not None)

    def _fold_of(self, node: TrieNode, members: list[TrieNode]) -> TrieNode:
        numbers = [int(m.prefix[len(node.prefix)]) for m in members]
        steps = set(np.diff(numbers).tolist())
        name = f"{numbers[0]}..{numbers[-1]}"
        if len(steps) == 1 and (step := steps.pop()) > 1:
            name += f" by {step}"
        fold = TrieNode(
            "fold", name, node.prefix, np.concatenate([m.indices for m in members]),
            sum(m.num_bytes for m in members), len(members),
        )  # fmt: skip
        self._children[id(fold)] = tuple(members)
        return fold

    def _below(self, child: TrieNode, depth: int) -> tuple[object, ...]:
        """What makes two numbered siblings alike: the names below them, in order."""
        indices = child.indices.tolist()
        if self._paths is not None:
            return tuple([self._paths[i][depth:] for i in indices])
        start = sum(len(part) + 1 for part in child.prefix[:depth])
        names = self._names
        return tuple([names[i][start:] for i in indices])


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 18
