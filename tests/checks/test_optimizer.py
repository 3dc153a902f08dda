"""Missing optimizer state is told, and innocent differences are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch.distributed.checkpoint.metadata import Metadata

from inspector.checkpoint.model import Checkpoint
from inspector.checks.metadata.optimizer import check_optimizer
from tests.checks.editing import copy_of, edited, only
from tests.checks.test_cover import columns_of


def checkpoint_of(names: list[str]) -> Checkpoint:
    columns = columns_of([((2,), [((0,), (2,))]) for _ in names])
    columns.fqns[:] = names
    return Checkpoint("", "dcp", columns, (), (), np.zeros(0, np.int32))


def adam(*params: str, prefix: str = "optim.state.") -> list[str]:
    return [f"{prefix}{p}.{s}" for p in params for s in ("step", "exp_avg", "exp_avg_sq")]


LAYERS = [f"layers.{i}.w" for i in range(6)]


def told(names: list[str]) -> list[str]:
    return [f.message.partition(":")[0] for f in check_optimizer(checkpoint_of(names))]


def test_in_a_real_checkpoint(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        fqn = "optimizer.state.u.exp_avg"
        del metadata.state_dict_metadata[fqn]
        for index in [i for i in metadata.storage_data if i.fqn == fqn]:
            del metadata.storage_data[index]

    finding = only(edited(copy_of(tmp_path), edit), "optimizer-incomplete", "warning")
    assert finding.message.startswith("u: optimizer.state lacks exp_avg for it")


@pytest.mark.parametrize("prefix", ["optim.state.", "state.", "optimizers.0.state."])
def test_a_slot_is_missing(prefix: str) -> None:
    names = LAYERS + adam(*LAYERS, prefix=prefix)
    assert told(names) == []
    names.remove(prefix + "layers.3.w.exp_avg_sq")
    assert told(names) == ["layers.3.w"]


def test_megatron_puts_the_slot_first() -> None:
    names = [f"optimizer.state.{s}.{p}" for p in LAYERS for s in ("exp_avg", "exp_avg_sq")]
    assert told(names) == []
    assert told(names[:-1]) == ["layers.5.w"]


def test_all_state_of_one_layer_is_missing() -> None:
    names = LAYERS + adam(*LAYERS[:4], LAYERS[5])
    assert told(names) == ["layers.4.w"]
    with_prefix = [f"model.{n}" for n in LAYERS] + adam(*LAYERS[:4], LAYERS[5])
    assert told(with_prefix) == ["model.layers.4.w"]


def test_innocent_differences_are_not_told() -> None:
    frozen = LAYERS + adam(*LAYERS[4:])
    assert told(frozen) == []
    buffers = [*LAYERS, *(f"layers.{i}.running_mean" for i in range(6)), *adam(*LAYERS)]
    assert told(buffers) == []
    muon = LAYERS + adam(*LAYERS[:2]) + [f"optim.state.{p}.momentum_buffer" for p in LAYERS[2:]]
    assert told(muon) == []
    assert told(["train_state.step", "model.state.x", "w"]) == []
    assert told(LAYERS) == []
    split = LAYERS + adam(*LAYERS[:3], prefix="o.0.state.") + adam(*LAYERS[3:], prefix="o.1.state.")
    assert told(split) == []


def test_lion_for_some_parameters_and_adam_for_others() -> None:
    lion = [f"optim.state.{p}.exp_avg" for p in LAYERS[:2]]
    assert told(LAYERS + lion + adam(*LAYERS[2:])) == []
    # One that has its steps counted lost its second moment.
    lost = [*lion, "optim.state.layers.1.w.step"]
    assert told(LAYERS + lost + adam(*LAYERS[2:])) == ["layers.1.w"]


def test_options_of_a_group() -> None:
    amsgrad = [f"optim.state.{p}.max_exp_avg_sq" for p in LAYERS[2:]]
    assert told(LAYERS + adam(*LAYERS) + amsgrad) == []
    more = [*amsgrad, "optim.state.layers.1.w.max_exp_avg_sq"]
    assert told(LAYERS + adam(*LAYERS) + more) == ["layers.0.w"]


def test_the_first_layers_are_frozen() -> None:
    names = [f"model.layers.{i}.{p}" for i in range(12) for p in ("mlp.w", "norm.w")]
    bare = [n.partition(".")[2] for n in names]
    assert told(names + adam(*bare[4:])) == []
    # Half of a layer is not.
    assert told(names + adam(*bare[1:])) == ["model.layers.0.mlp.w"]
    assert told(names + adam(*bare[:-2])) == ["model.layers.11.mlp.w", "model.layers.11.norm.w"]
