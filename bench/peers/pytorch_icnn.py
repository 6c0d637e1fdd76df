# SPDX-License-Identifier: MIT
"""One JKO step's loss for an input-convex network, written in PyTorch in three ways: nested, func, analytic.

Network (Alvarez-Melis, Schiff, Mroueh, TMLR 2022), with sigma = softplus and W_l, w >= 0:

    s_0 = A_0 x + b_0,   s_l = W_l sigma(s_{l-1}) + A_l x + b_l
    u = w.sigma(s_last) + a.x + b + alpha/2 |x|^2

Loss, a mean over the N particles of a cloud x with log-densities log rho(x), and with xi = rho / |H|:

    F(y) + |y - x|^2 / (2 tau),   y = grad u(x),   H = Hessian of u at x

with F one of

    porous_medium   E[xi^(m-1)]/(m-1), whose gradient is that of the surrogate -E[stop(xi^(m-1)) log|H|]
    entropy         E[log xi] + E|y|^2/2
    potential       E|y|^2/2
    latent          E[V(y)] + weight OT(y, reference), of pytorch_divergence
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.nn.functional import softplus

import pytorch_divergence as divergence

FUNCTIONALS = ("porous_medium", "entropy", "potential", "latent")
Params = dict[str, Tensor]
Transport = Callable[[divergence.Latent, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A functional and the constants of one JKO step."""

    functional: str
    tau: float = 1e-3
    m: float = 2.0
    floor: float = 0.0  # lower bound of the weights W_l, w
    alpha_floor: float = 1e-3  # lower bound of alpha
    latent: divergence.Latent | None = None

    @property
    def internal(self) -> bool:
        """Whether the functional has an internal energy, which needs log|H|."""
        return self.functional not in ("potential", "latent")


