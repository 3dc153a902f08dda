from __future__ import annotations

import math

import numpy as np
import pytest

from inspector.checkpoint.model import TensorColumns


def columns(*tensors: tuple[str, tuple[int, ...]]) -> TensorColumns:
    """Tensors without chunks: dtype and shape of each."""
    dtypes = sorted({dtype for dtype, _ in tensors})
    none = np.zeros(0, np.int64)
    starts = np.zeros(len(tensors) + 1, np.int64)
    return TensorColumns(
        fqns=[str(i) for i in range(len(tensors))],
        properties=[(dtype, "strided", False, "contiguous") for dtype in dtypes],
        property_id=np.array([dtypes.index(dtype) for dtype, _ in tensors], np.int32),
        shapes=np.array([size for _, shape in tensors for size in shape], np.int64),
        dim_start=np.cumsum([0, *(len(shape) for _, shape in tensors)]).astype(np.int64),
        chunk_start=starts,
        box_start=none,
        offsets=none,
        sizes=none,
        file=none.astype(np.int32),
        byte_offset=none,
        byte_length=none,
    )


@pytest.mark.parametrize(
    "shapes",
    [
        [(), (0,), (3,), (4, 5), (2, 0, 7), (1, 1, 1, 9)],
        [(1 << 62,)],  # its bytes pass 64 bits, its elements do not
        [(1 << 31, 1 << 31), (3,)],
        [(1 << 40, 1 << 40), (3,), ()],  # its elements do, too
        [((1 << 63) - 1,), (2, 2)],
    ],
)
def test_counts_are_those_of_python_however_large(shapes: list[tuple[int, ...]]) -> None:
    sizes = {"bfloat16": 2, "float64": 8, "uint8": 1}
    tensors = [(dtype, shape) for shape in shapes for dtype in sizes]
    found = columns(*tensors)
    elements = [math.prod(shape) for _, shape in tensors]
    assert found.num_elements == elements
    assert found.num_bytes == [
        n * sizes[dtype] for n, (dtype, _) in zip(elements, tensors, strict=True)
    ]
    assert all(type(n) is int for n in [*found.num_elements, *found.num_bytes])


def test_there_may_be_no_tensor() -> None:
    found = columns()
    assert found.num_elements == [] and found.num_bytes == []
