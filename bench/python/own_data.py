#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The heat flow of own points: two moons, whose density is estimated. usage: PYTHONPATH=build/tools/python own_data.py

The estimate is a sum of Gaussians, and so is the exact solution: each kernel's covariance grows by 2 t. The flow is judged by
the relative entropy to that, and its F by the exact one, on held-out particles. Prints a row of a table for each time; exit
status 1 where the relative entropy is above 0.05, or F is below the exact one by more than the noise of the particles.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import brenier
import numpy as np


def two_moons(n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    angle, second = np.pi * random.random(n), random.random(n) < 0.5
    x = np.stack([np.where(second, 1 - np.cos(angle), np.cos(angle)), np.where(second, 0.5 - np.sin(angle), np.sin(angle))], axis=1)
    return x + 0.1 * random.normal(size=(n, 2))


class Heat:
    """Gaussian kernels at points, all of one covariance, and their sum after a time t of the heat equation."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points
        self.kernel = len(points) ** (-1 / 3) * np.cov(points.T)  # Scott: n^(-1/(d + 4)) of the standard deviation

    def log_density(self, x: np.ndarray, t: float) -> np.ndarray:
        covariance = self.kernel + 2 * t * np.eye(2)
        factor = np.linalg.cholesky(np.linalg.inv(covariance))
        y, z = self.points @ factor, x @ factor
        out = []
        for block in np.array_split(z, max(1, len(z) // 500)):
            logs = -0.5 * ((block[:, None, :] - y[None, :, :]) ** 2).sum(axis=2)
            top = logs.max(axis=1)
            out.append(top + np.log(np.exp(logs - top[:, None]).mean(axis=1)))
        return np.concatenate(out) - np.log(2 * np.pi) - 0.5 * np.log(np.linalg.det(covariance))

    def sample(self, n: int, t: float, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        factor = np.linalg.cholesky(self.kernel + 2 * t * np.eye(2))
        return self.points[random.integers(len(self.points), size=n)] + random.normal(size=(n, 2)) @ factor.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    defaults = {"points": 2000, "hidden": "64,32", "tau": 0.02, "steps": 10, "order": 2, "sharpness": 1.0,
                "particles": 2000, "refresh": 0, "iterations": 400, "seed": 0}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    points = two_moons(arguments.points, arguments.seed)
    law, heat = brenier.Density.kde(points), Heat(points)
    at = two_moons(50, 1)
    assert np.allclose(law.log_density(at), heat.log_density(at, 0), atol=1e-9), "the estimate is not the sum of its kernels"
    print(law)
    flow = brenier.Flow(brenier.entropy(), law, particles=arguments.particles, tau=arguments.tau, order=arguments.order,
                        hidden=tuple(map(int, arguments.hidden.split(","))), quadratic_rank=2, sharpness=arguments.sharpness,
                        refresh=arguments.refresh, iterations=arguments.iterations, seed=arguments.seed, held_out=4000)
    print("| t | KL to the exact solution | F, held-out | F, exact | missed, held-out | seconds |\n| --- | --- | --- | --- | --- | --- |")
    worst, below, begin = 0.0, False, time.perf_counter()
    for step in range(arguments.steps):
        report = flow.step()
        if (step + 1) % max(1, arguments.steps // 5):
            continue
        seconds = time.perf_counter() - begin
        x, log_density = flow.sample(4000, seed=7, return_log_density=True)
        kl = log_density - heat.log_density(x, flow.time)
        exact = heat.log_density(heat.sample(20000, flow.time, 3), flow.time)
        noise = 4 * (exact.std() / len(exact) ** 0.5 + log_density.std() / 4000**0.5)
        worst, below = max(worst, kl.mean()), below or flow.held_out_functional < exact.mean() - noise
        print(f"| {flow.time:.3g} | {kl.mean():.4f} +- {kl.std() / len(kl) ** 0.5:.4f} | {flow.held_out_functional:.4f} | {exact.mean():.4f} | "
              f"{report['missed_share_held_out']:.3f} | {seconds:.1f} |", flush=True)
    sys.exit(worst > 0.05 or below)


if __name__ == "__main__":
    main()
