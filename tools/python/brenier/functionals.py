# SPDX-License-Identifier: MIT
"""Functionals F of a density rho, as sums of weighted terms."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any, Callable, Iterable, Tuple

import numpy as np

from . import _core
from ._core import BadValue
from .arrays import Floats, numbers, points, vector, weights as weights_of
from .networks import Map, Potential

# Terms keep copies of what they are given: arrays of the caller may change before a flow is made of them.
Make = Callable[[int], "_core.Terms"]


class Functional:
    """A weighted sum of terms, as ``entropy() + 0.5 * potential("sum(x^2)")``; its dimension is that of the particles."""

    def __init__(self, terms: Iterable[Tuple[float, Make, str]] = ()) -> None:
        self._terms = list(terms)  # (weight, make(dim), text)

    def __add__(self, other: Functional) -> Functional:
        return Functional(self._terms + other._terms) if isinstance(other, Functional) else NotImplemented

    def __neg__(self) -> Functional:
        return -1.0 * self

    def __sub__(self, other: Functional) -> Functional:
        return self + -other if isinstance(other, Functional) else NotImplemented

    def __mul__(self, factor: float) -> Functional:
        if not isinstance(factor, Real):
            return NotImplemented
        return Functional((float(factor) * weight, make, text) for weight, make, text in self._terms)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Functional:
        return self * (1.0 / divisor)

    def __repr__(self) -> str:
        terms = (text if weight == 1 else f"{weight:g} * {text}" for weight, _, text in self._terms)
        return "Functional(" + " + ".join(terms) + ")"

    def _in(self, dim: int) -> _core.Terms:
        out = None
        for weight, make, _ in self._terms:
            term = make(dim).scaled(weight)
            out = term if out is None else out + term
        if out is None:
            raise BadValue("a functional of no terms; write for example entropy() + potential('0.5*sum(x^2)')")
        return out


def _term(make: Make, text: str) -> Functional:
    return Functional([(1.0, make, text)])


def _parameters(given: dict[str, Any]) -> dict[str, Floats]:
    return {name: numbers(value, name).copy() for name, value in given.items()}


def entropy() -> Functional:
    """Integral of rho log rho: heat and Fokker-Planck equations."""
    return _term(lambda dim: _core.entropy(), "entropy()")


def porous_medium(m: float) -> Functional:
    """Integral of rho^m / (m - 1), m > 1: the porous medium equation."""
    _core.porous_medium(m)  # its errors here, not where a flow begins
    return _term(lambda dim: _core.porous_medium(m), f"porous_medium({m:g})")


def potential(v: str | Callable[[Floats], Tuple[Any, Any]], *, name: str | None = None, **parameters: Any) -> Functional:
    """Integral of V d rho.

    v: an expression in ``x`` and, where V depends on it, ``time`` (docs: README, Expressions), whose other names are the
    `parameters` given (numbers, vectors, matrices); or a function ``v(x) -> (value, gradient)`` of points x (N, d), that
    returns arrays (N,) and (N, d) of NumPy or of anything that NumPy or DLPack can read. Both must belong together, V up to
    a constant. What the function raises ends the step, and the flow is as before. It is called by one thread at a time.
    name: of a function, in messages.
    """
    if callable(v):
        if parameters:
            raise TypeError("parameters are for expressions; a function knows its own")
        called = name or str(getattr(v, "__name__", type(v).__name__))
        return _term(lambda dim: _core.black_box(v, dim, called), f"potential({called})")
    given = _parameters(parameters)
    return _term(lambda dim: _core.potential(v, dim, given), f"potential({v!r})")


def gaussian_mixture(means: Any, variances: Any = 1.0, weights: Any = None) -> Functional:
    """Integral of V d rho, V = -log of the density of the mixture of the Gaussians N(means_k, variances_k I).

    With `entropy` F is the relative entropy to it, and its infimum 0. means (K, d); variances (K,) or one number, above 0;
    weights (K,), above 0, divided by their sum; None: equal.
    """
    means = points(means, "means").copy()
    count = len(means)
    spread = np.full(count, float(variances)) if np.ndim(variances) == 0 else vector(variances, "variances", count).copy()
    mass = np.full(count, 1.0 / count) if weights is None else vector(weights, "weights", count).copy()
    _core.gaussian_mixture(means, spread, mass)  # its errors here, not where a flow begins
    return _term(lambda dim: _core.gaussian_mixture(means, spread, mass), f"gaussian_mixture(<{count} Gaussians>)")


def learned_potential(v: Potential | Map | str | os.PathLike[str]) -> Functional:
    """Integral of V d rho, V a convex network: what `fit` has trained, the potential of a map, or a .safetensors file."""
    if isinstance(v, Map):
        v = v.potential
    if not isinstance(v, Potential):
        v = Potential.load(v)
    core = v._core
    return _term(lambda dim: _core.learned_potential(core, "network"), f"learned_potential({v!r})")


def interaction(w: str, **parameters: Any) -> Functional:
    """Half the double integral of W(x - y) d rho d rho; w: an expression in ``x``, the difference, or ``r`` = |x|.

    Of N particles: ``sum(W(x[i] - x[j]) for i != j) / (2 * N * (N - 1))``, without bias for independent particles of rho. The
    empirical measure's own double integral has 1 / (2 * N**2) and the pairs i = j: (N - 1) / N of this, and W(0) / (2 * N) more.
    Only the even part of W acts. All pairs are taken: O(N^2) a gradient; the option `minibatch` of a flow takes fewer.
    """
    given = _parameters(parameters)
    return _term(lambda dim: _core.interaction(w, dim, given), f"interaction({w!r})")


def internal(f: str, **parameters: Any) -> Functional:
    """Integral of f(rho) dx; f: an expression in ``t``, the density."""
    given = _parameters(parameters)
    return _term(lambda dim: _core.internal(f, given), f"internal({f!r})")


def sinkhorn(reference: Any, *, blur: float = 0.05, scaling: float = 0.5, debias: bool = True, iterations: int = 100,
             warm_iterations: int = 10, tolerance: float = 1e-6, weights: Any = None) -> Functional:
    """Entropic optimal transport from rho to the points of reference (M, d), with the cost |x - y|^2/2.

    blur: root of epsilon, a length in the units of x. debias: the Sinkhorn divergence (Feydy et al., 2019), as geomloss's
    ``SamplesLoss("sinkhorn", p=2)``. scaling in (0, 1): factor by which the blur falls from the largest distance on.
    iterations: most at the last blur; warm_iterations: where potentials of the gradient before are known. tolerance: of the
    marginals, in total variation. weights (M,): of the points, above 0, with the sum 1; None: equal. O(N M) a step.
    """
    reference = points(reference, "reference").copy()
    mass = _weights(weights, reference)
    return _term(lambda dim: _core.sinkhorn(reference, blur, scaling, debias, iterations, warm_iterations, tolerance, mass),
                 f"sinkhorn(<{len(reference)} points>, blur={blur:g})")


def mmd(reference: Any, *, bandwidth: float | str = "median", weights: Any = None) -> Functional:
    """Squared maximum mean discrepancy from the points of reference (M, d), kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    bandwidth: in the units of x, or "median", the median distance in the reference. weights (M,) as in `sinkhorn`.
    """
    reference = points(reference, "reference").copy()
    mass = _weights(weights, reference)
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise BadValue(f'bandwidth = "{bandwidth}"; it must be "median" or a number above 0')
        bandwidth = _core.median_distance(reference, reference)
    return _term(lambda dim: _core.mmd(reference, bandwidth, mass),
                 f"mmd(<{len(reference)} points>, bandwidth={bandwidth:g})")


def energy_distance(reference: Any, *, weights: Any = None) -> Functional:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| from the points of reference (M, d), weights (M,) as in `sinkhorn`."""
    reference = points(reference, "reference").copy()
    mass = _weights(weights, reference)
    return _term(lambda dim: _core.energy_distance(reference, mass), f"energy_distance(<{len(reference)} points>)")


def _weights(given: Any, reference: Floats) -> Floats | None:
    mass = weights_of(given, "weights", len(reference))
    return None if mass is None else mass.copy()
