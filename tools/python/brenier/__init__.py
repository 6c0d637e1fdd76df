# SPDX-License-Identifier: MIT
"""Wasserstein gradient flows by the JKO scheme with input-convex neural networks.

Points are arrays (N, d) of doubles, or (N,) in one dimension; log-densities are natural logarithms (N,). Times are those
of the equation.
"""

import pathlib

import numpy as np

from . import _core
from ._core import BadValue, Error, IoError, NotAvailable, NumericalError, ParseError, ShapeError, __version__

__all__ = ["BadValue", "Density", "Error", "Flow", "Functional", "IoError", "NotAvailable", "NumericalError", "ParseError",
           "ShapeError", "distance", "entropy", "interaction", "internal", "porous_medium", "potential", "sinkhorn"]


def _points(x, name="x"):
    """x as a C-contiguous (N, d) array of doubles; without a copy where it is one, of NumPy or through DLPack."""
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    x = np.ascontiguousarray(x, dtype=np.float64)
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2:
        raise ShapeError(f"{name} has the shape {x.shape}; it must be (N, d), or (N,) in one dimension")
    return x


def _parameters(given):
    return {name: np.ascontiguousarray(value, dtype=np.float64) for name, value in given.items()}


class Functional:
    """A weighted sum of terms. ``entropy() + 0.5 * potential("sum(x^2)")``; the dimension is that of the particles."""

    def __init__(self, terms):
        self._terms = list(terms)  # (weight, make(dim), text)

    def __add__(self, other):
        return Functional(self._terms + other._terms) if isinstance(other, Functional) else NotImplemented

    def __mul__(self, factor):
        return Functional((float(factor) * weight, make, text) for weight, make, text in self._terms)

    __rmul__ = __mul__

    def __repr__(self):
        return "Functional(" + " + ".join(f"{weight:g} * {text}" for weight, _, text in self._terms) + ")"

    def _in(self, dim):
        out = None
        for weight, make, _ in self._terms:
            term = make(dim).scaled(weight)
            out = term if out is None else out + term
        if out is None:
            raise BadValue("a functional of no terms")
        return out


def entropy():
    """Integral of rho log rho: heat and Fokker-Planck equations."""
    return Functional([(1.0, lambda dim: _core.entropy(), "entropy")])


def porous_medium(m):
    """Integral of rho^m / (m - 1), m > 1."""
    return Functional([(1.0, lambda dim: _core.porous_medium(m), f"porous_medium({m:g})")])


def potential(v, *, name=None, **parameters):
    """Integral of V d rho.

    v: an expression in ``x`` (and ``time``), whose other names are the parameters given (numbers, vectors, matrices); or a
    function v(x) -> (value, gradient) of points x (N, d) that returns arrays (N,) and (N, d). The two must belong together.
    What the function raises ends the step, and the flow is as before.
    """
    if callable(v):
        if parameters:
            raise TypeError("parameters are for expressions; a function knows its own")
        name = name or getattr(v, "__name__", type(v).__name__)
        return Functional([(1.0, lambda dim: _core.black_box(v, dim, name), f"potential({name})")])
    given = _parameters(parameters)
    return Functional([(1.0, lambda dim: _core.potential(v, dim, given), f"potential({v!r})")])


def interaction(w, **parameters):
    """Half the double integral of W(x - y) d rho d rho; w: an expression in ``x`` or ``r`` = |x|."""
    given = _parameters(parameters)
    return Functional([(1.0, lambda dim: _core.interaction(w, dim, given), f"interaction({w!r})")])


def internal(f, **parameters):
    """Integral of f(rho) dx; f: an expression in ``t``, the density."""
    given = _parameters(parameters)
    return Functional([(1.0, lambda dim: _core.internal(f, given), f"internal({f!r})")])


def sinkhorn(reference, *, blur=0.05, scaling=0.5, debias=True, iterations=100):
    """Entropic optimal transport to the points of reference (M, d) with the cost |x - y|^2/2, epsilon = blur^2.

    debias: the Sinkhorn divergence. blur is a length, in the units of x.
    """
    reference = _points(reference, "reference")
    return Functional([(1.0, lambda dim: _core.sinkhorn(reference, blur, scaling, debias, iterations),
                        f"sinkhorn(<{len(reference)} points>, blur={blur:g})")])


class Density:
    """A density that can be evaluated and sampled: Density.gaussian, uniform, mixture, kde."""

    def __init__(self, core, text):
        self._core, self._text = core, text

    @classmethod
    def gaussian(cls, mean, covariance):
        """mean: (d,); covariance: (d, d), or a number for a multiple of the identity."""
        mean = np.atleast_1d(np.asarray(mean, dtype=np.float64))
        covariance = np.asarray(covariance, dtype=np.float64)
        if covariance.ndim == 0:
            covariance = covariance * np.eye(len(mean))
        return cls(_core.Density.normal(mean.tolist(), np.ascontiguousarray(covariance)), f"gaussian, d = {len(mean)}")

    @classmethod
    def uniform(cls, lower, upper):
        """On the box between lower and upper (d,)."""
        lower, upper = np.atleast_1d(lower).astype(float), np.atleast_1d(upper).astype(float)
        return cls(_core.Density.uniform(lower.tolist(), upper.tolist()), f"uniform, d = {len(lower)}")

    @classmethod
    def mixture(cls, weights, parts):
        """Of densities, with positive weights, which are divided by their sum."""
        core = _core.Density.mixture([float(w) for w in weights], [part._core for part in parts])
        return cls(core, f"mixture of {len(parts)}, d = {core.dim()}")

    @classmethod
    def kde(cls, points, bandwidth="scott"):
        """Kernel density estimate; bandwidth: "scott", "silverman" or a number in the units of x."""
        points = _points(points, "points")
        if bandwidth in ("scott", "silverman"):
            core = _core.Density.kde(points, bandwidth)
        elif isinstance(bandwidth, str):
            raise BadValue(f'bandwidth = "{bandwidth}"; it must be "scott", "silverman" or a number')
        else:
            core = _core.Density.kde_width(points, float(bandwidth))
        return cls(core, f"kde of {len(points)} points, d = {core.dim()}")

    def log_density(self, x):
        """Natural logarithms (N,) at x (N, d); -inf outside of the support."""
        return self._core.log_density(_points(x))

    def sample(self, n, *, sampling="random", seed=0):
        """n particles (n, d); sampling: "random", "stratified", or "whitened" for a Gaussian."""
        if sampling not in ("random", "stratified", "whitened"):
            raise BadValue(f'sampling = "{sampling}"; it must be "random", "stratified" or "whitened"')
        return self._core.sample(n, sampling, seed)[0]

    def __repr__(self):
        return f"Density({self._text})"


