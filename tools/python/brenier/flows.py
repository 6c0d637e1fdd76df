# SPDX-License-Identifier: MIT
"""Flows: particles that follow the gradient of a functional in the Wasserstein metric."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from typing import Any, Callable

import numpy as np

from . import _core
from ._core import BadValue, ShapeError
from .arrays import Floats, points, vector, whole
from .densities import Density, sampling_of
from .functionals import Functional
from .learning import described
from .networks import Map


class Progress:
    """Lines about a running flow on standard error: one that is written again on a terminal, otherwise one a step."""

    def __init__(self, start: float, until: float | None) -> None:
        self._start, self._until, self._begin = start, until, time.monotonic()
        self._again = sys.stderr.isatty()

    def show(self, report: dict[str, Any]) -> None:
        line = f"step {report['step']}: t = {report['time']:.4g}, F = {report['functional']:.6g}"
        if self._until is not None and report["time"] > self._start:
            left = (self._until - report["time"]) / (report["time"] - self._start) * (time.monotonic() - self._begin)
            line += f", {max(left, 0):.0f} s left"
        print("\r\033[K" + line if self._again else line, end="" if self._again else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._again:
            print(file=sys.stderr, flush=True)


class Flow:
    """A gradient flow of a functional from particles x (N, d), or from a Density, of which `particles` are drawn.

    functional    F, as ``entropy() + potential("0.5*sum(x^2)")``.
    tau           length of a step, in the time of the equation; or "auto": the flow chooses lengths up to end_time, with the
                  estimated error of each step below `tolerance`, relative to the cloud's deviation.
    order         2: BDF2 along trajectories; 1: JKO. 2 by default, 1 with method="particles".
    log_density   natural logarithms (N,) of the density at the particles; internal energies (entropy, ...) need them, or law.
    law           the Density that x are particles of: then certificates use it, and `log_density` and `sample` know the density
                  of the flow anywhere. For points of which none is known: ``Density.kde(x)``.
    sampling      how particles of a Density are drawn: "stratified", "random", "whitened".
    held_out      particles that follow the flow without influence on it, and judge it: as many of the law, or points (M, d) of
                  your own, with their held_out_log_density (M,) where F has an internal energy and there is no law. Then
                  `held_out_functional`, and "functional_held_out" in every report: F that is higher there than on the
                  particles says that the network has fitted these instead of their law.
    precision     "float" or "double", of the inner loops; clouds, maps and densities are double in any case.

    Further options by name, as in a configuration:

    """

    def __init__(self, functional: Functional, x: Any, *, tau: float | str, log_density: Any = None,
                 law: Density | None = None, particles: int = 1000, sampling: str = "stratified", precision: str = "float",
                 held_out: Any = None, held_out_log_density: Any = None, **options: Any) -> None:
        if precision not in ("float", "double"):
            raise BadValue(f'precision = {precision!r}; it must be "float" or "double"')
        how = sampling_of(sampling)
        if isinstance(x, Density):
            if law is not None or log_density is not None:
                raise BadValue("x is a Density: law and log_density are known from it")
            law = x
        start = law._time if law is not None else 0.0
        core_options = _core.flow_options(tau, options, start, law.mass if law is not None else 1.0)
        if isinstance(x, Density):
            x, log_density = x._core.sample(particles, how, core_options.seed)
        x = points(x)
        energy = functional._in(x.shape[1])
        if log_density is not None:
            log_density = vector(log_density, "log_density", len(x))
        elif law is not None and energy.needs_density():
            log_density = law.log_density(x)
        elif energy.needs_density():
            raise BadValue("F has an entropy or another internal energy, which needs the density of the particles: start from a "
                           "Density, or give law = brenier.Density.kde(x), which estimates it, or log_density (N,) where it is known")
        self._functional, self._law, self._start = functional, law, x.copy()
        self._first = self._law, self._start  # of the cloud that checkpoints may go back to
        self._threads, self._auto, self._end = core_options.threads, tau == "auto", core_options.end_time
        make = _core.FlowFloat if precision == "float" else _core.FlowDouble
        self._core = make(energy, x, log_density, core_options, law._core if law is not None else None, how)
        self._density: tuple[int, _core.FlowDensity] | None = None  # with the step that it is of
        self._history: list[dict[str, Any]] = []
        if held_out is not None:
            self._hold_out(held_out, held_out_log_density, energy, how, core_options.seed)

    def _hold_out(self, given: Any, log_density: Any, energy: _core.Terms, how: _core.Sampling, seed: int) -> None:
        law = self._law
        if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
            if law is None:
                raise BadValue(f"held_out = {given}: the law of the particles is not known, of which others are drawn; give points "
                               f"(M, d), or law = Density.kde(x)")
            x, log_density = law._core.sample_held_out(int(given), how, seed)
        else:
            x = points(given, "held_out")
            if log_density is not None:
                log_density = vector(log_density, "held_out_log_density", len(x))
            elif law is not None and energy.needs_density():
                log_density = law.log_density(x)
        self._core.hold_out(x, log_density)

    def step(self) -> dict[str, Any] | None:
        """One step. Its report, or None where an adaptive flow has reached end_time.

        Ctrl-C, an error and what a potential raises leave the flow as it was before the step. Warns of a step that misses
        more than the option `accept` (1 %) of its possible decrease; on_unsolved="stop" makes it an error. The report has the
        step's time, tau, order, functional (F after it) with its parts potential, interaction, internal and divergence,
        transport, decrease, iterations (gradients), solved, missed_share, min_eigenvalue (of the Hessian), round_trip,
        time_error and rejected (adaptive steps), seconds and more, as StepReport in brenier/flow.hpp; NaN: not known.
        """
        return self._step()

    def _step(self) -> dict[str, Any] | None:
        if not self._core.step(threading.current_thread() is threading.main_thread()):
            return None
        report = self.history[-1]
        if not report["solved"]:
            shares = [report[name] for name in ("missed_share", "missed_share_held_out")]
            worst = np.nanmax(shares) if not np.all(np.isnan(shares)) else np.nan
            warnings.warn(f"step {report['step']} is not solved: it misses {worst:.2%} of its possible decrease. More "
                          f"particles, other widths (hidden) or more iterations may help", RuntimeWarning, stacklevel=3)
        return report

    def run(self, until: float | None = None, callback: Callable[[Flow], Any] | None = None, progress: bool = False, *,
            steps: int | None = None) -> Flow:
        """Steps until the time `until` is reached, by the last step perhaps passed, or `steps` are taken. Returns the flow.

        An adaptive flow (tau="auto") ends at its end_time without either. callback(flow): after each step; the run ends where
        it returns something true. progress: a line on standard error. Ctrl-C ends the step, which is undone.
        """
        if until is None and steps is None and not self._auto:
            raise BadValue('until is missing: say where the run ends, until=1.0 or steps=10 (tau="auto" ends at end_time)')
        if until is not None and not np.isfinite(until):
            raise BadValue(f"until = {until}; it must be finite")
        if steps is not None:
            steps = whole(steps, "steps")
        last = None if steps is None else self.steps + steps
        shown = Progress(self.time, self._end if until is None and self._auto else until) if progress else None
        try:
            while last is None or self.steps < last:
                # Sums of tau have roundings.
                if until is not None and self.time >= until - 1e-9 * max(abs(until), abs(self.time)):
                    break
                report = self._step()
                if report is None:
                    break
                if shown:
                    shown.show(report)
                if callback is not None and callback(self):
                    break
        finally:
            if shown:
                shown.end()
        return self

    @property
    def x(self) -> Floats:
        """The particles (N, d), a copy."""
        return self._core.x()

    @property
    def particle_log_density(self) -> Floats | None:
        """Natural logarithms (N,) of the density at the particles, or None where it is not known."""
        return self._core.particle_log_density()

    @property
    def history(self) -> list[dict[str, Any]]:
        """The reports of all steps that were taken; see `step`."""
        # Kept by the core until they are asked for: Ctrl-C may come right after a step.
        self._history += self._core.take_reports()
        return self._history

    @property
    def time(self) -> float:
        """In the unit of the equation."""
        return self._core.time()

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._core.steps()

    @property
    def dim(self) -> int:
        """d."""
        return self._start.shape[1]

    @property
    def functional(self) -> float:
        """F on the particles, times the mass of the density."""
        return self._core.functional()

    @property
    def held_out(self) -> Floats | None:
        """The particles (M, d) that are held out, where the flow has carried them; None where there are none."""
        return self._core.held_out()

    @property
    def held_out_functional(self) -> float:
        """F on the particles that are held out, times the mass; NaN where there are none."""
        return self._core.held_out_functional()

    def functional_of(self, x: Any, log_density: Any = None) -> float:
        """F on other particles x (N, d), with their log-densities (N,) where F has an internal energy."""
        x = points(x)
        return self._core.functional_of(x, None if log_density is None else vector(log_density, "log_density", len(x)))

    @property
    def maps(self) -> list[Map]:
        """The maps of all steps, in the order they apply. A step of order 2 that starts up has several."""
        return [Map(core) for core in self._core.maps()]

    def set_cloud(self, x: Any, log_density: Any = None, law: Density | None = None) -> None:
        """Other particles from here on, what a program has made of these between two steps; maps begin anew.

        The network stays, so that the next step starts warm; held-out particles are dropped. log_density and law as for a
        new flow.
        """
        x = points(x)
        if law is not None and law.dim != self.dim:
            raise ShapeError(f"law is a density on R^{law.dim}, and the flow is in R^{self.dim}")
        if log_density is not None:
            log_density = vector(log_density, "log_density", len(x))
        elif law is not None:
            log_density = law.log_density(x)
        start = x.copy()
        self._core.set_cloud(x, log_density)
        # No law before it is taken: what fails from here on leaves a cloud of which none is known.
        self._law, self._start, self._density = None, start, None
        if law is not None:
            self._core.set_law(law._core)
            self._law = law

    def set_functional(self, functional: Functional) -> None:
        """Another F from here on; the network stays, so that the next step starts warm."""
        self._core.set_functional(functional._in(self.dim))
        self._functional = functional

    def _carried(self) -> _core.FlowDensity:
        if self._density is None or self._density[0] != self.steps:
            maps = self._core.maps()
            if not maps and self.steps > 0:
                raise BadValue("there are no maps: keep_maps=False, or no step since set_cloud()")
            if not maps:
                raise BadValue("there are no maps: no step was taken")
            law = self._law._core if self._law is not None else None
            self._density = self.steps, _core.FlowDensity(maps, law, self._start, self._threads)
        return self._density[1]

    def push(self, x: Any) -> Floats:
        """Points x (N, d) of the start, carried to now (N, d)."""
        return self._carried().push(points(x))

    def pull(self, y: Any) -> Floats:
        """Where the flow carries points y (N, d) from, (N, d); rows of NaN where there is no such point."""
        return self._carried().pull(points(y, "y"))

    def log_density(self, y: Any) -> Floats:
        """Natural logarithms (N,) of the density at y (N, d): -inf outside of the support, NaN where not found. Needs the law."""
        return self._carried().log_density(points(y, "y"))

    def sample(self, n: int, *, seed: int = 0, sampling: str = "random", return_log_density: bool = False) -> Any:
        """n new particles (n, d) of the density, independent of the flow's own; as `brenier sample`. Needs the law.

        return_log_density: (x, log-densities (n,)).
        """
        x, log_density = self._carried().sample(whole(n, "n", 1), sampling_of(sampling), seed)
        return (x, log_density) if return_log_density else x

    def save(self, path: str | os.PathLike[str]) -> None:
        """A checkpoint, from which a flow of the same functional and options goes on bit for bit.

        A file of that name is replaced by a whole one or, where this fails, stays as it was.
        """
        self._core.save_file(path)

    def load(self, path: str | os.PathLike[str]) -> Flow:
        """Goes on from a checkpoint of save(); the functional and the options must be those of the flow saved.

        `history` keeps the steps up to that of the checkpoint. A cloud of set_cloud() comes without its law, which no file
        keeps: `log_density` and `sample` need it given again.
        """
        history = self.history
        self._core.load_file(path)
        self._history = [report for report in history if report["step"] <= self.steps]
        self._density = None
        self._law, self._start = self._first if self._core.has_initial_cloud() else (None, self._core.x())
        return self

    def __repr__(self) -> str:
        return (f"<brenier.Flow of {self._functional!r}: {self._core.particles()} particles in R^{self.dim}, step {self.steps}, "
                f"t = {self.time:g}, F = {self.functional:.6g}>")


# The rows that configurations are read by: names, ranges and defaults are written once.
if Flow.__doc__:
    Flow.__doc__ = Flow.__doc__.rstrip() + "\n\n" + described(_core.flow_option_rows()) + "\n"
