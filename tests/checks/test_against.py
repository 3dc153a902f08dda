"""`plan --against`: what is found, and what torch's own `dcp.load` does with the very same."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner

from inspector.checkpoint.dtypes import ITEMSIZE
from inspector.checkpoint.find.locate import read_checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.findings import CODES, Finding
from inspector.checks.plan.against import PLAN_CODES, compare, holds, summary
from inspector.checks.plan.expected import read_expected
from inspector.errors import InspectError, UsageError
from tests.conftest import SAMPLES, run_cli

STATE = {
    "model.w": torch.arange(32, dtype=torch.float32).reshape(8, 4) / 3,
    "model.b": torch.arange(8, dtype=torch.bfloat16),
    "step": 7,
    "seen": torch.tensor(3, dtype=torch.int64),
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "ckpt"
    with quiet():
        dcp.save(dict(STATE), checkpoint_id=path, no_dist=True)
    return path


def loaded(folder: Path, target: dict[str, Any], **options: bool) -> str:
    """Load into `target`; the type and message of what torch raises, or an empty string."""
    planner = DefaultLoadPlanner(**options)
    try:
        with quiet():
            dcp.load(target, checkpoint_id=folder, planner=planner, no_dist=True)
    except BaseException as error:  # CheckpointException is no Exception
        (cause, _) = next(iter(error.failures.values()))  # type: ignore[attr-defined]
        return f"{type(cause).__name__}: {cause}"
    return ""


def found(folder: Path, target: dict[str, Any], tmp_path: Path) -> list[Finding]:
    """What `compare` says of the same state dict, by way of a JSON list."""
    entries = []
    for fqn, value in target.items():
        if isinstance(value, torch.Tensor):
            dtype, shape = str(value.dtype), list(value.shape)
            entries.append({"fqn": fqn, "dtype": dtype, "shape": shape})
        else:
            entries.append({"fqn": fqn, "dtype": "object"})
    path = tmp_path / "expected.json"
    path.write_text(json.dumps(entries))
    return compare(read_checkpoint(open_storage(str(folder))), read_expected(str(path)))


def target(**changes: Any) -> dict[str, Any]:
    """A state dict like the one that was saved, of zeros, with changes; None leaves a key out."""
    state: dict[str, Any] = {
        fqn: torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0
        for fqn, value in STATE.items()
    }
    state |= {fqn.replace("__", "."): value for fqn, value in changes.items()}
    return {fqn: value for fqn, value in state.items() if value is not None}


def test_nothing_is_wrong_with_the_same(folder: Path, tmp_path: Path) -> None:
    state = target()
    assert found(folder, state, tmp_path) == []
    assert loaded(folder, state) == ""
    assert torch.equal(state["model.w"], STATE["model.w"])
    assert state["step"] == 7


def test_missing(folder: Path, tmp_path: Path) -> None:
    state = target(model__lost=torch.full((3,), 5.0))
    (finding,) = found(folder, state, tmp_path)
    assert (finding.code, finding.severity, finding.fqn) == ("missing-key", "error", "model.lost")
    said = loaded(folder, state)
    assert said.startswith("RuntimeError: Missing key in checkpoint state_dict: model.lost")
    assert "raises RuntimeError: Missing key in checkpoint state_dict" in finding.torch_does
    # With allow_partial_load it stays what it was.
    assert loaded(folder, state, allow_partial_load=True) == ""
    assert state["model.lost"].tolist() == [5.0] * 3
    # Of a weight that is never advised, nor named as a way.
    assert "allow_partial_load" not in finding.torch_does + finding.hint


def test_a_missing_object(folder: Path, tmp_path: Path) -> None:
    state = target(epoch=1)
    (finding,) = found(folder, state, tmp_path)
    assert (finding.code, finding.fqn) == ("missing-key", "epoch")
    assert loaded(folder, state).startswith("RuntimeError: Missing key")


def test_ignored(folder: Path, tmp_path: Path) -> None:
    state = target(model__b=None, step=None)
    findings = found(folder, state, tmp_path)
    assert {(f.code, f.fqn) for f in findings} == {
        ("unused-key", "model.b"),
        ("unused-key", "step"),
    }
    assert {f.severity for f in findings} == {"warning"}
    assert loaded(folder, state) == ""
    assert findings[0].torch_does == "ignores it silently"


@pytest.mark.parametrize("shape", [(8, 5), (4, 8), (8,), (7, 4), ()])
def test_refused_for_its_shape(folder: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    state = target(model__w=torch.zeros(shape))
    (finding,) = found(folder, state, tmp_path)
    assert (finding.code, finding.severity) == ("shape-mismatch", "error")
    assert loaded(folder, state).startswith("ValueError: Size mismatch")
    assert "raises ValueError: Size mismatch" in finding.torch_does


def test_a_tensor_where_an_object_is_stored(folder: Path, tmp_path: Path) -> None:
    state = target(step=torch.tensor(0))
    (finding,) = found(folder, state, tmp_path)
    assert (finding.code, finding.severity) == ("kind-mismatch", "error")
    assert loaded(folder, state) == ""
    assert type(state["step"]) is int
    assert "the object takes the tensor's place" in finding.torch_does


def test_an_object_where_a_tensor_is_stored(folder: Path, tmp_path: Path) -> None:
    state = target(model__b=[1, 2])
    (finding,) = found(folder, state, tmp_path)
    assert (finding.code, finding.severity) == ("kind-mismatch", "error")
    said = loaded(folder, state)
    assert said.startswith("ValueError: Invalid checkpoint metadata")
    assert "expected BytesStorageMetadata" in said
    assert "raises ValueError: Invalid checkpoint metadata" in finding.torch_does


@pytest.mark.parametrize(
    ("dtype", "severity"),
    [
        (torch.float64, "note"),
        (torch.bfloat16, "warning"),
        (torch.float16, "warning"),
        (torch.int8, "warning"),
        (torch.float8_e4m3fn, "warning"),
    ],
)
def test_cast(folder: Path, tmp_path: Path, dtype: torch.dtype, severity: str) -> None:
    state = target(model__w=torch.zeros(8, 4, dtype=dtype))
    (finding,) = found(folder, state, tmp_path)
    assert (finding.code, finding.severity) == ("dtype-cast", severity)
    assert loaded(folder, state) == ""
    assert finding.torch_does.startswith("casts silently")
    assert torch.equal(state["model.w"].double(), STATE["model.w"].to(dtype).double())  # type: ignore[attr-defined]
    is_exact = torch.equal(state["model.w"].double(), STATE["model.w"].double())  # type: ignore[attr-defined]
    assert is_exact == (severity == "note")


# -- which casts keep every value ---------------------------------------------------------------


def values(dtype: torch.dtype) -> torch.Tensor:
    """All values of a dtype of 16 bits or less; of the others the ends, powers and random ones."""
    size = dtype.itemsize
    if dtype == torch.bool:
        return torch.tensor([False, True])
    if dtype.is_complex:
        part = values(dtype.to_real())
        part = part[~torch.isnan(part)]
        return torch.complex(part, part.flip(0))
    if size == 1:
        return torch.arange(256).to(torch.uint8).view(dtype)
    if size == 2:
        return torch.arange(1 << 16).to(torch.int32).to(torch.uint16).view(dtype)
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (4096 * size,), dtype=torch.uint8, generator=generator)
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        return torch.cat([raw.view(dtype), torch.tensor([info.min, info.max, 0, 1], dtype=dtype)])
    info = torch.finfo(dtype)
    ends = [info.min, info.max, info.tiny, info.smallest_normal, 0.0, 1 / 3]
    found = torch.cat([raw.view(dtype), torch.tensor(ends, dtype=dtype)])
    return found[torch.isfinite(found)]


DTYPES = [
    name
    for name in ITEMSIZE
    if isinstance(getattr(torch, name, None), torch.dtype)
    and not name.startswith(("q", "bits", "float4"))
    and name not in {f"{kind}{n}" for kind in ("int", "uint") for n in range(1, 8)}
]


@pytest.mark.parametrize("narrow", DTYPES)
def test_exact_casts_are_those_that_torch_makes_back(narrow: str) -> None:
    kind = getattr(torch, narrow)
    before = values(kind)
    if kind.is_floating_point:
        before = before[~torch.isnan(before.double())]
    for wide in DTYPES:
        with quiet():
            there = before.to(getattr(torch, wide))
            back = there.to(kind)
        same = torch.equal(as_bits(back), as_bits(before))
        if kind.is_complex and not getattr(torch, wide).is_complex:
            same = False  # torch keeps what happens to be real.
        if not same and holds(wide, narrow):
            pytest.fail(f"{narrow} is not kept by {wide}")
        if same and not holds(wide, narrow):
            # A round trip may undo a wrap-around; the values between are what counts.
            assert not torch.equal(as_real(there), as_real(before)), (narrow, wide)


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """-0.0 counts as 0.0."""
    if tensor.dtype.is_complex or tensor.dtype.itemsize > 2 or tensor.dtype == torch.bool:
        return torch.view_as_real(tensor) + 0 if tensor.dtype.is_complex else tensor
    return tensor.double() + 0 if tensor.dtype.is_floating_point else tensor.to(torch.int64)


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor).double() if tensor.dtype.is_complex else tensor.double()


# -- the forms that a file may have -------------------------------------------------------------

LIST = [
    {"fqn": "model.w", "dtype": "torch.float32", "shape": [8, 4]},
    {"fqn": "model.b", "dtype": "BF16", "shape": [8]},
    {"fqn": "step", "dtype": "bytes"},
    {"fqn": "seen", "dtype": "int64", "shape": []},
]
FORMS: dict[str, Any] = {
    "a list": LIST,
    "an object": {e["fqn"]: {k: v for k, v in e.items() if k != "fqn"} for e in LIST},
    "a list of names": [e["fqn"] for e in LIST],
    "without dtypes": [{k: v for k, v in e.items() if k != "dtype"} for e in LIST],
    "without shapes": [{k: v for k, v in e.items() if k != "shape"} for e in LIST],
    "names alone": [{"fqn": e["fqn"]} for e in LIST],
}


def against(folder: Path, path: Path) -> list[Finding]:
    return compare(read_checkpoint(open_storage(str(folder))), read_expected(str(path)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(folder: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "expected.json"
    path.write_text(json.dumps(FORMS[form]))
    assert against(folder, path) == []
    assert len(read_expected(str(path)).wanted) == 4


def test_what_show_prints(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    path.write_text(run_cli("show", folder, "--json").out)
    assert [w.kind for w in read_expected(str(path)).wanted].count("bytes") == 1
    assert against(folder, path) == []


def test_another_checkpoint(folder: Path) -> None:
    assert against(folder, folder) == []
    assert against(folder, folder / ".metadata") == []
    assert against(SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_4") == []
    other = against(SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_uneven_4")
    assert {f.code for f in other} == {"shape-mismatch", "missing-key"}


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file of float32, bfloat16 and int64 tensors."""
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        place = [len(data), len(data) + len(raw)]
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_safetensors(folder: Path, tmp_path: Path) -> None:
    tensors = {k: v for k, v in STATE.items() if isinstance(v, torch.Tensor)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert {f.fqn for f in against(folder, tmp_path / "model.safetensors")} == {"step"}
    assert {f.fqn for f in against(folder, tmp_path)} == {"step"}


def index_of(path: Path, names: list[str], file: str) -> Path:
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)}))
    return path