class Flow:
    """A gradient flow of a functional from particles x (N, d), or from a Density (`particles` of it are drawn).

    tau: the step, in the time of the equation. order: 1 (JKO) or 2 (BDF2). Internal energies need the log-densities of the
    particles (N,), or their law. precision: "float" or "double", of the inner loops.
    """

    def __init__(self, functional, x, *, tau, order=2, log_density=None, law=None, particles=1000, sampling="stratified",
                 hidden=(100, 20), quadratic_rank=0, iterations=400, precision="float", seed=0, threads=0, device="auto",
                 start_time=0.0, certificates=True, keep_maps=True):
        if precision not in ("float", "double"):
            raise BadValue(f'precision = "{precision}"; it must be "float" or "double"')
        if isinstance(x, Density):
            law = x
            x = law.sample(particles, sampling=sampling, seed=seed)
        x = _points(x)
        self._law, self._start, self._threads = law, x[:: max(1, len(x) // 1024)].copy(), threads
        core_law = law._core if law is not None else None
        energy = functional._in(x.shape[1])
        if log_density is None and core_law is not None and energy.needs_density():
            log_density = core_law.log_density(x)
        if log_density is not None:
            log_density = np.ascontiguousarray(log_density, dtype=np.float64)
        options = _core.Options()
        options.tau, options.order, options.seed, options.threads = float(tau), order, seed, threads
        options.device, options.start_time = device, start_time
        options.certificates, options.keep_maps = certificates, keep_maps
        options.set_hidden(list(hidden))
        options.set_quadratic_rank(quadratic_rank)
        options.set_iterations(iterations)
        self._functional = functional
        make = _core.FlowFloat if precision == "float" else _core.FlowDouble
        self._core = make(energy, x, log_density, options, core_law)
        self._density = None
        self.history = []

    def step(self):
        """One step; its report as a dictionary. Ctrl-C and exceptions of a potential leave the flow as it was."""
        report = self._core.step()
        if report is not None:
            self._density = None
            self.history.append(report)
        return report

    def run(self, until, callback=None, progress=False):
        """Steps until the time `until` is reached, by the last step perhaps passed; callback(flow) after each. Returns the flow."""
        done = False
        while not done and self.time < until - 1e-9 * max(1.0, abs(until)):
            report = self.step()
            done = report is None
            if report is not None and progress:
                print(f"step {report['step']}: t = {report['time']:.4g}, F = {report['functional']:.6g}", flush=True)
            if report is not None and callback is not None:
                callback(self)
        return self

    x = property(lambda self: self._core.x(), doc="The particles (N, d): a copy.")
    particle_log_density = property(lambda self: self._core.particle_log_density(), doc="At the particles (N,), or None.")
    time = property(lambda self: self._core.time(), doc="In the units of the equation.")
    steps = property(lambda self: self._core.steps())
    functional = property(lambda self: self._core.functional(), doc="F on the particles.")
    maps = property(lambda self: self._core.maps(), doc="All maps, in the order they apply.")

    def _carried(self):
        if self._density is None:
            maps = self._core.maps()
            if not maps:
                raise BadValue("there are no maps: no step was taken, or keep_maps = False")
            law = self._law._core if self._law is not None else None
            self._density = _core.FlowDensity(maps, law, self._start, self._threads)
        return self._density

    def push(self, x):
        """x (N, d) of the start, carried to now."""
        return self._carried().push(_points(x))

    def pull(self, y):
        """Where y (N, d) comes from; NaN where there is no such point."""
        return self._carried().pull(_points(y, "y"))

    def log_density(self, y):
        """Natural logarithms (N,) at y (N, d): -inf outside of the support, NaN where not found. Needs the law."""
        return self._carried().log_density(_points(y, "y"))

    def sample(self, n, seed=0):
        """n new particles (n, d) of the flow. Needs the law of the start."""
        return self._carried().sample(n, seed)[0]

    def save(self, path):
        """A checkpoint, from which a flow of the same functional and options goes on bit for bit."""
        pathlib.Path(path).write_bytes(self._core.save())

    def load(self, path):
        """Goes on from a checkpoint of save(); the functional and the options must be those of the flow saved."""
        self._core.load(pathlib.Path(path).read_bytes())
        self._density = None
        return self

    def __repr__(self):
        n, d = self._start.shape[0], self._start.shape[1]
        return f"<brenier.Flow of {self._functional!r} in R^{d}: step {self.steps}, t = {self.time:g}>"


def distance(x, y, *, blur=0.05, scaling=0.5, debias=True, threads=0):
    """Sinkhorn divergence between clouds x (n, d) and y (m, d): cost |x - y|^2/2, epsilon = blur^2."""
    return _core.entropic_transport(_points(x), _points(y, "y"), blur, scaling, debias, threads)
