"""Whole tensors of every dtype, shape and kind of name that a reader must cope with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tensors_by_dtype() -> dict[str, Tensor]:
    """Ten elements each: shards of 3, 3, 3 and 1."""
    plain = ["float64", "float32", "float16", "bfloat16"]
    plain += ["complex64", "bool", "int8", "int64", "uint16"]
    fp8 = [name for name in sorted(vars(torch)) if name.startswith("float8_")]
    return {name: torch.arange(10).to(getattr(torch, name)) for name in plain + fp8}


def tensors_by_shape() -> dict[str, Tensor]:
    """Shapes that shard unevenly, emptily or not at all."""
    shapes: dict[str, tuple[int, ...]] = {
        "scalar": (),
        "empty": (0,),
        "no_rows": (0, 5),
        "no_columns": (5, 0),
        "one_row": (1, 6),
        "fewer_rows_than_shards": (3, 2),
        "three_dims": (6, 2, 3),
        "four_dims": (5, 2, 2, 2),
        "transposed": (8, 6),
        "cut_by_columns": (3, 10),
    }
    return {
        name: torch.arange(float(math.prod(shape))).reshape(shape) for name, shape in shapes.items()
    }


def tensors_by_name() -> dict[str, Tensor]:
    """Names that cannot be split at dots, or are not ASCII; one row each."""
    names = ("with.dots.in.it", "with a space", "größe", "重み", ".leading", "trailing.", "0")
    return {name: torch.full((1, 2), float(i)) for i, name in enumerate(names)}


def plain_tensors() -> dict[str, Tensor]:
    """Tensors that are no DTensors: every rank has them whole."""
    return {
        "scalar_int64": torch.tensor(-5),
        "scalar_bfloat16": torch.tensor(1.5, dtype=torch.bfloat16),
        "transposed": torch.arange(12.0).reshape(3, 4).t(),
        "empty": torch.empty(0),
    }
