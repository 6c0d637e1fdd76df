# SPDX-License-Identifier: MIT
"""The Python package inside a program: arrays of others, callbacks, threads, the garbage collector, run folders.
`BRENIER_COMMAND` in the environment names the command that its bits are compared with."""
import gc
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref

import brenier
import numpy as np
import pytest

SMALL = dict(hidden=(8, 4), quadratic_rank=1, threads=1)
WELL = "0.5*sum(x^2)"


def cloud(n=40, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def well_flow(**options):
    return brenier.Flow(brenier.entropy() + brenier.potential(WELL), brenier.Density.gaussian([2.0], 0.25),
                        **{"tau": 0.1, "particles": 256, "sampling": "whitened", **SMALL, **options})


class OnlyDlpack:
    """An array of another library, which NumPy knows nothing of."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


# --- arrays ------------------------------------------------------------------------------------------------------


def test_dlpack_in_and_out():
    x = cloud()
    flow = brenier.Flow(brenier.potential(WELL), OnlyDlpack(x), tau=0.1, **SMALL).run(steps=1)
    assert np.array_equal(flow.x, brenier.Flow(brenier.potential(WELL), x, tau=0.1, **SMALL).run(steps=1).x)
    given = flow.x
    assert np.array_equal(np.from_dlpack(given), given) and given.flags.writeable and given.flags.owndata is False
    assert np.array_equal(flow.push(OnlyDlpack(x)), flow.push(x))
    assert brenier.distance(OnlyDlpack(x), x, "w2") == 0

    def v(x):  # float32, and not of NumPy
        return OnlyDlpack(0.5 * (x**2).sum(axis=1)), x.astype(np.float32)

    assert np.allclose(brenier.Flow(brenier.potential(v), x, tau=0.1, **SMALL).run(steps=1).x, flow.x, atol=1e-2)


def test_arrays_outlive_what_gave_them():
    flow = well_flow().run(steps=1)
    x, kept = flow.x, flow.x.copy()
    flow.step()
    del flow
    gc.collect()
    assert np.array_equal(x, kept)


def test_the_start_is_a_copy():
    x = cloud()
    flow = brenier.Flow(brenier.potential(WELL), x, tau=0.1, **SMALL)
    x += 100
    flow.step()
    assert np.abs(flow.x).max() < 10 and np.abs(flow.pull(flow.x)).max() < 10


def test_results_of_functions_that_are_none():
    for v, match in [(lambda x: x, "returned"), (lambda x: ("a", "b"), "convert"), (lambda x: (None, x), None),
                     (lambda x: (x.sum(axis=1), x, x), "returned"), (lambda x: (x.sum(axis=1) * np.nan, x), "NaN|nan")]:
        flow = brenier.Flow(brenier.potential(v, name="mine"), cloud(8), tau=0.1, **SMALL)
        with pytest.raises((ValueError, TypeError, ArithmeticError), match=match):
            flow.step()
        assert flow.steps == 0


# --- runs --------------------------------------------------------------------------------------------------------


def test_run_ends_where_it_is_told(capsys):
    flow = well_flow()
    seen = []
    assert flow.run(until=10, callback=lambda f: seen.append(f.time) or f.steps == 3) is flow
    assert flow.steps == 3 and seen == [report["time"] for report in flow.history]
    assert flow.run(steps=2).steps == 5
    assert flow.run(until=0.5).steps == 5  # is there already
    assert flow.run(until=0.55, progress=True).steps == 6
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("step 6: t = 0.6, F = ") and shown.err.count("\n") == 1
    with pytest.raises(ValueError, match="until"):
        flow.run()
    with pytest.raises(ValueError, match="finite"):
        flow.run(until=np.inf)
    with pytest.raises(KeyError):
        flow.run(steps=5, callback=lambda f: {}["nothing"])
    assert flow.steps == 7  # the step before the callback is taken
    text = repr(flow)
    assert text.startswith("<brenier.Flow of Functional(entropy() + potential('0.5*sum(x^2)')): 256 particles in R^1, step 7, t = 0.7, F = ")


def test_maps_are_the_flow():
    x = cloud()
    flow = brenier.Flow(brenier.potential(WELL), x, tau=0.1, order=1, **SMALL).run(steps=2)
    one, two = flow.maps
    assert np.allclose(two(one(x)), flow.x, atol=1e-12) and np.allclose(flow.push(x), flow.x, atol=1e-12)
    assert np.allclose(one.inverse(one(x)), x, atol=1e-9)
    assert np.allclose(one.potential.gradient(x), one(x), atol=1e-9)
    h = 1e-5
    jacobian = np.stack([(one(x + h * e) - one(x - h * e)) / (2 * h) for e in np.eye(2)], axis=2)
    assert np.allclose(one.log_det(x), np.log(np.linalg.det(jacobian)), atol=1e-7)
    assert (one.step, two.step, one.dim, one.tau, one.closes_step) == (1, 2, 2, 0.1, True)
    assert repr(one).startswith("<brenier.Map of step 1 in R^2") and one.potential.parameters.ndim == 1


def test_maps_in_files(tmp_path):
    one = well_flow().run(steps=1).maps[0]
    one.save(tmp_path / "map.safetensors")
    assert np.array_equal(brenier.read_map(tmp_path / "map.safetensors")([0.5, 1.0]), one([0.5, 1.0]))


def test_between_two_steps():
    flow = well_flow().run(steps=1)
    y = brenier.Density.gaussian([-1.0], 0.5)
    flow.set_cloud(y.sample(300, sampling="stratified"), law=y)
    assert flow.x.shape == (300, 1) and flow.steps == 1
    with pytest.raises(ValueError, match="no maps"):
        flow.push([0.0])
    flow.set_functional(brenier.potential("sum((x - 3)^2)") + brenier.entropy())
    flow.run(steps=3)
    assert flow.x.mean() == pytest.approx(3 - 4 * np.exp(-0.6), abs=0.02) and np.isfinite(flow.log_density(flow.x)).all()
    assert flow.functional_of(flow.x, flow.particle_log_density) == pytest.approx(flow.functional, rel=1e-12)
    with pytest.raises(ValueError):
        flow.set_cloud(cloud(5, 3))


# --- threads -----------------------------------------------------------------------------------------------------


def lets_others_run(call, seconds=30.0):
    """Whether another thread of Python gets its turn while `call` computes: here none is ever taken away from a thread. On a
    busy machine the other one may not start in time: asked again and again, for so long at most."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            go, ran = threading.Lock(), []
            go.acquire()
            other = threading.Thread(target=lambda: (go.acquire(), ran.append(1)))
            other.start()
            go.release()
            call()
            during = bool(ran)
            other.join()
            if during:
                return True
        return False
    finally:
        sys.setswitchinterval(before)


def test_other_threads_run_meanwhile():
    flow = well_flow().run(steps=2)
    y, points = np.linspace(0, 3, 4000), cloud(1500, 4)
    labels = points[:, 0]
    large = well_flow(particles=20_000)
    calls = [large.step, lambda: flow.push(np.tile(y, 20)), lambda: flow.pull(y), lambda: flow.log_density(y),
             lambda: flow.sample(40000), lambda: brenier.distance(points[:300], points[300:600] + 1, blur=1.0, threads=1),
             lambda: brenier.distance(points, points + 1, "energy", threads=1),
             lambda: brenier.distance(points[:500], points[500:1000], "w2"),
             lambda: brenier.fit(points, labels, loss="squared", hidden=(16, 16), epochs=4, threads=1),
             lambda: brenier.Density.kde(points).log_density(points),
             lambda: brenier.Density.gaussian_mixture(points[:300], 2, starts=1)]
    assert not lets_others_run(lambda: sum(range(200_000)), seconds=0.2)
    for i, call in enumerate(calls):
        assert lets_others_run(call), i


def test_one_thread_at_a_time():
    inside, leave = threading.Event(), threading.Event()

    def v(x):
        inside.set()
        leave.wait(60)
        return 0.5 * (x**2).sum(axis=1), x

    flow = brenier.Flow(brenier.potential(v), cloud(8), tau=0.1, **SMALL)
    other = threading.Thread(target=flow.step)
    other.start()
    inside.wait(60)
    with pytest.raises(ValueError, match="another thread"):
        flow.x
    leave.set()
    other.join()
    assert flow.steps == 1


def after(seconds, call):
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_a_step_of_the_library():
    flow = brenier.Flow(brenier.entropy() + brenier.potential(WELL), brenier.Density.gaussian([2.0, 0.0]), tau=0.05, particles=3000,
                        certificates=False, solver="adam", iterations=100_000, threads=1)
    timer = after(0.2, press_ctrl_c)  # far from the end of the step
    with pytest.raises(KeyboardInterrupt):
        flow.step()
    timer.join()
    assert flow.steps == 0 and flow.history == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("what", ["push", "pull", "log_density"])
def test_ctrl_c_ends_what_is_done_with_many_points(what):
    flow = well_flow().run(steps=3)
    y = np.linspace(-1, 4, 5000)
    assert np.array_equal(getattr(flow, what)(y)[2000:2100], getattr(flow, what)(y[2000:2100]), equal_nan=True)  # any block
    many = np.full(20_000_000, 1.0)  # minutes
    timer, begin = after(0.3, press_ctrl_c), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        getattr(flow, what)(many)
    assert time.monotonic() - begin < 20
    timer.join()
    assert np.isfinite(getattr(flow, what)(y[2000:2100])).all()


def test_ctrl_c_ends_a_training():
    x = cloud(400_000)  # seconds, though it ends where it has converged
    timer = after(0.3, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        brenier.fit(x, (x**2).sum(axis=1), loss="squared", hidden=(16,), epochs=1_000_000)
    timer.join()


def test_held_out_particles_follow_and_judge(tmp_path):
    flow = well_flow(held_out=5000).run(steps=3)
    x = flow.held_out
    assert x.shape == (5000, 1) and abs(x.mean() - flow.x.mean()) < 0.03
    assert flow.held_out_functional == flow.history[-1]["functional_held_out"]
    assert flow.held_out_functional == pytest.approx(flow.functional, abs=0.02)
    assert np.array_equal(well_flow().run(steps=3).x, flow.x)  # without influence
    # Points of one's own, with their densities: carried by the maps, judged by the functional.
    law, mine = brenier.Density.gaussian([2.0], 0.25), brenier.Density.gaussian([2.0], 0.25).sample(300, seed=5)
    own = well_flow(held_out=mine).run(steps=3)
    assert np.allclose(own.held_out, own.push(mine), rtol=0, atol=1e-12)
    assert own.held_out_functional == pytest.approx(own.functional_of(own.held_out, own.log_density(own.held_out)), abs=1e-6)
    given = brenier.Flow(brenier.entropy() + brenier.potential(WELL), mine, log_density=law.log_density(mine), tau=0.1, **SMALL,
                         held_out=mine, held_out_log_density=law.log_density(mine)).run(steps=1)
    assert given.held_out_functional == pytest.approx(given.functional, rel=1e-12)
    # Checkpoints have them; another cloud drops them.
    own.save(tmp_path / "flow.brenier")
    again = well_flow().load(tmp_path / "flow.brenier")
    assert np.array_equal(again.held_out, own.held_out)
    again.step()
    assert np.isfinite(again.history[-1]["functional_held_out"])
    again.set_cloud(again.x, again.particle_log_density)
    assert again.held_out is None and np.isnan(again.held_out_functional)
    assert np.isnan(well_flow().step()["functional_held_out"])
    with pytest.raises(ValueError, match="law"):
        brenier.Flow(brenier.potential(WELL), cloud(), tau=0.1, held_out=100, **SMALL)
    for bad in (cloud(9, 3), np.full((4, 1), np.nan), 0, -5):
        with pytest.raises(ValueError):
            well_flow(held_out=bad)


def test_a_handler_that_does_not_raise_ends_nothing():
    flow, pressed = well_flow(), []
    before = signal.signal(signal.SIGINT, lambda *arguments: pressed.append(flow.steps))
    try:
        timer = after(0.05, press_ctrl_c)
        flow.run(until=1e6, callback=lambda f: pressed)
        timer.join()
        steps = flow.steps
        press_ctrl_c()  # between two steps
        assert flow.step()["step"] == steps + 1 and len(pressed) == 2
        assert [report["step"] for report in flow.history] == list(range(1, steps + 2))
        assert np.isfinite(flow.log_density(flow.x)).all()
    finally:
        signal.signal(signal.SIGINT, before)


def test_flows_inside_flows():
    def v(x):
        brenier.Flow(brenier.potential(WELL), cloud(8), tau=0.1, **SMALL).step()
        if len(x) == 9:
            press_ctrl_c()
            brenier.Flow(brenier.potential(WELL), cloud(8), tau=0.1, **SMALL).run(until=1e6)
        return 0.5 * (x**2).sum(axis=1), x

    assert brenier.Flow(brenier.potential(v), cloud(8), tau=0.1, **SMALL).step()["step"] == 1
    flow = brenier.Flow(brenier.potential(v), cloud(9), tau=0.1, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        flow.step()
    assert flow.steps == 0 and signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- memory ------------------------------------------------------------------------------------------------------


def test_circles_through_a_flow_are_collected():
    class Model:
        def __init__(self):
            self.flow = brenier.Flow(brenier.potential(self.v) + brenier.potential(WELL), cloud(8), tau=0.1, **SMALL)

        def v(self, x):
            return 0.5 * (x**2).sum(axis=1), x

    model = Model()
    model.flow.step()
    gone, core = weakref.ref(model), model.flow._core
    del model
    gc.collect()
    assert gone() is not None  # the core holds what it calls,
    core.step(True)
    del core
    gc.collect()
    assert gone() is None  # and shows it to the collector


def test_another_functional_lets_the_old_function_go():
    def v(x):
        return 0.5 * (x**2).sum(axis=1), x

    flow = brenier.Flow(brenier.potential(v), cloud(8), tau=0.1, **SMALL)
    gone = weakref.ref(v)
    flow.set_functional(brenier.potential(WELL))
    del v
    gc.collect()
    assert gone() is None and flow.step()["step"] == 1


# --- beside the command ------------------------------------------------------------------------------------------

needs_command = pytest.mark.skipif("BRENIER_COMMAND" not in os.environ, reason="BRENIER_COMMAND is not set")


def command(*arguments):
    subprocess.run([os.environ["BRENIER_COMMAND"], *map(str, arguments)], check=True, capture_output=True)


def finished_run(folder, text):
    (folder / "flow.toml").write_text("threads = 1\n" + text)
    command("run", folder / "flow.toml", "--out", folder / "run")
    return brenier.read_run(folder / "run")


@needs_command
def test_same_bits_as_the_command(tmp_path):
    network = "[network]\nhidden = [8, 4]\nquadratic_rank = 1\n[held_out]\nparticles = 50\n"
    for name, text, flow in [
            ("barenblatt",
             '[cloud]\ndensity = "barenblatt"\ntime = 0.01\nparticles = 200\nmass = 2\n[[functional]]\nterm = "porous_medium"\nm = 2\n'
             '[flow]\ntau = 0.002\nsteps = 2\n' + network,
             brenier.Flow(brenier.porous_medium(2), brenier.Density.barenblatt(1, 0.01, mass=2.0), tau=0.002, order=1,
                          particles=200, **SMALL).run(steps=2)),
            ("auto",
             'seed = 3\nprecision = "double"\n[cloud]\ndensity = "gaussian"\ndim = 2\nparticles = 200\n[[functional]]\nterm = "potential"\n'
             'expression = "sum((x - 1)^2)"\n[flow]\ntau = "auto"\nend_time = 0.1\ntolerance = 0.01\n' + network,
             brenier.Flow(brenier.potential("sum((x - 1)^2)"), brenier.Density.gaussian([0, 0]), tau="auto", end_time=0.1,
                          tolerance=0.01, particles=200, seed=3, precision="double", **SMALL).run()),
            ("refresh",
             '[cloud]\ndensity = "gaussian"\nmean = 1\nparticles = 200\n[[functional]]\nterm = "potential"\nexpression = "sum(x^2)"\n'
             '[flow]\ntau = 0.1\nsteps = 2\n[inner]\nsolver = "adam"\niterations = 60\nrefresh = 7\naccept = 1.0\n' + network,
             brenier.Flow(brenier.potential("sum(x^2)"), brenier.Density.gaussian([1]), tau=0.1, order=1, particles=200,
                          solver="adam", iterations=60, refresh=7, accept=1.0, **SMALL).run(steps=2))]:
        (tmp_path / name).mkdir()
        run = finished_run(tmp_path / name, text)
        assert np.array_equal(run.x(), flow.x), name
        assert run.history["time"][-1] == flow.time


@needs_command
def test_read_run(tmp_path):
    run = finished_run(tmp_path, '[cloud]\ndensity = "gaussian"\nmean = 2\nvariance = 0.25\nparticles = 256\nsampling = "whitened"\n'
                       f'[[functional]]\nterm = "entropy"\n[[functional]]\nterm = "potential"\nexpression = "{WELL}"\n'
                       "[flow]\ntau = 0.1\nsteps = 3\norder = 2\n[network]\nhidden = [8, 4]\nquadratic_rank = 1\n"
                       "[held_out]\nparticles = 50\n")
    flow = well_flow().run(steps=3)
    assert run.summary["status"] == "done" and run.dim == 1 and run.cloud_steps[-1] == 3
    assert np.allclose(run.history["F"][-1], flow.functional, rtol=1e-12) and len(run.history["step"]) == 4
    assert np.array_equal(run.x(), flow.x) and np.array_equal(run.particle_log_density(), flow.particle_log_density)
    y = flow.x[:5]
    assert np.array_equal(run.log_density(y), flow.log_density(y)) and np.array_equal(run.pull(y), flow.pull(y))
    assert np.array_equal(run.push([1.0, 2.0]), flow.push([1.0, 2.0])) and len(run.maps()) == len(flow.maps)
    command("sample", tmp_path / "run", "9", "-o", tmp_path / "new.npy", "--step", 2, "--seed", 4)
    assert np.array_equal(run.sample(9, step=2, seed=4), np.load(tmp_path / "new.npy"))
    assert np.array_equal(run.law.sample(256, sampling="whitened"), run.x(0))
    assert "order = 2" in run.settings and ": done, particles at steps [0, 1, 2, 3]" in repr(run)
    for bad in (lambda: run.x(17), lambda: run.push([0.0], step=0)):
        with pytest.raises(ValueError, match="step"):
            bad()
    with pytest.raises(OSError):
        run.log_density(y, step=17)
    settings = pathlib.Path(run.path / "config.toml")
    settings.write_text(settings.read_text().replace("tau = 0.1", "tau = 0.2"))
    with pytest.raises(brenier.ConfigError, match="tau"):
        brenier.read_run(run.path)


# --- the page of examples ----------------------------------------------------------------------------------------


def test_examples_of_the_documentation(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    page = pathlib.Path(__file__).parents[2] / "docs" / "python.md"
    if hasattr(os, "sched_setaffinity"):  # one thread: the flows are small
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        request.addfinalizer(lambda: os.sched_setaffinity(0, before))
    names = {}
    for i, block in enumerate(page.read_text().split("```python\n")[1:]):
        exec(compile(block.split("```")[0], f"docs/python.md, example {i + 1}", "exec"), names)


def test_a_checkpoint_of_another_cloud_comes_without_a_law(tmp_path):
    flow = well_flow(threads=1)
    flow.step()
    flow.save(tmp_path / "first")
    flow.set_cloud(flow.x + 5, flow.particle_log_density)
    flow.step()
    flow.save(tmp_path / "moved")
    other = well_flow(threads=1).load(tmp_path / "moved")
    with pytest.raises(brenier.BadValue, match="law of the start is not known"):
        other.log_density(other.x)
    with pytest.raises(brenier.BadValue, match="law of the start is not known"):
        other.sample(10)
    assert np.abs(other.push(other.pull(other.x)) - other.x).max() < 1e-8
    # Back at the first cloud the law is known again.
    flow.load(tmp_path / "first")
    assert np.allclose(flow.log_density(flow.x), flow.particle_log_density, atol=1e-8)


@pytest.mark.parametrize("certificates", [True, False])
def test_a_checkpoint_from_another_density_is_refused(tmp_path, certificates):
    def flow_from(variance):
        return brenier.Flow(brenier.potential(WELL) + brenier.entropy(), brenier.Density.gaussian([0.0, 0.0], variance),
                            **{"tau": 0.1, "particles": 64, **SMALL, "certificates": certificates})
    flow_from(1.0).run(steps=1).save(tmp_path / "flow")
    other = flow_from(1.1)
    with pytest.raises(brenier.BadValue, match="another initial density"):
        other.load(tmp_path / "flow")
    assert other.steps == 0 and flow_from(1.0).load(tmp_path / "flow").steps == 1


def test_history_goes_back_with_a_checkpoint(tmp_path):
    flow = well_flow(threads=1).run(steps=1)
    flow.save(tmp_path / "flow")
    flow.run(steps=2).load(tmp_path / "flow")
    assert [report["step"] for report in flow.history] == [1]
    flow.step()
    assert [report["step"] for report in flow.history] == [1, 2]


def test_a_law_that_does_not_fit_changes_nothing():
    flow = well_flow(threads=1).run(steps=1)
    x = flow.x
    with pytest.raises(brenier.ShapeError, match=r"law is a density on R\^2"):
        flow.set_cloud(x + 5, flow.particle_log_density, law=brenier.Density.gaussian([0.0, 0.0]))
    assert np.array_equal(flow.x, x) and flow.steps == 1
    assert np.allclose(flow.log_density(x), flow.particle_log_density, atol=1e-8)


def test_what_raises_at_held_out_particles_undoes_the_step():
    broken = False

    def v(x):
        if broken and len(x) == 333:
            raise KeyError("held out")
        return 0.5 * (x**2).sum(axis=1), x

    flow = brenier.Flow(brenier.potential(v), brenier.Density.gaussian([1.0, 0.0], 0.5), particles=100, held_out=333, tau=0.1,
                        hidden=(8,), quadratic_rank=2, threads=1).run(steps=1)
    before, held_out = flow.x, flow.held_out
    broken = True
    with pytest.raises(KeyError, match="held out"):
        flow.step()
    broken = False
    assert flow.steps == 1 and np.array_equal(flow.x, before) and np.array_equal(flow.held_out, held_out)
    assert [report["step"] for report in flow.history] == [1]
    assert flow.step()["functional_held_out"] == flow.held_out_functional


def test_a_save_that_fails_leaves_the_file(tmp_path):
    flow = well_flow(threads=1).run(steps=1)
    flow.save(tmp_path / "flow")
    whole = (tmp_path / "flow").read_bytes()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(brenier.IoError, match="flow"):
            flow.run(steps=1).save(tmp_path / "flow")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "flow").read_bytes() == whole
    (tmp_path / "garbage").write_bytes(b"x" * 100)
    for name in ("garbage", "nowhere"):
        with pytest.raises(brenier.IoError, match=name):
            flow.load(tmp_path / name)


def test_terms_keep_what_they_were_made_of():
    x = np.linspace(-1, 1, 20)[:, None]

    def energy(term):
        return brenier.Flow(term, x, tau=0.1, threads=1, accept=1.0).functional

    reference, weights = x + 1, np.full(20, 0.05)
    for make in (lambda: brenier.sinkhorn(reference, blur=1.0, weights=weights), lambda: brenier.mmd(reference, weights=weights),
                 lambda: brenier.energy_distance(reference, weights=weights),
                 lambda: brenier.potential("0.5*dot(x, A*x)", A=reference[:1]),
                 lambda: brenier.gaussian_mixture(reference, weights, weights)):
        reference[:], weights[:] = x + 1, 0.05
        term = make()
        before = energy(term)
        reference[:], weights[:] = 1e3, 0.01
        assert energy(term) == before


def test_a_flow_goes_on_in_a_child_process():
    flow = well_flow(threads=2).run(steps=1)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        flow.step()
        del flow
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_the_density_at_nan_is_not_known():
    flow = well_flow(threads=1).run(steps=1)
    assert np.isnan(flow.log_density([np.nan]))[0] and np.isneginf(flow.log_density([np.inf]))[0]
    assert np.isnan(brenier.Density.gaussian([0.0]).log_density([np.nan]))[0]


def test_distances_say_what_they_cannot_do():
    x, y = np.random.default_rng(0).normal(size=(2, 9, 2))
    with pytest.raises(brenier.NumericalError, match="another unit of length"):
        brenier.distance(x * 1e200, y, "energy")
    for metric in ("energy", "sinkhorn", "mmd"):
        with pytest.raises(brenier.BadValue, match="threads = 1000000; it must be at least 1 and at most 4096"):
            brenier.distance(x, y, metric, blur=1.0, threads=10**6)


@pytest.mark.parametrize("steps", [1.5, -1, np.nan, True, "1"])
def test_steps_of_a_run_are_a_whole_number(steps):
    flow = well_flow(threads=1)
    with pytest.raises(brenier.BadValue, match="steps = .*; it must be a whole number, at least 0"):
        flow.run(steps=steps)
    assert flow.steps == 0 and flow.run(steps=np.int64(0)).steps == 0
