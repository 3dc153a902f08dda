from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inspector.tui.tensors.trie import ModuleTrie, TrieNode


def trie(names: list[str], **kwargs: int) -> ModuleTrie:
    return ModuleTrie(names, [10] * len(names), **kwargs)


def names_below(tree: ModuleTrie, node: TrieNode) -> list[str]:
    return [child.name for child in tree.children(node)]


def below(tree: ModuleTrie, *path: str) -> TrieNode:
    node = tree.root
    for part in path:
        node = next(c for c in tree.children(node) if c.name == part)
    return node


LAYERS = [f"model.layers.{i}.{w}" for i in range(80) for w in ("q.weight", "q.bias", "norm")]


def test_modules_come_in_the_order_of_the_state_dict() -> None:
    tree = trie(["b.x", "a", "b.y", "c.z.w"])
    assert names_below(tree, tree.root) == ["b", "a", "c.z.w"]
    node = below(tree, "b")
    assert (node.kind, node.prefix, node.indices.tolist(), node.num_bytes) == (
        "module",
        ("b",),
        [0, 2],
        20,
    )
    lone = below(tree, "c.z.w")
    assert (lone.kind, lone.prefix, lone.members) == ("tensor", ("c", "z", "w"), (3,))


def test_numbered_siblings_that_are_alike_fold() -> None:
    tree = trie(["embed", *LAYERS])
    layers = below(tree, "model", "layers") if len(tree.children(tree.root)) > 1 else tree.root
    (fold,) = tree.children(layers)
    assert (fold.kind, fold.name, fold.num_alike, fold.num_tensors) == ("fold", "0..79", 80, 240)
    assert fold.num_bytes == 2400
    assert fold.prefix == ("model", "layers")
    assert names_below(tree, fold)[:3] == ["0", "1", "2"]
    assert len(tree.children(fold)) == 80
    assert names_below(tree, tree.children(fold)[7]) == ["q", "norm"]


def test_those_that_differ_stay_apart() -> None:
    dense = [f"l.{i}.mlp.{w}" for i in range(3) for w in ("up", "down")]
    moe = [f"l.{i}.experts.{w}" for i in range(3, 20) for w in ("w1", "w2")]
    tree = trie(dense + moe + ["z"])
    assert names_below(tree, below(tree, "l")) == ["0", "1", "2", "3..19"]


def test_every_second_one_folds_by_its_step() -> None:
    names = [f"l.{i}.{'a' if i % 2 else 'b'}.{w}" for i in range(24) for w in "xy"]
    tree = trie([*names, "z"])
    assert names_below(tree, below(tree, "l")) == ["0..22 by 2", "1..23 by 2"]


def test_few_do_not_fold_and_numbers_come_in_number_order() -> None:
    tree = trie([f"l.{i}.w" for i in (10, 2, 1)] + ["l.a.w", "z"])
    assert names_below(tree, below(tree, "l")) == ["1.w", "2.w", "10.w", "a.w"]
    wide = trie(LAYERS, fold_above=100)
    layers = wide.children(wide.children(wide.root)[0])[0]
    assert len(wide.children(layers)) == 80


def test_a_name_that_is_also_a_module_and_names_that_come_twice() -> None:
    tree = trie(["a", "a.b", "a.c", "a", ""])
    nodes = tree.children(tree.root)
    assert [(n.kind, n.name) for n in nodes] == [
        ("tensor", "a"),
        ("module", "a"),
        ("tensor", "a"),
        ("tensor", ""),
    ]


def test_paths_may_be_given() -> None:
    paths = [("optim", "layers.0.weight", "exp_avg"), ("optim", "layers.0.weight", "step"), ("m",)]
    tree = ModuleTrie(["x", "y", "z"], [1, 2, 3], paths)
    assert names_below(tree, tree.root) == ["optim", "m"]
    assert names_below(tree, below(tree, "optim")) == ["layers.0.weight"]
    assert names_below(tree, below(tree, "optim", "layers.0.weight")) == ["exp_avg", "step"]


NAMES = st.lists(st.text("ab.0123\0", max_size=8), max_size=40)


@given(NAMES)
def test_every_tensor_is_in_the_tree_once(names: list[str]) -> None:
    tree = trie(names, fold_above=2)
    seen: list[int] = []

    def walk(node: TrieNode) -> None:
        children = tree.children(node)
        if node.kind == "tensor":
            seen.extend(node.indices.tolist())
            assert ".".join(node.prefix) == names[int(node.indices[0])]
            return
        assert sorted(i for c in children for i in c.indices.tolist()) == sorted(
            node.indices.tolist()
        )
        assert sum(c.num_bytes for c in children) == node.num_bytes
        for child in children:
            walk(child)

    walk(tree.root)
    assert sorted(seen) == list(range(len(names)))
