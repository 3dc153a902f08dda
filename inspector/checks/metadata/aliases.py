"""One parameter under two names with two shapes, and weights that are a flat piece of themselves.

The rule this module keeps: models are full of parameters of one name and two shapes (encoder and
decoder, teacher and student). An alias is told only where the pieces that ranks hold are alike
too: the smaller tensor is made of fewer pieces of the very same shape, as one is whose DTensor
lacks an axis of the mesh. A flat weight is told only where others of its kind are matrices, or
where its kind (an embedding, a projection) is a matrix by definition.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.optimizer import is_optimizer_state
from inspector.layout.geometry import unique

__all__ = ["check_aliases"]

Shape = tuple[int, ...]

_MAX_NAME = 120
_MAX_NAMED = 3
_TAIL = 3
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
# Modules whose weight is a matrix by definition (`nn.Embedding`, `nn.Linear`), as the common models
# call them.
_MATRICES = re.compile(
    r"(?:\A|\.)(?:embed_tokens|tok_embeddings|word_embeddings|wte|lm_head|embed_out"
    r"|[qkvo]_proj|(?:gate|up|down)_proj|w[qkvo]|[qkv]o?_lin)\.weight\Z"
)
_FLOATS = frozenset({"float32", "bfloat16", "float16", "float64"})


def check_aliases(checkpoint: Checkpoint) -> list[Finding]:
    """All `alias-shape` findings."""
    columns = checkpoint.columns
    fqns = columns.fqns
    ndims = np.diff(columns.dim_start)
    cut = [
        i
        for i in np.flatnonzero(columns.num_chunks_of > 1).tolist()
        if not is_optimizer_state(fqns[i])
    ]
    flat = [i for i in np.flatnonzero(ndims == 1).tolist() if not is_optimizer_state(fqns[i])]
    return [*_truncated(checkpoint, cut), *_flat(checkpoint, flat)]


# -- two names ---------------------------------------------------------------------------------


def _truncated(checkpoint: Checkpoint, cut: list[int]) -> Iterator[Finding]:
    """Tensors that lack a part of another of the same tail and the same pieces."""
    columns = checkpoint.columns
    groups: dict[tuple[str, str], list[int]] = {}
    for index in cut:
        parts = columns.fqns[index].rsplit(".", _TAIL)
        if len(parts) > 1:
            key = ".".join(parts[-_TAIL:]), columns.dtype(index)
            groups.setdefault(key, []).append(index)
    for members in groups.values():
        shapes = {columns.shape(i) for i in members}
        if len(shapes) < 2:
            continue
        by_piece: dict[Shape, dict[Shape, list[Tensor]]] = {}
        for tensor in map(columns.tensor, members):
            piece = _piece(tensor)
            if piece is not None:
                by_piece.setdefault(piece, {}).setdefault(tensor.shape, []).append(tensor)
        for piece, by_shape in by_piece.items():
            yield from _pairs(piece, by_shape)


def _piece(tensor: Tensor) -> Shape | None:
    """The shape of a tensor's pieces, if all are alike."""
    first = tensor.sizes[0]
    return tuple(first.tolist()) if (tensor.sizes == first).all() else None


