"""A checkpoint beside what a model expects: what `dcp.load` would miss, ignore, cast or refuse.

The rule this module keeps: what torch does was run with torch 2.13's `dcp.load` for every code
(`tests/checks/test_against.py` runs it again). The checks are those of its planner
(`create_default_local_load_plan`, torch/distributed/checkpoint/default_planner.py): keys, then
global shapes, then kinds; nothing there looks at dtypes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding, Severity
from inspector.checks.plan.expected import Expected, Wanted

__all__ = ["PLAN_CODES", "compare", "holds", "summary"]

#: Codes that only `plan` gives, with their usual severity; all but the first by `--against`.
PLAN_CODES: dict[str, Severity] = {
    "rank-metadata": "error",
    "missing-key": "error",
    "shape-mismatch": "error",
    "kind-mismatch": "error",
    "dtype-cast": "warning",
    "unused-key": "warning",
}

_MAX_NAME = 120
_MAX_PREFIXES = 2000

# Significant bits, largest exponent, and exponent of the least value above 0 (IEEE 754; the fp8
# types of the Open Compute Project's MX specification, and ONNX's fnuz).
_FLOATS = {
    "float64": (53, 1023, -1074),
    "float32": (24, 127, -149),
    "bfloat16": (8, 127, -133),
    "float16": (11, 15, -24),
    "float8_e4m3fn": (4, 8, -9),
    "float8_e5m2": (3, 15, -16),
    "float8_e4m3fnuz": (4, 7, -10),
    "float8_e5m2fnuz": (3, 15, -17),
    "float8_e8m0fnu": (1, 127, -127),
}
_FINITE = frozenset({"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"})
# Bits besides the sign, and whether there is one.
_INTS = {
    **{f"uint{n}": (n, False) for n in (8, 16, 32, 64)},
    **{f"int{n}": (n - 1, True) for n in (8, 16, 32, 64)},
}
_PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


def holds(wide: str, narrow: str) -> bool:
    """Whether every value of the dtype `narrow` is one of `wide`; False if one is not known."""
    if wide == narrow:
        return True
    if narrow in _PARTS and wide not in _PARTS:
        return False
    wide, narrow = _PARTS.get(wide, wide), _PARTS.get(narrow, narrow)
    if narrow == "bool":
        return wide in _INTS or (wide in _FLOATS and wide != "float8_e8m0fnu")  # It has no 0.
    if narrow in _INTS:
        bits, is_signed = _INTS[narrow]
        if wide in _INTS:
            return bits <= _INTS[wide][0] and is_signed <= _INTS[wide][1]
        return wide in _FLOATS and bits <= min(_FLOATS[wide][0], _FLOATS[wide][1])
    if narrow not in _FLOATS or wide not in _FLOATS:
        return False
    if wide in _FINITE and narrow not in _FINITE:
        return False  # It has no infinity.
    (digits, most, least), (more, highest, lowest) = _FLOATS[narrow], _FLOATS[wide]
    return digits <= more and most <= highest and lowest <= least


def compare(checkpoint: Checkpoint, expected: Expected) -> list[Finding]:
    """What would be wrong with loading `checkpoint` into what is `expected`.

    Returns:
        Errors first, then warnings and notes; within each as the model lists its keys.
    """
    columns = checkpoint.columns
    tensors = {fqn: i for i, fqn in enumerate(columns.fqns)}
    entries = {entry.fqn for entry in checkpoint.bytes_entries}
    lost: list[Wanted] = []
    found: list[Finding] = []
    for wanted in expected.wanted:
        index = tensors.get(wanted.fqn)
        if index is not None:
            found += _tensor(wanted, columns.dtype(index), columns.shape(index))
        elif wanted.fqn in entries:
            if wanted.kind == "tensor":
                found.append(_bytes_for_tensor(wanted))
        else:
            lost.append(wanted)
    asked = {wanted.fqn for wanted in expected.wanted}
    names = [*(columns.fqns[i] for i in checkpoint.tensor_order.tolist()), *dict.fromkeys(entries)]
    unused = [fqn for fqn in names if fqn not in asked]
    missing = list(_missing(lost, unused, checkpoint))
    errors = [f for f in found if f.severity == "error"]
    others = sorted((f for f in found if f.severity != "error"), key=lambda f: f.severity == "note")
    return [*missing, *errors, *others, *(_unused(fqn, fqn in tensors) for fqn in unused)]


def _tensor(wanted: Wanted, dtype: str, shape: tuple[int, ...]) -> Iterator[Finding]:
    name = printable(wanted.fqn, _MAX_NAME)
    if wanted.kind == "bytes":
        yield Finding(
            "kind-mismatch",
            "error",
            f"{name}: a tensor in the checkpoint, no tensor in the model",
            "raises ValueError: Invalid checkpoint metadata, expected BytesStorageMetadata",
            "put a tensor of that shape into the state dict that is loaded into",
            fqn=wanted.fqn,
        )
        return
    if wanted.shape is not None and wanted.shape != shape:
        yield Finding(
            "shape-mismatch",
            "error",
            f"{name}: {format_shape(shape)} in the checkpoint, {format_shape(wanted.shape)} in "
            "the model",
            "raises ValueError: Size mismatch (before torch 2.6: loads what overlaps, silently)",
            "the two are of different models or settings (vocabulary, hidden size, layers)",
            fqn=wanted.fqn,
        )
    if wanted.dtype is not None and wanted.dtype != dtype:
        is_exact = holds(wanted.dtype, dtype)
        yield Finding(
            "dtype-cast",
            "note" if is_exact else "warning",
            f"{name}: {dtype} in the checkpoint, {wanted.dtype} in the model"
            + (", which holds the same values" if is_exact else ", which may not hold the values"),
            "casts silently" + ("" if is_exact else ": rounds, or wraps around and saturates"),
            "" if is_exact else f"load into {dtype}, and cast where you can look at the result",
            fqn=wanted.fqn,
        )


def _bytes_for_tensor(wanted: Wanted) -> Finding:
    return Finding(
        "kind-mismatch",
        "error",
        f"{printable(wanted.fqn, _MAX_NAME)}: a tensor in the model, a pickled object in the "
        "checkpoint",
        "loads silently: the object takes the tensor's place in the state dict",
        "put an object of that kind into the state dict that is loaded into",
        fqn=wanted.fqn,
    )


def _missing(lost: list[Wanted], unused: list[str], checkpoint: Checkpoint) -> Iterator[Finding]:
    renamed = _renamed([wanted.fqn for wanted in lost], unused)
    malformed = {item.fqn for item in checkpoint.malformed}
    for wanted in lost:
        fqn = wanted.fqn
        other, hint = (
            renamed.get(fqn),
            "an optional key: DefaultLoadPlanner(allow_partial_load=True)",
        )
        if other is not None:
            hint = f"the checkpoint has it as {printable(other, _MAX_NAME)}: rename the keys"
        elif fqn in malformed:
            hint = "the checkpoint has it, but its entry is malformed: hsdp-inspect check"
        yield Finding(
            "missing-key",
            "error",
            f"{printable(fqn, _MAX_NAME)}: the model expects it, and it is not in the checkpoint",
            "raises RuntimeError: Missing key in checkpoint state_dict (with "
            "allow_partial_load=True: loads silently, it keeps what it had)",
            hint,
            fqn=fqn,
        )


def _unused(fqn: str, is_tensor: bool) -> Finding:
    what = "tensor" if is_tensor else "bytes entry"
    return Finding(
        "unused-key",
        "warning",
        f"{printable(fqn, _MAX_NAME)}: a {what} of the checkpoint that the model does not expect",
        "ignores it silently",
        "",
        fqn=fqn,
    )


def _renamed(missing: list[str], unused: Iterable[str]) -> dict[str, str]:
    """Missing names that are there under one prefix more, or one less (`model.`, `module.`)."""
    if not missing:
        return {}
    there = set(unused)
    votes: dict[tuple[str, str], int] = {}
    for fqn in missing[:_MAX_PREFIXES]:
        parts = fqn.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in there:
                prefix = ".".join(parts[:i]) + "."
                votes[prefix, ""] = votes.get((prefix, ""), 0) + 1
    asked = set(missing)
    for fqn in sorted(there)[:_MAX_PREFIXES]:
        parts = fqn.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[i:]) in asked:
                prefix = ".".join(parts[:i]) + "."
                votes["", prefix] = votes.get(("", prefix), 0) + 1
    if not votes:
        return {}
    less, more = max(votes, key=lambda pair: (votes[pair], pair))
    pairs = {fqn: more + fqn.removeprefix(less) for fqn in missing if fqn.startswith(less)}
    return {fqn: other for fqn, other in pairs.items() if other in there}


def summary(findings: Iterable[Finding]) -> str:
    """How many are missing, ignored, cast and refused, in a phrase."""
    counts = dict.fromkeys(PLAN_CODES, 0)
    for finding in findings:
        if finding.code in counts:
            counts[finding.code] += 1
    words = {
        "missing-key": "missing",
        "shape-mismatch": "refused for their shape",
        "kind-mismatch": "of another kind",
        "dtype-cast": "cast",
        "unused-key": "ignored",
    }
    parts = [f"{counts[code]:,} {word}" for code, word in words.items() if counts[code]]
    return ", ".join(parts) if parts else plural(0, "difference")
