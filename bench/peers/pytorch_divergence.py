# SPDX-License-Identifier: MIT
"""F of a cloud under a learned potential, held near a reference by entropic optimal transport, in PyTorch.

    F(y) = E[V(y)] + weight * OT_eps(y, reference),   cost |x - y|^2 / 2

V is a network of pytorch_icnn without its quadratic term. OT is that of geomloss (Feydy et al., AISTATS 2019), or the
same steps on one dense matrix of costs, which torch.compile can trace: a fixed number of symmetric steps while epsilon
falls, then one update of both duals at once, through which alone gradients go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

SCALING = 0.5


@dataclass(frozen=True)
class Latent:
    """V, the reference cloud (M, d), and the constants of the transport."""

    potential: dict[str, Tensor]
    reference: Tensor
    diameter: float  # that the epsilons begin with, fixed, so that all steps of a flow are the same
    weight: float = 1e4
    blur: float = 0.05
    epsilons: list[float] = field(init=False)  # as in geomloss: diameter^2, a range of logarithms, blur^2

    def __post_init__(self) -> None:
        first, last, step = (2 * math.log(v) for v in (self.diameter, self.blur, SCALING))
        between = [math.exp(first + k * step) for k in range(math.ceil((last - first) / step))]
        object.__setattr__(self, "epsilons", [self.diameter**2, *between, self.blur**2])

    def to(self, device: str, dtype: torch.dtype) -> Latent:
        """A copy in this precision on this device."""
        moved = {name: p.to(device, dtype) for name, p in self.potential.items()}
        return replace(self, potential=moved, reference=self.reference.to(device, dtype))


def dense(latent: Latent, y: Tensor) -> Tensor:
    """OT_eps(y, reference) on one matrix of costs."""
    reference = latent.reference
    n, m = y.shape[0], reference.shape[0]
    cost = 0.5 * (y * y).sum(1)[:, None] + 0.5 * (reference * reference).sum(1)[None, :] - y @ reference.T
    fixed = cost.detach()

    def rows(at: float, g: Tensor, c: Tensor) -> Tensor:
        return -at * (torch.logsumexp((g[None, :] - c) / at, 1) - math.log(m))

    def columns(at: float, f: Tensor, c: Tensor) -> Tensor:
        return -at * (torch.logsumexp((f[:, None] - c) / at, 0) - math.log(n))

    first = latent.epsilons[0]
    f, g = rows(first, fixed.new_zeros(m), fixed), columns(first, fixed.new_zeros(n), fixed)
    for at in latent.epsilons:
        f, g = (f + rows(at, g, fixed)) / 2, (g + columns(at, f, fixed)) / 2
    last = latent.epsilons[-1]
    f, g = rows(last, g, cost), columns(last, f, fixed)
    return f.mean() + g.mean()


def library(latent: Latent, y: Tensor) -> Tensor:
    """The same by geomloss on dense tensors."""
    from geomloss import SamplesLoss

    loss = SamplesLoss(
        "sinkhorn", p=2, blur=latent.blur, scaling=SCALING, diameter=latent.diameter, debias=False,
        backend="tensorized",
    )
    return loss(y, latent.reference)
