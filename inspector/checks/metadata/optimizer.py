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
from dataclasses import dataclass

from inspector.checkpoint.model import BytesEntry, Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding

__all__ = [
    "COPIES",
    "SLOTS",
    "StateName",
    "check_optimizer",
    "is_optimizer_state",
    "split_state",
    "with_idle_parameters",
]

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


def check_optimizer(checkpoint: Checkpoint) -> list[Finding]:
    """All `optimizer-incomplete` findings, one for each parameter.

    A parameter is told if it lacks a slot that parameters with all of its other slots have, and
    these are more; or if it has no state at all while most of its siblings (the same name but for
    the numbers, three or more of them) have.
    """
    groups = _groups(checkpoint.fqns)
    findings = []
    for prefix, slots in groups.items():
        findings += [
            _finding(prefix, param, missing, num) for param, missing, num in _lacking_slots(slots)
        ]
    # A parameter with its state in any of the optimizers is complete: `optim.0`, `optim.1` ...
    with_state = {param for group in groups.values() for param in group}
    if with_state:
        names = (fqn for fqn in checkpoint.columns.fqns if not _STATE.search(fqn))
        prefix = next(iter(groups))
        for fqn, num in _stateless(names, with_state):
            findings.append(_finding(prefix, fqn, None, num))
    return findings


def _groups(fqns: Iterable[str]) -> dict[str, dict[str, set[str]]]:
    """The slots of each parameter, by optimizer."""
    groups: dict[str, dict[str, set[str]]] = {}
    for fqn in fqns:
        name = split_state(fqn)
        if name is not None and name.slot in SLOTS:
            groups.setdefault(name.prefix, {}).setdefault(name.param, set()).add(name.slot)
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
        f"{shown}: {where} lacks {what} for it, which {plural(num, 'parameter')} like it have",
        "raises RuntimeError: Missing key in checkpoint state_dict, if the optimizer has a state "
        "for it; with allow_partial_load it starts from nothing, silently",
        "no fault if the parameter is frozen or got no gradient; else take the optimizer's state "
        "from another checkpoint",
        fqn=param if missing is None else None,
    )


_GROUPS = re.compile(r"(?:\A|(?<=\.))param_groups\.")
_LISTED = re.compile(r"\d{1,6}\.params\Z")
# An option that every group of torch's optimizers has.
_OPTION = ".lr"
_MAX_LISTS = 64
_MAX_REMOTE_LISTS = 4
_MAX_BYTES = 256 << 10
_MAX_NAMED = 3
# Levels of a slot below a parameter's name (`exp_avg`, `exp_avg.codes`).
_MAX_SLOT = 3


def with_idle_parameters(
    checkpoint: Checkpoint, storage: Storage, findings: Iterable[Finding]
) -> list[Finding]:
    """The findings about single parameters, and an `optimizer-incomplete` for each optimizer.

    A parameter that got no gradient so far (an unused head, an expert that no token reached) has no
    state. `optimizer.load_state_dict` takes that; the targets of `get_optimizer_state_dict` hold
    state for every parameter that requires a gradient, so `dcp.load` raises (run with torch 2.13,
    AdamW and SGD with momentum, nested and flattened). A frozen parameter has no state there
    either, and loads. Told only where most of the optimizer's parameters have state: where most
    have none, the others being frozen is what they have in common.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder; lists of names are read from it.
        findings: What `check_optimizer` found; a parameter that is told here is not told twice.
    """
    kept = list(findings)
    if checkpoint.format != "dcp":
        return kept
    told = []
    for prefix, params in _listed(checkpoint, storage).items():
        with_state = _with_state(checkpoint, f"{prefix}state.", params)
        idle = [param for param in params if param not in with_state]
        if not idle or len(idle) > len(with_state):
            continue
        names = set(idle)
        kept = [f for f in kept if f.fqn is None or not names & {f.fqn, f.fqn.partition(".")[2]}]
        told.append(_group_finding(prefix, idle, len(params)))
    return [*kept, *told]


def _listed(checkpoint: Checkpoint, storage: Storage) -> dict[str, list[str]]:
    """The names of the parameters in the groups of each optimizer, by its prefix (`optim.`)."""
    is_local = storage.local_path("") is not None
    left = _MAX_LISTS if is_local else _MAX_REMOTE_LISTS
    found: dict[str, dict[str, None]] = {}
    entries: list[tuple[str, BytesEntry | None]] = [(e.fqn, e) for e in checkpoint.bytes_entries]
    # A learning rate may be a tensor.
    entries += [(fqn, None) for fqn in checkpoint.columns.fqns if fqn.endswith(_OPTION)]
    for fqn, entry in entries:
        match = _GROUPS.search(fqn) if "param_groups." in fqn else None
        if match is None:
            continue
        prefix, rest = fqn[: match.start()], fqn[match.end() :]
        if _LISTED.match(rest) and entry is not None and left:
            left -= 1
            names = _names(checkpoint, storage, entry)
            found.setdefault(prefix, {}).update(dict.fromkeys(names))
        elif rest.endswith(_OPTION) and not rest.removesuffix(_OPTION).isdigit():
            found.setdefault(prefix, {})[rest.removesuffix(_OPTION)] = None
    return {prefix: list(names) for prefix, names in found.items()}


def _names(checkpoint: Checkpoint, storage: Storage, entry: BytesEntry) -> list[str]:
    """The names in a stored list of them; none if it is of numbers, or cannot be read."""
    # lazy: it reads payloads
    from inspector.checkpoint.payload.scan.literals import entry_value

    if not 0 < entry.byte_length <= _MAX_BYTES:
        return []
    found = entry_value(checkpoint, storage, entry, 4 * _MAX_BYTES)
    value = None if found is None else found.value
    if type(value) is not list or any(type(name) is not str for name in value):
        return []
    return value


def _with_state(checkpoint: Checkpoint, prefix: str, params: list[str]) -> set[str]:
    """Those of the parameters that have any state below a prefix."""
    names = set(params)
    found = set()
    for fqn in checkpoint.fqns:
        if not fqn.startswith(prefix):
            continue
        param = fqn[len(prefix) :]
        for _ in range(_MAX_SLOT):
            param = param.rpartition(".")[0]
            if param in names:
                found.add(param)
                break
    return found


def _group_finding(prefix: str, idle: list[str], num_params: int) -> Finding:
    shown = ", ".join(printable(name, 80) for name in idle[:_MAX_NAMED])
    more = f" and {len(idle) - _MAX_NAMED:,} more" if len(idle) > _MAX_NAMED else ""
    where = printable(prefix.rstrip("."), 60)
    return Finding(
        "optimizer-incomplete",
        f"{where + ': ' if where else ''}{len(idle):,} of the {plural(num_params, 'parameter')} in "
        f"its groups {'has' if len(idle) == 1 else 'have'} no state ({shown}{more}): frozen, or "
        "without a gradient so far",
        "raises RuntimeError: Missing key in checkpoint state_dict, into what "
        "get_optimizer_state_dict makes of a fresh optimizer, if they require a gradient; loads if "
        "they are frozen",
        "no fault if they are frozen; else take their entries out of the target before dcp.load "
        "(allow_partial_load=True would pass over missing weights as well)",
        fqn=idle[0] if len(idle) == 1 else None,
    )
