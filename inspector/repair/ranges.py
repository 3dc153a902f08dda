"""Wrong byte ranges: which payload an entry means, by the payloads' own beginnings and ends."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable
from inspector.repair.inventory import FoundPayload, payload_at
from inspector.repair.plan import RepairStep
from inspector.repair.slots import Slot, Slots

__all__ = ["match_ranges", "match_unstored"]


def match_ranges(slots: Slots, *, likely: bool) -> Iterator[RepairStep]:
    """Find the payloads of entries whose byte range is none in the file that they name.

    Args:
        slots: The entries; those that are as recorded have their payloads.
        likely: Where several payloads of a dtype and shape could be meant, take them in the order
            in which the entries are recorded.

    Yields:
        A step for each entry.
    """
    for name, entries in slots.by_name().items():
        file = slots.file_of(name)
        if file is None:
            continue
        open_ones = [slot for slot in entries if slot.payload is None and not slot.trouble]
        for slot in open_ones:
            _as_recorded(slots, slot, file)
        open_ones = [slot for slot in open_ones if slot.payload is None and not slot.trouble]
        if not slots.inventory.of(file):
            for slot in open_ones:
                slot.trouble = _nothing_there(slots, name, file)
            continue
        if open_ones:
            yield from _in_file(slots, name, file, entries, open_ones, likely)


def _nothing_there(slots: Slots, name: str, file: str) -> str:
    entry = slots.inventory.storage.stat(file)
    shown = printable(name, 120)
    if entry is None:
        return f"{shown} is not there, and no other file holds its payloads"
    if entry.kind != "file":
        return f"{shown} cannot be read: {entry.problem or 'it is a folder'}"
    return f"{shown} holds no payload that can be told from its own bytes"


def _as_recorded(slots: Slots, slot: Slot, file: str) -> None:
    """An entry whose payload is there, though no chain of archives tells of it."""
    if slot.length <= 0 or slot.offset < 0:
        return
    if slot.transforms:
        # Compressed: what lies there shows in a deep check alone.
        slots.claim(slot, FoundPayload(file, slot.offset, slot.length, "sealed"), as_recorded=True)
        return
    end = slot.offset + slot.length
    if any(p.offset < end and slot.offset < p.end for p in slots.inventory.of(file)):
        return  # A reader that looks for the last archive of the range finds one of these.
    storage = slots.inventory.storage
    found = payload_at(storage, file, slot.offset, slot.length, is_tensor=slot.is_tensor)
    if found is not None and slot.fits(found):
        slots.claim(slot, found, as_recorded=True)


def _in_file(
    slots: Slots, name: str, file: str, entries: list[Slot], open_ones: list[Slot], likely: bool
) -> Iterator[RepairStep]:
    rest = []
    anchored = [(slot, _anchored(slots, slot, file)) for slot in open_ones]
    sought = Counter(found[0].offset for _, found in anchored if found is not None)
    for slot, found in anchored:
        if found is None or sought[found[0].offset] > 1:
            rest.append(slot)
        else:
            yield slots.step(slot, *found)
    if not rest:
        return
    shift = _shift(slots, entries, file) if len(rest) == len(entries) else None
    if shift is not None:
        for slot, payload in shift:
            why = (
                f"all {plural(len(entries), 'entry', 'entries')} of the file lie "
                f"{payload.offset - slot.offset:+,} bytes from their payloads, of which each has "
                "the recorded dtype, shape and length; the file holds no other"
            )
            yield slots.step(slot, payload, why)
        return
    is_known = _is_whole(slots, entries, file)
    free: dict[object, list[FoundPayload]] = defaultdict(list)
    wanted: dict[object, list[Slot]] = defaultdict(list)
    for payload in slots.unclaimed(file):
        free[payload.what].append(payload)
    for slot in rest:
        wanted[slot.what].append(slot)
    for what, group in wanted.items():
        payloads = free[what]
        if len(group) == len(payloads) == 1 and is_known:
            why = (
                f"it is the only payload of {printable(name)} that is {payloads[0].words} and that "
                "no other entry names; the file is whole, and has one payload for each entry"
            )
            yield slots.step(group[0], payloads[0], why)
        elif len({slot.offset for slot in group}) == len(group) == len(payloads) and likely:
            why = (
                f"the {plural(len(group), 'entry', 'entries')} of {payloads[0].words} are taken in "
                "the order in which they are recorded; nothing proves it"
            )
            for slot, payload in zip(_ordered(group), payloads, strict=True):
                yield slots.step(slot, payload, why, "likely")
        else:
            _tell(slots, name, group, payloads, is_known)


def _is_whole(slots: Slots, entries: list[Slot], file: str) -> bool:
    """Whether a file is payloads from its first byte to its last, one for each of its entries.

    Else the payload that is meant may be damaged, and the one that is left over another's, whose
    entry is gone. Nor is anything known of a file of which not one entry is right.
    """
    payloads = slots.inventory.of(file)
    entry = slots.inventory.storage.stat(file)
    at = 0
    for payload in payloads:
        if payload.offset != at or payload.form == "damaged":
            return False
        at = payload.end
    is_all = entry is not None and at == entry.num_bytes and len(payloads) == len(entries)
    return is_all and (len(entries) == 1 or any(slot.payload is not None for slot in entries))


def _anchored(slots: Slots, slot: Slot, file: str) -> tuple[FoundPayload, str] | None:
    """The one payload that begins, or ends, where the entry says."""
    inventory = slots.inventory
    # Byte 0 and no length are what is left of an entry that was lost, and point at nothing.
    begins = inventory.beginning(file, slot.offset) if slot.offset or slot.length > 0 else None
    ends = inventory.ending(file, slot.offset + slot.length)
    found = {
        payload.offset: (payload, where)
        for payload, where in ((ends, "ends"), (begins, "begins"))
        if payload is not None and slot.fits(payload) and slots.owner(payload) is None
    }
    if len(found) != 1:
        return None
    ((payload, where),) = found.values()
    return payload, (
        f"a payload that is {payload.words} {where} where the entry says, and no other "
        "entry names it; its own zip directory gives its length"
    )


def _shift(slots: Slots, entries: list[Slot], file: str) -> list[tuple[Slot, FoundPayload]] | None:
    """Entries and payloads of a file, if all lie by one and the same number of bytes apart."""
    payloads = slots.inventory.of(file)
    if len(payloads) != len(entries) or not _is_all_there(slots, payloads, file):
        return None
    pairs = list(zip(_ordered(entries), payloads, strict=True))
    apart = {payload.offset - slot.offset for slot, payload in pairs}
    if len(apart) == 1 and all(s.fits(p) and s.length == p.length for s, p in pairs):
        return pairs
    return None


def _is_all_there(slots: Slots, payloads: tuple[FoundPayload, ...], file: str) -> bool:
    """Whether the bytes around a file's payloads are too few to have been another of them."""
    entry = slots.inventory.storage.stat(file)
    size = (entry.num_bytes or 0) if entry is not None else 0
    begins = [*(payload.offset for payload in payloads), size]
    ends = [0, *(payload.end for payload in payloads)]
    shortest = min(payload.length for payload in payloads)
    gaps = [begin - end for begin, end in zip(begins, ends, strict=True)]
    return all(0 <= gap < shortest for gap in gaps)