def test_an_index_without_its_files_is_names_alone(folder: Path, tmp_path: Path) -> None:
    names = ["model.w", "model.b", "model.head"]
    path = index_of(tmp_path / "model.safetensors.index.json", names, "model-1.safetensors")
    findings = against(folder, path)
    assert [(f.code, f.fqn) for f in findings if f.severity == "error"] == [
        ("missing-key", "model.head")
    ]
    expected = read_expected(str(path))
    assert "by name alone" in expected.notes[0]


def test_an_index_with_its_files(folder: Path, tmp_path: Path) -> None:
    header = json.dumps({"model.w": {"dtype": "F16", "shape": [8, 4], "data_offsets": [0, 64]}})
    raw = len(header).to_bytes(8, "little") + header.encode() + bytes(64)
    name = "model-00001-of-00001.safetensors"
    (tmp_path / name).write_bytes(raw)
    path = index_of(tmp_path / "model.safetensors.index.json", ["model.w"], name)
    codes = {f.code for f in against(folder, path) if f.fqn == "model.w"}
    assert codes == {"dtype-cast"}


@pytest.mark.parametrize(
    ("more", "less"), [("module.", ""), ("", "model."), ("base.model.", "model.")]
)
def test_a_prefix_is_told(folder: Path, tmp_path: Path, more: str, less: str) -> None:
    names = ["model.w", "model.b"]
    path = tmp_path / "expected.json"
    path.write_text(json.dumps([more + name.removeprefix(less) for name in names]))
    findings = [f for f in against(folder, path) if f.code == "missing-key"]
    assert len(findings) == 2
    if more == "" or less == "":
        assert "the checkpoint has it as model.w: rename" in findings[0].hint


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "a number": b"5",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "a list of numbers": b"[1, 2]",
    "no fqn": b'[{"dtype": "float32"}]',
    "an unknown dtype": b'[{"fqn": "a", "dtype": "float33"}]',
    "a dtype that is a number": b'[{"fqn": "a", "dtype": 5}]',
    "a negative size": b'[{"fqn": "a", "shape": [-1]}]',
    "a shape of text": b'[{"fqn": "a", "shape": "8x4"}]',
    "a name twice": b'["a", "a"]',
    "not UTF-8": b'["\xff"]',
    "too deep": b"[" * 100_000,
    "values that are lists": b'{"a": [1, 2]}',
    "an index of numbers": b'{"weight_map": 5}',
    "escapes": b'[{"fqn": "\\u001b[2J", "dtype": "\\u001b[2J"}]',
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_an_error_in_words(what: str, tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    path.write_bytes(GARBAGE[what])
    with pytest.raises(UsageError) as error:
        read_expected(str(path))
    assert error.value.message.isprintable()
    assert "--against" in error.value.message
    assert error.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path / "none.safetensors", tmp_path / "a" / "b"):
        with pytest.raises(InspectError, match="no such file"):
            read_expected(str(path))
    with pytest.raises(UsageError, match="empty"):
        read_expected("")
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(InspectError):
        read_expected(str(tmp_path / "model.pt"))


def test_a_folder_of_checkpoints_is_none() -> None:
    with pytest.raises(UsageError, match="checkpoints"):
        read_expected(str(SAMPLES / "run"))


def test_codes_are_their_own() -> None:
    assert not set(PLAN_CODES) & set(CODES)


def test_the_summary_counts(folder: Path, tmp_path: Path) -> None:
    state = target(model__w=torch.zeros(2, dtype=torch.int8), step=None, more=torch.zeros(1))
    phrase = summary(found(folder, state, tmp_path))
    assert phrase == "1 missing, 1 refused for their shape, 1 cast, 1 ignored"
    assert summary([]) == "0 differences"
