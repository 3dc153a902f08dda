"""What kinds of state a checkpoint holds: model, optimizer, learning rate, data loader, training.

The rule this module keeps: from names alone, as the frameworks give them; a tensor that nothing
names as something else is the model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Entry

__all__ = ["KINDS", "kinds_beside", "kinds_of", "kinds_of_name"]

#: Every kind, with what it is called.
KINDS = {
    "model": "model tensor",
    "optimizer": "optimizer",
    "ema": "moving average of the model",
    "scheduler": "learning rate schedule",
    "loader": "data loader state",
    "training": "training state",
}

_WORDS = {
    "optimizer": re.compile(
        r"(chained_)?(optimizers?|optims?)(_\d+|_states?|_state_dict)?|param_groups", re.I
    ),
    "scheduler": re.compile(r"(lr_|opt_param_|learning_rate_)?schedul\w*", re.I),
    "loader": re.compile(r"(train_|val_)?(data_?)?loaders?|data_?set|(data_)?samplers?", re.I),
    "training": re.compile(
        r"train(er|ing)?_?(state|progress)?|loops?|callbacks?|(cuda_|torch_|numpy_|python_|cpu_)?rng"
        r"(_?states?)?|random_states?|global_step|current_step|step|steps|epoch|iteration|progress"
        r"|extra_state|args|hparams\w*|hyper_parameters|version|timestamp|grad_scaler|scaler|metrics",
        re.I,
    ),
    "ema": re.compile(r"(model_)?ema(_model|_weights|_state\w*)?", re.I),
}  # fmt: skip
_SLOT = re.compile(
    r"(?:\A|\.)state\.(?:.*\.)?(?:exp_avg|exp_avg_sq|momentum_buffer|square_avg|acc_delta)(?:\.|\Z)"
)
# Words before the one that tells: `app.optimizer...`, `state.model...`, `state.optimizers...`.
_WRAPPERS = frozenset({"app", "state", "state_dict", "checkpoint", "module"})

_BESIDE = (
    ("optimizer", re.compile(r"optim(izer)?(_\d+)?\.(pt|pth|bin)|.*optim_states\.pt")),
    ("scheduler", re.compile(r"(lr_)?scheduler(_\d+)?\.(pt|pth|bin)")),
)


def kinds_of_name(part: str) -> frozenset[str]:
    """The kind that a part is of by its name, where it was not read."""
    return frozenset({_kind_of_word(part.rpartition("/")[2]) or "model"})


def kinds_of(checkpoint: Checkpoint, part: str = "") -> frozenset[str]:
    """The kinds that the entries of a checkpoint are of.

    Args:
        checkpoint: The checkpoint.
        part: What it is called as a part of a step: what lies in `optimizer_0` is the optimizer's.
    """
    known: dict[str, str] = {}
    kinds: set[str] = set()
    for fqn in checkpoint.columns.fqns:
        kind = _cached(fqn, known)
        is_slot = kind == "model" and "state." in fqn and _SLOT.search(fqn)
        kinds.add("optimizer" if is_slot else kind)
    kinds |= {_cached(entry.fqn, known) for entry in checkpoint.bytes_entries} - {"model"}
    named = _kind_of_word(part)
    if named and "model" in kinds:
        kinds = kinds - {"model"} | {named}
    return frozenset(kinds)


def _cached(fqn: str, known: dict[str, str]) -> str:
    """The kind of an entry by the words its name begins with, each asked for once."""
    head = fqn.partition(".")[0]
    if head in _WRAPPERS:
        head = ".".join(fqn.split(".", 3)[:3])
    kind = known.get(head)
    if kind is None:
        kind = known[head] = _kind(head)
    return kind


def _kind(head: str) -> str:
    for word in head.split("."):
        kind = _kind_of_word(word)
        if kind:
            return kind
        if word not in _WRAPPERS:
            break
    return "model"


def _kind_of_word(word: str) -> str:
    """The kind that one word of a name says, or an empty string."""
    if word in _WRAPPERS:
        return ""
    return next((kind for kind, words in _WORDS.items() if words.fullmatch(word)), "")


def kinds_beside(files: Iterable[Entry]) -> frozenset[str]:
    """The kinds that files beside a checkpoint are of, by their names: `optimizer.pt`."""
    names = [entry.name for entry in files]
    return frozenset(
        kind for kind, pattern in _BESIDE if any(pattern.fullmatch(name) for name in names)
    )
