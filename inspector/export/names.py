"""What entries are called in the file that is written: a prefix less, and rules of renaming.

A file of rules has one a line, `OLD -> NEW`; empty lines and those that begin with `#` are passed
over. A `*` stands for one part of a name or a piece of it, never for a dot; the n-th `*` of NEW
is what the n-th of OLD stood for. A name with spaces, stars or control characters is written as a
JSON string, in which a star is a star: `"a b" -> "c"`. Of the rules that fit a name the first one
counts. One that fits no name is a mistake, and nothing is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.checkpoint.storage.base import why
from inspector.checkpoint.text import plural, printable
from inspector.errors import UsageError

__all__ = ["RenameRule", "read_rules", "renamed"]

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
    """The rules in a local file.

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
