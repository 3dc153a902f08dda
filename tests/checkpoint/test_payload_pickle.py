"""The scanner of payload pickles: names what a pickle would run, and runs nothing."""

from __future__ import annotations

import collections
import datetime
import enum
import functools
import logging
import os
import pathlib
import pickle
import random
import re
import sys
import time
import tracemalloc
import typing
from types import SimpleNamespace

import numpy as np
import pytest

from inspector.checkpoint.payload.scan.feed import Feed, PickleError
from inspector.checkpoint.payload.scan.scan import scan


class Evil:
    def __init__(self, func: object, *args: object) -> None:
        self.func, self.args = func, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.func, self.args


class Colour(enum.Enum):
    RED = 1


HARMLESS = [
    1, 1.5, "text", b"bytes", None, True, 10**100, -1, (1, (2, 3)), [1, [2]], {"a": {1, 2}},
    frozenset({1}), bytearray(b"x"), 1 + 2j, slice(1, 2), collections.OrderedDict(a=1),
    collections.Counter("aab"), collections.deque([1]), collections.defaultdict(list),
    datetime.datetime(2024, 1, 1), datetime.timedelta(1), pathlib.PurePosixPath("a/b"),
    np.arange(6).reshape(2, 3), np.float32(1.5), np.random.RandomState(0), random.getstate(),
    np.random.default_rng(0), SimpleNamespace(a=1), ["x" * 5000] * 3, list(range(5000)),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_harmless_in_every_protocol(protocol: int) -> None:
    for value in HARMLESS:
        data = pickle.dumps(value, protocol)
        for keep in (False, True):
            found = scan(data, keep=keep)
            assert (found.unsafe, found.unknown, found.end) == ((), (), len(data)), value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_named_and_not_run(protocol: int, tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "marker"
    for func, args, name in [
        (os.system, (f"touch {marker}",), "posix.system"),
        (exec, (f"open({str(marker)!r}, 'w')",), "exec"),
        (getattr, (os, "system"), "getattr"),
        (pathlib.Path.touch, (marker,), "Path.touch"),
    ]:
        if args[0] is os:
            data = b"cbuiltins\ngetattr\n(cposix\nerrno\nVsystem\ntR."
        else:
            data = pickle.dumps({"lr": 0.1, "x": [Evil(func, *args)]}, protocol)
        for keep in (False, True):
            assert any(name in n for n in scan(data, keep=keep).unsafe), (func, protocol)
    assert not marker.exists()


TRICKS = {
    "inst": b"(S'ls'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nVls\no.",
    "computed name": b"\x80\x04\x8c\x06builtinsX\x02\x00\x00\x00ab\x93.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "from memo": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x02ls\x85R.",
    "both memos": b"\x80\x04\x8c\x02os\x94\x8c\x06systemq\x050h\x00h\x05\x93\x8c\x02ls\x85R.",
    "string escapes": b"\x80\x02S'o\\x73'\nS'system'\n\x93(S'ls'\ntR.",
    "unicode escapes": b"\x80\x04Vo\\u0073\nVsystem\n\x93(S'ls'\ntR.",
    "dotted through torch": b"ctorch.utils.collect_env\nsubprocess.Popen\n(S'ls'\ntR.",
    "capital in torch": b"ctorch._inductor.compile_worker.subproc_pool\nSubprocPool\n(K\x02tR.",
    "load from bytes": b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
    "extension": b"\x82\x01.",
    "call of a call": b"ccollections\nOrderedDict\n)R)R.",
    "change of a name": b"ccollections\nOrderedDict\n}(S'x'\nK\x01ub.",
    "class called": b"cmypackage.thing\nRunner\n(S'ls'\ntR.",
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_unsafe(name: str) -> None:
    for keep in (False, True):
        try:
            assert scan(TRICKS[name], keep=keep).unsafe
        except PickleError:
            assert name == "computed name"


def test_an_unknown_class_is_only_unknown() -> None:
    assert scan(b"cmypackage\nConfig\n)\x81.").unknown == ("mypackage.Config",)


def test_enum_members_by_getattr() -> None:
    data = b"cbuiltins\ngetattr\n(cmypackage\nColour\nVRED\ntR."
    assert scan(data).unsafe == ()
    # A call of a class that is not known, with one literal, as an enum's member is written.
    found = scan(pickle.dumps(Colour.RED, 2))
    assert (found.unsafe, found.unknown) == ((), (f"{__name__}.Colour",))


class Holder:
    def __init__(self) -> None:
        self.bound = self.method

    def method(self) -> None:
        pass


FOREIGN = [
    re.compile("a.b"), functools.partial(Holder, 1), functools.partial(len), ValueError("x"),
    logging.getLogger("x"), [int, str, float, type(None)], ..., Holder(), Holder, Holder.method,
    functools.partial(re.compile), time.struct_time(range(9)), typing.Any, [Colour, Colour.RED],
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_harmless_by_what_it_names_is_no_attack(protocol: int) -> None:
    for value in FOREIGN:
        data = pickle.dumps(value, protocol)
        for keep in (False, True):
            assert scan(data, keep=keep).unsafe == (), value


# Calls through a rebuilder that calls what it is given; and what only looks like an enum.
THROUGH = {
    "type rebuilder": b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\n"
    b"ctorch\nTensor\n(S'ls'\nt}tR.",
    "type rebuilder, foreign": b"ctorch._tensor\n_rebuild_from_type_v2\n(cmypackage\nrun\n"
    b"ctorch\nTensor\n(S'ls'\nt}tR.",
    "numpy generator": b"cnumpy.random._pickle\n__generator_ctor\n(S'x'\ncmypackage\nrun\ntR.",
    "numpy generator, listed": b"cnumpy.random._pickle\n__generator_ctor\n(S'x'\n](cmypackage\n"
    b"run\netR.",
    "bound method": b"cnumpy.random._pickle\n__generator_ctor\n(S'x'\ncbuiltins\ngetattr\n"
    b"(cmypackage\nThing\n)\x81S'run'\ntRtR.",
    "partial": b"cnumpy.random._pickle\n__generator_ctor\n(S'x'\ncfunctools\npartial\n"
    b"(cmypackage\nrun\ntRtR.",
    "partial, called": b"cfunctools\npartial\n(cmypackage\nrun\ntR)R.",
    "type with three": b"cbuiltins\ntype\n(S'X'\n(t}tR.",
    "popen of a package": b"cpsutil\nPopen\n(S'ls'\ntR.",
    "library": b"cmypackage\nCDLL\n(S'libx'\ntR.",
    "class of torch": b"ctorch.jit\nCompilationUnit\n(S'x'\ntR.",
    "capital of a writer": b"cmegatron.core\nTrainer\n(S'a/b'\ntR.",
    "reconstructor": b"ccopyreg\n_reconstructor\n(cmypackage\nThing\ncmypackage\nBase\nNtR.",
    "iter": b"cbuiltins\niter\n(cmypackage\nrun\nNtR.",
}


@pytest.mark.parametrize("name", THROUGH)
def test_what_a_rebuilder_calls_is_called(name: str) -> None:
    for keep in (False, True):
        assert scan(THROUGH[name], keep=keep).unsafe, keep
        feed = Feed(iter([memoryview(THROUGH[name][i : i + 1]) for i in range(len(THROUGH[name]))]))
        assert scan(feed, keep=keep).unsafe, keep


def test_a_tensor_class_wants_its_package_and_no_more() -> None:
    data = THROUGH["type rebuilder, foreign"]
    found = scan(data, keep=True, weights_only=True)
    assert (found.unsafe, found.unknown) == ((), ("mypackage.run",))
    assert scan(THROUGH["type rebuilder"], keep=True, weights_only=True).unsafe


def test_a_pickle_of_any_length_is_read_as_a_stream() -> None:
    long = {
        "text": "x" * (3 << 20),
        "bytes": b"y" * (3 << 20),
        "many": [(i, str(i)) for i in range(9999)],
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps([long, Evil(os.system, "ls")], protocol)
        whole = scan(data)
        blocks = [memoryview(data)[i : i + 1000] for i in range(0, len(data), 1000)]
        feed = Feed(iter([*blocks, memoryview(b"rest")]))
        found = scan(feed)
        assert (found.unsafe, found.unknown) == (whole.unsafe, whole.unknown)
        assert any("system" in name for name in found.unsafe)
        assert feed.read(4) == b"rest"


def test_a_text_longer_than_any_name_is_never_whole_in_memory() -> None:
    block = memoryview(b"x" * (1 << 20))
    for start, end in [
        (b"\x80\x04\x8d" + (64 << 20).to_bytes(8, "little"), b"."),
        (b"\x80\x04\x8e" + (64 << 20).to_bytes(8, "little"), b"."),
        (b"V", b"\n."),
    ]:
        feed = Feed(iter([memoryview(start), *[block] * 64, memoryview(end + b"rest")]))
        tracemalloc.start()
        found = scan(feed)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (found.unsafe, found.unknown) == ((), ())
        assert found.end == len(start) + (64 << 20) + len(end)
        assert feed.read(4) == b"rest"
        assert peak < 4 << 20


def test_names_and_texts_are_read_as_an_unpickler_reads_them() -> None:
    # Protocol 3 writes names in UTF-8, and a backslash in one is a backslash.
    data = b"\x80\x03cmypackage\n" + "Größe".encode() + b"\n)\x81."
    assert scan(data).unknown == ("mypackage.Größe",)
    assert scan(b"co\\x73\nsystem\n)\x81.").unknown == ("o\\x73.system",)
    # Python 2 wrote such texts; torch reads them as UTF-8.
    assert scan(b"S'caf\\xc3\\xa9'\n.", keep=True).unsafe == ()


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "declared bytes": b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b".",
    "declared text": b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b".",
    "declared int": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "nested": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
    "doubling": b"\x80\x02)" + b"q\x00h\x00\x86" * 100 + b"}h\x00K\x01s.",
    "int text": b"I" + b"9" * 1_000_000 + b"\n.",
    "memoize": b"\x80\x04)" + b"\x94" * 3_000_000 + b".",
    "lists": b"\x80\x02" + b"]" * 3_000_000 + b".",
    "marks": b"\x80\x02" + b"(" * 3_000_000 + b".",
    "names": b"\x80\x04" + b"\x8c\x02ab\x94" * 700_000 + b".",
    "no end": b"\x80\x02" + b"N" * 1000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little(name: str) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        scan(BOMBS[name], keep=len(BOMBS[name]) < 200_000)
    except PickleError:
        pass
    assert time.process_time() - start < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 400 << 20


@pytest.mark.slow
def test_random_bytes_give_an_answer_or_our_error() -> None:
    rng = random.Random(7)  # noqa: S311
    base = pickle.dumps({"a": [1, 2.5, ("x", b"y")], "b": np.arange(3)}, 2)
    for _ in range(20_000):
        data = bytearray(base)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        for keep in (False, True):
            try:
                scan(bytes(data), keep=keep)
            except PickleError:
                pass
