"""One payload read and judged: its header against the metadata, its bytes against their CRC32.

What `dcp.load` does with each fault was run with torch 2.13 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from inspector.checkpoint.payload.array import raw_payload, unpack_limit
from inspector.checkpoint.payload.crc import crc32
from inspector.checkpoint.payload.payload import Payload, open_payload, record_blocks, unpacked
from inspector.checkpoint.payload.source import (
    MissingPackageError,
    PayloadError,
    RangeSource,
    Source,
)
from inspector.checkpoint.payload.tensor import PackedTensor, StoredTensor
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.safetensors.header import HeaderError, header_bytes
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.payload.judgement import STALE, Judgement, Note, Subject
from inspector.checks.payload.stale_dtype import is_stale_dtype
from inspector.errors import StorageError, UnreachableError

if TYPE_CHECKING:
    from inspector.values.nonfinite import ValueScan

__all__ = ["judge"]

_MAX_ENTRY_BYTES = 1 << 30
_COPY_AGAIN = "copy the file again from where it was written, or take another checkpoint"


_NO_CHECKSUM = Note(
    "payload-no-checksum",
    "no CRC32 was stored (torch.serialization.set_crc32_options(False), or the format before "
    "1.6), so damaged bytes cannot be told",
    "loads it: it never looks at checksums",
    "leave the checksums on, or keep digests of your own",
)
_NO_CHECKSUM_SAFETENSORS = Note(
    "payload-no-checksum",
    "safetensors files have no checksums, so damaged bytes cannot be told",
    "loads it",
    "keep digests of your own",
)


def judge(
    source: RangeSource,
    subjects: list[Subject],
    *,
    is_safetensors: bool = False,
    values: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Judgement:
    """Read a payload, once, and judge it.

    Args:
        source: Its bytes in the file.
        subjects: The entries it belongs to; mostly one.
        is_safetensors: True if it is bare elements, as in a Hugging Face checkpoint.
        values: Also count NaN and infinities.
        stop: True gives up scanning a long pickle.

    Raises:
        Cancelled: The source was told to stop.
    """
    result = Judgement()
    first = subjects[0]
    try:
        if is_safetensors and first.sizes is not None:
            payload = raw_payload(first.dtype, first.sizes, source.length)
            result.notes.append(_NO_CHECKSUM_SAFETENSORS)
            _read_records(result, source, payload, subjects, values, has_checksums=False)
        else:
            _judge_payload(result, source, subjects, values, stop)
    except MissingPackageError as error:
        hint = f" ({error.hint})" if error.hint else ""
        result.not_checked, result.is_read = error.message + hint, False
    except PayloadError as error:
        usual = error.fate or _FATES.get(error.code, "raises an error")
        for subject in subjects:
            fate = _FATE_OF_NOTHING if 0 in (subject.sizes or ()) else usual
            result.error(error.code, subject, error.message, fate, error.hint or STALE)
    except UnreachableError as error:
        # It says nothing of the payload.
        result.not_checked, result.is_read = error.message, False
    except StorageError as error:
        for subject in subjects:
            what, hint = error.message, "check the disk or the network, then run this again"
            result.error("payload-unreadable", subject, what, "raises an error", hint)
    return result


_FATES = {
    "payload-unreadable": "raises an error that names neither the entry nor the file",
    "payload-corrupt": "raises an error",
}
# torch's planner makes no read of a chunk without elements.
_FATE_OF_NOTHING = "never reads it: the chunk holds no element"


def _judge_payload(
    result: Judgement,
    source: RangeSource,
    subjects: list[Subject],
    values: bool,
    stop: Callable[[], bool] | None,
) -> None:
    first = subjects[0]
    if not first.transforms:
        source.prefetch()
        if first.is_tensor and _is_blob(source):
            result.is_blob = True
            return
    limit = _MAX_ENTRY_BYTES if first.sizes is None else unpack_limit(first.dtype, first.sizes)
    inner = unpacked(source, first.transforms, limit)
    payload = open_payload(inner, is_tensor=first.is_tensor, stop=stop)
    for record in payload.records:
        if record.deflated and record.num_bytes > limit:
            raise PayloadError("a deflated record claims more bytes than it can need")
    _judge_form(result, payload, is_tensor=first.is_tensor)
    for number, subject in enumerate(subjects):
        _judge_names(result, subject, payload)
        if subject.is_tensor and not payload.problem:
            _judge_header(result, number, subject, payload, inner)
    damaged = _read_records(result, inner, payload, subjects, values, has_checksums=True)
    # A record whose bytes are damaged has been told of; what it names now, nobody wrote.
    if not damaged.isdisjoint(_HEADERS):
        result.packed, result.quantizer = None, ""
        result.notes = [note for note in result.notes if note.code not in _OF_NAMES]
    elif payload.problem:
        raise PayloadError(payload.problem, hint=payload.hint)


#: Notes on what a payload's pickle names.
_OF_NAMES = frozenset({"payload-foreign-class", "payload-unproven"})


#: Records that torch reads before a tensor's elements.
_HEADERS = frozenset({"data.pkl", "version", ".data/version", "byteorder"})


def _is_blob(source: RangeSource) -> bool:
    """True for the safetensors blob of `FileSystemWriter(serialization_format=SAFETENSORS)`.

    Its entries all begin where the blob does, each as long as its own tensor's elements.
    """
    if source.read(0, 2) == b"PK":
        return False
    try:
        header_bytes(source.peek(16))
    except HeaderError:
        return False
    return True


def _judge_form(result: Judgement, payload: Payload, *, is_tensor: bool) -> None:
    result.notes += _foreign(payload, is_tensor=is_tensor)
    if payload.unproven:
        named = ", ".join(printable(name, 120) for name in payload.unproven[:3])
        what = f"its pickle uses {named} in a way that was not proven to load"
        hint = "load the entry with torch to know; bytes entries run what they name"
        if any(name.startswith(_STATEFUL) for name in payload.unproven):
            hint += f"; {_NESTED}"
        result.notes.append(Note("payload-unproven", what, "loads it, or raises an error", hint))
    result.not_checked = (
        payload.not_scanned and f"{payload.not_scanned}; it was not searched for code"
    )
    if payload.container == "legacy":
        what = "it is in torch.save's format of before 1.6, which has no checksums"
        result.notes.append(Note("payload-format", what, "loads it"))
        result.notes.append(_NO_CHECKSUM)
    if payload.byteorder == "big":
        what = "it was written in big-endian byte order"
        result.notes.append(Note("payload-format", what, "swaps the bytes as it loads"))
    if any(r.deflated for r in payload.records):
        what = "its records are deflated, as torch itself never writes them"
        result.notes.append(Note("payload-format", what, "loads it"))
    if payload.tensor is not None:
        result.quantizer = payload.tensor.quantizer
    if payload.packed is not None:
        result.packed = payload.packed
    elif payload.kind.startswith(_OTHER_TENSORS) and not payload.problem:
        what = f"it holds a tensor of another kind ({printable(payload.kind, 80)}), not compared"
        result.notes.append(Note("payload-format", what, "loads it if the target is alike"))


_OTHER_TENSORS = ("torch._utils._rebuild_", "torch._tensor._rebuild_")
#: Of these torch keeps the state_dict only when they stand at the top level of what is saved
#: (torch.distributed.checkpoint.state_dict_saver._stateful_to_state_dict).
_STATEFUL = ("torch.nn.modules.", "torch.optim.")
_NESTED = (
    "a module or optimizer below the top level of the state dict is stored so, and dcp.load makes "
    "a new one and leaves the program's as it is: name each at the top level"
)
_MAX_PACKAGES = 5


def _foreign(payload: Payload, *, is_tensor: bool) -> list[Note]:
    """What has to be importable for the payload to load, one note for each package."""
    packages: dict[str, list[str]] = {}
    for name in payload.unknown:
        packages.setdefault(name.partition(".")[0], []).append(name)
    notes = []
    for package, names in list(packages.items())[:_MAX_PACKAGES]:
        shown = printable(package, 60)
        what = f"its pickle names {', '.join(printable(n, 120) for n in names[:3])}"
        if len(names) > 3:
            what += f" and {len(names) - 3} more of {shown}"
        if package in ("__main__", "__mp_main__") and is_tensor:
            fate = (
                "raises UnpicklingError, also in the script that saved it, unless that registers "
                "the class (torch.serialization.add_safe_globals)"
            )
            hint = "register the class in the script that loads, or save plain tensors"
        elif package in ("__main__", "__mp_main__"):
            fate = "raises AttributeError unless the script that loads defines it as well"
            hint = "load it from the script that saved it, or save plain values"
        elif is_tensor:
            fate = (
                f"loads it if {shown} is imported and registers the class "
                "(torch.serialization.add_safe_globals), else raises UnpicklingError"
            )
            some = [printable(name, 60) for name in names[:3]] + ["..."] * (len(names) > 3)
            hint = (
                f"import {shown} before loading; if it raises even so, "
                f"torch.serialization.add_safe_globals([{', '.join(some)}])"
            )
        else:
            fate = f"imports {shown}, and raises ModuleNotFoundError if it is not installed"
            hint = f"install {shown} where you load the checkpoint"
        notes.append(Note("payload-foreign-class", what, fate, hint))
    return notes


def _judge_names(result: Judgement, subject: Subject, payload: Payload) -> None:
    if not payload.unsafe:
        return
    names = ", ".join(printable(n, 80) for n in payload.unsafe[:3])
    result.error(
        "payload-unsafe",
        subject,
        f"its pickle names code to be run ({names}); it was not run",
        "raises UnpicklingError (torch before 2.4.1 runs it)"
        if subject.is_tensor
        else "runs it without a word: bytes entries are loaded with weights_only=False",
        "do not load this checkpoint: find out who wrote it",
    )


def _judge_header(
    result: Judgement, number: int, subject: Subject, payload: Payload, source: Source
) -> None:
    tensor = payload.tensor
    if tensor is not None:
        found = _differences(subject, tensor, payload.data)
        if tensor.shape != subject.sizes:
            result.shape = tensor.shape
        if len(found) == 1 and is_stale_dtype(subject.dtype, subject.sizes, tensor, source):
            result.stale_dtypes[number] = tensor.dtype
            return
        for what, fate in found:
            result.error("payload-mismatch", subject, what, fate, STALE)
    elif payload.packed is not None:
        for what, fate in _packed_differences(subject, payload.packed):
            result.error("payload-mismatch", subject, what, fate, STALE)
    elif not payload.kind.startswith(_OTHER_TENSORS):
        what = f"it holds no tensor but {printable(payload.kind, 80)}"
        result.error("payload-mismatch", subject, what, "raises AttributeError", STALE)


def _packed_differences(subject: Subject, packed: PackedTensor) -> list[tuple[str, str]]:
    """Where a tensor of a class of its own says other things of itself than the metadata."""
    found = []
    if packed.dtype is not None and packed.dtype != subject.dtype:
        what = f"its elements are {packed.dtype}, {subject.dtype} by the metadata"
        found.append((what, "copies it as its class does, or raises an error"))
    sizes = subject.sizes or ()
    if packed.shape is not None and packed.shape != sizes:
        what = f"its shape is {format_shape(packed.shape)}, {format_shape(sizes)} by the metadata"
        found.append((what, "raises AssertionError (mismatch sizes)"))
    return found


def _differences(
    subject: Subject, tensor: StoredTensor, data: Record | None
) -> list[tuple[str, str]]:
    """Where header, metadata and storage disagree: what, and what torch does."""
    found = []
    sizes = subject.sizes or ()
    if tensor.dtype != subject.dtype:
        what = f"its elements are {tensor.dtype}, {subject.dtype} by the metadata"
        found.append((what, "casts them to the target's type silently"))
    if tensor.shape != sizes:
        what = f"its shape is {format_shape(tensor.shape)}, {format_shape(sizes)} by the metadata"
        # torch narrows a stored tensor that is larger, and asserts that the sizes then agree; for
        # a box without elements it plans no read, and nobody is told.
        fits = len(tensor.shape) == len(sizes) and all(
            a <= b for a, b in zip(sizes, tensor.shape, strict=True)
        )
        fate = "raises AssertionError (mismatch sizes)"
        if 0 in sizes:
            fate = "reads nothing of it, silently: who should hold it keeps the values it had"
        elif fits:
            fate = "loads a corner of it silently"
        found.append((what, fate))
    if data is None:
        if tensor.num_elements:
            what = f"its record data/{printable(tensor.key, 40)} is missing"
            found.append((what, "raises RuntimeError (failed locating file)"))
        return found
    if data.num_bytes != tensor.storage_bytes:
        what = f"it stores {data.num_bytes:,} bytes, {tensor.storage_bytes:,} by its own header"
        found.append((what, "raises RuntimeError (record size does not match)"))
    if tensor.needed_bytes > tensor.storage_bytes:
        what = (
            f"its shape needs {tensor.needed_bytes:,} bytes, "
            f"its storage has {tensor.storage_bytes:,}"
        )
        found.append((what, "raises RuntimeError (storage is not resizable)"))
    return found


def _read_records(
    result: Judgement,
    source: Source,
    payload: Payload,
    subjects: list[Subject],
    values: bool,
    has_checksums: bool,
) -> set[str]:
    """Read every record once; returns the short names of those that are damaged."""
    data = payload.data
    scan = _value_scan(result, payload, subjects[0]) if values else None
    is_unsummed = False
    damaged = set()
    for record in payload.records:
        crc = 0
        is_data = record is data
        for block in record_blocks(source, record):
            crc = crc32(block, crc)
            if scan is not None and is_data:
                scan.feed(block)
        if is_data and payload.tensor is not None:
            kept = payload.tensor
            result.crc32 = (crc, kept.dtype, kept.shape, kept.strides, kept.first)
        expected = record.crc32 or record.confirmed_crc32 or 0
        if not has_checksums or payload.container == "legacy":
            continue
        if not expected and record.num_bytes:
            is_unsummed = True
        elif crc != record.crc32 or record.confirmed_crc32 not in (None, crc):
            damaged.add(record.short_name)
            for subject in subjects:
                _corrupt(result, subject, record, crc, is_data)
    if is_unsummed:
        result.notes.append(_NO_CHECKSUM)
    if scan is not None and (scan.found.num_nan or scan.found.num_inf):
        result.values = scan.found
    return damaged


def _value_scan(result: Judgement, payload: Payload, subject: Subject) -> ValueScan | None:
    """What counts NaN and infinities in the tensor's data, if it can hold any."""
    tensor = payload.tensor
    if tensor is None or payload.data is None or not tensor.num_elements:
        return None
    # lazy: only with --values
    from inspector.values.nonfinite import has_non_finite, scan_of

    fits = tensor.shape == subject.sizes and tensor.dtype == subject.dtype
    if not fits or not has_non_finite(tensor.dtype):
        return None
    scan = scan_of(tensor, payload.byteorder)
    if scan is None:
        result.not_checked = "its strides overlap, so NaN and infinities were not counted"
    return scan


def _corrupt(result: Judgement, subject: Subject, record: Record, crc: int, is_data: bool) -> None:
    name = printable(record.short_name, 60)
    if record.crc32 == crc:
        what = f"the checksum behind the bytes of {name} is damaged; the bytes are as written"
        fate = "loads it, and rightly: it does not look at checksums"
    elif record.confirmed_crc32 == crc:
        what = f"the zip directory's checksum of {name} is damaged; the bytes are as written"
        fate = "loads it, and rightly: it does not look at checksums"
    else:
        what = (
            f"the {plural(record.num_bytes, 'byte')} of its record {name} are not as they were "
            f"written (CRC32 {crc:08x}, not {record.crc32 or record.confirmed_crc32 or 0:08x})"
        )
        fate = "loads wrong values silently"
        if not is_data:
            fate = "loads it silently, perhaps with other values, or raises an error"
    if 0 in (subject.sizes or ()):
        fate = _FATE_OF_NOTHING
    result.error("payload-corrupt", subject, what, fate, _COPY_AGAIN)
