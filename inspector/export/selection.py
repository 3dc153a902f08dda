"""Which tensors are written, under which names, in which files; and what is known not to be.

What the checks without `--deep` call an error of a tensor is damage before anything is read, but
for chunks that overlap: whether those hold the same elements is seen while they are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.model import Checkpoint, TensorColumns
from inspector.checkpoint.payload.cast import CAST_DTYPES, is_cast
from inspector.checkpoint.payload.plan import chunk_problems
from inspector.checkpoint.payload.scan.literals import MAX_BYTES, read_literals
from inspector.checkpoint.storage.base import Storage, why
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.judge import check_all
from inspector.checks.payload.packed import with_stored_dtypes
from inspector.errors import InspectError, UsageError
from inspector.export.formats.files import ExportItem, PlannedFile
from inspector.export.formats.numpy_files import npy_file, npz_file
from inspector.export.formats.safetensors import safetensors_files
from inspector.export.formats.torch_save import nested, torch_file
from inspector.export.outcome import Omission
from inspector.export.pieces import compare_entry
from inspector.layout.contents import missing_files

__all__ = ["ExportRequest", "ExportSelection", "read_rules", "select"]

_MAX_BYTES = 64 << 20
_ARROW = " -> "
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class RenameRule:
    """One line of a file of rules.

    Attributes:
        old, new: As they are written there, without quotes.
        line: Its number.
        pattern: What `old` fits, or None if that is this very name.
    """

    old: str
    new: str
    line: int
    pattern: re.Pattern[str] | None = None

    def apply(self, name: str) -> str | None:
        """The new name, or None if the rule does not fit this one."""
        if self.pattern is None:
            return self.new if name == self.old else None
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        parts = self.new.split("*")
        return parts[0] + "".join(a + b for a, b in zip(match.groups(), parts[1:], strict=True))


def read_rules(path: str) -> tuple[RenameRule, ...]:
    """The rules in a local file: what entries are called in the file that is written.

    One rule a line, `OLD -> NEW`; empty lines and those that begin with `#` are passed over. A `*`
    stands for one part of a name or a piece of it, never for a dot; the n-th `*` of NEW is what
    the n-th of OLD stood for. A name with spaces, stars or control characters is written as a JSON
    string, in which a star is a star: `"a b" -> "c"`. Of the rules that fit a name the first one
    counts. One that fits no name is a mistake, and nothing is written.

    Raises:
        UsageError: It cannot be read, or a line is no rule.
    """
    shown = printable(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else "it is no valid path, or no UTF-8"
        raise UsageError(f"cannot read the rules {shown}: {reason}") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{shown} is no file of rules: it is larger than one can be")
    rules = []
    # Not `splitlines`: a name may hold what Unicode calls the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            rules.append(_rule(line, number, shown))
    return tuple(rules)


def _rule(line: str, number: int, where: str) -> RenameRule:
    old, rest = _word(line, number, where)
    if not rest.startswith("->"):
        raise _no_rule(number, where, "it is not OLD -> NEW")
    new, rest = _word(rest[2:].lstrip(), number, where, is_last=True)
    if rest:
        raise _no_rule(number, where, "something follows NEW")
    if old.is_exact or new.is_exact:
        if (not old.is_exact and "*" in old.text) or (not new.is_exact and "*" in new.text):
            raise _no_rule(number, where, "a * fits nothing where the other name is in quotes")
        return RenameRule(old.text, new.text, number)
    if old.text.count("*") != new.text.count("*"):
        raise _no_rule(number, where, "OLD and NEW have another number of *")
    if "**" in old.text:
        raise _no_rule(number, where, "two * side by side")
    if "*" not in old.text:
        return RenameRule(old.text, new.text, number)
    pattern = re.compile("([^.]+)".join(map(re.escape, old.text.split("*"))))
    return RenameRule(old.text, new.text, number, pattern)


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    is_exact: bool


def _word(text: str, number: int, where: str, *, is_last: bool = False) -> tuple[_Word, str]:
    """The name at the beginning of a text, and what follows it."""
    if text.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(text)
        except ValueError as error:
            raise _no_rule(number, where, "a name in quotes is no JSON string") from error
        return _Word(name, True), text[end:].strip()
    if is_last:
        name, rest = text.strip(), ""
    else:
        name, arrow, rest = text.partition(_ARROW)
        name, rest = name.strip(), "->" + rest if arrow else ""
    if not name or any(char.isspace() for char in name):
        raise _no_rule(number, where, "a name is missing, or has spaces and stands in no quotes")
    return _Word(name, False), rest


def _no_rule(number: int, where: str, what: str) -> UsageError:
    hint = "a line is OLD -> NEW, such as layers.*.wq.weight -> layers.*.q_proj.weight"
    return UsageError(f"line {number:,} of {where} is no rule: {what}", hint)


def renamed(names: Sequence[str], prefix: str, rules: Sequence[RenameRule]) -> list[str]:
    """The names in the file that is written, in the same order.

    Args:
        names: Raw names in the checkpoint.
        prefix: Taken off those that begin with it, before the rules.
        rules: Of those that fit a name, the first one counts.

    Raises:
        UsageError: The prefix or a rule fits no name, or two names would be the same.
    """
    found = [name.removeprefix(prefix) for name in names]
    if prefix and found == list(names):
        raise UsageError(
            f"no name begins with {printable(prefix, 120)}", "hsdp-inspect show lists the names"
        )
    exact: dict[str, RenameRule] = {}
    for rule in rules:
        if rule.pattern is None:
            exact.setdefault(rule.old, rule)
    patterns = [rule for rule in rules if rule.pattern is not None]
    used = set()
    for place, name in enumerate(found):
        fits = exact.get(name)
        for rule in patterns:
            if fits is not None and fits.line < rule.line:
                break
            if rule.apply(name) is not None:
                fits = rule
                break
        if fits is not None:
            found[place] = fits.apply(name) or ""
            used.add(fits.line)
    idle = [rule for rule in rules if rule.line not in used]
    if idle:
        more = f" and {len(idle) - 1:,} more" if len(idle) > 1 else ""
        raise UsageError(
            f"the rule in line {idle[0].line:,} ({printable(idle[0].old, 120)}){more} fits no name "
            "that is left for it",
            "hsdp-inspect show lists the names; the prefix is taken off before",
        )
    _refuse_same(names, found)
    return found


def _refuse_same(names: Sequence[str], found: Sequence[str]) -> None:
    by_name: dict[str, list[str]] = {}
    for old, new in zip(names, found, strict=True):
        by_name.setdefault(new, []).append(old)
    same = {new: olds for new, olds in by_name.items() if len(olds) > 1}
    if same:
        new, olds = next(iter(same.items()))
        shown = ", ".join(printable(old, 120) for old in olds[:_MAX_NAMED])
        more = f"; so would {plural(len(same) - 1, 'other name')}" if len(same) > 1 else ""
        raise UsageError(
            f"{plural(len(olds), 'entry', 'entries')} would be {printable(new, 120)} "
            f"({shown}){more}",
            "give them names of their own with --rename, or leave some out with --filter",
        )


# What a bytes entry of a plain value may unpack to.
_MAX_LITERAL_BYTES = 4 * MAX_BYTES

# Chunks of these are read, and their elements compared.
_SEEN_BY_READING = frozenset({"chunk-overlap", "chunk-duplicate"})
# Of a file: which of its tensors it concerns is asked by chunk.
_OF_FILES = frozenset({"file-missing", "file-truncated", "file-unreadable", "path-escapes"})


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is asked for.

    Attributes:
        form: `safetensors`, `torch`, `npz` or `npy`.
        filter_text: Only tensors whose names fit; see `locate.matching`.
        prefix: Taken off the names.
        rules: How they are renamed.
        dtype: `bf16`, `f16` or `f32` for floating point tensors, or None.
        max_shard_bytes: Of safetensors: bytes of a shard, or None for one file.
        is_nested: Of torch: dicts and lists as they were before they were flattened.
        fqn: This very tensor, instead of a filter.
    """

    form: str = "safetensors"
    filter_text: str = ""
    prefix: str = ""
    rules: tuple[RenameRule, ...] = ()
    dtype: str | None = None
    max_shard_bytes: int | None = None
    is_nested: bool = False
    fqn: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.max_shard_bytes is not None

    def check(self) -> None:
        """Say no to what does not go together.

        Raises:
            UsageError: It does not.
        """
        if self.max_shard_bytes is not None and self.form != "safetensors":
            raise UsageError("--max-shard-size is for --format safetensors")
        if self.is_nested and self.form != "torch":
            raise UsageError("--nested is for --format torch")
        if self.is_nested and (self.prefix or self.rules):
            raise UsageError(
                "--nested keeps the paths of the checkpoint: it goes without --strip-prefix and "
                "--rename"
            )


