"""The small models behind the samples.

The two `SimpleModel`s have the layer sizes of PyTorch's own `test_hsdp_checkpoint.py`, so that what
the samples show can be held against what PyTorch tests. The others are as small as their purpose
allows: a stored chunk costs about 1.5 kB however few elements it has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 30
WIDTH = 10


class SimpleModel(nn.Module):
    """Three layers whose rows divide evenly by 2 and by 4 (but net2 has only four rows)."""

    def __init__(self) -> None:
        super().__init__()
        self.net1 = nn.Linear(5, 8)
        self.relu = nn.ReLU()
        self.net2 = nn.Linear(8, 4)
        self.net3 = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.net1(x))
        x = functional.relu(self.net2(x))
        return functional.relu(self.net3(x))


class SimpleModelUneven(nn.Module):
    """Four layers whose rows (10, 15, 30, 5) leave short and empty shards."""

    def __init__(self) -> None:
        super().__init__()
        self.net1 = nn.Linear(5, 10)
        self.relu = nn.ReLU()
        self.net2 = nn.Linear(10, 15)
        self.net3 = nn.Linear(15, 30)
        self.net4 = nn.Linear(30, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.net1(x))
        x = functional.relu(self.net2(x))
        x = functional.relu(self.net3(x))
        return functional.relu(self.net4(x))


class Block(nn.Module):
    """One residual layer of `TinyTransformer`."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=affine, bias=False)
        self.mlp = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mlp(self.norm(x))
        return out


class TinyTransformer(nn.Module):
    """A language model's parameter names (`layers.N.`), ten wide: no multiple of four.

    Args:
        num_layers: How many blocks.
        affine: Whether each block's norm has a weight. Without, a sample stays small.
    """

    def __init__(self, num_layers: int, affine: bool) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block(affine) for _ in range(num_layers))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.output(self.norm(x))
        return logits


class TwoLayerMLP(nn.Module):
    """For tensor parallelism: `w1` is cut by columns and `w2` by rows.

    `sequence_norm` is replicated, `norm` left alone. The ten rows of `w1` are five for each of two
    tensor-parallel ranks, which two data-parallel ranks then cut unevenly: 3, 2, 3, 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.w1 = nn.Linear(8, 10)
        self.sequence_norm = nn.LayerNorm(10)
        self.w2 = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.w1(self.norm(x)))
        out: Tensor = self.w2(self.sequence_norm(hidden))
        return out


class OddBlock(nn.Module):
    """A block whose dims (11, 7, 6) no number of ranks divides evenly.

    Args:
        affine: Whether its norm has a weight.
    """

    def __init__(self, *, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6, elementwise_affine=affine, bias=False)
        self.wq = nn.Linear(6, 11, bias=False)
        self.wo = nn.Linear(11, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wo(functional.relu(self.wq(self.norm(x))))
        return out


class Experts(nn.Module):
    """Seven experts in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(7, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bd,edh->bh", x, self.w1)


class MoELayer(nn.Module):
    """A dense projection, a router and its experts."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(6, 13, bias=False)
        self.router = nn.Linear(6, 7, bias=False)
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x) + self.router(x).sum() + self.experts(x).sum()
        return out


def token_batches(num_batches: int) -> Tensor:
    """Token ids of shape (num_batches, 8 sequences, 6 tokens), the same in every process.

    Data-parallel ranks share the eight sequences out among themselves, so that the same training
    under another mesh ends in the same weights but for rounding.
    """
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, VOCABULARY, (num_batches, 8, 6), generator=generator)