def _pairs(piece: Shape, by_shape: dict[Shape, list[Tensor]]) -> Iterator[Finding]:
    shapes = sorted(by_shape, key=math.prod)
    for number, small in enumerate(shapes):
        for large in shapes[number + 1 :]:
            dims = [d for d, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
            # One dim alone, not cut at all in the smaller one, and longer than one element: a dim
            # of one element a rank is as short as it can be.
            if len(dims) == 1 and small[dims[0]] == piece[dims[0]] > 1:
                yield _truncated_finding(piece, dims[0], by_shape[small], by_shape[large])
                break


def _truncated_finding(piece: Shape, dim: int, small: list[Tensor], large: list[Tensor]) -> Finding:
    first, other = small[0], large[0]
    parts = other.shape[dim] // first.shape[dim]
    more = f" ({plural(len(small), 'tensor')} like it)" if len(small) > 1 else ""
    lost = other.num_elements - first.num_elements
    return Finding(
        "alias-shape",
        f"{printable(first.fqn, _MAX_NAME)} {format_shape(first.shape)}{more}: made of "
        f"{first.num_chunks:,} pieces {format_shape(piece)}, and "
        f"{printable(other.fqn, _MAX_NAME)} {format_shape(other.shape)} of {other.num_chunks:,} "
        f"such pieces. If they are one parameter, or alike, the first holds a part of {parts:,} "
        f"along dim {dim}, and {plural(lost, 'element')} of it are not here",
        "loads it silently into a tensor that is made with that shape; raises ValueError: Size "
        "mismatch into one of the whole shape",
        "no fault if the two are of different sizes in the model; else its DTensor lacks an axis "
        "of the mesh (ep or tp): give both names the same placements, and load from the other",
        fqn=first.fqn,
        num_elements=lost,
    )


# -- flat pieces -------------------------------------------------------------------------------


def _flat(checkpoint: Checkpoint, flat: list[int]) -> Iterator[Finding]:
    columns = checkpoint.columns
    lengths = {i: columns.shape(i)[0] for i in flat}
    wanted = [i for i in flat if columns.dtype(i) in _FLOATS and lengths[i] > 1]
    kinds = {_kind(columns.fqns[i]) for i in wanted} - {""}
    matrices: dict[str, Counter[Shape]] = {}
    widths: set[int] = set()
    ndims = np.diff(columns.dim_start)
    two = np.flatnonzero(ndims == 2) if wanted else np.zeros(0, np.int64)
    sides = np.concatenate([columns.shapes[columns.dim_start[two] + d] for d in (0, 1)])
    widths.update(unique(sides).tolist())
    for index in two.tolist() if kinds else ():
        fqn = columns.fqns[index]
        kind = _kind(fqn)
        if kind in kinds and not is_optimizer_state(fqn):
            matrices.setdefault(kind, Counter())[columns.shape(index)] += 1
    # The model's width: a vector (of a norm) that is a side of matrices too.
    vectors = Counter(lengths[i] for i in wanted if not _MATRICES.search(columns.fqns[i]))
    width = max((n for n in vectors if n > 1 and n in widths), key=lambda n: vectors[n], default=0)
    for index in wanted:
        fqn, length = columns.fqns[index], lengths[index]
        siblings = matrices.get(_kind(fqn), Counter())
        whole = next((s for s, _ in siblings.most_common() if _is_part(length, s)), None)
        if whole is not None:
            parts = math.prod(whole) // length
            yield _flat_finding(
                fqn,
                length,
                f"others of its name have {format_shape(whole)}, of which that is one part of "
                f"{parts:,}, flattened",
            )
        elif _MATRICES.search(fqn) and width and length > width and not length % width:
            rows = length // width
            yield _flat_finding(
                fqn,
                length,
                f"such a weight is a matrix; {plural(length, 'element')} are {rows:,} rows of the "
                f"width {width:,} that others have",
            )


def _kind(fqn: str) -> str:
    """The name without its numbers, or nothing where a number is all that names the module.

    In a `Sequential`, `0.weight` and `1.weight` are of different modules.
    """
    parts = fqn.split(".")
    if len(parts) < 2 or parts[-2].isdigit():
        return ""
    kind = _NUMBER.sub("*", fqn)
    return kind if kind != fqn else ""


def _is_part(length: int, whole: Shape) -> bool:
    parts, rest = divmod(math.prod(whole), length)
    # A part of a vector's length is no piece of a matrix but its neighbour's bias.
    return parts > 1 and not rest and length not in whole


def _flat_finding(fqn: str, length: int, why: str) -> Finding:
    return Finding(
        "alias-shape",
        f"{printable(fqn, _MAX_NAME)} [{length:,}]: flat, and {why}",
        "raises ValueError: Size mismatch, into a model whose weight is a matrix",
        "a flat shard of FSDP1 was saved or exported in its place (the state dict was taken "
        "without SHARDED_STATE_DICT or FULL_STATE_DICT, or outside summon_full_params): export it "
        "again; the other ranks' pieces are not here",
        fqn=fqn,
    )