def _ordered(entries: list[Slot]) -> list[Slot]:
    return sorted(entries, key=lambda slot: slot.offset)


def _tell(
    slots: Slots, name: str, group: list[Slot], payloads: list[FoundPayload], is_known: bool
) -> None:
    shown, words = printable(name, 120), group[0].words
    if not payloads:
        why = (
            f"no intact payload of {shown} that is {words} is left for it: the payload is damaged, "
            "or gone"
        )
    elif len(group) == len(payloads) == 1 and not is_known:
        why = (
            f"{shown} holds one payload that is {words} and that no entry names, but other bytes "
            "that nobody owns as well, or no entry that is right: it may be another's; "
            "--allow-likely takes it"
        )
    else:
        more = "; --allow-likely takes them in order" if len(group) == len(payloads) else ""
        entries = plural(len(group), "entry", "entries")
        why = (
            f"{entries} and {plural(len(payloads), 'payload')} of {shown} are {words}: which is "
            f"which, nothing tells{more}"
        )
    for slot in group:
        slot.trouble = why


def match_unstored(slots: Slots, checkpoint: Checkpoint, *, likely: bool) -> Iterator[RepairStep]:
    """Find the payloads of chunks and bytes entries that the metadata stores nowhere.

    Args:
        slots: The entries.
        checkpoint: What they are of.
        likely: Also take the only payload of the folder that fits and that nobody names.
    """
    lost = [slot for slot in slots.all if slot.file is None and slot.payload is None]
    free: dict[object, list[FoundPayload]] = defaultdict(list)
    for payload in slots.unclaimed() if lost else ():
        free[payload.what].append(payload)
    for slot in lost:
        orphans = [orphan for orphan in checkpoint.orphans if orphan.fqn == slot.fqn]
        rivals = [other for other in lost if other.fqn == slot.fqn]
        if len(orphans) == len(rivals) == 1:
            orphan = orphans[0]
            kept = slots.inventory.beginning(orphan.file, orphan.byte_offset)
            if kept is not None and slot.fits(kept) and slots.owner(kept) is None:
                why = (
                    "the metadata has one storage entry of this name that belongs to no chunk, and "
                    f"its payload is {kept.words}"
                )
                yield slots.step(slot, kept, why)
                continue
        same = [other for other in lost if other.what == slot.what]
        found = free[slot.what]
        if len(found) == len(same) == 1 and likely:
            why = (
                f"it is the only payload of the folder that is {found[0].words} and that no entry "
                "names; nothing proves that it is this one"
            )
            yield slots.step(slot, found[0], why, "likely")
        elif len(found) == len(same) == 1:
            slot.trouble = (
                f"one payload that no entry names is {found[0].words}, in "
                f"{printable(found[0].file)} at byte {found[0].offset:,}; nothing proves that it "
                "is this one, --allow-likely takes it"
            )
        else:
            slot.trouble = (
                f"the metadata stores it nowhere, and {plural(len(found), 'payload')} that no "
                f"entry names could be it, {plural(len(same), 'entry', 'entries')} considered"
            )