@dataclass(frozen=True, eq=False)
class ExportSelection:
    """What is written.

    Attributes:
        request: What was asked for.
        columns: The checkpoint's, with dtypes as they are stored.
        items: The tensors, in the checkpoint's order.
        left_out: What is known not to be written before anything is read.
        literals: Plain values of bytes entries that are written too, by raw name.
        names: Their names in the file, by raw name.
        paths: Paths into the nested state dict, by raw name.
        stored_dtypes: Tensors whose metadata has another dtype than what is stored: that dtype.
    """

    request: ExportRequest
    columns: TensorColumns
    items: tuple[ExportItem, ...]
    left_out: tuple[Omission, ...] = ()
    literals: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    stored_dtypes: Mapping[str, str] = field(default_factory=dict)

    @property
    def form(self) -> str:
        return self.request.form

    def files(self, items: Sequence[ExportItem]) -> list[PlannedFile]:
        """The files that hold these tensors, and what else is written.

        Raises:
            UsageError: A name or dtype that the format does not hold.
        """
        if self.form == "safetensors":
            return safetensors_files(items, self.request.max_shard_bytes)
        if self.form == "npz":
            return npz_file(items)
        if self.form == "npy":
            return npy_file(items)
        by_fqn: dict[str, Any] = {item.fqn: item for item in items}
        by_fqn.update(self.literals)
        if self.request.is_nested:
            return torch_file(nested(by_fqn, self.paths), items)
        return torch_file({self.names[fqn]: value for fqn, value in by_fqn.items()}, items)


