# SPDX-License-Identifier: MIT
"""Densities that a flow can start from."""

from __future__ import annotations

import warnings
from typing import Any, Sequence

import numpy as np

from . import _core
from ._core import BadValue
from .arrays import Floats, numbers, points, whole
from .space import OnSpace


def sampling_of(name: str) -> _core.Sampling:
    """By its name, "random", "stratified" or "whitened"."""
    found = getattr(_core.Sampling, name, None) if isinstance(name, str) else None
    if not isinstance(found, _core.Sampling):
        raise BadValue(f'sampling = {name!r}; it must be "random", "stratified" or "whitened"')
    return found


class Density(OnSpace):
    """A density on R^d that can be evaluated and sampled.

    Density.gaussian, uniform, mixture, barenblatt; and, estimated from points, Density.kde, Density.gaussian_mixture.
    """

    def __init__(self, core: _core.Density, text: str, time: float = 0.0) -> None:
        self._core, self._text = core, text
        self._time = time  # where a flow from it starts

    @classmethod
    def gaussian(cls, mean: Any, covariance: Any = 1.0) -> Density:
        """mean: (d,); covariance: (d, d), the variances (d,), or a number for a multiple of the identity."""
        mean = np.atleast_1d(numbers(mean, "mean"))
        covariance = numbers(covariance, "covariance")
        if covariance.ndim == 0:
            covariance = covariance * np.eye(len(mean))
        elif covariance.ndim == 1:
            covariance = np.diag(covariance)
        return cls(_core.Density.gaussian(mean.tolist(), np.ascontiguousarray(covariance)), "gaussian")

    @classmethod
    def uniform(cls, lower: Any, upper: Any) -> Density:
        """On the box between lower and upper (d,)."""
        lower, upper = np.atleast_1d(lower).astype(float), np.atleast_1d(upper).astype(float)
        return cls(_core.Density.uniform(lower.tolist(), upper.tolist()), "uniform")

    @classmethod
    def mixture(cls, weights: Any, parts: Sequence[Density]) -> Density:
        """Of densities, with positive weights, which are divided by their sum."""
        core = _core.Density.mixture([float(w) for w in weights], [part._core for part in parts])
        return cls(core, f"mixture of {len(parts)} parts")

    @classmethod
    def barenblatt(cls, dim: int, time: float, *, m: float = 2.0, mass: float = 1.0) -> Density:
        """Barenblatt's profile of the porous medium equation with the exponent m, at a time. Flows from it start then."""
        return cls(_core.Density.barenblatt(dim, m, time, mass), f"barenblatt at t = {time:g}, m = {m:g}", time)

    @classmethod
    def kde(cls, x: Any, bandwidth: float | str = "scott") -> Density:
        """Kernel density estimate from points x (M, d).

        bandwidth: "scott" or "silverman", which scale the covariance of the points, or a standard deviation in the units of x.
        """
        x = points(x)
        if isinstance(bandwidth, str):
            if bandwidth not in ("scott", "silverman"):
                raise BadValue(f'bandwidth = "{bandwidth}"; it must be "scott", "silverman" or a number above 0')
            core = _core.Density.kde(x, bandwidth)
        else:
            core = _core.Density.kde_with_bandwidth(x, float(bandwidth))
        return cls(core, f"kde of {len(x)} points, bandwidth {bandwidth}")

    @classmethod
    def gaussian_mixture(cls, x: Any, components: int, *, starts: int = 5, iterations: int = 1000, seed: int = 0) -> Density:
        """Gaussians with full covariances, fitted to points x (M, d) by expectation maximisation from k-means++ starts."""
        x = points(x)
        core, converged = _core.Density.gaussian_mixture(x, components, starts, iterations, seed)
        if not converged:
            warnings.warn(f"the Gaussian mixture has not converged in {iterations} iterations; allow more, or fewer components",
                          RuntimeWarning, stacklevel=2)
        return cls(core, f"mixture of {components} Gaussians fitted to {len(x)} points")

    @property
    def mass(self) -> float:
        """Of the density; its particles have the mass 1 together."""
        return self._core.mass()

    def log_density(self, x: Any) -> Floats:
        """Natural logarithms (N,) at x (N, d); -inf outside of the support."""
        return self._core.log_density(points(x))

    def sample(self, n: int, *, sampling: str = "random", seed: int = 0) -> Floats:
        """n particles (n, d).

        sampling: "random"; "stratified", spread evenly; "whitened", of a Gaussian, with its very mean and covariance.
        """
        return self._core.sample(whole(n, "n", 1), sampling_of(sampling), seed)[0]

    def __repr__(self) -> str:
        return f"<brenier.Density on R^{self.dim}: {self._text}>"
