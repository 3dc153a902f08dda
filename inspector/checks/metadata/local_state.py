"""Optimizer state of which one rank's piece is stored for the whole.

An optimizer that works on local tensors (`p.to_local()`) keeps plain tensors as its state. DCP
takes a plain tensor for a replicated one: all ranks write the same name, and one rank's survives.
`dcp.load` gives that piece to every rank.

The rule this module keeps: told only where nothing else explains the shapes. A slot counts if it
has its parameter's shape by definition (Adam's `exp_avg`, not Adafactor's `row_var`), and if it is
one whole chunk of exactly the shape of one of its parameter's chunks. A low-rank projection
(GaLore, APOLLO) can have such a shape by chance: it makes matrices of one rank, and leaves vectors
alone, so vectors or two lengths along the cut are asked for. Or siblings: such a projection is
made of the same matrix of every layer, so one piece among layers that have the whole is none.

The same becomes of an average of the model that is made of local tensors, and of the parameters
that FSDP1 names beside its flat ones (`use_orig_params=True` with LOCAL_STATE_DICT): told where
one of them is empty, which no parameter is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.child.names import any_has
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.optimizer import COPIES, SLOTS, is_optimizer_state, split_state

__all__ = ["check_local_state", "local_pieces"]

#: State that has its parameter's shape by definition: all that is known but single numbers.
_SHAPED = (SLOTS - {"step", "mu_product", "eta", "mu"}) | COPIES
_FLAT = "_flat_param"
_MAX_NAMED = 3
_MIN_WHOLE = 2
_MAX_NAME = 120

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A state tensor that has the shape of a piece of its parameter."""

    state: int
    param: Tensor
    param_name: str
    slot: str
    shape: Shape

    @property
    def cut_lengths(self) -> tuple[tuple[int, int], ...]:
        """Along each dim that is cut: which, and how long the piece is."""
        pairs = zip(self.shape, self.param.shape, strict=True)
        return tuple((d, n) for d, (n, whole) in enumerate(pairs) if n != whole)


def check_local_state(checkpoint: Checkpoint) -> list[Finding]:
    """All `local-state` findings, one for each optimizer."""
    pieces: dict[str, list[_Piece]] = {}
    found, odd = _pieces(checkpoint)
    for prefix, piece in found:
        if checkpoint.columns.num_chunks_of[piece.state] > 1:
            continue  # Every rank stored its own (`__R.metadata`), and loads it again.
        # A slot of other shapes, too, has not its parameter's by definition (Adam-mini, GaLore).
        if (prefix, piece.slot) not in odd:
            pieces.setdefault(prefix, []).append(piece)
    return [
        *(_finding(checkpoint, prefix, members) for prefix, members in _proven(checkpoint, pieces)),
        *(
            _finding(checkpoint, head, members, is_copy=True)
            for head, members in _copies(checkpoint)
        ),
        *_views_of_flat(checkpoint),
    ]


def local_pieces(checkpoint: Checkpoint) -> frozenset[int]:
    """Tensors, by index, that have the shape of a piece of their parameter."""
    return frozenset(piece.state for _, piece in _pieces(checkpoint)[0])


def _proven(
    checkpoint: Checkpoint, pieces: dict[str, list[_Piece]]
) -> Iterator[tuple[str, list[_Piece]]]:
    """The pieces of each optimizer that nothing but local tensors explains."""
    for prefix, members in pieces.items():
        proven = members if _is_proven(members) else _among_whole_ones(checkpoint, prefix, members)
        if proven:
            yield prefix, proven


def _among_whole_ones(checkpoint: Checkpoint, prefix: str, pieces: list[_Piece]) -> list[_Piece]:
    """Those of which most layers have the whole, in shards, where these have a piece."""
    columns = checkpoint.columns
    whole: Counter[tuple[str, str, Shape]] = Counter()
    for index in np.flatnonzero(columns.num_chunks_of > 1).tolist():
        split = split_state(columns.fqns[index])
        if split is not None and split.prefix == prefix:
            whole[_family(split.param), split.slot, columns.shape(index)] += 1
    kinds = [(_family(piece.param_name), piece.slot, piece.param.shape) for piece in pieces]
    num = Counter(kinds)
    return [
        piece
        for piece, kind in zip(pieces, kinds, strict=True)
        if whole[kind] > num[kind] and whole[kind] >= _MIN_WHOLE
    ]


