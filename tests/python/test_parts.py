# SPDX-License-Identifier: MIT
"""Functionals, densities, distances, options and learned potentials of the Python package, against closed forms."""
import inspect
import os
import pathlib
import signal
import threading
import warnings

import brenier
import numpy as np
import pytest

SMALL = dict(hidden=(8, 4), quadratic_rank=1, threads=1)


def cloud(n=40, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def of(functional, x, **options):
    """F of particles."""
    return brenier.Flow(functional, x, **{**SMALL, "tau": 0.1, **options}).functional


def distances(x, y):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=2))


# --- functionals -------------------------------------------------------------------------------------------------


def test_terms_are_what_they_say():
    x, y = cloud(17), cloud(23, seed=1)
    weights = np.random.default_rng(2).uniform(0.5, 1, 23)
    weights /= weights.sum()
    kernel = lambda a, b: np.exp(-distances(a, b) ** 2 / (2 * 0.7**2))
    assert of(brenier.mmd(y, bandwidth=0.7, weights=weights), x) == pytest.approx(
        kernel(x, x).mean() + weights @ kernel(y, y) @ weights - 2 * (kernel(x, y) @ weights).mean(), rel=1e-9)
    assert of(brenier.energy_distance(y), x) == pytest.approx(
        2 * distances(x, y).mean() - distances(x, x).mean() - distances(y, y).mean(), rel=1e-9)
    assert of(brenier.interaction("0.5*r^2"), x) == pytest.approx((distances(x, x) ** 2).sum() / (4 * 17 * 16), rel=1e-9)
    assert of(3 * brenier.potential("dot(a, x)", a=[1.0, 2.0]) / 2, x) == pytest.approx(1.5 * (x @ [1, 2]).mean(), rel=1e-9)
    assert of(brenier.sinkhorn(x, blur=0.5), x) == pytest.approx(0, abs=1e-5)


def test_functionals_are_subtracted():
    x = cloud(9)
    both = brenier.potential("sum(x^2)") - brenier.potential("x[0]") / 2
    flow = brenier.Flow(both, x, tau=0.1, hidden=(8,))
    assert flow.functional == pytest.approx((x**2).sum(axis=1).mean() - x[:, 0].mean() / 2, rel=1e-12)
    assert repr(both) == "Functional(potential('sum(x^2)') + -0.5 * potential('x[0]'))"


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="Density.kde"):
        brenier.Flow(brenier.entropy(), cloud(), tau=0.1)
    with pytest.raises(TypeError, match="hidden, "):
        brenier.Flow(brenier.potential("sum(x^2)"), cloud(), tau=0.1, layers=[8])


def test_functionals_say_what_they_are():
    text = repr(brenier.entropy() + 2 * brenier.potential("sum(x)") + brenier.mmd(cloud(5), bandwidth=1))
    assert text == "Functional(entropy() + 2 * potential('sum(x)') + mmd(<5 points>, bandwidth=1))"
    with pytest.raises(TypeError):
        brenier.entropy() + 1
    with pytest.raises(TypeError):
        brenier.entropy() * "2"
    with pytest.raises(ValueError, match="no terms"):
        of(brenier.Functional(), cloud())
    with pytest.raises(ValueError, match="bandwidth"):
        brenier.mmd(cloud(), bandwidth="mean")
    with pytest.raises(ValueError, match=r"m = 1.*|above 1"):
        brenier.porous_medium(1)


def test_energy_distance_is_followed():
    flow = brenier.Flow(brenier.energy_distance(cloud(60) + 3), cloud(60, seed=1), tau=0.5, **SMALL)
    before = flow.functional
    assert flow.run(steps=4).functional < 0.2 * before


# --- densities ---------------------------------------------------------------------------------------------------


