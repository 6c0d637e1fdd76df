# SPDX-License-Identifier: MIT
"""What the equations of the paper's section 5 do at finite times, without a network: JKO iterates of the porous medium
equation with a confining V in one dimension, on quantiles, and the aggregation equation in closed form."""

from __future__ import annotations

import math

import numpy as np


def tridiagonal(lower: np.ndarray, diagonal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x of A x = right for symmetric A: diagonal (n), and lower (n - 1) beside it."""
    d, r, beside = diagonal.tolist(), right.tolist(), lower.tolist()
    for i, below in enumerate(beside):
        factor = below / d[i]
        d[i + 1] -= factor * below
        r[i + 1] -= factor * r[i]
    r[-1] /= d[-1]
    for i in range(len(r) - 2, -1, -1):
        r[i] = (r[i] - beside[i] * r[i + 1]) / d[i]
    return np.array(r)


def functional_of(x: np.ndarray, stiffness: float) -> float:
    """int rho^2 + stiffness int x^2 drho, from ascending quantiles (n) of equal mass."""
    return float(np.sum(1 / (len(x) ** 2 * np.diff(x))) + stiffness * np.mean(x**2))


def jko_on_quantiles(x: np.ndarray, stiffness: float, tau: float, steps: int) -> list[np.ndarray]:
    """The clouds (n) of all JKO steps of F = int rho^2 + stiffness int x^2 drho. In one dimension the transport is that of
    equal ranks, so a step is a convex problem in the ascending quantiles: Newton's method, shortened where they would cross."""
    n = len(x)
    clouds = [x]
    for _ in range(steps):
        before, y = clouds[-1], clouds[-1].copy()
        for _ in range(50):
            gap = np.diff(y)
            force = 1 / (n * gap) ** 2
            gradient = (2 * stiffness * y + (y - before) / tau) / n
            gradient[:-1] += force
            gradient[1:] -= force
            curvature = 2 / (n**2 * gap**3)
            diagonal = np.full(n, (2 * stiffness + 1 / tau) / n)
            diagonal[:-1] += curvature
            diagonal[1:] += curvature
            move = tridiagonal(-curvature, diagonal, -gradient)
            closing = (-np.diff(move) / gap).max()
            y = y + min(1.0, 0.5 / closing if closing > 0 else 1.0) * move
            if np.abs(move).max() < 1e-12 * np.abs(y).max():
                break
        clouds.append(y)
    return clouds


def jko_functionals(quantiles, stiffness: float, tau: float, steps: int, n: int = 200) -> np.ndarray:
    """F (steps + 1) of the exact iterates from the density whose n midpoint quantiles are quantiles(n): of n and 2 n, whose
    difference is what is still to come (the error falls as 1/n)."""
    coarse, fine = ([functional_of(cloud, stiffness) for cloud in jko_on_quantiles(quantiles(m), stiffness, tau, steps)]
                    for m in (n, 2 * n))
    return 2 * np.array(fine) - np.array(coarse)


def aggregation_density(t: float, points: int = 1001) -> tuple[np.ndarray, np.ndarray]:
    """x and the density at time t > 0 of the flow of W = |x|^2/2 - log|x| from N(0, 1).

    It is the mean-field limit of Dyson's Brownian motion in a harmonic trap: X_t is e^-t X_0 and a free semicircle of
    variance (1 - e^-2t)/2 (Biane, Indiana Univ. Math. J. 46, 1997), whose Stieltjes transform G solves
    G(z) = G_0(z - v G(z)), G_0 that of N(0, e^-2t)."""
    scale, v = math.exp(-t), (1 - math.exp(-2 * t)) / 2
    # The normal density, constant on cells over which what is integrated is exact.
    edges = scale * np.linspace(-7, 7, 701)
    centres = (edges[1:] + edges[:-1]) / 2
    heights = np.exp(-((centres / scale) ** 2) / 2)
    heights /= heights.sum() * (edges[1] - edges[0])
    # The curve w = z - v G(z), z real, w = a + i b: there v int dmu(s)/|w - s|^2 = 1, and x = Re(w + v G_0(w)). Bisection
    # for b at each a; the density is b/(pi v).
    a = np.linspace(-6.5 * scale - 2 * math.sqrt(v), 6.5 * scale + 2 * math.sqrt(v), points)
    low, high = np.full_like(a, 1e-300), np.full_like(a, 2 * math.sqrt(v))
    for _ in range(50):
        b = (low + high) / 2
        angles = np.arctan((edges - a[:, None]) / b[:, None])
        inside = v * (np.diff(angles) @ heights) > b
        low, high = np.where(inside, b, low), np.where(inside, high, b)
    logs = np.log((edges - a[:, None]) ** 2 + b[:, None] ** 2)
    at = a - v / 2 * (np.diff(logs) @ heights)
    density = b / (math.pi * v)
    order = np.argsort(at)
    even = np.linspace(at.min(), at.max(), points)
    return even, np.interp(even, at[order], density[order])


def aggregation_functional(t: float) -> float:
    """F at time t > 0."""
    x, density = aggregation_density(t)
    h = x[1] - x[0]
    mass = density * h
    mass /= mass.sum()
    variance = float(mass @ x**2 - (mass @ x) ** 2)
    # The mean of log|x - y| over two cells, k apart: second difference of the double integral r^2 log(r)/2 - 3 r^2/4.
    r = h * np.arange(len(x) + 1)
    twice = np.where(r > 0, r**2 * np.log(np.where(r > 0, r, 1)) / 2, 0) - 0.75 * r**2
    cell = np.empty(len(x))
    cell[0] = 2 * twice[1] / h**2
    cell[1:] = (twice[2:] - 2 * twice[1:-1] + twice[:-2]) / h**2
    logs = mass @ np.convolve(np.concatenate([cell[:0:-1], cell]), mass, mode="valid")
    return float((variance - logs) / 2)


def pairs_functional(x: np.ndarray) -> float:
    """F of N particles, each without itself."""
    r = np.abs(x[:, None] - x)[~np.eye(len(x), dtype=bool)]
    return float((r**2 / 2 - np.log(r)).sum() / (2 * len(x) ** 2))


def pairs_velocity(x: np.ndarray) -> np.ndarray:
    """Minus the gradient of F in L^2 of the particles."""
    r = x[:, None] - x
    np.fill_diagonal(r, np.inf)
    return x.mean() - x + (1 / r).mean(axis=1)


def self_test() -> None:
    """Against closed forms: equal clouds of scaled profiles, the steady states, and the start."""
    import judge

    exact = [judge.barenblatt_jko(k, judge.POROUS_TAU).functional for k in (0, 3, 30)]
    found = jko_functionals(lambda n: judge.barenblatt_quantiles(judge.POROUS_START, n)[:, 0], 0, judge.POROUS_TAU, 30)
    for k, value in zip((0, 3, 30), exact):
        assert abs(found[k] - value) < 5e-4 * value, (k, found[k], value)
    steady = jko_functionals(lambda n: judge.normal_quantiles(0.2, n)[:, 0], 1, 1.0, 40)[-1]
    assert abs(steady - judge.fokker_planck_steady().functional) < 2e-4, steady
    # F(N(0, 1)) = 1/2 + gamma/4. Particles lose what the continuum does, but for the entropy's part of the left out
    # neighbours, which is of order 1/N.
    y = judge.normal_quantiles(1.0, 300)[:, 0]
    first, tau = pairs_functional(y), 2e-3
    for _ in range(100):
        middle = y + tau / 2 * pairs_velocity(y)
        y = y + tau * pairs_velocity(middle)
    lost = 0.5 + 0.5772156649015329 / 4 - aggregation_functional(0.2)
    assert abs(first - pairs_functional(y) - lost) < 1e-3, (first - pairs_functional(y), lost)
    assert abs(aggregation_functional(8.0) - judge.aggregation_steady().functional) < 2e-5, aggregation_functional(8.0)
    x, density = aggregation_density(1.0)
    h = x[1] - x[0]
    assert abs(density.sum() * h - 1) < 1e-4
    assert abs((density @ x**2) * h - (math.exp(-2) + (1 - math.exp(-2)) / 2)) < 2e-4
    print("oracles: self-test passed")


if __name__ == "__main__":
    self_test()
