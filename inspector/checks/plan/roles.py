"""`Role`: what an entry of a state dict is for, told by its name; and numbered families of names.

The rule this module keeps: what is not plainly something else is a weight, of which no advice says
that a load may do without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from inspector.checkpoint.text import number_runs

__all__ = ["Role", "families", "family_of", "numbers_text", "role_of"]

Role = Literal["weight", "optimizer", "extra"]

_OPTIMIZERS = frozenset(
    {"optim", "optimizer", "optimizers", "optimizer_state", "optim_state", "opt", "opt_state"}
)
_MODELS = frozenset({"model", "models", "net", "module", "network", "policy", "backbone"})
_SLOTS = frozenset(
    {
        "step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg",
        "grad_avg", "acc_delta", "sum", "exp_inf", "mu_product", "ax", "eta", "mu", "prev",
        "step_size", "exp_avg_diff", "row_var", "col_var", "variance",
    }
)  # fmt: skip
#: Parts of optimizers that are weights all the same: the copies that training goes on from.
_MAIN_WEIGHTS = frozenset(
    {
        "param", "fp32_param", "main_param", "master_param", "master_weight", "master_weights",
        "fp32_from_fp16_params", "fp32_from_fp16",
    }
)  # fmt: skip
_EXTRAS = frozenset(
    {
        "rng", "rng_state", "rng_states", "random_state", "cuda_rng_state", "numpy_rng_state",
        "lr_scheduler", "lr_schedulers", "scheduler", "schedulers", "opt_param_scheduler",
        "dataloader", "data_loader", "train_dataloader", "train_state", "trainer_state",
        "scaler", "grad_scaler", "step", "global_step", "epoch", "iteration", "num_tokens",
        "seen_tokens",
    }
)  # fmt: skip


def role_of(fqn: str, *, is_tensor: bool) -> Role:
    """What an entry is for.

    Args:
        fqn: Its raw name.
        is_tensor: False for any other object, which is never a weight.
    """
    parts = fqn.split(".")
    if _is_optimizers(parts):
        return "weight" if is_tensor and not _MAIN_WEIGHTS.isdisjoint(parts) else "optimizer"
    if not is_tensor or parts[0] in _EXTRAS or parts[-1].startswith("_extra_state"):
        return "extra"
    return "weight"


def _is_optimizers(parts: list[str]) -> bool:
    """Whether a name is that of optimizer state: by where it stands, and what it ends with."""
    at = next((i for i, part in enumerate(parts[:3]) if part in _OPTIMIZERS), None)
    if at is not None and _MODELS.isdisjoint(parts[:at]):
        rest = parts[at + 1 :]
        return "state" in rest or "param_groups" in rest or parts[-1] in _SLOTS
    if parts[0] == "param_groups":
        return True
    return parts[0] == "state" and (parts[-1] in _SLOTS or parts[1:2][0:1] == ["exp_avg"])


_MAX_RANGES = 4


def family_of(fqn: str) -> tuple[str, int]:
    """A name with its last number taken out, and that number; -1 if it has none."""
    parts = fqn.split(".")
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].isdecimal() and parts[i].isascii() and len(parts[i]) < 10:
            return ".".join((*parts[:i], "*", *parts[i + 1 :])), int(parts[i])
    return fqn, -1


def families(fqns: Iterable[str]) -> dict[str, set[int]]:
    """The numbers of every family among names."""
    found: dict[str, set[int]] = {}
    for fqn in fqns:
        family, number = family_of(fqn)
        if number >= 0:
            found.setdefault(family, set()).add(number)
    return found


def numbers_text(numbers: Sequence[int]) -> str:
    """`0 to 3, 5`; numbers in rising order."""
    runs = number_runs(numbers, " to ")
    return ", ".join(runs[:_MAX_RANGES]) + (" ..." if len(runs) > _MAX_RANGES else "")
