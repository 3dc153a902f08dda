"""`Role`: what an entry of a state dict is for, told by its name.

The rule this module keeps: what is not plainly something else is a weight, of which no advice says
that a load may do without it.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Role", "role_of"]

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
