"""Optimizer state that a parameter lacks and its siblings have.

The rule this module keeps: a guess from names, so never more than a warning, and none where an
innocent reason is as likely (frozen parameters, another optimizer for some of them, a buffer).

Names: `<prefix>.state.<parameter>.<slot>` (torch's `get_optimizer_state_dict`, torchtitan,
Accelerate) and `<prefix>.state.<slot>.<parameter>` (Megatron-Core).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding

__all__ = ["COPIES", "SLOTS", "StateName", "check_optimizer", "is_optimizer_state", "split_state"]

#: State that torch's own optimizers and the common others keep for every parameter.
SLOTS = frozenset(
    "step exp_avg exp_avg_sq max_exp_avg_sq momentum_buffer square_avg grad_avg acc_delta sum "
    "exp_inf mu_product ax eta mu prev step_size exp_avg_diff neg_grad_or_diff z momentum "
    "exp_avg_fast exp_avg_slow hessian".split()
)
#: Copies in full precision, which parameters that have it themselves do not need.
COPIES = frozenset({"master_param", "master_weight", "fp32_param"})
_STATE = re.compile(r"(?:\A|(?<=\.))state\.")
_OPTIMIZER = re.compile(r"(?:\A|\.)optim\w*\.")
_DIGITS = re.compile(r"(?<![^.])\d+(?![^.])")
_NUMBERED = re.compile(r"(?:\A|\.)\d+(?=\.)")
_MOST = 0.75
_MIN_SIBLINGS = 3

# What a group of parameters has or not by its options (`amsgrad`, `momentum`, `centered`).
_OPTIONS = frozenset({"max_exp_avg_sq", "momentum_buffer", "grad_avg"})


@dataclass(frozen=True, slots=True)
class StateName:
    """The name of a piece of optimizer state, taken apart.

    Attributes:
        prefix: Of the optimizer, up to and with `state.`.
        param: Name of the parameter, or its number.
        slot: What of it: `exp_avg`, `step` ...
    """

    prefix: str
    param: str
    slot: str


def split_state(fqn: str) -> StateName | None:
    """Take the name of a piece of optimizer state apart; None if it is none, or an unknown one."""
    if "state." not in fqn:
        return None
    match = _STATE.search(fqn)
    if match is None:
        return None
    rest = fqn[match.end() :]
    known = SLOTS | COPIES
    param, _, slot = rest.rpartition(".")
    if slot not in known:
        slot, _, param = rest.partition(".")
    return StateName(fqn[: match.end()], param, slot) if slot in known and param else None


def is_optimizer_state(fqn: str) -> bool:
    """Whether a name is of an optimizer's state, and not of a model."""
    if "optim" in fqn and _OPTIMIZER.search(fqn):
        return True
    return split_state(fqn) is not None


@dataclass(slots=True)
class _Group:
    """The state of one optimizer: slots by parameter."""

    slots: dict[str, set[str]] = field(default_factory=dict)


def check_optimizer(checkpoint: Checkpoint) -> list[Finding]:
    """All `optimizer-incomplete` findings, one for each parameter.

    A parameter is told if it lacks a slot that parameters with all of its other slots have, and
    these are more; or if it has no state at all while most of its siblings (the same name but for
    the numbers, three or more of them) have.
    """
    groups = _groups(checkpoint.fqns)
    findings = []
    for prefix, group in groups.items():
        findings += [
            _finding(prefix, param, missing, num)
            for param, missing, num in _lacking_slots(group.slots)
        ]
    # A parameter with its state in any of the optimizers is complete: `optim.0`, `optim.1` ...
    with_state = {param for group in groups.values() for param in group.slots}
    if with_state:
        names = (fqn for fqn in checkpoint.columns.fqns if not _STATE.search(fqn))
        prefix = next(iter(groups))
        for fqn, num in _stateless(names, with_state):
            findings.append(_finding(prefix, fqn, None, num))
    return findings


def _groups(fqns: Iterable[str]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for fqn in fqns:
        name = split_state(fqn)
        if name is not None and name.slot in SLOTS:
            group = groups.setdefault(name.prefix, _Group())
            group.slots.setdefault(name.param, set()).add(name.slot)
    return groups


def _lacking_slots(slots: dict[str, set[str]]) -> Iterator[tuple[str, set[str], int]]:
    """Parameters whose slots are a true part of what more other parameters have."""
    profiles = Counter(frozenset(of_param) for of_param in slots.values())
    fuller = {
        profile: max(
            (p for p in profiles if p > profile and profiles[p] > profiles[profile]),
            key=lambda p: profiles[p],
            default=None,
        )
        for profile in profiles
    }
    for param, of_param in slots.items():
        profile = frozenset(of_param)
        better = fuller[profile]
        if better is not None and not _is_other(profile, better, profiles[profile]):
            yield param, set(better - profile), profiles[better]


def _is_other(profile: frozenset[str], better: frozenset[str], num: int) -> bool:
    """Whether so many parameters have the whole state of another optimizer, or of other options.

    Lion keeps `exp_avg` alone, and counts no steps of a parameter; options are a group's, which
    is seldom one parameter.
    """
    if profile == {"exp_avg"} and "step" in better:
        return True
    return num > 1 and better - profile <= _OPTIONS


def _stateless(names: Iterable[str], with_state: set[str]) -> Iterator[tuple[str, int]]:
    """Model tensors without state, most of whose siblings have it."""
    families: dict[str, list[tuple[str, bool]]] = {}
    moving: set[str] = set()
    for fqn in names:
        # The optimizer may know the parameter without the prefix of the model (`model.`).
        has = fqn in with_state or fqn.partition(".")[2] in with_state
        families.setdefault(_DIGITS.sub("*", fqn), []).append((fqn, has))
        if has:
            moving.add(_layer(fqn)[0])
    for members in families.values():
        num = sum(has for _, has in members)
        if _MIN_SIBLINGS <= num < len(members) and num >= _MOST * len(members):
            lacking = [fqn for fqn, has in members if not has]
            # Who freezes some layers freezes the first ones, whole.
            first = min(_layer(fqn)[1] for fqn, has in members if has)
            if not all(_layer(n)[1] < first and _layer(n)[0] not in moving for n in lacking):
                for fqn in lacking:
                    yield fqn, num


def _layer(fqn: str) -> tuple[str, int]:
    """The module of a list that a parameter is in, by the first number in its name, and that."""
    match = _NUMBERED.search(fqn)
    return (fqn[: match.end()], int(match[0].lstrip("."))) if match else (fqn, -1)


def _finding(prefix: str, param: str, missing: set[str] | None, num: int) -> Finding:
    shown = printable(param, 120)
    what = "any optimizer state" if missing is None else ", ".join(sorted(missing))
    where = printable(prefix.rstrip("."), 60)
    return Finding(
        "optimizer-incomplete",
        "warning",
        f"{shown}: {where} lacks {what} for it, which {plural(num, 'parameter')} like it have",
        "raises RuntimeError: Missing key in checkpoint state_dict, if the optimizer has a state "
        "for it; with allow_partial_load it starts from nothing, silently",
        "no fault if the parameter is frozen or got no gradient; else take the optimizer's state "
        "from another checkpoint",
        fqn=param if missing is None else None,
    )
