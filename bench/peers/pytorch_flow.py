# SPDX-License-Identifier: MIT
"""Whole JKO flows in PyTorch, step after step, for the time to a given accuracy beside brenier_bench_flows.

Two flows of that program with the same particles, network and steps: the porous medium equation of order 1, and
entropy + |x|^2/2 from N(0, 4 I). Both start from a network near the identity and keep it from step to step. Solvers:

    eager      autograd twice, torch.optim.Adam(fused), rate falling to 1 % along a cosine: research code
    compiled   the analytic loss, gradient and Adam as one graph of torch.compile
    lbfgs      torch.optim.LBFGS (strong Wolfe) on the analytic loss, compiled; weights that are bounded are squares

Each runs with several numbers of iterations a step. Printed, one JSON line each: seconds and processor seconds without
compilation, evaluations, and the error at the end against the exact iterate, as brenier_bench_flows has it. With
--binary that program runs before and after on the same number of threads.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import subprocess
import time
import warnings
from functools import partial

import numpy as np
import torch
from torch import Tensor

import pytorch_icnn as icnn
from pytorch_inner import BETA1, BETA2, EPSILON, FAST, State, compiler, gradient

HIDDEN = [100, 20]


class Flow:
    """Initial cloud (N, d) with log-densities (N), problem, steps and the error of a cloud at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == "porous medium, order 1":
            self.steps = 30
            self.problem = icnn.Problem("porous_medium", tau=1e-3, floor=1e-18)
            self.x, self.log_density, self.radius = barenblatt(1000, 1e-3)
            for _ in range(self.steps):  # R'^2 (R' - R) = 3 tau
                roots = np.roots([1, -self.radius, 0, -3 * self.problem.tau])
                self.radius = roots[np.abs(roots.imag) < 1e-12].real.max()
        else:
            self.steps = 10
            self.problem = icnn.Problem("entropy", tau=0.05, floor=1e-18)
            self.x, self.log_density = gaussian(1024, int(name.rsplit(" ", 1)[1]))
            self.scale, t = 2.0, 1 / self.problem.tau
            for _ in range(self.steps):
                self.scale = (t * self.scale + math.sqrt((t * self.scale) ** 2 + 4 * (t + 1))) / (2 * (t + 1))

    def error(self, x: Tensor, log_density: Tensor) -> float:
        """Largest relative error, as in brenier_bench_flows."""
        if self.problem.functional == "porous_medium":
            functional = torch.exp(log_density).mean().item() / (3 / (5 * self.radius)) - 1
            deviation = x.std(unbiased=False).item() / (self.radius / math.sqrt(5)) - 1
            return max(abs(functional), abs(deviation))
        off = x.mean(0).abs().max().item() / self.scale
        return max(off, (x.std(0, unbiased=False) / self.scale - 1).abs().max().item())


