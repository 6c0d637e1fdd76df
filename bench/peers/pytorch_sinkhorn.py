#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Times entropic optimal transport with its forces in PyTorch, on dense tensors and in the log domain.

The steps are those of brenier_bench_sinkhorn (and of geomloss with backend="tensorized", whose last step is also
the one that gradients go through): epsilon falls by scaling^2 from the bound of the largest cost, both potentials
half of the way at once; then a fixed number of steps at the last epsilon, and a last update of f. Prints the same
JSON lines. The cost matrix is formed once a call; its time is included.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import numpy as np
import torch
from torch import Tensor


def transport(x: Tensor, y: Tensor, epsilon: float, scaling: float, iterations: int) -> tuple[Tensor, Tensor, int]:
    """Value, forces (N times the gradient at the points x), and the number of epsilons above the last."""
    n, m = x.shape[0], y.shape[0]
    x = x - x.mean(0)
    y_mean = y.mean(0)
    y = y - y_mean
    squares_x, squares_y = (x * x).sum(1) / 2, (y * y).sum(1) / 2
    cost = squares_x[:, None] + squares_y[None, :] - x @ y.T
    f, g = cost.new_zeros(n), cost.new_zeros(m)

    def rows(at: float) -> Tensor:
        return -at * (torch.logsumexp((g[None, :] - cost) / at, 1) - math.log(m))

    def columns(at: float) -> Tensor:
        return -at * (torch.logsumexp((f[:, None] - cost) / at, 0) - math.log(n))

    levels = 0
    at = 2 * (float(squares_x.max()) + float(squares_y.max()))
    while at > epsilon:
        f, g = (f + rows(at)) / 2, (g + columns(at)) / 2
        at = max(epsilon, at * scaling**2)
        levels += 1
    for _ in range(iterations):
        f = rows(epsilon)
        g = columns(epsilon)
    f = rows(epsilon)
    plan = torch.softmax((g[None, :] - cost) / epsilon, 1)
    return f.mean() + g.mean(), x - plan @ y, levels


def main() -> None:
    """Times the call and prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="points of both clouds")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--cloud", help="the reference: a .npy file (N, d)")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--epsilon", type=float, default=0.0025)
    parser.add_argument("--scaling", type=float, default=0.5)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--dtype", choices=("float", "double"), default="float")
    parser.add_argument("--device", default="cpu", help="of PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    random = np.random.default_rng(7)
    if args.cloud:
        reference = np.load(args.cloud).astype(np.float64)
    else:
        deviations = np.where(np.arange(args.dim) < 11, 1.0, 0.1)
        reference = random.standard_normal((args.n, args.dim)) * deviations
    moved = reference + args.noise * random.standard_normal(reference.shape)
    dtype = torch.float32 if args.dtype == "float" else torch.float64
    x = torch.from_numpy(moved).to(args.device, dtype)
    y = torch.from_numpy(reference).to(args.device, dtype)

    def call() -> tuple[Tensor, Tensor, int]:
        result = transport(x, y, args.epsilon, args.scaling, args.iterations)
        if x.is_cuda:
            torch.cuda.synchronize()
        return result

    with torch.no_grad():
        exact, _, _ = transport(x.double(), y.double(), args.epsilon, args.scaling, args.iterations)
        value, _, levels = call()
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < args.seconds:
            before = time.perf_counter()
            call()
            times.append(time.perf_counter() - before)
    updates = 2 * (levels + args.iterations) + 1
    median = statistics.median(times)
    line = {"op": "sinkhorn", "n": x.shape[0], "m": y.shape[0], "dim": x.shape[1], "dtype": args.dtype}
    line |= {"epsilon": args.epsilon, "schedule": levels, "iterations": args.iterations}
    line |= {"seconds_median": median, "seconds_min": min(times)}
    line |= {"pairs_per_second": x.shape[0] * y.shape[0] * updates / median, "value": float(value)}
    line |= {"error": abs(float(value) - float(exact)) / abs(float(exact)), "threads": args.threads}
    line |= {"backend": f"pytorch {torch.__version__}"}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
