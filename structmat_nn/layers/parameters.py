"""Groups of parameters for optimisers."""

from __future__ import annotations

from typing import Any

from torch import nn

from structmat import _check

from .activation import LearnableLeakyReLU

__all__ = ["parameter_groups"]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a model in two groups for an optimiser: slopes and biases are not decayed.

    Parameters
    ----------
    module : torch.nn.Module
        Any model.
    weight_decay : float
        Of all other parameters, >= 0.

    Returns
    -------
    list of dict
        ``{"params": ..., "weight_decay": ...}``, the decayed group first; empty groups are left out. Each parameter
        is in one group, once, also where modules share it.

    Examples
    --------
    >>> from torch import nn, optim
    >>> from structmat_nn import HSSLinear, LearnableLeakyReLU, parameter_groups
    >>> model = nn.Sequential(HSSLinear(16, 16, rank=1, levels=2, bias=True), LearnableLeakyReLU())
    >>> optimiser = optim.AdamW(parameter_groups(model, weight_decay=1e-4), lr=1e-3)
    >>> [len(group["params"]) for group in optimiser.param_groups]
    [7, 2]
    """
    decay = _check.tolerance(weight_decay, "weight_decay")
    exempt = {
        id(parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if name == "bias" or isinstance(part, LearnableLeakyReLU | nn.PReLU)
    }
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
