"""Parameters that an optimizer's groups list and its state does not have.

A parameter that got no gradient so far (an unused head, an expert that no token reached) has no
state. `optimizer.load_state_dict` takes that; the targets of `get_optimizer_state_dict` hold state
for every parameter that requires a gradient, so `dcp.load` raises (run with torch 2.13, AdamW and
SGD with momentum, nested and flattened). A frozen parameter has no state there either, and loads.

The rule this module keeps: told only where most of the optimizer's parameters have state. Where
most have none, the others being frozen is what they have in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from inspector.checkpoint.model import BytesEntry, Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding

__all__ = ["with_idle_parameters"]

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
        told.append(_finding(prefix, idle, len(params)))
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


def _finding(prefix: str, idle: list[str], num_params: int) -> Finding:
    shown = ", ".join(printable(name, 80) for name in idle[:_MAX_NAMED])
    more = f" and {len(idle) - _MAX_NAMED:,} more" if len(idle) > _MAX_NAMED else ""
    where = printable(prefix.rstrip("."), 60)
    return Finding(
        "optimizer-incomplete",
        "warning",
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