def parameter_shapes(dim: int, hidden: list[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters, in the order in which the files name them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, width in enumerate(hidden):
        if layer > 0:
            shapes[f"layer{layer}.hidden.weight"] = (width, hidden[layer - 1])
        shapes[f"layer{layer}.input.weight"] = (width, dim)
        shapes[f"layer{layer}.bias"] = (width,)
    shapes["output.hidden.weight"] = (1, hidden[-1])
    shapes["output.input.weight"] = (1, dim)
    shapes["output.bias"] = (1,)
    shapes["quadratic.alpha"] = (1,)
    return shapes


def initial_parameters(dim: int, hidden: list[int], seed: int) -> Params:
    """Random parameters (float64) whose map is a moderate perturbation of the identity."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for name, shape in parameter_shapes(dim, hidden).items():
        if name == "quadratic.alpha":
            value = np.ones(shape)
        elif name == "output.hidden.weight":
            value = rng.uniform(0.0, 0.2, shape) / shape[-1]
        elif name.endswith("hidden.weight"):
            value = rng.uniform(0.0, 2.0, shape) / shape[-1]
        else:
            value = rng.standard_normal(shape) / math.sqrt(dim if name.endswith("input.weight") else 1)
        params[name] = torch.from_numpy(value)
    return params


def initial_cloud(n: int, dim: int, functional: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A cloud (n, dim) and its log-densities (n): N(0, I); for `porous_medium` Barenblatt at t = 0.1."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim))
    if functional != "porous_medium":
        return x, -0.5 * (x**2).sum(1) - 0.5 * dim * math.log(2 * math.pi)
    # rho = t^-a (C - k |x|^2 t^(-2a/d))_+ with m = 2, a = d/(d + 2), k = a/(4 d); |x|^2/R^2 ~ Beta(d/2, 2).
    a = dim / (dim + 2)
    k = a / (4 * dim)
    log_ball = 0.5 * dim * math.log(math.pi / k) - math.lgamma(2 + dim / 2)
    c = math.exp(-log_ball / (1 + dim / 2))
    spread = 0.1 ** (a / dim)
    radius = np.sqrt(rng.beta(dim / 2, 2, n) * c / k) * spread
    x *= (radius / np.linalg.norm(x, axis=1))[:, None]
    return x, -dim * math.log(spread) + np.log(c - k * (radius / spread) ** 2)


def potential(params: Params, x: Tensor) -> Tensor:
    """u(x), shape (...), for x of shape (..., d); any number of hidden layers."""
    z, layer = softplus(x @ params["layer0.input.weight"].T + params["layer0.bias"]), 1
    while f"layer{layer}.bias" in params:
        p = f"layer{layer}."
        z = softplus(
            z @ params[p + "hidden.weight"].T + x @ params[p + "input.weight"].T + params[p + "bias"]
        )
        layer += 1
    linear = (
        z @ params["output.hidden.weight"].T + x @ params["output.input.weight"].T + params["output.bias"]
    )
    return linear.squeeze(-1) + 0.5 * params["quadratic.alpha"].squeeze() * (x * x).sum(-1)


def latent_loss(latent: divergence.Latent, y: Tensor, transport: Transport) -> Tensor:
    """E[V(y)] + weight OT(y, reference) of points (N, d)."""
    return potential(latent.potential, y).mean() + latent.weight * transport(latent, y)


def jko_loss(
    problem: Problem, y: Tensor, displacement: Tensor, log_density: Tensor, log_det: Tensor | None
) -> Tensor:
    """The loss from y and y - x, both (N, d) or both (d, N), and log rho and log|H|, both (N); without F where
    it is of the latent kind."""
    n = log_density.shape[0]
    loss = (displacement * displacement).sum() / (2 * problem.tau * n)
    if problem.functional == "porous_medium":
        xi_power = torch.exp((problem.m - 1) * (log_density - log_det))
        return loss + xi_power.mean() / (problem.m - 1)
    if problem.latent:
        return loss
    loss = loss + 0.5 * (y * y).sum() / n
    return loss if log_det is None else loss + (log_density - log_det).mean()


def loss_nested(
    params: Params,
    x: Tensor,
    log_density: Tensor,
    problem: Problem,
    transport: Transport = divergence.library,
) -> Tensor:
    """As published research code has it: autograd for grad u, then d backward calls for H, then slogdet."""
    x = x.detach().requires_grad_(True)
    y = torch.autograd.grad(potential(params, x).sum(), x, create_graph=True)[0]
    log_det = None
    if problem.internal:
        rows = [torch.autograd.grad(y[:, k].sum(), x, create_graph=True)[0] for k in range(x.shape[1])]
        log_det = torch.linalg.slogdet(torch.stack(rows, 1))[1]
    loss = jko_loss(problem, y, y - x.detach(), log_density, log_det)
    return loss + latent_loss(problem.latent, y, transport) if problem.latent else loss


def loss_func(params: Params, x: Tensor, log_density: Tensor, problem: Problem) -> Tensor:
    """torch.func: vmap over particles of grad and of jacrev(jacrev), which torch.compile can trace."""
    y = vmap(grad(potential, argnums=1), (None, 0))(params, x)
    log_det = None
    if problem.internal:
        hessian = vmap(jacrev(jacrev(potential, argnums=1), argnums=1), (None, 0))(params, x)
        log_det = torch.linalg.slogdet(hessian)[1]
    loss = jko_loss(problem, y, y - x, log_density, log_det)
    return loss + latent_loss(problem.latent, y, divergence.dense) if problem.latent else loss


def loss_analytic(params: Params, x: Tensor, log_density: Tensor, problem: Problem) -> Tensor:
    """Closed forms for two hidden layers: one reverse pass is all that autograd adds.

        grad u = A_0^T c_0 + A_1^T c_1 + a + alpha x,   J = W_1 diag(sigma'(s_0)) A_0 + A_1
        H = A_0^T diag(beta) A_0 + J^T diag(gamma) J + alpha I

    The displacement grad u - x is formed without cancellation. Particles are the last, contiguous axis:
    there the elementwise loops vectorise, also over the small matrices H. For d <= 2 the columns of J share
    one product with the forward pass; above, W_1 and A_0 are combined once for all particles.
    """
    if "layer1.bias" not in params or "layer2.bias" in params:
        raise ValueError("the analytic form is written for two hidden layers; name another form")
    x = x.T.contiguous()
    dim, n = x.shape
    a0, a1 = params["layer0.input.weight"], params["layer1.input.weight"]
    w1, w, alpha = params["layer1.hidden.weight"], params["output.hidden.weight"].T, params["quadratic.alpha"]
    thin = dim <= 2
    s0 = expand(a0, x) + params["layer0.bias"][:, None]
    slope0 = torch.sigmoid(s0)
    streams = [softplus(s0)] + [slope0 * a0[:, k : k + 1] for k in range(dim) if thin and problem.internal]
    products = (w1 @ torch.cat(streams, 1)).split(n, 1)
    slope1 = torch.sigmoid(products[0] + expand(a1, x) + params["layer1.bias"][:, None])
    c1 = slope1 * w
    c0 = (w1.T @ c1) * slope0
    displacement = contract(a0, c0) + contract(a1, c1) + params["output.input.weight"].T + (alpha - 1) * x
    log_det = None
    if problem.internal:
        beta, gamma = c0 * (1 - slope0), c1 * (1 - slope1)
        if thin:
            jacobian = [products[1 + k] + a1[:, k : k + 1] for k in range(dim)]
            log_det = log_det_thin(beta, gamma, a0, jacobian, alpha)
        else:
            combined = (w1[:, None, :] * a0.T).flatten(0, 1)
            jacobian = (combined @ slope0).unflatten(0, a1.shape) + a1[:, :, None]
            log_det = log_det_full(beta, gamma, a0, jacobian, alpha)
    y = x + displacement
    loss = jko_loss(problem, y, displacement, log_density, log_det)
    return loss + latent_loss(problem.latent, y.T, divergence.dense) if problem.latent else loss


def expand(weight: Tensor, x: Tensor) -> Tensor:
    """weight @ x, (h, d) by (d, N); for d <= 2 as broadcasts, which fuse when compiled."""
    if x.shape[0] > 2:
        return weight @ x
    return sum(weight[:, k : k + 1] * x[k] for k in range(x.shape[0]))


def contract(weight: Tensor, z: Tensor) -> Tensor:
    """weight.T @ z, (d, h) by (h, N); for d <= 2 as sums, for the same reason."""
    if weight.shape[1] > 2:
        return weight.T @ z
    return torch.stack([(weight[:, k : k + 1] * z).sum(0) for k in range(weight.shape[1])])


def log_det_thin(beta: Tensor, gamma: Tensor, a0: Tensor, jacobian: list[Tensor], alpha: Tensor) -> Tensor:
    """log|H| (N) for d = 1 or 2, from the entries of H; `jacobian` holds the d columns of J, each (h1, N)."""

    def entry(i: int, j: int) -> Tensor:
        return (beta * (a0[:, i] * a0[:, j])[:, None]).sum(0) + (gamma * jacobian[i] * jacobian[j]).sum(0)

    if len(jacobian) == 1:
        return torch.log(entry(0, 0) + alpha)
    return torch.log((entry(0, 0) + alpha) * (entry(1, 1) + alpha) - entry(0, 1) ** 2)


def log_det_full(beta: Tensor, gamma: Tensor, a0: Tensor, jacobian: Tensor, alpha: Tensor) -> Tensor:
    """log|H| (N) for any d, `jacobian` (h1, d, N). Its gradient is <H^-1, dH>, H^-1 a constant."""
    dim = a0.shape[1]
    curved = (jacobian[:, :, None] * (gamma[:, None] * jacobian)[:, None]).sum(0)
    # A_0^T diag(beta) A_0 as one product, its upper triangle only; unpacked outside the graph.
    i, j = torch.triu_indices(dim, dim, device=beta.device)
    packed = (a0[:, i] * a0[:, j]).T @ beta
    position = torch.zeros(dim, dim, dtype=torch.long, device=beta.device)
    position[i, j] = position[j, i] = torch.arange(len(i), device=beta.device)
    with torch.no_grad():
        eye = torch.eye(dim, dtype=beta.dtype, device=beta.device)[:, :, None]
        value, inverse = spd_inverse(packed.detach()[position] + curved.detach() + alpha * eye)
        twice = torch.where(i == j, 1.0, 2.0).to(beta.dtype)[:, None] * inverse[i, j]
    # `slope` minus itself is zero: the value comes from the inversion, the gradient from here.
    slope = (twice * packed).sum(0) + (inverse * curved).sum((0, 1)) + alpha * inverse.diagonal().sum(1)
    return value + slope - slope.detach()


def spd_inverse(a: Tensor) -> tuple[Tensor, Tensor]:
    """log|A| (N) and A^-1 of symmetric positive definite A (d, d, N): 2 x 2 blocks, then sweeps.

    One particle per vector lane: with d = 20 faster than batched LAPACK, which takes one matrix at a time.
    """
    dim = a.shape[0]
    if dim <= 5:
        return sweep(a)
    h = dim // 2
    log_det_a, inverse_a = spd_inverse(a[:h, :h])
    scaled = lane_product(inverse_a, a[:h, h:])
    log_det_s, inverse_s = spd_inverse(a[h:, h:] - lane_product(a[h:, :h], scaled))
    cross = lane_product(scaled, inverse_s)
    upper = torch.cat([inverse_a + lane_product(cross, scaled.transpose(0, 1)), -cross], 1)
    return log_det_a + log_det_s, torch.cat([upper, torch.cat([-cross.transpose(0, 1), inverse_s], 1)])


def lane_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix products of (i, j, N) and (j, k, N), one for each of the N particles."""
    return (a[:, :, None] * b).sum(1)


def sweep(a: Tensor) -> tuple[Tensor, Tensor]:
    """log|A| (N) and A^-1 (d, d, N) by d rank-one updates."""
    index = torch.arange(a.shape[0], device=a.device)
    log_det = torch.zeros_like(a[0, 0])
    for k in range(a.shape[0]):
        pivot, hit = a[k, k], (index == k)[:, None]
        log_det = log_det + pivot.log()
        column = torch.where(hit, -1.0, a[:, k]) / pivot
        row = torch.where(hit, 1.0, a[k])
        a = torch.where((hit | hit.T)[:, :, None], 0.0, a) - column[:, None] * row
    return log_det, a
