"""Tensors whose payloads are known, and whose boxes or dtype the metadata has wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_box, format_shape, plural, printable
from inspector.checks.payload.pieces import places_in_order
from inspector.repair.inventory import FoundPayload
from inspector.repair.plan import Basis, RepairStep
from inspector.repair.slots import Slot, Slots

__all__ = ["drop_duplicates", "mend_boxes"]

_GEOMETRY = frozenset({"chunk-gap", "chunk-overlap", "chunk-out-of-bounds"})
_MAX_NAMED = 6


def drop_duplicates(slots: Slots) -> Iterator[RepairStep]:
    """Take out chunks that are listed more than once: they are one storage entry."""
    seen: set[object] = set()
    kept = []
    for slot in slots.all:
        key = (slot.fqn, slot.offsets, slot.sizes, slot.file, slot.offset, slot.length)
        if slot.is_tensor and key in seen:
            yield RepairStep(
                "chunk-duplicate",
                "proven",
                slot.fqn,
                slot.file,
                f"{format_box(slot.offsets, slot.sizes)} listed again",
                "listed once",
                "both lines are of one storage entry, so they mean the same bytes",
            )
            continue
        seen.add(key)
        kept.append(slot)
    slots.all = kept


def mend_boxes(
    slots: Slots, checkpoint: Checkpoint, codes: Mapping[str, Collection[str]], *, likely: bool
) -> Iterator[RepairStep]:
    """Give tensors the dtype and the boxes that their payloads have.

    Args:
        slots: The entries, with their payloads where these are known.
        checkpoint: What they are of.
        codes: Codes of the errors that `check` found, by the entry's raw name.
        likely: Also change boxes that could be true, and add a chunk that no entry tells of.

    Yields:
        A step for each tensor.
    """
    groups: dict[int, list[Slot]] = defaultdict(list)
    for slot in slots.all:
        if slot.is_tensor:
            groups[slot.tensor].append(slot)
    for index, group in groups.items():
        if any(slot.payload is None for slot in group):
            continue
        rival = _exchanged_with(slots, group)
        if rival is not None:
            for slot in group:
                slot.trouble = slot.trouble or (
                    f"the payloads in its places are of another dtype or shape, and {rival.words} "
                    f"in {printable(rival.file)} at byte {rival.offset:,}, which is no other "
                    "entry's either, may be meant: which is which, nothing tells"
                )
            continue
        yield from _dtype(group)
        shape = checkpoint.columns.shape(index)
        if any(_shape(slot) != slot.sizes for slot in group) or _GEOMETRY & set(
            codes.get(group[0].fqn, ())
        ):
            yield from _boxes(slots, shape, group, likely)
    for slot in slots.all:
        payload = slot.payload
        if payload is None or payload.form == "sealed" or slot.fits(payload):
            continue
        # A tensor of a class of its own: what it is, the deep check knows.
        if payload.form != "bytes" or not slot.is_as_recorded or slot.fqn in codes:
            slots.release(slot)
            slot.trouble = slot.trouble or (
                f"the payload in its place is {payload.words}, and the metadata says {slot.words}"
            )


def _exchanged_with(slots: Slots, group: list[Slot]) -> FoundPayload | None:
    """A payload that an entry with a strange one should have by its dtype and shape, and nobody's.

    Then the bytes may be what is recorded wrong, and not the dtype or the box.
    """
    claims = [(slot, slot.payload) for slot in group if slot.payload is not None]
    strange = [(s, p) for s, p in claims if p.form != "sealed" and not s.fits(p)]
    wanted = {slot.what for slot, _ in strange}
    if not wanted:
        return None
    # One piece and empty ones: whether their boxes or their bytes were exchanged is all the same.
    held = [payload for _, payload in strange if 0 not in payload.shape]
    is_plain = len(held) == 1 and all(
        0 in slot.sizes or 0 in payload.shape for slot, payload in strange
    )
    own = group if is_plain else []
    for file in slots.inventory.files:
        for payload in slots.inventory.of(file):
            owner = slots.owner(payload)
            if payload.what not in wanted or any(owner is slot for slot in own):
                continue
            if owner is None or not owner.fits(payload):
                return payload
    return None


def _shape(slot: Slot) -> tuple[int, ...]:
    payload = slot.payload
    return payload.shape if payload is not None and payload.form == "tensor" else slot.sizes


def _dtype(group: list[Slot]) -> Iterator[RepairStep]:
    """All payloads of a tensor are of one dtype, which is not the metadata's."""
    payloads = [slot.payload for slot in group if slot.payload is not None]
    dtypes = {payload.dtype for payload in payloads}
    if len(dtypes) != 1 or any(payload.form != "tensor" for payload in payloads):
        return
    dtype, recorded = dtypes.pop(), group[0].dtype
    fits = all(_shape(slot) == slot.sizes and slot.is_as_recorded for slot in group)
    if dtype == recorded or not fits:
        return
    for slot in group:
        slot.dtype = dtype
    yield RepairStep(
        "dtype",
        "proven",
        group[0].fqn,
        None,
        printable(recorded, 40),
        dtype,
        f"each of its {plural(len(group), 'payload')} says so itself, at the recorded bytes and of "
        "the recorded shape",
    )


