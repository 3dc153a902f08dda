"""Which file of the folder each name of the metadata means: exchanged, renamed and moved files."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.text import plural, printable
from inspector.repair.inventory import FoundPayload
from inspector.repair.plan import RepairStep
from inspector.repair.slots import Slot, Slots

__all__ = ["match_files"]


def match_files(slots: Slots, *, likely: bool) -> Iterator[RepairStep]:
    """Give each name its file, and each entry that is as recorded its payload.

    Args:
        slots: The entries.
        likely: Also take a file that nothing but its content speaks for.

    Yields:
        A step for each file that gets another name, and each entry that led out of the folder.
    """
    by_name = slots.by_name()
    inside = {name: found for name, found in by_name.items() if not is_escape(name)}
    astray = [name for name, found in inside.items() if not _is_all_of(slots, found, name)]
    settled = {name for name in inside if name not in astray}
    files = [f for f in slots.inventory.files if f not in settled and slots.inventory.of(f)]
    fitting = {
        name: [f for f in files if f != name and _is_whole_of(slots, inside[name], f)]
        for name in astray
    }
    for name, found in fitting.items():
        rivals = [other for other, fs in fitting.items() if other != name and set(fs) & set(found)]
        if len(found) > 1 or (found and rivals):
            _tell_rivals(inside[name], name, found, rivals)
            continue
        if not found:
            continue
        # Its own file belongs to another name: the two, or more, were exchanged.
        is_exchange = found[0] in inside and bool(fitting.get(found[0]))
        if not is_exchange and not likely:
            for slot in inside[name]:
                slot.trouble = (
                    f"{printable(found[0])} holds the very payloads that {printable(name)} should, "
                    "but so may another save's file; --allow-likely takes it"
                )
            continue
        slots.links[name] = found[0]
        yield RepairStep(
            "file-name",
            "proven" if is_exchange else "likely",
            None,
            name,
            printable(found[0]),
            printable(name),
            _why_exchanged(len(inside[name]), is_exchange),
        )
    _claim_recorded(slots, inside)
    outside = {name: entries for name, entries in by_name.items() if is_escape(name)}
    sought = Counter((_own_name(n), s.offset) for n, entries in outside.items() for s in entries)
    for name, entries in outside.items():
        yield from _bring_back(slots, name, entries, sought)


def _own_name(name: str) -> str:
    return posixpath.basename(name.replace("\\", "/"))


def _why_exchanged(num_entries: int, is_exchange: bool) -> str:
    what = (
        f"all {plural(num_entries, 'entry', 'entries')} of the name are payloads of that file, at "
        "the recorded bytes, of the recorded dtypes and shapes, and it holds no other"
    )
    if is_exchange:
        return f"{what}; its own name's entries are those of another file"
    return f"{what}; nothing proves that it is of this save"


def _is_all_of(slots: Slots, entries: list[Slot], file: str) -> bool:
    """Whether all entries are in a file as they are recorded."""
    return all(_recorded(slots, slot, file) is not None for slot in entries)


def _is_whole_of(slots: Slots, entries: list[Slot], file: str) -> bool:
    """Whether a file holds all of them, and nothing else."""
    return len(slots.inventory.of(file)) == len(entries) and _is_all_of(slots, entries, file)


def _recorded(slots: Slots, slot: Slot, file: str) -> FoundPayload | None:
    """The payload that a file has where the entry says, of its length, dtype and shape."""
    payload = slots.inventory.beginning(file, slot.offset)
    is_it = payload is not None and slot.lies_at(payload) and slot.fits(payload)
    return payload if is_it else None


def _tell_rivals(entries: list[Slot], name: str, found: list[str], rivals: list[str]) -> None:
    files = ", ".join(printable(file, 60) for file in found[:4])
    names = ", ".join(printable(other, 60) for other in rivals[:4])
    also = f", and could be {names} as well" if rivals else ""
    for slot in entries:
        slot.trouble = (
            f"{files} {'hold' if len(found) > 1 else 'holds'} the payloads of {printable(name)}"
            f"{also}: which is which, nothing tells"
        )


def _claim_recorded(slots: Slots, inside: dict[str, list[Slot]]) -> None:
    for name, entries in inside.items():
        file = slots.file_of(name)
        for slot in entries:
            if file is None:
                continue
            payload = slots.inventory.beginning(file, slot.offset)
            if payload is None or not slot.lies_at(payload):
                continue
            owner = slots.owner(payload)
            if owner is None:
                slots.claim(slot, payload, as_recorded=True)
            elif (owner.fqn, owner.offsets) != (slot.fqn, slot.offsets):
                _part(slots, slot, owner)


def _part(slots: Slots, slot: Slot, owner: Slot) -> None:
    """Two entries name one payload: it is that of the one it fits, if it fits one alone."""
    payload = owner.payload
    if payload is None or (owner.fits(payload) and not slot.fits(payload)):
        return
    slots.release(owner)
    if slot.fits(payload) and not owner.fits(payload):
        slots.claim(slot, payload, as_recorded=True)
        return
    for one, other in ((slot, owner), (owner, slot)):
        one.trouble = f"{other.name} names the same payload: whose it is, nothing tells"


def _bring_back(
    slots: Slots, name: str, entries: list[Slot], sought: Counter[tuple[str, int]]
) -> Iterator[RepairStep]:
    """Entries that lead out of the folder: what they name lies in it, under the file's own name."""
    file = _own_name(name)
    for slot in entries:
        if sought[file, slot.offset] > 1:
            slot.trouble = slot.trouble or (
                f"it should lie in {printable(name, 120)}, outside of the folder, and another "
                f"entry at the same bytes of another {printable(file, 60)} outside: which of them "
                "the folder holds, nothing tells"
            )
            continue
        payload = _recorded(slots, slot, file)
        if payload is None or slots.owner(payload) is not None:
            slot.trouble = slot.trouble or (
                f"it should lie in {printable(name, 120)}, outside of the folder, and no file of "
                f"the folder is called {printable(file, 60)} and has its payload there"
            )
            continue
        slots.claim(slot, payload)
        yield RepairStep(
            "file-path",
            "proven",
            slot.fqn,
            file,
            printable(name, 120),
            printable(slots.name_of(file)),
            f"the folder's own {printable(file)} holds a payload at these very bytes, "
            f"{payload.words}, and no other entry names it",
        )