def _family(name: str) -> str:
    """A name without its numbers."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _is_proven(pieces: list[_Piece]) -> bool:
    """Whether no projection to one rank makes all of these shapes."""
    if any(len(piece.shape) == 1 for piece in pieces):
        return True
    return len({n for piece in pieces for _, n in piece.cut_lengths}) > 1


def _pieces(checkpoint: Checkpoint) -> tuple[list[tuple[str, _Piece]], set[tuple[str, str]]]:
    """Pieces with their optimizers; and slots with shapes of neither a parameter nor a piece."""
    columns = checkpoint.columns
    found: list[tuple[str, _Piece]] = []
    odd: set[tuple[str, str]] = set()
    states = []
    others: dict[str, list[int]] = {}
    for index, fqn in enumerate(columns.fqns):
        split = split_state(fqn)
        if split is None:
            others.setdefault(fqn.rpartition(".")[2], []).append(index)
        elif split.slot in _SHAPED and (
            columns.num_chunks_of[index] == 1 or checkpoint.per_rank_metadata
        ):
            states.append((index, split))
    for index, split in states:
        if split.param.isdigit():
            continue  # A number in the order of the parameters, which is not stored.
        shape = columns.shape(index)
        tail = "." + split.param
        named = [
            i
            for i in others.get(split.param.rpartition(".")[2], ())
            if columns.fqns[i] == split.param or columns.fqns[i].endswith(tail)
        ]
        params = [columns.tensor(i) for i in named]
        # Where several tensors could be the parameter, each has to tell the same.
        if params and all(_is_piece(shape, param) for param in params):
            found.append((split.prefix, _Piece(index, params[0], split.param, split.slot, shape)))
        elif any(len(p.shape) == len(shape) and p.shape != shape for p in params):
            odd.add((split.prefix, split.slot))
    return found, odd


def _copies(checkpoint: Checkpoint) -> Iterator[tuple[str, list[_Piece]]]:
    """Copies of a model (an average, `ema.`) that are a rank's pieces of it, by their first word.

    Every tensor has to be one whose counterpart is cut, and matrices among them: of two models of
    two sizes both sides of a matrix differ.
    """
    columns = checkpoint.columns
    if checkpoint.per_rank_metadata:
        return
    is_cut = columns.num_chunks_of > 1
    cut: dict[str, list[int]] = {}
    for index in np.flatnonzero(is_cut).tolist():
        if not is_optimizer_state(columns.fqns[index]):
            cut.setdefault(columns.fqns[index].partition(".")[2], []).append(index)
    found: dict[tuple[str, str], list[_Piece]] = {}
    others: set[tuple[str, str]] = set()
    for index in np.flatnonzero(~is_cut).tolist() if cut else ():
        head, _, rest = columns.fqns[index].partition(".")
        for number in cut.get(rest, ()) if rest else ():
            param = columns.tensor(number)
            pair = head, param.fqn.partition(".")[0]
            shape = columns.shape(index)
            if _is_piece(shape, param) and not is_optimizer_state(columns.fqns[index]):
                found.setdefault(pair, []).append(_Piece(index, param, param.fqn, "", shape))
            else:
                others.add(pair)
    for (head, other), pieces in found.items():
        has_matrix = any(len(piece.shape) > 1 for piece in pieces)
        if head != other and (head, other) not in others and has_matrix and len(pieces) > 1:
            yield head, pieces


def _views_of_flat(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Parameters that are one rank's views of a flat one: without dims, and some without elements.

    FSDP1's `_local_post_state_dict_hook` adds the flat parameter, and leaves the names of the
    parameters, each the part of it that the rank holds.
    """
    columns = checkpoint.columns
    if not any_has(columns.fqns, _FLAT) or checkpoint.per_rank_metadata:
        return
    flat = {fqn[: -len(_FLAT)]: i for i, fqn in enumerate(columns.fqns) if _is_flat(fqn)}
    owners = {owner for owner, i in flat.items() if columns.num_chunks_of[i] > 1}
    views = [
        index
        for index in np.flatnonzero(np.diff(columns.dim_start) == 1).tolist()
        if columns.num_chunks_of[index] == 1
        and not is_optimizer_state(columns.fqns[index])
        and any(owner in owners for owner in _owners(columns.fqns[index]))
    ]
    empty = [index for index in views if columns.shape(index) == (0,)]
    if not empty:
        return
    names = ", ".join(printable(columns.fqns[i], _MAX_NAME) for i in empty[:_MAX_NAMED])
    owner = next(o for o in _owners(columns.fqns[empty[0]]) if o in owners)
    whole = columns.tensor(flat[owner])
    yield Finding(
        "local-state",
        f"{plural(len(empty), 'parameter')} without an element ({names}"
        f"{' ...' if len(empty) > _MAX_NAMED else ''}) beside "
        f"{printable(whole.fqn, _MAX_NAME)}, which holds them in {whole.num_chunks:,} shards: "
        "they are one rank's parts of it, as FSDP1 with use_orig_params=True names them in a "
        "LOCAL_STATE_DICT; of each name one rank's part is kept",
        "raises ValueError: Size mismatch, also into the model and the ranks that saved it, since "
        "each rank's parts have lengths of their own",
        "the flat parameters hold them all: wrap the model as it was on as many ranks, and give "
        f"dcp.load the entries of its LOCAL_STATE_DICT that end in {_FLAT}, which are filled in "
        "place; save with SHARDED_STATE_DICT",
        fqn=columns.fqns[empty[0]],
    )


