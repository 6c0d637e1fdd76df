# SPDX-License-Identifier: MIT
"""The Python package. `BRENIER_COMMAND` in the environment names the command that its bits are compared with."""
import gc
import os
import signal
import subprocess
import threading
import time

import brenier
import numpy as np
import pytest

WELL = "0.5*sum(x^2)"
SMALL = dict(hidden=(8, 4), quadratic_rank=1, threads=1)


def well_flow(**options):
    start = brenier.Density.gaussian([2.0], 0.25)
    return brenier.Flow(brenier.entropy() + brenier.potential(WELL), start, tau=0.1, particles=256,
                        sampling="whitened", **{**SMALL, **options})


def test_mean_of_fokker_planck():
    flow = well_flow().run(until=0.5)
    assert flow.steps == 5
    assert abs(flow.x.mean() - 2 * np.exp(-0.5)) < 0.01


def test_density_and_maps():
    flow = well_flow().run(until=0.2)
    assert np.allclose(flow.log_density(flow.x), flow.particle_log_density, atol=1e-8)
    y = np.array([1.0, 1.5])
    assert np.allclose(flow.push(flow.pull(y))[:, 0], y, atol=1e-9)
    assert flow.sample(17).shape == (17, 1)
    assert len(flow.maps) >= 2


def test_function_is_as_the_expression():
    def v(x):
        return 0.5 * (x**2).sum(axis=1), x

    one = well_flow(precision="double").run(until=0.2)
    other = brenier.Flow(brenier.entropy() + brenier.potential(v), brenier.Density.gaussian([2.0], 0.25), tau=0.1,
                         particles=256, sampling="whitened", precision="double", **SMALL).run(until=0.2)
    assert np.abs(one.x - other.x).max() < 1e-3


def test_what_a_function_raises_leaves_the_flow():
    broken = False

    def v(x):
        if broken:
            raise KeyError("mine")
        return 0.5 * (x**2).sum(axis=1), x

    x = np.random.default_rng(1).normal(size=(64, 2))
    flow = brenier.Flow(brenier.potential(v), x, tau=0.1, **SMALL)
    flow.step()
    before, bits = flow.x, flow._core.save()
    broken = True
    with pytest.raises(KeyError, match="mine"):
        flow.step()
    assert flow.steps == 1 and np.array_equal(flow.x, before) and flow._core.save() == bits
    broken = False
    assert flow.step()["step"] == 2


def test_shapes_of_a_function():
    flow = brenier.Flow(brenier.potential(lambda x: (x.sum(axis=1), x[:, :1])), np.ones((4, 2)) * [[1], [2], [3], [5]],
                        tau=0.1, **SMALL)
    with pytest.raises(brenier.ShapeError, match="gradient"):
        flow.step()


def test_checkpoint_goes_on_with_the_same_bits(tmp_path):
    flow = well_flow().run(until=0.2)
    flow.save(tmp_path / "flow")
    flow.step()
    assert np.array_equal(well_flow().load(tmp_path / "flow").run(until=0.3).x, flow.x)


def test_errors_are_those_of_python_too():
    with pytest.raises(ValueError, match="tau"):
        well_flow().__class__(brenier.potential(WELL), np.ones((4, 1)), tau=-1)
    with pytest.raises(brenier.ParseError):
        brenier.Flow(brenier.potential("sum(y)"), np.ones((4, 1)), tau=0.1)


def test_arrays_of_other_kinds():
    x = np.arange(12).reshape(6, 2)
    for given in (x, x.astype(np.float32), np.asfortranarray(x, dtype=float), x.tolist()):
        assert np.array_equal(brenier.Flow(brenier.potential(WELL), given, tau=0.1, **SMALL).x, x)


def test_what_doubles_do_not_hold_is_refused():
    x = np.random.default_rng(0).normal(size=(60, 2))
    masked = np.ma.array(np.where(x > 1, -999.0, x), mask=x > 1)
    count = int((x > 1).sum())
    times = np.arange(60).astype("datetime64[s]")
    flow = brenier.Flow(brenier.potential(WELL), np.ma.array(x, mask=False), tau=0.1, **SMALL)
    assert np.array_equal(flow.x, x)
    for given, text in ((masked, f"{count} of 120"), (list(masked), f"{count} of 120"), (x + 1j, "complex"), (times, "points in time"),
                        (times - times[0], "lengths of time")):
        for take in (lambda: brenier.Flow(brenier.potential(WELL), given, tau=0.1, **SMALL), lambda: flow.set_cloud(given),
                     lambda: brenier.distance(given, x), lambda: brenier.fit(given, np.ones(60)),
                     lambda: flow.functional_of(given), lambda: brenier.energy_distance(given)):
            with pytest.raises(brenier.BadValue, match=text):
                take()
    with pytest.raises(brenier.BadValue, match="labels is a masked array with 1 of 60"):
        brenier.fit(x, np.ma.array(np.ones(60), mask=[True] + 59 * [False]))
    for function in (lambda x: (np.ma.array(x[:, 0], mask=x[:, 0] < 9), x), lambda x: (x[:, 0], x * 1j)):
        with pytest.raises(brenier.BadValue, match="masked|complex"):
            brenier.Flow(brenier.potential(function), x, tau=0.1, **SMALL).step()
    assert np.array_equal(brenier.Flow(brenier.potential(WELL), x > 0, tau=0.1, **SMALL).x, x > 0)