def barenblatt(n: int, t: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Midpoint quantiles of 3/(4R) (1 - x^2/R^2), R^3 = 9 t."""
    radius = (9 * t) ** (1 / 3)
    u = 2 * np.sin(np.arcsin(2 * (np.arange(n) + 0.5) / n - 1) / 3)  # of (2 + 3 u - u^3)/4
    return radius * u[:, None], np.log(3 / (4 * radius) * (1 - u**2)), radius


def gaussian(n: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """A whitened cloud of N(0, 4 I)."""
    z = np.random.default_rng(0).standard_normal((n, dim))
    z -= z.mean(0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T
    return 2 * z, -0.5 * (z**2).sum(1) - dim * math.log(2 * math.sqrt(2 * math.pi))


def near_identity(dim: int, seed: int) -> icnn.Params:
    """First parameters whose map is the identity up to a hundredth."""
    params = icnn.initial_parameters(dim, HIDDEN, seed)
    params["output.hidden.weight"] *= 0.01
    params["output.input.weight"] *= 0
    return params


def push(state: State, theta: Tensor, x: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
    """Images and their log-densities, in double precision."""
    params = state.named(theta.detach().double())
    x = x.clone().requires_grad_(True)
    y = torch.autograd.grad(icnn.potential(params, x).sum(), x, create_graph=True)[0]
    rows = [torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0] for k in range(x.shape[1])]
    return y.detach(), log_density - torch.linalg.slogdet(torch.stack(rows, 1))[1]


class Eager:
    """Leaf tensors and torch.optim.Adam."""

    def __init__(self, flow: Flow, state: State) -> None:
        self.problem, self.state, self.theta = flow.problem, state, state.theta

    def solve(self, x: Tensor, log_density: Tensor, iterations: int) -> int:
        leaves = {name: p.clone().requires_grad_() for name, p in self.state.named(self.theta).items()}
        optimiser = torch.optim.Adam(leaves.values(), lr=1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations, eta_min=1e-5)
        bounded = [p for name, p in leaves.items() if name.endswith("hidden.weight")]
        for _ in range(iterations):
            optimiser.zero_grad()
            icnn.loss_nested(leaves, x, log_density, self.problem).backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for weight in bounded:
                    weight.clamp_(min=self.problem.floor)
                leaves["quadratic.alpha"].clamp_(min=self.problem.alpha_floor)
        self.theta = torch.cat([p.detach().flatten() for p in leaves.values()])
        return iterations


class Compiled:
    """Loss, gradient and Adam as one graph."""

    def __init__(self, flow: Flow, state: State) -> None:
        self.state, self.theta = state, state.theta.clone()
        problem, low = flow.problem, state.low

        def step(theta: Tensor, first: Tensor, second: Tensor, factors: Tensor, x: Tensor, ld: Tensor) -> None:
            slope = gradient(icnn.loss_analytic, problem, state, theta, x, ld)[1]
            first.lerp_(slope, 1 - BETA1)
            second.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
            theta.copy_(torch.maximum(theta - factors[0] * first / ((second * factors[1]).sqrt() + EPSILON), low))

        self.step = compiler(step, FAST)

    def solve(self, x: Tensor, log_density: Tensor, iterations: int) -> int:
        first, second = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        count = torch.arange(iterations, dtype=torch.float64)
        rate = 1e-5 + (1e-3 - 1e-5) * (1 + torch.cos(math.pi * count / iterations)) / 2
        factors = torch.stack([rate / (1 - BETA1 ** (count + 1)), 1 / (1 - BETA2 ** (count + 1))], 1).float()
        for row in factors:
            self.step(self.theta, first, second, row, x, log_density)
        return iterations


class Lbfgs:
    """torch.optim.LBFGS on roots of the bounded weights."""

    def __init__(self, flow: Flow, state: State) -> None:
        self.state, self.evaluations = state, 0
        self.bounded = torch.isfinite(state.low)
        self.theta = state.theta.clone()
        problem, bounded = flow.problem, self.bounded

        def loss(params: icnn.Params, x: Tensor, ld: Tensor, _: icnn.Problem) -> Tensor:
            flat = torch.cat([p.flatten() for p in params.values()])
            squared = torch.where(bounded, flat * flat + state.low.clamp(min=0), flat)
            return icnn.loss_analytic(state.named(squared), x, ld, problem)

        def evaluate(theta: Tensor, x: Tensor, ld: Tensor) -> tuple[Tensor, Tensor]:
            return gradient(loss, problem, state, theta, x, ld)

        self.evaluate = compiler(evaluate, FAST)

    def solve(self, x: Tensor, log_density: Tensor, iterations: int) -> int:
        start = torch.where(self.bounded, (self.theta - self.state.low.clamp(min=0)).clamp(min=0).sqrt(), self.theta)
        leaf = start.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [leaf], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe", tolerance_grad=0,
            tolerance_change=0,
        )
        evaluations = 0

        def closure() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            value, leaf.grad = self.evaluate(leaf.detach(), x, log_density)
            return value

        optimiser.step(closure)
        flat = leaf.detach()
        self.theta = torch.where(self.bounded, flat * flat + self.state.low.clamp(min=0), flat)
        return evaluations


SOLVERS = {"eager": Eager, "compiled": Compiled, "lbfgs": Lbfgs}


def run(flow: Flow, name: str, iterations: int, seed: int) -> dict[str, object]:
    """One flow: what its solves cost, and how exact it ends."""
    x, log_density = torch.from_numpy(flow.x), torch.from_numpy(flow.log_density)
    state = State.create(near_identity(x.shape[1], seed), flow.problem, torch.float32)
    solver = SOLVERS[name](flow, state)
    kept = solver.theta.clone()
    solver.solve(x.float(), log_density.float(), 2)  # compiles
    solver.theta = kept
    evaluations, begin, begin_processor = 0, time.perf_counter(), time.process_time()
    for _ in range(flow.steps):
        evaluations += solver.solve(x.float(), log_density.float(), iterations)
        x, log_density = push(state, solver.theta, x, log_density)
    return {
        "flow": flow.name, "solver": name, "iterations": iterations, "seed": seed, "gradients": evaluations,
        "seconds": time.perf_counter() - begin, "processor_seconds": time.process_time() - begin_processor,
        "error": flow.error(x, log_density),
    }  # fmt: skip


def brenier(binary: str, flow: Flow, threads: int) -> None:
    """A run of brenier_bench_flows with its own solver; its lines, as JSON."""
    command = [binary, "--only", flow.name, "--adam", "0", "--threads", str(threads)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for row in json.loads(text.splitlines()[-1])["rows"]:
        print(json.dumps(row | {"solver": "brenier"}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", default="porous medium, order 1;isotropic OU, d = 12", help="separated by ;")
    parser.add_argument("--runs", default="eager:100,eager:400,compiled:100,compiled:400,lbfgs:10,lbfgs:20,lbfgs:40")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--binary", help="brenier_bench_flows")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    libc = ctypes.CDLL(None)  # freed buffers go back to the heap, not to the system
    libc.mallopt(-3, 1 << 30)
    libc.mallopt(-1, 2**31 - 1)
    for flow in map(Flow, args.flows.split(";")):
        told = partial(brenier, args.binary, flow, args.threads) if args.binary else lambda: None
        told()
        for entry in args.runs.split(","):
            name, iterations = entry.split(":")
            print(json.dumps(run(flow, name, int(iterations), args.seed)), flush=True)
        told()


if __name__ == "__main__":
    main()
