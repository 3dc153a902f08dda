"""Why a tensor may have another shape than a model expects: `shape_hint`, a sentence."""

from __future__ import annotations

import math

from inspector.checkpoint.text import format_shape, plural

__all__ = ["shape_hint"]

Shape = tuple[int, ...]

_SHARES = {2: "half", 3: "a third", 4: "a quarter", 8: "an eighth"}
_MAX_SHARDS = 65_536
_VOCABULARIES = ("embed", "wte", "vocab", "lm_head", "output", "tok_")


def shape_hint(fqn: str, saved: Shape, wanted: Shape) -> str:
    """What to do about a tensor of the shape `saved` where a model expects `wanted`."""
    num_saved, num_wanted = math.prod(saved), math.prod(wanted)
    if saved != wanted and sorted(saved) == sorted(wanted):
        return (
            "the same dims in another order: as of a transposed weight (Conv1D beside Linear, one "
            "framework's layout beside another's); if it is one, transpose it, for reshaping mixes "
            "its elements"
        )
    if num_saved == num_wanted:
        return f"the same {plural(num_saved, 'element')} in another shape: reshape one of the two"
    if len(wanted) == 1 and len(saved) > 1:
        share = _share(num_wanted, num_saved)
        if share:
            return (
                f"{num_wanted:,} is {share} of {_times(saved)}: the flat piece of one rank, as a "
                "state dict of FSDP1 holds it that was taken without SHARDED_STATE_DICT on "
                f"{num_saved // num_wanted:,} ranks; take it with "
                "FSDP.state_dict_type(model, StateDictType.SHARDED_STATE_DICT)"
            )
    if len(saved) == 1 and len(wanted) > 1:
        share = _share(num_saved, num_wanted)
        if share:
            num_ranks = num_wanted // num_saved
            return (
                f"{num_saved:,} is {share} of {_times(wanted)}: the checkpoint holds the flat "
                f"piece of one of {num_ranks:,} ranks, not the rest; it has to be saved anew, from "
                "a sharded or a full state dict"
            )
    dims = [d for d, sizes in enumerate(zip(saved, wanted, strict=False)) if len(set(sizes)) == 2]
    if len(saved) == len(wanted) and len(dims) == 1:
        (dim,) = dims
        share = _share(wanted[dim], saved[dim])
        is_vocabulary = dim == 0 and any(word in fqn.lower() for word in _VOCABULARIES)
        if is_vocabulary and not share:
            return (
                f"{plural(saved[0], 'row')} and {plural(wanted[0], 'row')}: a vocabulary that was "
                "padded or extended otherwise; pad the model's alike, or cut the tensor by a script"
            )
        if share:
            return (
                f"{wanted[dim]:,} is {share} of {saved[dim]:,} in dim {dim}: if that is one rank's "
                "shape, give the global one (what a DTensor's shape says); else the two are of "
                "different settings"
            )
        return f"only dim {dim} differs ({saved[dim]:,}, {wanted[dim]:,}): of different settings"
    return "the two are of different models or settings (vocabulary, hidden size, layers)"


def _share(part: int, whole: int) -> str:
    """`a quarter`, or nothing if it is no whole share."""
    if not 0 < part < whole or whole % part or whole // part > _MAX_SHARDS:
        return ""
    return _SHARES.get(whole // part, f"one {whole // part:,}th")


def _times(shape: Shape) -> str:
    """`512x16`."""
    return "x".join(map(str, shape)) if len(shape) < 6 else format_shape(shape)