def test_whole_numbers_out_of_range_are_told_by_their_range():
    x = np.ones((4, 2))
    for name, value, bound in (("iterations", 2**31, 2**31 - 1), ("threads", 10**20, 2**31 - 1), ("seed", 2**64, 2**64 - 1),
                               ("seed", -1, 0), ("threads", -(2**40), -(2**31)), ("iterations", np.int64(2**40), 2**31 - 1)):
        with pytest.raises(brenier.BadValue, match=f"{name} = .*at (most|least) {bound}$"):
            brenier.Flow(brenier.potential(WELL), x, tau=0.1, **{**SMALL, name: value})
    for wrong in (1.5, "1", True, None):
        with pytest.raises(TypeError, match="a whole number"):
            brenier.Flow(brenier.potential(WELL), x, tau=0.1, **{**SMALL, "threads": wrong})
    law = brenier.Density.gaussian([0, 0], np.eye(2))
    flow = brenier.Flow(brenier.potential(WELL), law, particles=20, tau=0.1, **SMALL)
    flow.step()
    for drawn in (law, flow):
        for n in (10**18, 2**63 - 1, 10**30, 0, -1, 1.5, True):
            with pytest.raises(brenier.BadValue, match=f"^n (=|is) {n};"):
                drawn.sample(n)


def test_no_points_in_no_points_out():
    law = brenier.Density.gaussian([0, 0], np.eye(2))
    flow = brenier.Flow(brenier.potential(WELL), law, particles=20, tau=0.1, **SMALL)
    flow.step()
    none = np.zeros((0, 2))
    assert flow.push(none).shape == flow.pull(none).shape == (0, 2) and flow.log_density(none).shape == (0,)
    with pytest.raises(brenier.ShapeError):
        flow.push(np.zeros((0, 3)))


def test_interrupt():
    def slow(x):
        time.sleep(0.02)
        return 0.5 * (x**2).sum(axis=1), x

    flow = brenier.Flow(brenier.potential(slow), np.random.default_rng(0).normal(size=(32, 2)), tau=0.1, **SMALL)
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        flow.run(until=1e6)
    steps = flow.steps
    assert flow.step()["step"] == steps + 1


def test_sinkhorn_divergence_vanishes_between_equal_clouds():
    x = np.random.default_rng(0).normal(size=(50, 2))
    assert abs(brenier.distance(x, x)) < 1e-6
    assert brenier.distance(x, x + 1) == pytest.approx(1.0, rel=1e-3)  # half of the squared shift (1, 1)


def test_flows_leave_nothing():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def make(n):
        for _ in range(n):
            well_flow(precision="double")
        gc.collect()

    make(100)
    before = resident()
    make(1000)
    assert resident() - before < 4 << 20


@pytest.mark.skipif("BRENIER_COMMAND" not in os.environ, reason="BRENIER_COMMAND is not set")
def test_same_bits_as_the_command(tmp_path):
    (tmp_path / "flow.toml").write_text(
        'threads = 1\n[cloud]\ndensity = "gaussian"\nmean = 2\nvariance = 0.25\nparticles = 256\nsampling = "whitened"\n'
        f'[[functional]]\nterm = "entropy"\n[[functional]]\nterm = "potential"\nexpression = "{WELL}"\n'
        "[flow]\ntau = 0.1\nsteps = 3\norder = 2\n[network]\nhidden = [8, 4]\nquadratic_rank = 1\n")
    subprocess.run([os.environ["BRENIER_COMMAND"], "run", tmp_path / "flow.toml", "--out", tmp_path / "run"], check=True)
    clouds = sorted((tmp_path / "run" / "clouds").glob("step_*.npy"))
    assert np.array_equal(np.load(clouds[-1]), well_flow().run(until=0.3).x)


def test_the_example_of_the_readme():
    readme = os.path.join(os.path.dirname(__file__), "..", "..", "README.md")
    with open(readme) as file:
        exec(compile(file.read().split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