def test_densities_are_normalised_and_sampled():
    data = np.concatenate([cloud(150, 1) - 2, 0.5 * cloud(50, 1, seed=1) + 2])
    kinds = [brenier.Density.gaussian([0.5], 0.3), brenier.Density.uniform([-1], [2]), brenier.Density.barenblatt(1, 0.1, m=3),
             brenier.Density.kde(data), brenier.Density.kde(data, "silverman"), brenier.Density.kde(data, 0.2),
             brenier.Density.gaussian_mixture(data, 2),
             brenier.Density.mixture([1, 3], [brenier.Density.gaussian([-2], 1), brenier.Density.gaussian([3], [[0.5]])])]
    grid = np.linspace(-10, 10, 20_001)
    for density in kinds:
        rho = np.exp(density.log_density(grid))
        assert rho.sum() * 1e-3 == pytest.approx(1, abs=1e-3), density
        x = density.sample(4096, sampling="stratified", seed=3)
        assert x.shape == (4096, 1)
        assert x.mean() == pytest.approx((grid * rho).sum() * 1e-3, abs=0.02), density
        assert repr(density).startswith("<brenier.Density on R^1: ")


def test_kde_is_the_mean_of_its_kernels():
    data, y = cloud(30), cloud(7, seed=1)
    covariance = np.cov(data.T) * 30 ** (-2 / 6)  # Scott's factor, squared
    offset = y[:, None] - data[None]
    exponent = -0.5 * np.einsum("ijk,kl,ijl->ij", offset, np.linalg.inv(covariance), offset)
    expected = np.log(np.exp(exponent).mean(axis=1) / (2 * np.pi * np.sqrt(np.linalg.det(covariance))))
    assert np.allclose(brenier.Density.kde(data).log_density(y), expected, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*not solved")
def test_own_data_as_a_start():
    data = cloud(200) * [1, 0.5]
    flow = brenier.Flow(brenier.entropy(), brenier.Density.kde(data), tau=0.05, particles=128, **SMALL).run(steps=2)
    assert np.isfinite(flow.log_density(flow.x)).all() and flow.sample(9).shape == (9, 2)
    given = brenier.Flow(brenier.entropy(), data, law=brenier.Density.kde(data), tau=0.05, **SMALL).run(steps=1)
    assert np.allclose(given.log_density(given.x), given.particle_log_density, atol=1e-8)
    with pytest.raises(ValueError, match="Density.kde"):
        brenier.Flow(brenier.entropy(), data, tau=0.05)


def test_densities_that_are_not():
    for bad in (lambda: brenier.Density.gaussian([0], -1), lambda: brenier.Density.kde(cloud(), "wide"),
                lambda: brenier.Density.kde(cloud(), -1.0), lambda: brenier.Density.gaussian_mixture(cloud(3), 7),
                lambda: brenier.Density.gaussian([0, 0]).sample(5, sampling="even"),
                lambda: brenier.Density.gaussian([0, 0]).log_density(cloud(3, 3)),
                lambda: brenier.Density.kde(np.ones((4, 2, 2)))):
        with pytest.raises(ValueError):
            bad()


# --- distances ---------------------------------------------------------------------------------------------------


def test_distances_against_their_formulas():
    x, y = cloud(30), cloud(25, seed=1)
    n, m = len(x), len(y)
    off = lambda a: a.sum() / (len(a) * (len(a) - 1))
    assert brenier.distance(x, y, "energy") == pytest.approx(
        2 * distances(x, y).mean() - off(distances(x, x)) - off(distances(y, y)), rel=1e-10)
    kernel = lambda a, b: np.exp(-distances(a, b) ** 2 / (2 * 0.9**2))
    value, error = brenier.distance(x, y, "mmd", bandwidth=0.9, return_error=True)
    assert value == pytest.approx((kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
                                  - 2 * kernel(x, y).mean(), rel=1e-9)
    assert error > 0
    assert brenier.distance(x, x[::-1] + [3, 4], "w2") == pytest.approx(5, rel=1e-12)
    assert brenier.distance(x[:, 0], x[::-1, 0] + 2, "w2") == pytest.approx(2, rel=1e-12)
    # Sizes that differ: a point is split. The same clouds with every point several times have as many points.
    few, many = cloud(20), cloud(30, seed=2) + 0.5
    assert brenier.distance(few, many, "w2") == pytest.approx(
        brenier.distance(np.repeat(few, 3, axis=0), np.repeat(many, 2, axis=0), "w2"), rel=1e-12)
    assert brenier.distance([[0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]], "w2") == pytest.approx(12.5**0.5, rel=1e-12)
    # Of one point on each side the plan is known, and so is the value.
    assert brenier.distance([[0.0, 0.0]], [[3.0, 4.0]], debias=False) == pytest.approx(12.5, rel=1e-9)
    weights = np.array([0.25, 0.75])
    assert brenier.distance([[0.0], [4.0]], [[0.0]], a=weights, debias=False) == pytest.approx(0.75 * 8, rel=1e-6)


def test_sinkhorn_is_that_of_the_plain_iteration():
    x, y, epsilon = cloud(12), cloud(9, seed=1) + 1, 0.3
    cost = distances(x, y) ** 2 / 2
    f, g = np.zeros(12), np.zeros(9)
    for _ in range(2000):
        f = -epsilon * np.log(np.exp((g - cost) / epsilon).mean(axis=1))
        g = -epsilon * np.log(np.exp((f[:, None] - cost) / epsilon).mean(axis=0))
    value = brenier.distance(x, y, blur=epsilon**0.5, debias=False, iterations=3000, tolerance=1e-12)
    assert value == pytest.approx(f.mean() + g.mean(), rel=1e-9)
    with pytest.warns(RuntimeWarning, match="blur"):
        brenier.distance(x, y, blur=1e-3, iterations=1)


def test_distances_that_are_not():
    for bad in (lambda: brenier.distance(cloud(), cloud(d=3)), lambda: brenier.distance(cloud(), cloud(), "w1"),
                lambda: brenier.distance(cloud(), cloud(), blur=-1.0), lambda: brenier.distance(cloud(), cloud(), a=[1.0]),
                lambda: brenier.distance(cloud(), cloud(), "w2", a=np.ones(40) / 40),
                lambda: brenier.distance(cloud(5), cloud(6, d=3), "w2"), lambda: brenier.distance(cloud() * np.nan, cloud())):
        with pytest.raises(ValueError):
            bad()


# --- options -----------------------------------------------------------------------------------------------------


def test_options_have_the_names_and_ranges_of_a_configuration():
    make = lambda **options: brenier.Flow(brenier.potential("sum(x^2)"), cloud(8), **{"tau": 0.1, **options})
    for error, match, options in [
            (TypeError, "did you mean 'iterations'", dict(iteration=3)), (ValueError, "iterations = 0", dict(iterations=0)),
            (TypeError, "iterations = 'many'", dict(iterations="many")), (TypeError, "warm_start", dict(warm_start=1)),
            (ValueError, 'solver.*"lbfgs"', dict(solver="newton")), (ValueError, "tau = -1", dict(tau=-1)),
            (ValueError, "auto", dict(tau="short")), (ValueError, "end_time", dict(tau="auto")),
            (ValueError, 'goes with tau = "auto"', dict(end_time=1.0)), (ValueError, "law", dict(refresh=5)),
            (ValueError, "order", dict(tau="auto", end_time=1.0, order=1)), (TypeError, "hidden", dict(hidden=3)),
            (ValueError, "hidden", dict(hidden=(0,))), (TypeError, "tau", dict(tau=None)), (ValueError, "precision", dict(
                precision="half")), (ValueError, "end_time", dict(tau="auto", end_time=-1.0)),
            (ValueError, "above 0", dict(tau=0.0)), (ValueError, "seed = -1; it must be at least 0", dict(seed=-1)), (TypeError, "order", dict(order=True))]:
        with pytest.raises(error, match=match):
            make(**options)
    # Numbers of NumPy are numbers.
    make(tau=np.float32(0.1), iterations=np.int64(5), hidden=np.array([4, 3]), seed=np.uint8(3), residual=np.bool_(False))
    with pytest.raises(TypeError, match="True or False"):
        make(residual=0)
    documented = inspect.getdoc(brenier.Flow)
    assert "\nhidden (list of whole numbers; [100, 20]): " in documented
    assert '\nsolver ("auto" or "lbfgs" or "adam"; "auto"): ' in documented
    reference = (pathlib.Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for part in ("[flow]", "[network]", "[inner]"):
        rows = reference.split(f"## {part}\n")[1].split("\n## ")[0].splitlines()
        for name in {row.split("`")[1] for row in rows if row.startswith("| `")} - {"steps"}:
            assert f"\n{name} (" in documented or f"\n{name}  " in documented, name


def test_every_kind_of_term_and_density_is_here():
    reference = (pathlib.Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for row, home, others in [("term", brenier, {"black_box"}), ("density", brenier.Density, {"file"})]:
        line = next(line for line in reference.splitlines() if line.startswith(f"| `{row}` |"))
        names = {word.strip(' "') for word in line.split("|")[2].split(",")}
        assert len(names) > 4 and all(hasattr(home, name) for name in names - others), names


def test_a_gaussian_mixture_as_a_target_is_minus_the_log_of_its_density():
    means, variances, weights = np.array([[-1.0, 0.5], [2.0, 0.0]]), np.array([0.3, 0.8]), [1.0, 3.0]
    x = cloud(9)
    squares = ((x[:, None, :] - means) ** 2).sum(-1)
    density = (np.array([0.25, 0.75]) * np.exp(-squares / (2 * variances)) / (2 * np.pi * variances)).sum(-1)
    term = brenier.gaussian_mixture(means, variances, weights)
    assert brenier.Flow(term, x, tau=0.1).functional == pytest.approx(-np.log(density).mean(), rel=1e-10)
    brenier.gaussian_mixture([0.0, 3.0])  # on the line, of variance 1 and equal weights
    for bad in (dict(variances=[1.0]), dict(variances=0.0), dict(weights=[1.0, -1.0])):
        with pytest.raises(ValueError):
            brenier.gaussian_mixture(means, **bad)


def test_solvers_take_their_options():
    x = brenier.Density.gaussian([1.0, 0.0], 0.5)
    energy = brenier.entropy() + brenier.potential("0.5*sum(x^2)")
    start = brenier.Flow(energy, x, tau=0.1, particles=200, **SMALL).functional
    for options in (dict(solver="adam", minibatch=50, iterations=60), dict(solver="adam", refresh=20, iterations=60),
                    dict(solver="lbfgs", iterations=30, inner_tolerance=1e-3), dict(logdet="cg", probes=2, iterations=60),
                    dict(order=1, activation="squareplus", on_unsolved="warn")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # so few iterations need not solve a step
            flow = brenier.Flow(energy, x, tau=0.1, particles=200, **SMALL, **options)
            assert flow.step()["functional"] < start, options
    with pytest.raises(brenier.NumericalError):
        brenier.Flow(energy, x, tau=0.1, particles=200, **SMALL, iterations=1, solver="adam", on_unsolved="stop").step()
    with pytest.warns(RuntimeWarning, match="not solved"):
        brenier.Flow(energy, x, tau=0.1, particles=200, **SMALL, iterations=1, solver="adam").step()
    particles = brenier.Flow(brenier.potential("0.5*sum(x^2)"), cloud(20), tau=0.1, method="particles").run(steps=1)
    assert np.allclose(particles.x, cloud(20) / 1.1, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*not solved")
def test_adaptive_steps_end_at_the_end():
    flow = brenier.Flow(brenier.entropy() + brenier.potential("0.5*sum(x^2)"), brenier.Density.gaussian([2.0], 0.25), tau="auto",
                        end_time=0.5, tolerance=0.01, particles=256, sampling="whitened", **SMALL).run()
    assert flow.time == 0.5 and flow.step() is None
    assert flow.x.mean() == pytest.approx(2 * np.exp(-0.5), abs=0.01)
    assert len({report["tau"] for report in flow.history}) > 2
    assert all(report["time_error"] <= 0.01 for report in flow.history[1:])


# --- learned potentials ------------------------------------------------------------------------------------------


def test_fit(tmp_path):
    x = cloud(400)
    epochs = []
    found = brenier.fit(x, 0.5 * (x**2).sum(axis=1) + x[:, 0], loss="squared", hidden=(8, 8), quadratic_rank=2, epochs=40,
                        seed=1, threads=1, callback=lambda epoch: epochs.append(epoch))
    assert found.test["r2"] > 0.99 and len(epochs) == len(found.history) and not found.interrupted
    assert "r2" in repr(found)
    v = found.potential
    y = cloud(5, seed=1)
    value, gradient = v(y)
    for c in range(2):
        h = 1e-5 * np.eye(2)[c]
        assert np.allclose(gradient[:, c], (v.value(y + h) - v.value(y - h)) / 2e-5, atol=1e-7)
    v.save(tmp_path / "v.safetensors")
    assert np.array_equal(brenier.Potential.load(tmp_path / "v.safetensors").value(y), value)
    for functional in (brenier.learned_potential(v), brenier.learned_potential(tmp_path / "v.safetensors"),
                       brenier.potential(v)):
        assert of(functional, y) == pytest.approx(value.mean(), rel=1e-9)
    again = brenier.fit(x, x[:, 0] > 0, hidden=(4,), epochs=3, threads=1, callback=lambda epoch: epoch["epoch"] == 2)
    assert again.interrupted and len(again.history) == 2 and np.sum(again.test["confusion"]) == again.test["count"]
    with pytest.raises(KeyError):
        brenier.fit(x, x[:, 0] > 0, hidden=(4,), callback=lambda epoch: {}["nothing"])
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        brenier.fit(x, x[:, 0], loss="squared", solver="adam", epochs=10**8, stop=0, threads=1)
    timer.join()
    with pytest.raises(ValueError, match="label 0"):
        brenier.fit(x, x[:, 0])
    with pytest.raises(TypeError, match="did you mean 'epochs'"):
        brenier.fit(x, x[:, 0] > 0, epoch=3)
    with pytest.raises(ValueError):
        brenier.fit(x, np.ones(3))


# --- what type checkers and people read --------------------------------------------------------------------------


def test_everything_public_is_typed_and_described():
    folder = pathlib.Path(brenier.__file__).parent
    assert (folder / "py.typed").exists()
    stubs = (folder / "_core.pyi").read_text()
    assert "class Map:" in stubs and "def flow_options(" in stubs
    for name in brenier.__all__:
        thing = getattr(brenier, name)
        if name == "__version__" or (inspect.isclass(thing) and issubclass(thing, Exception)):
            continue
        assert inspect.getdoc(thing), name
        if thing.__module__ == "brenier._core":
            continue
        members = [thing]
        if inspect.isclass(thing):
            members = [member for key, member in vars(thing).items() if not key.startswith("_")]
        for member in members:
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if not inspect.isfunction(member):
                continue
            assert inspect.getdoc(member), (name, member)
            signature = inspect.signature(member)
            assert signature.return_annotation is not inspect.Signature.empty, (name, member)
            assert all(p.annotation is not inspect.Parameter.empty for p in list(signature.parameters.values())
                       if p.name not in ("self", "cls")), (name, member)


def test_errors_are_of_both_families():
    for ours, theirs in [("BadValue", ValueError), ("ShapeError", ValueError), ("ParseError", ValueError), ("IoError", OSError),
                         ("NumericalError", ArithmeticError), ("NotAvailable", NotImplementedError),
                         ("DeviceError", RuntimeError), ("OutOfDeviceMemory", MemoryError), ("ConfigError", ValueError)]:
        assert issubclass(getattr(brenier, ours), theirs) and issubclass(getattr(brenier, ours), brenier.Error)
    with pytest.raises(brenier.IoError, match="nowhere"):
        brenier.Potential.load("nowhere.safetensors")
    with pytest.raises(OSError, match="nowhere"):
        brenier.read_run("nowhere")
    with pytest.raises(brenier.ShapeError):
        brenier.Flow(brenier.potential("sum(x)"), 3.0, tau=0.1)
