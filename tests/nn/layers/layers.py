"""What the tests of the layers share: layers of many shapes, in float64, with no parameter at zero."""

import numpy as np
import torch

from structmat_nn import HODLRLinear, HSSLinear, LowRankLinear


def random_sizes(seed):
    """Rows, columns, levels and a rank that fits, for sizes 1 .. 70 and up to 4 levels."""
    rng = np.random.default_rng(seed)
    rows, columns = (int(n) for n in rng.integers(1, 71, 2))
    levels = int(rng.integers(0, min(4, min(rows, columns).bit_length() - 1) + 1))
    leaf = min(rows, columns) // 2**levels
    return rows, columns, levels, int(rng.integers(0, min(leaf, 5) + 1))


def random_hss(seed, route="auto", **options):
    rows, columns, levels, rank = random_sizes(seed)
    layer = HSSLinear(
        columns, rows, rank=rank, levels=levels, bias=seed % 2 == 0, route=route, dtype=torch.float64, **options
    )
    return filled(layer, seed)


def random_hodlr(seed, route="auto", **options):
    rows, columns, levels, rank = random_sizes(seed)
    layer = HODLRLinear(
        columns, rows, rank=rank, levels=levels, bias=seed % 2 == 0, route=route, dtype=torch.float64, **options
    )
    return filled(layer, seed)


def random_low_rank(seed, route="auto"):
    rows, columns, _, rank = random_sizes(seed)
    rank = min(rank + 1, rows, columns)
    layer = LowRankLinear(columns, rows, rank=rank, bias=seed % 2 == 0, route=route, dtype=torch.float64)
    return filled(layer, seed)


def filled(layer, seed):
    """The layer with its own seeded parameters, the bias among them."""
    layer.reset_parameters(torch.Generator().manual_seed(seed))
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(seed + 1))
    return layer


MAKERS = {
    "hss structured": lambda seed: random_hss(seed, "structured"),
    "hss core": lambda seed: random_hss(seed, "core"),
    "hss dense": lambda seed: random_hss(seed, "dense"),
    "hss auto": lambda seed: random_hss(seed, "auto"),
    "hodlr structured": lambda seed: random_hodlr(seed, "structured"),
    "hodlr dense": lambda seed: random_hodlr(seed, "dense"),
    "low rank structured": lambda seed: random_low_rank(seed, "structured"),
    "low rank dense": lambda seed: random_low_rank(seed, "dense"),
    "low rank auto": lambda seed: random_low_rank(seed, "auto"),
}