def select(checkpoint: Checkpoint, storage: Storage, request: ExportRequest) -> ExportSelection:
    """Choose, name and judge the tensors, from metadata and file sizes alone.

    Raises:
        UsageError: Nothing fits the filter, a prefix or rule fits nothing, or names collide.
        StorageError: The folder cannot be listed.
    """
    request.check()
    stored, dtypes = with_stored_dtypes(checkpoint, storage)
    columns = stored.columns
    chosen = _chosen(checkpoint, columns.fqns, request)
    names = [columns.fqns[index] for index in chosen]
    entries, literals = _entries(checkpoint, storage, request)
    given = [*names, *literals]
    known = dict(zip(given, renamed(given, request.prefix, request.rules), strict=True))
    damaged = _damaged(checkpoint, storage, chosen, request)
    target = CAST_DTYPES[request.dtype] if request.dtype else None
    items = []
    for index in chosen:
        fqn, dtype = columns.fqns[index], columns.dtype(index)
        if fqn not in damaged:
            written = target if target and is_cast(dtype, target) else dtype
            shape = columns.shape(index)
            items.append(ExportItem(index, fqn, shape, dtype, known[fqn], written))
    if not items and not damaged:
        raise UsageError(
            "no tensor's name fits the filter"
            if request.filter_text
            else "there is no tensor in it",
            "hsdp-inspect show lists the names",
        )
    left = [*entries, *damaged.values()]
    told = {fqn: dtype for fqn, dtype in dtypes.items() if fqn in known}
    return ExportSelection(
        request, columns, tuple(items), tuple(left), literals, known, checkpoint.state_paths, told
    )


def _chosen(checkpoint: Checkpoint, fqns: Sequence[str], request: ExportRequest) -> list[int]:
    if request.fqn is not None:
        return [fqns.index(request.fqn)] if request.fqn in fqns else []
    kept = matching(fqns, request.filter_text)
    if request.form == "npy" and request.filter_text in fqns:
        # A name may be part of others; written in full it means itself.
        kept = [fqns.index(request.filter_text)]
    chosen = set(kept)
    return [index for index in checkpoint.tensor_order.tolist() if index in chosen]


