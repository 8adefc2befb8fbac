"""How large a model is, and where its parameters sit."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table


def count_parameters(model: torch.nn.Module) -> int:
    """Real numbers that training determines: complex parameters count twice, fitted buffers count too.

    Parameters
    ----------
    model : torch.nn.Module
        Any model; of one that has `fit` in place of gradients, what the fit holds is counted.

    Returns
    -------
    int

    Examples
    --------
    >>> from structmat_nn.models import DeepONet, count_parameters
    >>> count_parameters(DeepONet(256, width=192, depth=4))
    272065
    """
    return sum(_real_numbers(tensor) for _, tensor in _trained(model))


def describe(model: torch.nn.Module, *, depth: int = 1) -> str:
    """Table of the parameters by part.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    depth : int
        How many levels of parts are told apart.

    Returns
    -------
    str
        One line a part: its name, tensors, and real numbers, with the total below.

    Examples
    --------
    >>> from structmat_nn.models import DeepONet, describe
    >>> print(describe(DeepONet(256, width=192, depth=4)))
    DeepONet
     part      tensors  numbers
     constant        1        1
     branch          8  160,512
     trunk           8  111,552
     total          17  272,065
    """
    parts: dict[str, list[int]] = {}
    for name, tensor in _trained(model):
        row = parts.setdefault(".".join(name.split(".")[:depth]), [0, 0])
        row[0] += 1
        row[1] += _real_numbers(tensor)
    table = Table(box=None, pad_edge=True)
    table.add_column("part")
    table.add_column("tensors", justify="right")
    table.add_column("numbers", justify="right")
    for part, (tensors, numbers) in parts.items():
        table.add_row(part, str(tensors), f"{numbers:,}")
    table.add_row("total", str(sum(t for t, _ in parts.values())), f"{count_parameters(model):,}")
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([type(model).__name__, *lines])


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    fitted = [
        (f"{prefix}.{name}".removeprefix("."), getattr(part, name))
        for prefix, part in model.named_modules()
        for name in getattr(part, "fitted_buffers", ())
    ]
    return [*model.named_parameters(), *fitted]


def _real_numbers(tensor: torch.Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)