def _boxes(
    slots: Slots, shape: tuple[int, ...], group: list[Slot], likely: bool
) -> Iterator[RepairStep]:
    if any(slot.payload is None or slot.payload.form != "tensor" for slot in group):
        return
    if any(slot.payload is not None and slot.payload.dtype != slot.dtype for slot in group):
        return
    shapes = [_shape(slot) for slot in group]
    offsets = np.asarray([slot.offsets for slot in group], np.int64).reshape(len(group), len(shape))
    places = places_in_order(shape, offsets, shapes)
    if places is None:
        yield from _hole(slots, shape, group, likely)
        return
    # A box that its payload does not have, or that reaches outside, cannot be true.
    sizes = [slot.sizes for slot in group]
    ends = offsets + np.asarray(sizes, np.int64).reshape(offsets.shape)
    outside = (ends > np.asarray(shape, np.int64)).any(axis=1)
    alone = _put_back(shape, group, shapes, np.flatnonzero(outside).tolist())
    places = alone or places
    # Which one is first, an offset outside does not tell: it is one that was written wrong.
    is_false = alone is not None if outside.any() else shapes != sizes
    before, after = _named(group), ""
    if not is_false and not likely:
        for slot in group:
            slot.trouble = (
                "its payloads fill it exactly in the order of their offsets, but the recorded "
                "boxes are of the payloads' sizes and could be true: --allow-likely moves them"
            )
        return
    for slot, place, found in zip(group, places, shapes, strict=True):
        slot.offsets, slot.sizes = place, found
    after = _named(group)
    basis: Basis = "proven" if is_false else "likely"
    how = ", in the order of their offsets," if alone is None else " fill one hole, and so"
    why = f"the {plural(len(group), 'payload')}{how} fill {format_shape(shape)} exactly"
    ground = (
        "; a recorded box cannot be true"
        if is_false
        else "; nothing proves the recorded boxes false"
    )
    yield RepairStep("chunk-box", basis, group[0].fqn, None, before, after, why + ground)


def _put_back(
    shape: tuple[int, ...], group: list[Slot], shapes: list[tuple[int, ...]], astray: list[int]
) -> list[tuple[int, ...]] | None:
    """Where each begins, if one alone lies outside and the others leave a hole of its size."""
    if len(astray) != 1 or any(
        slot.sizes != found for n, (slot, found) in enumerate(zip(group, shapes, strict=True))
        if n not in astray
    ):  # fmt: skip
        return None
    (lost,) = astray
    hole = _hole_in(shape, [slot for slot in group if slot is not group[lost]])
    if hole is None or hole[1] != shapes[lost]:
        return None
    return [hole[0] if n == lost else slot.offsets for n, slot in enumerate(group)]


def _named(group: list[Slot]) -> str:
    shown = [format_box(slot.offsets, slot.sizes) for slot in group[:_MAX_NAMED]]
    more = f" and {len(group) - _MAX_NAMED:,} more" if len(group) > _MAX_NAMED else ""
    return ", ".join(shown) + more


def _hole(
    slots: Slots, shape: tuple[int, ...], group: list[Slot], likely: bool
) -> Iterator[RepairStep]:
    """A box that no chunk has: the payload of its shape that no entry names, if there is one."""
    box = _hole_in(shape, group)
    if box is None:
        return
    sizes, first = box[1], group[0]
    found = [p for p in slots.unclaimed() if p.what == ("tensor", first.dtype, sizes)]
    if len(found) != 1:
        return
    payload = found[0]
    where = f"in {printable(payload.file)} at byte {payload.offset:,}"
    if not likely:
        first.trouble = (
            f"one payload that no entry names is {payload.words}, {where}, and would fill "
            f"{format_box(*box)}; nothing proves that it does, --allow-likely takes it"
        )
        return
    yield _filled(slots, first, box, payload)


def _filled(
    slots: Slots, first: Slot, box: tuple[tuple[int, ...], tuple[int, ...]], payload: FoundPayload
) -> RepairStep:
    name = slots.name_of(payload.file)
    slot = Slot(first.fqn, first.tensor, first.dtype, *box, name, payload.offset, payload.length)
    slots.all.append(slot)
    why = (
        f"it is the only payload of the folder that is {payload.words} and that no entry names; "
        "nothing proves that it is this one"
    )
    step = slots.step(slot, payload, why, "likely")
    return replace(step, kind="storage-entry", before=f"{format_box(*box)} in no chunk")


def _hole_in(
    shape: tuple[int, ...], group: list[Slot]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The one box that is missing of a tensor that is cut along one dim."""
    cut = [d for d, n in enumerate(shape) if any(slot.sizes[d] != n for slot in group)]
    if len(cut) != 1:
        return None
    dim, at = cut[0], 0
    holes = []
    for slot in sorted(group, key=lambda s: s.offsets[dim]):
        if slot.offsets[dim] > at:
            holes.append((at, slot.offsets[dim]))
        if slot.offsets[dim] < at:
            return None
        at = slot.offsets[dim] + slot.sizes[dim]
    if at < shape[dim]:
        holes.append((at, shape[dim]))
    if len(holes) != 1:
        return None
    begin, end = holes[0]
    offsets = tuple(begin if d == dim else 0 for d in range(len(shape)))
    return offsets, tuple(end - begin if d == dim else n for d, n in enumerate(shape))
