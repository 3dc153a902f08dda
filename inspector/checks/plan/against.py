"""A checkpoint beside what a model expects: what `dcp.load` would miss, ignore, cast or refuse.

The rule this module keeps: what torch does was run with torch 2.13's `dcp.load` for every code
(`tests/checks/test_against.py` runs it again). The checks are those of its planner
(`create_default_local_load_plan`, torch/distributed/checkpoint/default_planner.py): keys, then
global shapes, then kinds; nothing there looks at dtypes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding, Severity
from inspector.checks.plan.expected import Expected, ExpectedEntry
from inspector.checks.plan.flattening import (
    OldFlattening,
    is_old_listing,
    old_flattening,
    owner_of,
    shape_hint,
    taken_apart,
)
from inspector.checks.plan.roles import Role, families, family_of, numbers_text, role_of
from inspector.layout.aliases import bare_name, likely_renames

__all__ = ["PLAN_CODES", "ModelFit", "compare", "fit_of", "holds", "num_matching", "summary"]

#: Codes that only `plan` gives, with their usual severity; all but the first by `--against`.
PLAN_CODES: dict[str, Severity] = {
    "rank-metadata": "error",
    "missing-key": "error",
    "shape-mismatch": "error",
    "kind-mismatch": "error",
    "dtype-cast": "warning",
    "unused-key": "warning",
    "old-flattening": "note",
    "strided-uneven": "warning",
}
_RAISES_MISSING = "raises RuntimeError: Missing key in checkpoint state_dict"

_MAX_NAME = 120
_MAX_VARIANTS = 3

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
_Kind = tuple[str, "tuple[int, ...] | None"]
_FINITE = frozenset({"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"})
# Bits besides the sign, and whether there is one.
_INTS = {
    **{f"uint{n}": (n, False) for n in (8, 16, 32, 64)},
    **{f"int{n}": (n - 1, True) for n in (8, 16, 32, 64)},
}
_PARTS = {
    "complex32": "float16",
    "bcomplex32": "bfloat16",
    "complex64": "float32",
    "complex128": "float64",
}


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
    objects = dict.fromkeys(entry.fqn for entry in checkpoint.bytes_entries)
    found: list[Finding] = []
    notes: list[Finding] = []
    old = old_flattening(expected.wanted, tensors, objects, checkpoint.state_paths)
    whole = {} if old is None else {q: fqns for q, fqns in old.whole.items() if q in objects}
    in_whole = {fqn for fqns in whole.values() for fqn in fqns}
    lost: list[ExpectedEntry] = []
    for wanted in expected.wanted:
        index = tensors.get(wanted.fqn)
        if wanted.fqn in in_whole:
            continue
        if index is not None:
            found += _tensor(wanted, columns.dtype(index), columns.shape(index))
        elif wanted.fqn in objects:
            if wanted.kind == "tensor":
                found.append(_bytes_for_tensor(wanted))
        else:
            lost.append(wanted)
    asked = {wanted.fqn for wanted in expected.wanted}
    if old is not None:
        notes += [_old_flattening(name, fqns, old) for name, fqns in whole.items()]
        found += _whole_missing(old, {*objects, *tensors}, {entry.fqn for entry in lost})
    names = [*(columns.fqns[i] for i in checkpoint.tensor_order.tolist()), *objects]
    unused = [fqn for fqn in names if fqn not in asked and fqn not in whole]
    only = _Names(checkpoint, lost, unused)
    notes += only.taken_apart_today()
    missing = [only.missing(entry) for entry in lost if entry.fqn not in only.today]
    ignored = [only.unused(fqn) for fqn in unused if not only.is_part(fqn)]
    errors = [f for f in found if f.severity == "error"]
    others = sorted((f for f in found if f.severity != "error"), key=lambda f: f.severity == "note")
    return [*missing, *errors, *others, *ignored, *notes]


def _tensor(wanted: ExpectedEntry, dtype: str, shape: tuple[int, ...]) -> Iterator[Finding]:
    name = printable(wanted.fqn, _MAX_NAME)
    if wanted.kind == "bytes":
        yield Finding(
            "kind-mismatch",
            f"{name}: a tensor in the checkpoint, no tensor in the model",
            "raises ValueError: Invalid checkpoint metadata, expected BytesStorageMetadata",
            "put a tensor of that shape into the state dict that is loaded into",
            fqn=wanted.fqn,
        )
        return
    if wanted.shape is not None and wanted.shape != shape:
        yield Finding(
            "shape-mismatch",
            f"{name}: {format_shape(shape)} in the checkpoint, {format_shape(wanted.shape)} in "
            "the model",
            "raises ValueError: Size mismatch (before torch 2.6: loads what overlaps, silently)",
            shape_hint(wanted.fqn, shape, wanted.shape),
            fqn=wanted.fqn,
        )
    if wanted.dtype is not None and wanted.dtype != dtype:
        is_exact = holds(wanted.dtype, dtype)
        yield Finding(
            "dtype-cast",
            f"{name}: {dtype} in the checkpoint, {wanted.dtype} in the model"
            + (", which holds the same values" if is_exact else ", which may not hold the values"),
            "casts silently" + ("" if is_exact else ": rounds, or wraps around and saturates"),
            "" if is_exact else f"load into {dtype}, and cast where you can look at the result",
            fqn=wanted.fqn,
            severity="note" if is_exact else "warning",
        )


def _bytes_for_tensor(wanted: ExpectedEntry) -> Finding:
    return Finding(
        "kind-mismatch",
        f"{printable(wanted.fqn, _MAX_NAME)}: a tensor in the model, a pickled object in the "
        "checkpoint",
        "loads silently: the object takes the tensor's place in the state dict",
        "put an object of that kind into the state dict that is loaded into",
        fqn=wanted.fqn,
    )


def _old_flattening(name: str, fqns: Sequence[str], old: OldFlattening) -> Finding:
    guess = ""
    if name in old.guessed:
        guess = f", if {printable(name, _MAX_NAME)} is one dict or list in the model's state dict"
    return Finding(
        "old-flattening",
        f"{printable(name, _MAX_NAME)}: one object in the checkpoint, as torch <= 2.3 kept it, and "
        f"{plural(len(fqns), 'key')} in the model ({printable(fqns[0], _MAX_NAME)} ...)",
        "loads it whole, by its fallback for checkpoints of torch <= 2.3" + guess,
        "",
        fqn=name,
        severity="note",
    )


def _whole_missing(old: OldFlattening, there: Collection[str], lost: set[str]) -> Iterator[Finding]:
    """What torch asks for once it has taken the checkpoint for one of torch <= 2.3."""
    for name, fqns in old.whole.items():
        if name in there or not lost.isdisjoint(fqns):
            continue  # It loads, or its keys are told as missing.
        yield Finding(
            "missing-key",
            f"{printable(name, _MAX_NAME)}: its {plural(len(fqns), 'key')} are in the checkpoint, "
            f"but {printable(old.cause, _MAX_NAME)} is one object there, so torch takes it for a "
            f"checkpoint of torch <= 2.3 and asks for {printable(name, _MAX_NAME)} as one object",
            _RAISES_MISSING,
            f"leave {printable(old.cause, _MAX_NAME)} out of the state dict that is loaded into, "
            "and load it apart",
            fqn=name,
            severity="warning" if name in old.guessed else "error",
        )


class _Names:
    """Names that only one side has, and what each may be on the other.

    Args:
        checkpoint: The checkpoint.
        lost: What the model expects and the checkpoint lacks.
        unused: What the checkpoint has and the model does not expect.
    """

    def __init__(
        self, checkpoint: Checkpoint, lost: list[ExpectedEntry], unused: list[str]
    ) -> None:
        columns = checkpoint.columns
        self._tensors = {fqn: columns.shape(i) for i, fqn in enumerate(columns.fqns)}
        self._malformed = {item.fqn for item in checkpoint.malformed}
        self._parts = taken_apart((w.fqn for w in lost if w.kind != "tensor"), unused)
        self._is_old_listing = is_old_listing(self._parts)
        self._whole = taken_apart(unused, (w.fqn for w in lost))
        self._owners = {fqn: owner for owner, fqns in self._whole.items() for fqn in fqns}
        self._variants = self._wrapped_alike(lost, unused)
        self._renamed = self._likely_renames(lost, unused)
        self._back = {other: fqn for fqn, other in self._renamed.items()}
        self._families = families((*self._tensors, *(e.fqn for e in checkpoint.bytes_entries)))
        self._family_hints: dict[str, str] = {}
        self._lacks_weights = any(_role(w) == "weight" for w in lost)
        #: Expected as one object, and taken apart by today's torch as the checkpoint is.
        self.today = frozenset(self._parts) if self._is_old_listing else frozenset()

    def _likely_renames(self, lost: list[ExpectedEntry], unused: list[str]) -> dict[str, str]:
        left = {
            w.fqn: (w.kind, w.shape)
            for w in lost
            if w.fqn not in self._parts and w.fqn not in self._variants
        }
        unclear = {name for names in self._variants.values() for name in names}
        there: dict[str, _Kind] = {
            fqn: ("tensor", self._tensors[fqn]) if fqn in self._tensors else ("bytes", None)
            for fqn in unused
            if fqn not in unclear
        }
        found = dict(likely_renames(left, there, _alike))
        # A wrapper changes no name but by itself: without it they are one, whatever the shapes.
        taken = set(found.values())
        bare = {bare_name(fqn): fqn for fqn in there if fqn not in taken}
        for fqn, (kind, _) in left.items():
            other = None if fqn in found else bare.get(bare_name(fqn))
            if other is not None and _alike((kind, None), there[other]):
                found[fqn] = other
                del bare[bare_name(fqn)]
        return found

    @staticmethod
    def _wrapped_alike(lost: list[ExpectedEntry], unused: list[str]) -> dict[str, list[str]]:
        """What each lost name may be but for its wrappers, where that is not one to one."""
        wanted: dict[str, list[str]] = {}
        there: dict[str, list[str]] = {}
        for entry in lost:
            wanted.setdefault(bare_name(entry.fqn), []).append(entry.fqn)
        for fqn in unused:
            there.setdefault(bare_name(fqn), []).append(fqn)
        return {
            fqn: there[bare]
            for bare, fqns in wanted.items()
            if bare in there and len(fqns) * len(there[bare]) > 1
            for fqn in fqns
        }

    def missing(self, wanted: ExpectedEntry) -> Finding:
        role = _role(wanted)
        torch_does = _RAISES_MISSING
        if role != "weight":
            torch_does += " (with allow_partial_load=True: loads silently, it keeps what it had)"
        return Finding(
            "missing-key",
            f"{printable(wanted.fqn, _MAX_NAME)}: the model expects it, and it is not in the "
            "checkpoint",
            torch_does,
            self._missing_hint(wanted, role),
            fqn=wanted.fqn,
            other_fqn=self._renamed.get(wanted.fqn),
        )

    def _missing_hint(self, wanted: ExpectedEntry, role: Role) -> str:
        fqn = wanted.fqn
        if fqn in self._renamed:
            other = self._renamed[fqn]
            hint = f"the checkpoint has it as {printable(other, _MAX_NAME)}: rename the keys"
            shape = self._tensors.get(other)
            if wanted.shape is not None and shape is not None and wanted.shape != shape:
                hint += (
                    f"; of another shape, too ({format_shape(shape)}, the model "
                    f"{format_shape(wanted.shape)}): {shape_hint(fqn, shape, wanted.shape)}"
                )
            return hint
        if fqn in self._variants:
            names = self._variants[fqn]
            named = ", ".join(printable(name, _MAX_NAME) for name in names[:_MAX_VARIANTS])
            if len(names) > 1:
                return (
                    f"the checkpoint has it under {plural(len(names), 'name')} with other wrappers "
                    f"({named}): see which of them holds what is wanted (hsdp-inspect stats), and "
                    "rename that one"
                )
            return (
                f"the checkpoint has one such name ({named}), the model several that differ by "
                "their wrappers alone: see which of them it is of, and rename it"
            )
        if fqn in self._malformed:
            return "the checkpoint has it, but its entry cannot be read here: hsdp-inspect check"
        if fqn in self._parts:
            parts = self._parts[fqn]
            return (
                f"the checkpoint has it in {plural(len(parts), 'part')} "
                f"({printable(parts[0], _MAX_NAME)} ...): a list or dict that was empty in one of "
                "the two; put one of the same form into the state dict that is loaded into"
            )
        if fqn in self._owners:
            return (
                f"the checkpoint has {printable(self._owners[fqn], _MAX_NAME)} as one object: a "
                "tuple, or a list or dict that was empty in it or held no dict and no tensor; put "
                "one of the same form into the state dict that is loaded into"
            )
        return self._family_hint(fqn) or self._hint_for(role)

    def _family_hint(self, fqn: str) -> str:
        family, _ = family_of(fqn)
        if family not in self._families:
            return ""
        if family not in self._family_hints:
            self._family_hints[family] = self._hint_of_family(family)
        return self._family_hints[family]

    def _hint_of_family(self, family: str) -> str:
        there = sorted(self._families[family])
        before, _, after = family.partition("*")
        name = printable(f"{before}*{after}", _MAX_NAME)
        hint = f"of {name} the checkpoint has {numbers_text(there)} alone"
        if before.rstrip(".").endswith("experts") and there == list(range(len(there))):
            return (
                f"{hint}: where every rank numbers its own experts from 0, they are saved under "
                "the same names, and those of one rank alone are stored"
            )
        return f"{hint}: of a model or a state of another size"

    def _hint_for(self, role: Role) -> str:
        if role == "weight":
            return (
                "a weight that is not loaded stays as it was initialised: take a checkpoint of "
                "this model, or set the weight yourself and leave it out of what is loaded"
            )
        if self._lacks_weights:
            return "if it may start anew, leave it out of the state dict that is loaded into"
        return (
            "if it may start anew: leave it out of the state dict that is loaded into, or load it "
            "apart from the model with DefaultLoadPlanner(allow_partial_load=True)"
        )

    def taken_apart_today(self) -> Iterator[Finding]:
        """What is expected as one object, and is none for today's torch."""
        for name in self._parts if self._is_old_listing else ():
            parts = self._parts[name]
            yield Finding(
                "old-flattening",
                f"{printable(name, _MAX_NAME)}: one object in what is expected, which was "
                f"flattened as torch <= 2.3 does; {plural(len(parts), 'key')} in the checkpoint",
                "takes it apart itself (torch 2.4 and later) and finds it if its keys are these; "
                "torch <= 2.3 raises RuntimeError: Missing key in checkpoint state_dict",
                "",
                fqn=name,
                severity="note",
            )

    def unused(self, fqn: str) -> Finding:
        what = "tensor" if fqn in self._tensors else "bytes entry"
        hint, other = "", self._back.get(fqn)
        if other is not None:
            hint = f"the model has it as {printable(other, _MAX_NAME)}, by name and shape"
        elif fqn in self._whole:
            first = printable(self._whole[fqn][0], _MAX_NAME)
            hint = f"the model has it in parts ({first} ...)"
        else:
            owner = owner_of(fqn, self._parts)
            if owner is not None:
                hint = f"the model has {printable(owner, _MAX_NAME)} as one object"
        return Finding(
            "unused-key",
            f"{printable(fqn, _MAX_NAME)}: a {what} of the checkpoint that the model does not "
            "expect",
            "ignores it silently",
            hint,
            fqn=fqn,
            other_fqn=other,
            severity="warning",
        )

    def is_part(self, fqn: str) -> bool:
        """Whether it is in an object that today's torch takes apart."""
        return bool(self.today) and owner_of(fqn, self.today) is not None