def _entries(
    checkpoint: Checkpoint, storage: Storage, request: ExportRequest
) -> tuple[list[Omission], dict[str, Any]]:
    """The bytes entries that are left out, and the plain values of those that are not."""
    if request.fqn is not None or request.form == "npy":
        return [], {}
    names = [entry.fqn for entry in checkpoint.bytes_entries]
    chosen = set(matching(names, request.filter_text))
    order = [index for index in checkpoint.bytes_order.tolist() if index in chosen]
    literals: dict[str, Any] = {}
    left: list[Omission] = []
    if request.form == "torch":
        found = read_literals(checkpoint, storage, order)
        for index in [index for index in order if index in found]:
            entry = checkpoint.bytes_entries[index]
            try:
                compare_entry(checkpoint, storage, entry, _MAX_LITERAL_BYTES)
            except InspectError as error:
                code = getattr(error, "code", "payload-unreadable")
                left.append(Omission(names[index], "damaged", printable(error.message, 400), code))
            else:
                literals[names[index]] = found[index].value
        why = "the pickle of an object, or of more than a small plain value: it is never run here"
    else:
        why = f"{request.form} holds tensors alone"
    known = {*literals, *(item.fqn for item in left)}
    left += [Omission(names[i], "bytes", why) for i in order if names[i] not in known]
    return left, literals


def _damaged(
    checkpoint: Checkpoint, storage: Storage, chosen: Sequence[int], request: ExportRequest
) -> dict[str, Omission]:
    """What is damaged by the metadata and the files' sizes, by raw name."""
    fqns = checkpoint.columns.fqns
    names = {fqns[index] for index in chosen}
    found: dict[str, Omission] = {}
    findings, _ = check_all(checkpoint, storage)
    entries = {entry.fqn for entry in checkpoint.bytes_entries}
    for finding in findings:
        fqn = _concerned(finding, names, {*fqns, *entries}, request)
        if fqn is not None:
            found.setdefault(fqn, Omission(fqn, "damaged", finding.message, finding.code))
    problems = chunk_problems(checkpoint)
    for index in chosen:
        why, code = _unread(checkpoint, index, *problems)
        if why:
            found.setdefault(fqns[index], Omission(fqns[index], "damaged", why, code))
    if request.fqn is None:
        for path, what in missing_files(checkpoint):
            # Nobody knows the names in such a file, so a filter does not leave it out.
            why = f"the file {printable(path, 120)} {what}"
            found.setdefault(path, Omission(path, "damaged", why, "file-missing"))
    return found


def _concerned(
    finding: Finding, names: Collection[str], known: Collection[str], request: ExportRequest
) -> str | None:
    """The name under which a finding keeps something from being written, or None."""
    if finding.severity != "error" or finding.code in _SEEN_BY_READING:
        return None
    if finding.fqn in names:
        return finding.fqn
    if finding.code in _OF_FILES or finding.fqn in known:
        return None
    if request.fqn is not None:
        return None
    if finding.fqn is not None:
        # An entry of which not even a tensor could be made.
        return finding.fqn if matching([finding.fqn], request.filter_text) else None
    return finding.file or finding.code


def _unread(
    checkpoint: Checkpoint, index: int, numbers: npt.NDArray[np.int16], meanings: list[str]
) -> tuple[str, str]:
    """Why a tensor cannot be read, by its entries and the files' sizes, and the finding's code.

    Both are empty if it can.
    """
    columns = checkpoint.columns
    if 0 in columns.shape(index):
        return "", ""
    first, last = int(columns.chunk_start[index]), int(columns.chunk_start[index + 1])
    if first == last:
        return "no chunk of it is stored", "chunk-gap"
    tensor = columns.tensor(index)
    is_empty = (tensor.sizes == 0).any(axis=1) if tensor.shape else np.zeros(last - first, np.bool_)
    bad = np.flatnonzero((numbers[first:last] > 0) & ~is_empty)
    if not len(bad):
        return "", ""
    number = int(numbers[first + int(bad[0])])
    why = meanings[number]
    code = {1: "chunk-unstored", 2: "file-truncated"}.get(number, "file-missing")
    return (why if len(bad) == last - first == 1 else f"{plural(len(bad), 'chunk')}: {why}"), code
