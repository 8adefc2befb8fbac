"""Trainable rational activations: N. Boulle, Y. Nakatsukasa, A. Townsend, NeurIPS 2020."""

from __future__ import annotations

from typing import Any

import torch

# The best approximation of max(x, 0) by a rational function of type (3, 2) on [-1, 1] is (x + r(x)) / 2 with the best
# one of |x| of type (2, 2), r(x) = (0.0436894 + 3.1891 x^2) / (1 + 2.3792 x^2) up to the digits below; largest error
# 0.0218, reached at 0 and at -1, 1 and two points between.
NUMERATOR = (0.0218, 0.5, 1.5957, 1.1915)
DENOMINATOR = (1.0, 0.0, 2.3830)


class Rational(torch.nn.Module):
    """Activation p(x) / q(x) with a cubic p and a quadratic q, whose seven coefficients are trained.

    It starts close to a ReLU: within 0.022 on [-1, 1].

    References
    ----------
    N. Boulle, Y. Nakatsukasa, A. Townsend, Rational neural networks, NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models.rational import Rational
    >>> Rational()(torch.tensor([-1.0, 0.0, 1.0])).detach().round(decimals=2)
    tensor([-0.02,  0.02,  0.98])
    """

    def __init__(self) -> None:
        super().__init__()
        self.numerator = torch.nn.Parameter(torch.tensor(NUMERATOR))  # (4,), lowest power first
        self.denominator = torch.nn.Parameter(torch.tensor(DENOMINATOR))  # (3,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function to every entry, in the precision of the coefficients also under autocast."""
        return _RationalFunction.apply(x.to(self.numerator.dtype), self.numerator, self.denominator)


class _RationalFunction(torch.autograd.Function):
    """p(x) / q(x): keeps x and the value for the gradient, where plain operations would keep seven arrays."""

    @staticmethod
    def forward(x: torch.Tensor, numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
        return _horner(x, numerator).div_(_horner(x, denominator))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, p, q, value = ctx.saved_tensors
        scaled = gradient / _horner(x, q)
        slope = _horner(x, p[1:] * torch.arange(1, 4, device=p.device))  # p'
        slope -= _horner(x, q[1:] * torch.arange(1, 3, device=q.device)).mul_(value)  # p' - q' p / q
        moments = [scaled.sum()]  # sums of scaled x^k
        weighted = scaled * value
        opposite = [weighted.sum()]  # sums of scaled value x^k
        power = x
        for degree in range(1, 4):
            moments.append(_inner(scaled, power))
            if degree < 3:
                opposite.append(_inner(weighted, power))
                power = power * x
        return slope.mul_(scaled), torch.stack(moments), -torch.stack(opposite)


def _horner(x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    value = x * coefficients[-1]
    for coefficient in coefficients[1:-1].flip(0):
        value.add_(coefficient).mul_(x)
    return value.add_(coefficients[0])


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