def _role(wanted: ExpectedEntry) -> Role:
    return role_of(wanted.fqn, is_tensor=wanted.kind != "bytes")


def _alike(a: _Kind, b: _Kind) -> bool:
    """Whether two entries may be one, as far as both files say."""
    (kind_a, shape_a), (kind_b, shape_b) = a, b
    return (kind_a == kind_b or "unknown" in (kind_a, kind_b)) and (
        shape_a is None or shape_b is None or shape_a == shape_b
    )


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
        "old-flattening": "flattened otherwise",
    }
    parts = [f"{counts[code]:,} {word}" for code, word in words.items() if counts[code]]
    return ", ".join(parts) if parts else plural(0, "difference")


@dataclass(frozen=True, slots=True)
class ModelFit:
    """A checkpoint beside what a model expects.

    Attributes:
        expected: What the model expects.
        num_matching: How many of its keys the checkpoint has, whatever they hold.
        problems: What a load into the model would miss, refuse, cast or ignore.
    """

    expected: Expected
    num_matching: int
    problems: tuple[Finding, ...]

    @property
    def is_complete(self) -> bool:
        """Whether a load would find every key, of the kind and shape that is expected.

        Of a list that gives no shapes, by name alone.
        """
        return not any(finding.severity == "error" for finding in self.problems)

    @property
    def words(self) -> str:
        """What was expected and how much of it is there, in a sentence."""
        expected = self.expected
        keys = plural(len(expected.wanted), "key")
        what = f"{printable(expected.path)} ({expected.source}, {keys})"
        if not self.num_matching:
            what += ", none of which is in the checkpoint"
            if not any(finding.other_fqn for finding in self.problems):
                what += ": is it of another model?"
        return f"{what}: {summary(self.problems)}"


def fit_of(checkpoint: Checkpoint, expected: Expected) -> ModelFit:
    """Hold a checkpoint against what a model expects."""
    problems = tuple(compare(checkpoint, expected))
    return ModelFit(expected, num_matching(checkpoint, expected), problems)


def num_matching(checkpoint: Checkpoint, expected: Expected) -> int:
    """How many of the expected keys a checkpoint has, whatever they hold."""
    names = set(checkpoint.fqns)
    return sum(key.fqn in names for key in expected.wanted)
