"""What a comparison of two checkpoints found: `Diff`, `TensorDiff`, `BytesDiff`, `Tolerance`.

The rule this module keeps: EXACT is said of a tensor of which every element was compared, bit by
bit, and there was at least one. What could not be compared is `NOT_COMPARED` and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checks.metadata.optimizer import split_state

__all__ = [
    "UNMOVED",
    "VERDICTS",
    "BytesDiff",
    "Damage",
    "Diff",
    "MeshSide",
    "PlacementChange",
    "Side",
    "TensorDiff",
    "Tolerance",
    "Verdict",
    "unmoved_weights",
]

Verdict = Literal["EXACT", "CLOSE", "DIFFER", "NON_FINITE", "DTYPE", "SHAPE", "NOT_COMPARED"]

#: Every verdict of a tensor, the worst first.
VERDICTS: tuple[Verdict, ...] = (
    "NON_FINITE", "DIFFER", "SHAPE", "DTYPE", "NOT_COMPARED", "CLOSE", "EXACT",
)  # fmt: skip

#: `rtol` of `torch.testing.assert_close` by dtype (torch 2.13, torch/testing/_comparison.py).
#: For float8, which it lacks, one unit in the last place.
_RTOL = {
    "float16": 1e-3,
    "bfloat16": 1.6e-2,
    "float32": 1.3e-6,
    "float64": 1e-7,
    "complex32": 1e-3,
    "complex64": 1.3e-6,
    "complex128": 1e-7,
    "float8_e4m3fn": 0.125,
    "float8_e4m3fnuz": 0.125,
    "float8_e5m2": 0.25,
    "float8_e5m2fnuz": 0.25,
}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two checkpoints: what its metadata says, and where its bytes are."""

    checkpoint: Checkpoint
    storage: Storage


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two elements may be and still be close.

    `a` and `b` are close if `|a - b| <= atol + rtol * max(|a|, |b|)`. By default `rtol` is that of
    `torch.testing.assert_close` for the dtype, neighbours (one unit in the last place apart) are
    close whatever their size, and `atol` is 0: torch's 1e-5 would call second moments of Adam,
    which are often below 1e-8, close to anything small. Integers are close only if a tolerance
    is given.

    Attributes:
        rtol: Largest relative difference; None for the dtype's own.
        atol: Largest absolute difference.
    """

    rtol: float | None = None
    atol: float = 0.0

    def rtol_of(self, dtype: str) -> float:
        """The relative tolerance for elements of a dtype."""
        return _RTOL.get(dtype, 0.0) if self.rtol is None else self.rtol

    @property
    def neighbours_are_close(self) -> bool:
        """Whether floats one unit in the last place apart are close whatever their size."""
        return self.rtol is None

    def bound(self, dtype: str) -> str:
        """What is CLOSE for a dtype, as a formula with its numbers."""
        said = f"|a-b| <= {self.atol:g} + {self.rtol_of(dtype):g} * max(|a|, |b|)"
        is_float = dtype.startswith(("float", "bfloat", "complex"))
        return f"{said}, or 1 ulp apart" if is_float and self.neighbours_are_close else said


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """How one tensor, which both checkpoints name, differs.

    Elements count as different if their bits do: a zero of the other sign and a NaN of another
    payload are different, and close. Differences are taken in float64 (integers: exactly), and
    over pairs of finite numbers only.

    Attributes:
        fqn: Raw name.
        verdict: EXACT: every bit is the same. CLOSE: every element is within the tolerance.
            DIFFER: some are not. NON_FINITE: some element is NaN or infinite on one side and
            not the same on the other. DTYPE, SHAPE: those differ (with DTYPE the values are
            compared all the same, as numbers). NOT_COMPARED: `detail` says why.
        index_a, index_b: Positions in `Checkpoint.tensors` of either side; -1 where the name is
            no (readable) tensor there.
        dtype_a, dtype_b: Their dtypes; empty where `index` is -1.
        shape_a, shape_b: Their shapes; None likewise.
        num_elements: Elements of the tensor (of A's, if the shapes differ).
        num_compared: Elements that were compared.
        num_different: Elements that differ in any bit (as numbers, if the dtypes differ).
        first_index: Index of the first of them in row-major order, or None.
        max_abs: Largest |a - b|; exact (an int) for integers; 0 if every bit is the same; None if
            there is none to take.
        max_abs_index: Index of the first element with it, or None.
        max_rel: Largest |a - b| / max(|a|, |b|), or None.
        max_ulps: Most representable numbers of the dtype between two elements (of a complex
            number: of either part), or None for other types than floats.
        num_not_close: Elements outside the tolerance, the non-finite ones included.
        num_non_finite: Different elements of which a side is NaN or infinite, save NaN on both.
        first_non_finite: Index of the first of these, or None.
        num_nan_both: Different elements that are NaN on both sides (other payload bits).
        detail: What else is to be said, or why it was not compared. Printable.
        is_empty: True if it was not compared because it has no elements.
        is_reordered: True if it differs, and both hold the same elements in another order.
    """

    fqn: str
    verdict: Verdict
    index_a: int = -1
    index_b: int = -1
    dtype_a: str = ""
    dtype_b: str = ""
    shape_a: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    num_elements: int = 0
    num_compared: int = 0
    num_different: int = 0
    first_index: tuple[int, ...] | None = None
    max_abs: float | int | None = None
    max_abs_index: tuple[int, ...] | None = None
    max_rel: float | None = None
    max_ulps: int | None = None
    num_not_close: int = 0
    num_non_finite: int = 0
    first_non_finite: tuple[int, ...] | None = None
    num_nan_both: int = 0
    detail: str = ""
    is_empty: bool = False
    is_reordered: bool = False

    @property
    def is_different(self) -> bool:
        """True if it is proven to differ (CLOSE is not the same)."""
        return self.verdict not in ("EXACT", "NOT_COMPARED")


@dataclass(frozen=True, slots=True)
class BytesDiff:
    """How one bytes entry, which both checkpoints name, differs.

    Attributes:
        fqn: Raw name.
        verdict: EXACT, DIFFER or NOT_COMPARED.
        num_bytes_a, num_bytes_b: Bytes of content that were compared; None if none were.
        detail: What is to be said of it. Printable.
    """

    fqn: str
    verdict: Verdict
    num_bytes_a: int | None = None
    num_bytes_b: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PlacementChange:
    """A tensor that lies otherwise in B than in A; its content is not concerned."""

    fqn: str
    a: tuple[str, ...] | None
    b: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Damage:
    """What a side lacks, by its metadata and the sizes of its files: an error that `check` finds.

    Attributes:
        side: `A` or `B`.
        code: The code of the finding.
        message: The finding. Printable.
        fqn: Raw name of the entry concerned, or None.
    """

    side: Literal["A", "B"]
    code: str
    message: str
    fqn: str | None = None


@dataclass(frozen=True, slots=True)
class MeshSide:
    """What one side is; `mesh` is the one that wrote it, None if that cannot be told."""

    path: str
    mesh: str | None
    num_tensors: int
    num_bytes_entries: int


@dataclass(frozen=True, slots=True)
class Diff:
    """Two checkpoints, compared.

    Attributes:
        a, b: The two.
        tensors: Every tensor that both name, in A's order.
        entries: Every bytes entry that both name and that was compared, in A's order.
        num_entries: How many they both name.
        only_in_a, only_in_b: Names (tensors, then bytes entries) that the other lacks, without
            those in `renamed`.
        renamed: Pairs of names whose tensors have the same content, bit for bit.
        likely_renamed: Pairs that only their names, shapes and dtypes suggest; they stand in
            `only_in_a` and `only_in_b` too.
        placements: Tensors that are placed otherwise.
        unreadable: Names that the metadata of a side holds, but not as a value that can be read.
        missing_parts: Files that should tell of further tensors of a side and do not, in words;
            then nothing is called the same. Printable.
        param_groups: Lists of an optimizer's groups that both have, of other lengths: name, groups
            in A, groups in B.
        damage: What either side lacks; without values, nothing is called the same then.
        tolerance: What counted as close; None where no values were compared.
        values_compared: False if only the structure was compared.
        is_cancelled: True if it was stopped before everything was compared.
        bytes_read: Bytes of elements that were read, of both sides together.
    """

    a: MeshSide
    b: MeshSide
    tensors: tuple[TensorDiff, ...]
    entries: tuple[BytesDiff, ...] = ()
    num_entries: int = 0
    only_in_a: tuple[str, ...] = ()
    only_in_b: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    likely_renamed: tuple[tuple[str, str], ...] = ()
    placements: tuple[PlacementChange, ...] = ()
    unreadable: tuple[str, ...] = ()
    missing_parts: tuple[str, ...] = ()
    damage: tuple[Damage, ...] = ()
    param_groups: tuple[tuple[str, int, int], ...] = ()
    tolerance: Tolerance | None = None
    values_compared: bool = False
    is_cancelled: bool = False
    bytes_read: int = 0

    @property
    def is_different(self) -> bool:
        """True if anything is proven to differ."""
        return bool(
            self.only_in_a
            or self.only_in_b
            or self.renamed
            or any(t.is_different for t in self.tensors)
            or any(e.verdict == "DIFFER" for e in self.entries)
        )

    @property
    def is_close(self) -> bool:
        """True if everything was compared, and what differs is at most CLOSE."""
        return (
            self.values_compared
            and not (self.is_cancelled or self.unreadable or self.missing_parts)
            and not self.not_compared
            and bool(self.num_compared)
            and not (self.only_in_a or self.only_in_b or self.renamed)
            and all(t.verdict == "CLOSE" for t in self.tensors if t.is_different)
            and not any(e.verdict == "DIFFER" for e in self.entries)
        )

    @property
    def not_compared(self) -> int:
        """Tensors and bytes entries that should have been compared and could not be."""
        left = sum(t.verdict == "NOT_COMPARED" and not t.is_empty for t in self.tensors)
        return left + sum(e.verdict == "NOT_COMPARED" for e in self.entries)

    @property
    def num_compared(self) -> int:
        """Tensors and bytes entries that were compared (without values: in structure)."""
        if not self.values_compared:
            return len(self.tensors) + self.num_entries
        found = sum(t.num_compared > 0 for t in self.tensors)
        return found + sum(e.verdict != "NOT_COMPARED" for e in self.entries)

    @property
    def verdict(self) -> Literal["same", "different", "unknown"]:
        """`same` only if everything that was to be compared was, and there was something.

        Without values it speaks of the structure alone.
        """
        if self.is_different:
            return "different"
        if self.is_cancelled or self.unreadable or self.missing_parts or not self.num_compared:
            return "unknown"
        # Where values were compared, what is damaged could be read, or is in `not_compared`.
        not_known = self.not_compared if self.values_compared else self.damage
        return "unknown" if not_known else "same"

    @property
    def exit_code(self) -> int:
        """0 same, 1 different, 2 stopped, or not everything could be compared."""
        if self.is_cancelled:
            return 2
        return {"same": 0, "different": 1, "unknown": 2}[self.verdict]


UNMOVED = (
    "weights equal while their exp_avg moved: stale, or a learning rate of 0, or steps too small "
    "for the dtype"
)

#: State that follows the gradients of every step.
_FIRST_MOMENTS = frozenset({"exp_avg", "momentum_buffer"})
_MOVED = frozenset({"DIFFER", "CLOSE", "NON_FINITE"})


def unmoved_weights(diff: Diff) -> tuple[str, ...]:
    """Weights that are the same though their optimizer state is not: raw names, in A's order.

    A first moment that moved means that the parameter had gradients, so that a weight that did not
    move is worth a look; why it did not is for the reader to say. None where no values were
    compared.
    """
    moved = set()
    for tensor in diff.tensors:
        found = split_state(tensor.fqn) if tensor.verdict in _MOVED else None
        if found is not None and found.slot in _FIRST_MOMENTS:
            moved.add(found.param)
    if not moved:
        return ()
    # The optimizer may know a parameter without the prefix of the model (`model.`).
    return tuple(
        tensor.fqn
        for tensor in diff.tensors
        if tensor.verdict == "EXACT"
        and (tensor.fqn in moved or tensor.fqn.partition(".")[2] in moved)
        and split_state(tensor.fqn) is None
    )
