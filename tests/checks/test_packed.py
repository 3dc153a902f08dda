"""Tensor subclasses and foreign objects: no false alarm on what loads, no attack passed over."""

from __future__ import annotations

import decimal
import enum
import functools
import http
import inspect
import io
import itertools
import logging
import operator
import re
import signal
import sys
import types
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checks.findings import Report
from inspector.checks.payload import packed as packed_room
from tests.checks.editing import judged
from tests.conftest import run_cli

PACKAGE = "packed_demo"


class Packed(torch.Tensor):
    """Shows itself as float32 and stores one byte for each element."""

    codes: torch.Tensor

    @staticmethod
    def __new__(cls, codes: torch.Tensor) -> Packed:
        made: Packed = torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)
        made.codes = codes
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        me = args[0]
        if name == "is_pinned":
            return False
        if name == "copy_":
            me.codes.copy_(args[1].codes)
            return me
        if name in ("detach", "clone", "_to_copy", "alias"):
            return cls(me.codes.clone() if name == "clone" else me.codes)
        if name == "slice":
            return cls(func(me.codes, *args[1:], **(kwargs or {})))
        raise NotImplementedError(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return torch._tensor._rebuild_from_type_v2, (make, Packed, (self.codes,), {})


def make(codes: torch.Tensor) -> Packed:
    return Packed(codes)


class Phase(enum.Enum):
    TRAIN = "train"


class Scheduler:
    def __init__(self) -> None:
        self.bound = self.step

    def step(self) -> int:
        return 1


@pytest.fixture
def package() -> Any:
    module: Any = types.ModuleType(PACKAGE)
    module.Packed, module.make = Packed, make
    before = Packed.__module__
    sys.modules[PACKAGE] = module
    Packed.__module__ = make.__module__ = PACKAGE
    with torch.serialization.safe_globals([Packed, make]):
        yield
    Packed.__module__ = make.__module__ = before
    del sys.modules[PACKAGE]


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def saved(folder: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def packed(folder: Path) -> Path:
    weight = Packed(torch.arange(4096, dtype=torch.uint8).reshape(64, 64))
    saved(folder, {"w": weight, "b": torch.ones(4)})
    back = {"w": Packed(torch.zeros(64, 64, dtype=torch.uint8)), "b": torch.zeros(4)}
    dcp.load(back, checkpoint_id=folder, no_dist=True)
    assert torch.equal(back["w"].codes, weight.codes)  # type: ignore[attr-defined]
    return folder


def test_a_packed_tensor_is_a_note(package: Any, tmp_path: Path) -> None:
    folder = packed(tmp_path / "c")
    report = judged(folder, deep=False)
    assert (report.verdict, codes(report)) == ("sound", {"packed-tensor"})
    (note,) = report.findings
    assert (note.severity, note.fqn) == ("note", "w")
    assert f"{PACKAGE}.Packed" in note.message
    deep = judged(folder)
    assert (deep.verdict, deep.exit_code) == ("sound", 0)
    assert codes(deep) == {"packed-tensor", "payload-foreign-class"}
    (left,) = deep.checked.not_checked
    assert f"{PACKAGE}.Packed" in left.what
    assert PACKAGE in left.why
    assert deep.checked.payloads == 2
    assert run_cli("plan", str(folder), "--mesh", "fsdp:2").code == 0


def test_of_many_packed_tensors_none_is_told_unlike_those_that_were_seen(
    package: Any, tmp_path: Path
) -> None:
    codes_of = torch.zeros(40, 40, dtype=torch.uint8)
    state: dict[str, Any] = {f"layers.{i}.w": Packed(codes_of) for i in range(80)}
    folder = saved(tmp_path / "c", {**state, "z": torch.ones(64, 64), "zz": torch.ones(4, 4)})
    report = judged(folder, deep=False)
    (note,) = report.findings
    assert note.message.startswith("80 tensors (layers.0.w is the first): ")
    assert "; of 16 of them only the sizes were looked at" in note.message
    # The last but one of 82 short ones holds no packed tensor: its size says 100 x 64.
    meta = folder / ".metadata"
    meta.write_bytes(meta.read_bytes().replace(b"K@K@", b"KdK@"))
    report = judged(folder, deep=False)
    assert {(f.code, f.severity, f.fqn) for f in report.findings} == {
        ("packed-tensor", "note", None),
        ("range-too-short", "error", "z"),
    }


def test_what_was_not_looked_at_is_neither_packed_nor_damaged(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = (40, 41, 42)
    state = {f"w{n}": Packed(torch.zeros(n, n, dtype=torch.uint8)) for n in sizes}
    folder = saved(tmp_path / "c", state)
    monkeypatch.setattr(packed_room, "_MAX_GROUPS", 2)
    report = judged(folder, deep=False)
    assert [(f.code, f.severity, f.fqn) for f in report.findings] == [
        ("range-too-short", "warning", "w42"),
        ("packed-tensor", "note", None),
    ]


def test_a_plain_tensor_that_is_too_short_stays_damage(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"w": torch.ones(64, 64)})
    meta = folder / ".metadata"
    data = meta.read_bytes()
    # The size of the tensor and of its chunk, 64 x 64, becomes 100 x 64: `K@` is the number 64.
    assert data.count(b"K@K@") >= 1
    meta.write_bytes(data.replace(b"K@K@", b"KdK@"))
    assert "range-too-short" in codes(judged(folder, deep=False))
    assert judged(folder, deep=False).verdict == "damaged"


def test_a_flipped_byte_of_a_packed_tensor_is_found(package: Any, tmp_path: Path) -> None:
    folder = packed(tmp_path / "c")
    payload = folder / "__0_0.distcp"
    data = payload.read_bytes()
    at = data.index(bytes(range(16)))
    payload.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    assert "payload-corrupt" in codes(judged(folder))


OBJECTS = {
    "enum": Phase.TRAIN,
    "regex": re.compile("a.b"),
    "partial": functools.partial(torch.optim.AdamW, lr=0.1),
    "exception": ValueError("x"),
    "logger": logging.getLogger("x"),
    "bound method": Scheduler(),
    "types": [int, str, float, type(None)],
    "ellipsis": ...,
    "function": torch.nn.functional.relu,
    "module": torch.nn.Linear(2, 2),
    "optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
    "what torch.max gives": torch.ones(2).max(0),
    "a generator": torch.Generator(),
    "a masked array": np.ma.masked_array([1, 2], [0, 1]),
    "a signal": signal.SIGTERM,
    "a status": http.HTTPStatus.OK,
    "iterators": [itertools.islice([1, 2], 1), itertools.chain([1], [2]), itertools.cycle([1])],
    "an operator": operator.lt,
    "a decimal context": decimal.Context(),
    "a signature": inspect.signature(Scheduler.step),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_harmless_object_is_at_most_a_note(name: str, tmp_path: Path) -> None:
    state: Any = {"w": torch.ones(2), "obj": [OBJECTS[name]]}
    report = judged(saved(tmp_path / "c", state))
    assert report.verdict == "sound", report.findings
    assert codes(report) <= {"payload-foreign-class", "payload-unproven"}


def _layer(value: float) -> torch.nn.Module:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    return layer


@pytest.mark.parametrize("is_nested", [True, False])
def test_a_module_below_the_top_level_is_told_to_stay_as_it_is(
    is_nested: bool, tmp_path: Path
) -> None:
    def state(layer: torch.nn.Module) -> dict[str, Any]:
        return {"nets": {"actor": layer}} if is_nested else {"actor": layer}

    folder = saved(tmp_path / "c", state(_layer(1)))
    live = _layer(0)
    dcp.load(state(live), checkpoint_id=folder, no_dist=True)
    assert live.weight.item() == (0 if is_nested else 1)
    hints = [finding.hint for finding in judged(folder).findings]
    assert [hint.endswith("name each at the top level") for hint in hints] == [True] * is_nested


def test_another_object_is_not_taken_for_a_module(tmp_path: Path) -> None:
    state: dict[str, Any] = {"obj": [itertools.islice([1, 2], 1)]}
    (finding,) = judged(saved(tmp_path / "c", state)).findings
    assert finding.code == "payload-unproven"
    assert "top level" not in finding.hint


# -- what hides code ----------------------------------------------------------------------------


def _archive(records: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in records:
            archive.writestr(name, content)
    return out.getvalue()


def _replaced(folder: Path, payload: bytes) -> None:
    """Make `payload` the bytes entry `obj`, the only payload of its file."""
    (file,) = folder.glob("*.distcp")
    length = file.stat().st_size
    meta = (folder / ".metadata").read_bytes()
    old = b"M" + length.to_bytes(2, "little")
    assert meta.count(old) == 1
    file.write_bytes(payload)
    new = b"J" + len(payload).to_bytes(4, "little")
    frame = meta.replace(old, new)
    (folder / ".metadata").write_bytes(_without_frames(frame))


def _without_frames(data: bytes) -> bytes:
    # A frame's length counts the bytes in it, which have changed.
    assert data[2:3] == b"\x95"
    return data[:2] + data[11:]


CODE = b"cposix\nsystem\n(S'true'\ntR."
LONG = b"(dS'x'\nT" + (20 << 20).to_bytes(4, "little") + b"y" * (20 << 20) + b"s0" + CODE
PLAIN = b"\x80\x02K\x01."
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."

HIDDEN = {
    "after twenty MiB": _archive([("archive/data.pkl", LONG), ("archive/version", b"3\n")]),
    "a bare pickle": CODE,
    "system of the old format": LEGACY + CODE + PLAIN + b"\x80\x02].",
    "keys of the old format": LEGACY + b"\x80\x02}." + PLAIN + CODE,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_code_is_found_wherever_torch_would_run_it(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"obj": [1]})
    _replaced(folder, HIDDEN[name])
    report = judged(folder)
    assert "payload-unsafe" in codes(report), report.findings
    assert report.verdict == "suspicious"


REFUSED = {
    "equal but for case": [("archive/data.pkl", PLAIN), ("archive/DATA.PKL", CODE)],
    "two folders": [("archive/data.pkl", PLAIN), ("other/data.pkl", CODE)],
    "no folder": [("data.pkl", PLAIN)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_archives_that_readers_take_differently_are_refused(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"obj": [1]})
    _replaced(folder, _archive(REFUSED[name]))
    assert "payload-unreadable" in codes(judged(folder))


def test_both_checksums_have_to_agree(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"w": torch.ones(4, 4)})
    (file,) = folder.glob("*.distcp")
    data = file.read_bytes()
    crc = zlib.crc32(torch.ones(4, 4).numpy().tobytes()).to_bytes(4, "little")
    first, second = data.index(b"PK\x07\x08" + crc) + 4, data.rindex(crc)
    assert first != second
    for at in (first, second):
        file.write_bytes(data[:at] + b"\x00\x01\x02\x03" + data[at + 4 :])
        assert "payload-corrupt" in codes(judged(folder)), at


# -- values of bytes entries ---------------------------------------------------------------------


def test_plain_values_are_shown_and_a_step_that_is_not_the_folders_is_told(tmp_path: Path) -> None:
    state: Any = {
        "w": torch.ones(2),
        "train_state": {"step": 10, "losses": [1.0, float("nan")], "object": {1, 2}},
        "scheduler": {"step": 3},
    }
    folder = saved(tmp_path / "step-30", state)
    shown = {e["fqn"]: e for e in run_cli("show", folder, "--json").json()["bytes"]}
    assert shown["train_state.step"]["value"] == 10
    assert shown["train_state.losses"]["value"] == [1.0, "nan"]
    assert "value" not in shown["train_state.object"]
    ran = run_cli("check", "--deep", folder, "--json")
    told = [f for f in ran.json()["findings"] if f["code"] == "step-mismatch"]
    assert [f["fqn"] for f in told] == ["train_state.step"]
    assert (ran.code, ran.json()["verdict"]) == (0, "sound")
    right = folder.rename(tmp_path / "step-10")
    assert "step-mismatch" not in run_cli("check", "--deep", right, "--json").out


def test_a_quantised_tensor_is_told_with_its_scale(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 10, torch.qint8)
    report = judged(saved(tmp_path / "c", {"q": quantised}))
    (note,) = report.findings
    assert (note.code, note.severity, report.verdict) == ("payload-format", "note", "sound")
    assert "q: scale 0.5, zero point 10" in note.message


UNREADABLE = {
    "dtype": (b"float32", b"float77", "metadata-unknown-class"),
    "layout": (b"torch.strided", b"torch.strideX", "entry-malformed"),
    "module": (b"checkpoint.metadata", b"checkpoint.metadatX", "metadata-unknown-class"),
    "package": (b"checkpoint.metadata", b"cheXkpoint.metadata", "metadata-unknown-class"),
    "memory format": (
        b"_MEM_FORMAT_ENCODING\x94\x93\x94K\x00",
        b"_MEM_FORMAT_ENCODING\x94\x93\x94K\x09",
        "entry-malformed",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_metadata_that_no_torch_reads_has_a_finding(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", {"w": torch.ones(4, 4)})
    old, new, code = UNREADABLE[name]
    data = (folder / ".metadata").read_bytes()
    assert old in data
    (folder / ".metadata").write_bytes(data.replace(old, new))
    with pytest.raises((AttributeError, KeyError, ModuleNotFoundError, ValueError)):
        dcp.FileSystemReader(folder).read_metadata()
    report = judged(folder, deep=False)
    assert code in codes(report)
    if name in ("module", "package"):
        assert (report.verdict, report.exit_code) == ("unreadable", 2)
