# SPDX-License-Identifier: MIT
"""Run folders of the command `brenier`."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from . import _core
from ._core import BadValue
from .arrays import Floats, points
from .densities import Density, sampling_of
from .networks import Map
from .space import OnSpace


class Run(OnSpace):
    """What `brenier run` has written into a folder; see `read_run`. Steps count from 0, the start."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(folder)
        self._core = _core.Run(os.fspath(folder))
        law = self._core.law()
        self.law: Density | None = None if law is None else Density(law, "start of a run", self._core.start_time())
        self._carried: dict[int, _core.FlowDensity] = {}

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: status, F, errors, certificates, warnings, seconds."""
        return json.loads((self.path / "summary.json").read_text())

    @property
    def history(self) -> dict[str, Floats]:
        """history.csv: a column (steps + 1,) by its name ("step", "time", "F", "F_heldout", "std", ...); NaN: not known."""
        with open(self.path / "history.csv", newline="") as file:
            names, *rows = csv.reader(file)
        table = np.array([[float(value) if value else math.nan for value in row] for row in rows]).reshape(len(rows), len(names))
        return {name: table[:, i].copy() for i, name in enumerate(names)}

    @property
    def settings(self) -> str:
        """All keys with their values, as TOML."""
        return self._core.settings()

    @property
    def cloud_steps(self) -> list[int]:
        """The steps whose particles are there."""
        return sorted(int(file.stem[5:]) for file in (self.path / "clouds").glob("step_*.npy"))

    def _cloud(self, name: str, step: int | None) -> pathlib.Path:
        there = self.cloud_steps
        if not there:
            raise BadValue(f"'{self.path}' has no particles yet")
        step = there[-1] if step is None else step
        if step not in there:
            raise BadValue(f"step = {step}; particles are there of the steps {', '.join(map(str, there))}")
        return self.path / "clouds" / f"{name}_{step:06d}.npy"

    def x(self, step: int | None = None) -> Floats:
        """The particles (N, d) at one of `cloud_steps`; None: the last."""
        return _core.read_npy(os.fspath(self._cloud("step", step)))

    def particle_log_density(self, step: int | None = None) -> Floats | None:
        """Natural logarithms (N,) of the density at x(step), or None where it is not known."""
        path = self._cloud("log_density", step)
        return _core.read_npy_vector(os.fspath(path)) if path.exists() else None

    def maps(self, step: int | None = None) -> list[Map]:
        """The maps up to a step (None: all), in the order they apply."""
        return [Map(core) for core in self._core.maps(self._number(step))]

    def _number(self, step: int | None) -> int:
        if step is not None and step < 1:
            raise BadValue(f"step = {step}; it must be at least 1, or None for the last")
        return step or 0

    def _to(self, step: int | None) -> _core.FlowDensity:
        number = self._number(step)
        if number not in self._carried:
            law = self._core.law()
            self._carried = {number: _core.FlowDensity(self._core.maps(number), law, self._core.start(), 0)}
        return self._carried[number]

    def push(self, x: Any, step: int | None = None) -> Floats:
        """Points x (N, d) of the start, carried to a step (N, d)."""
        return self._to(step).push(points(x))

    def pull(self, y: Any, step: int | None = None) -> Floats:
        """Where points y (N, d) of a step come from, (N, d); rows of NaN where there is no such point."""
        return self._to(step).pull(points(y, "y"))

    def log_density(self, y: Any, step: int | None = None) -> Floats:
        """Natural logarithms (N,) of the density of a step at y (N, d): -inf outside of the support, NaN where not found."""
        return self._to(step).log_density(points(y, "y"))

    def sample(self, n: int, step: int | None = None, *, seed: int = 0, sampling: str = "random") -> Floats:
        """n new particles (n, d) of a step, those of `brenier sample`."""
        return self._to(step).sample(n, sampling_of(sampling), seed)[0]

    def __repr__(self) -> str:
        summary = self.summary
        return (f"<brenier.Run '{self.path}' of {self._core.functional()} in R^{self.dim}: {summary.get('status', '?')}, "
                f"particles at steps {self.cloud_steps}>")


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The run in a folder of `brenier run`, with the checks of the command: errors where it is damaged or was changed."""
    return Run(folder)
