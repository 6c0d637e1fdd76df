# SPDX-License-Identifier: MIT
"""How far two clouds are from each other."""

from __future__ import annotations

import warnings
from typing import Any

from . import _core
from ._core import BadValue
from .arrays import points, weights

METRICS = ("sinkhorn", "w2", "energy", "mmd")


def distance(x: Any, y: Any, metric: str = "sinkhorn", *, a: Any = None, b: Any = None, blur: float = 0.05,
             scaling: float = 0.5, debias: bool = True, iterations: int = 1000, tolerance: float = 1e-6,
             bandwidth: float | None = None, return_error: bool = False, threads: int = 0) -> float | tuple[float, float]:
    """Between clouds x (n, d) and y (m, d).

    metric:
      "sinkhorn"  entropic optimal transport with the cost |x - y|^2/2 and epsilon = blur^2, between weights a (n,) and b (m,)
                  (equal ones); with debias the Sinkhorn divergence, 0 between equal clouds. As geomloss's
                  SamplesLoss("sinkhorn", p=2, blur=blur). POT has the cost |x - y|^2: its values are twice these, at
                  reg = 2 blur^2. Warns where the marginals are not met to `tolerance` (total variation).
      "w2"        the 2-Wasserstein distance, exact, between clouds of any sizes: seconds at 2000 points, at most 10,000; on the
                  line any number.
      "energy"    2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased: it may be below 0.
      "mmd"       squared maximum mean discrepancy, unbiased, kernel exp(-|x - y|^2 / (2 bandwidth^2)); bandwidth None: the
                  median distance.
    return_error: (value, error): the standard error of "energy" and "mmd", the error of the marginals of "sinkhorn", 0.
    """
    if metric not in METRICS:
        raise BadValue(f"metric = {metric!r}; it must be one of {', '.join(map(repr, METRICS))}")
    x, y = points(x), points(y, "y")
    if metric != "sinkhorn" and not (a is None and b is None):
        raise BadValue(f'weights a and b go with metric = "sinkhorn", not with {metric!r}')
    error = 0.0
    if metric == "sinkhorn":
        value, error, converged = _core.entropic_transport(
            x, y, weights(a, "a", len(x)), weights(b, "b", len(y)), blur, scaling, debias, iterations, tolerance, threads)
        if not converged:
            warnings.warn(f"Sinkhorn's algorithm met the marginals to {error:.2g} only in {iterations} iterations; allow more, "
                          f"or a larger blur", RuntimeWarning, stacklevel=2)
    elif metric == "w2":
        value = _core.wasserstein_2(x, y)
    elif metric == "energy":
        value, error = _core.energy_distance_between(x, y, threads)
    else:
        bandwidth = _core.median_distance(x, y) if bandwidth is None else float(bandwidth)
        value, error = _core.mmd_squared(x, y, bandwidth, threads)
    return (value, error) if return_error else value
