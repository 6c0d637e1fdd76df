# SPDX-License-Identifier: MIT
"""Convex networks: potentials, and the maps that are their gradients."""

from __future__ import annotations

import os
from typing import Any

from . import _core
from .arrays import Floats, points
from .space import OnSpace


class Potential(OnSpace):
    """A convex network V on R^d, in double precision, in the coordinates of the data."""

    def __init__(self, core: _core.LearnedPotential) -> None:
        self._core = core

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Potential:
        """From a .safetensors file: of `save`, of `brenier fit`, a map of a flow, or another with such names (README)."""
        return cls(_core.read_potential(os.fspath(path)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """As a .safetensors file, which configurations and `learned_potential` read."""
        self._core.write(os.fspath(path))

    @property
    def parameters(self) -> Floats:
        """All weights, a copy."""
        return self._core.parameters()

    def __call__(self, x: Any) -> tuple[Floats, Floats]:
        """V (N,) and its gradient (N, d) at points x (N, d)."""
        return self._core.evaluate(points(x), 0)

    def value(self, x: Any) -> Floats:
        """V (N,) at points x (N, d)."""
        return self(x)[0]

    def gradient(self, x: Any) -> Floats:
        """The gradient (N, d) at points x (N, d)."""
        return self(x)[1]

    def __repr__(self) -> str:
        return f"<brenier.Potential on R^{self.dim}: layers {self._core.hidden()}, {self.parameters.size} parameters>"


class Map(OnSpace):
    """The map of one JKO problem, x -> grad u(x), u a convex network. `Flow.maps` has those of a flow."""

    def __init__(self, core: _core.Map) -> None:
        self._core = core

    @property
    def step(self) -> int:
        """Of the flow, from 1."""
        return self._core.step

    @property
    def time(self) -> float:
        """After the step, in the unit of the equation."""
        return self._core.time

    @property
    def tau(self) -> float:
        """Length of the JKO problem."""
        return self._core.tau

    @property
    def closes_step(self) -> bool:
        """False for the start-up maps of order 2 but the last."""
        return self._core.closes_step

    @property
    def extrapolated(self) -> bool:
        """Whether it starts from x + e (x - x before) instead of x: a step of order 2."""
        return self._core.extrapolated

    @property
    def potential(self) -> Potential:
        """u."""
        return Potential(self._core.potential())

    def __call__(self, x: Any) -> Floats:
        """grad u (N, d) at the points x (N, d) that the map starts from."""
        return self._core(points(x))

    def log_det(self, x: Any) -> Floats:
        """Logarithm of the determinant of the Hessian of u (N,) at x (N, d)."""
        return self._core.log_det(points(x))

    def inverse(self, y: Any) -> Floats:
        """x (N, d) with grad u(x) = y (N, d), by Newton's method; rows of NaN where there is none."""
        return self._core.inverse(points(y, "y"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """As a .safetensors file, which `read_map`, `learned_potential` and `brenier push` read."""
        self._core.save(os.fspath(path))

    def __repr__(self) -> str:
        return f"<brenier.Map of step {self.step} in R^{self.dim}, {self.potential.parameters.size} parameters>"


def read_map(path: str | os.PathLike[str]) -> Map:
    """One map of a flow from its .safetensors file."""
    return Map(_core.read_map(os.fspath(path)))