def _is_flat(fqn: str) -> bool:
    return fqn == _FLAT or fqn.endswith("." + _FLAT)


def _owners(fqn: str) -> Iterator[str]:
    """The prefixes of the modules that hold an entry, the innermost first."""
    end = len(fqn)
    while (end := fqn.rfind(".", 0, end)) >= 0:
        yield fqn[: end + 1]
    yield ""


def _is_piece(shape: Shape, param: Tensor) -> bool:
    if param.num_chunks < 2 or len(shape) != len(param.shape) or shape == param.shape:
        return False
    return bool((param.sizes == shape).all(axis=1).any())


def _finding(
    checkpoint: Checkpoint, prefix: str, pieces: list[_Piece], *, is_copy: bool = False
) -> Finding:
    columns = checkpoint.columns
    pieces = sorted(pieces, key=lambda piece: -piece.param.num_elements)
    slots = f"({', '.join(sorted({piece.slot for piece in pieces}))}) " if not is_copy else ""
    state = "them" if is_copy else "optimizer state"
    hint = (
        "the optimizer keeps plain local tensors, which DCP takes for replicated ones: wrap them "
        "as DTensors of their parameters' placements (DTensor.from_local) before saving; from this "
        "checkpoint take the weights, and start the optimizer anew"
    )
    if is_copy:
        hint = (
            "no fault if it is another, smaller model; else it is a copy that was made of local "
            "tensors (an average of p.to_local()), which DCP takes for replicated ones: wrap them "
            "as DTensors before saving, and make the copy anew from the weights"
        )
    named = [
        f"{printable(columns.fqns[p.state], _MAX_NAME)} {format_shape(p.shape)} for "
        f"{format_shape(p.param.shape)}, in {p.param.num_chunks:,} shards"
        for p in pieces[:_MAX_NAMED]
    ]
    more = "" if len(pieces) <= _MAX_NAMED else f" and {len(pieces) - _MAX_NAMED:,} more"
    lost = sum(p.param.num_elements - columns.tensor(p.state).num_elements for p in pieces)
    one = len(pieces) == 1
    return Finding(
        "local-state",
        f"{printable(prefix.rstrip('.'), 60)}: {plural(len(pieces), 'tensor')} {slots}"
        f"{'has' if one else 'have'} the shape of one rank's shard of "
        f"{'its parameter' if one else 'their parameters'}, and {'is' if one else 'are'} all there "
        f"is: {'; '.join(named)}{more}. {plural(lost, 'element')} of {state} "
        f"{'is' if lost == 1 else 'are'} not stored",
        "loads silently: every rank gets the one rank's piece that was kept, whichever rank it was",
        hint,
        fqn=columns.fqns[pieces[0].state],
        num_elements=lost,
    )
