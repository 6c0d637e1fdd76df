#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What figures of several runs show: usage: check_figures.py FOLDER_OF_PLOT_PY

Two taus with five seeds each follow a known curve; the lines, bands, limits and labels that are drawn are read back.
Runs that differ in more are refused with the key.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

CONFIG = """seed = {seed}
threads = 2

[cloud]
density = "gaussian"
dim = {dim}
particles = 9

[[functional]]
term = "potential"
expression = "{expression}"

[flow]
tau = {tau}
steps = {steps}

[network]
hidden = [{width}]
"""


def exact(time, tau: float, seed: int):
    return np.exp(-2 * time) * (1 + 0.1 * tau * seed) + tau


def make_run(run: Path, *, tau: float, seed: int, dim: int = 1, expression: str = "sum(x^2)", width: int = 7) -> Path:
    steps = round(1 / tau)
    (run / "clouds").mkdir(parents=True)
    (run / "config.toml").write_text(
        CONFIG.format(seed=seed, tau=tau, steps=steps, dim=dim, expression=expression, width=width))
    (run / "summary.json").write_text(json.dumps({"dim": dim}))
    rows = ["step,time,F,F_heldout,iterations,residual"]
    for k in range(steps + 1):
        time = k * tau
        rows.append(f"{k},{time!r},{float(exact(time, tau, seed))!r},,{k},")
        points = np.linspace(-1, 1, 9 * dim).reshape(9, dim) * (1 + seed) - 3
        points[-1, 0] = 50 + k  # one that is far away
        np.save(run / "clouds" / f"step_{k:06d}.npy", points)
        np.save(run / "clouds" / f"log_density_{k:06d}.npy", np.linspace(-20, -1, 9))
    (run / "history.csv").write_text("\n".join(rows) + "\n")
    return run


def check(condition: bool, what: str) -> None:
    if not condition:
        WRONG.append(what)


def refused(plot, runs, by, *pieces: str) -> None:
    try:
        plot.groups_of(runs, by)
    except ValueError as error:
        check(all(piece in str(error) for piece in pieces), f"the refusal says: {error}")
    else:
        check(False, f"runs with other {pieces[0]} were drawn as one")


def check_bands(plot, root: Path) -> None:
    taus, seeds = (0.2, 0.05), range(1, 6)
    runs = [plot.Run(make_run(root / f"{tau}-{seed}", tau=tau, seed=seed)) for tau in taus for seed in seeds]
    refused(plot, runs, None, "flow.tau", "0.2", "0.05", "--by flow.tau")
    groups = plot.groups_of(runs, "flow.tau")
    axes = plot.objective(groups).axes[0]
    check([text.get_text() for text in axes.get_legend().get_texts()] == [f"flow.tau = {tau}" for tau in taus],
          "a label for each tau")
    check(len(axes.lines) == 2 and len(axes.collections) == 2, "a line and a band for each tau")
    for line, band, tau in zip(axes.lines, axes.collections, taus):
        time = tau * np.arange(round(1 / tau) + 1)
        check(np.allclose(line.get_xdata(), time, atol=1e-12), f"times of tau = {tau}")
        values = np.array([exact(time, tau, seed) for seed in seeds])
        check(np.allclose(line.get_ydata(), values.mean(axis=0), rtol=1e-12), f"means of tau = {tau}")
        edge = band.get_paths()[0].vertices
        check(np.isclose(edge[:, 1].max(), values.max()) and np.isclose(edge[:, 1].min(), values.min()),
              f"band of tau = {tau}")
    titles = [one.get_title() for one in plot.certificates(groups).axes]
    check(titles == ["inner iterations"], f"panels of what is known: {titles}")

    # Other times in one group: both curves are linear between their steps.
    coarse, fine = plot.Group(None, [runs[0], runs[5]]), runs[0].column("time")
    times, mean, *_ = coarse.band("iterations")
    check(len(times) == 21 and np.allclose(mean, 0.5 * (times / 0.2 + times / 0.05)), "interpolated between steps")
    check(np.allclose(plot.common_times(runs, [0.19, 1.0]), [0.2, 1.0]), "the nearest common times")
    check(np.isin(np.round(plot.common_times(runs), 12), np.round(fine, 12)).all(), "common times only")


def check_refusals(plot, root: Path) -> None:
    base = plot.Run(make_run(root / "base", tau=0.5, seed=1))
    other = plot.Run(make_run(root / "other", tau=0.5, seed=2, expression="sum(x^4)"))
    refused(plot, [base, other], None, "functional.0.expression", "different problems", "sum(x^4)")
    refused(plot, [base, other], "functional.0.expression", "functional.0.expression", "different problems")
    plane = plot.Run(make_run(root / "plane", tau=0.5, seed=2, dim=2))
    refused(plot, [base, plane], None, "cloud.dim", "different problems")
    wide = plot.Run(make_run(root / "wide", tau=0.5, seed=2, width=9))
    refused(plot, [base, wide], None, "network.hidden", "--by network.hidden")
    refused(plot, [base, wide], "flow.tau", "network.hidden", "beside flow.tau")
    check(len(plot.groups_of([base, wide], "network.hidden")) == 2, "a group for each width")


def check_judged(plot, root: Path) -> None:
    """F on the particles and on held-out ones are never lines of one figure."""
    runs = [plot.Run(make_run(root / f"{tau}", tau=tau, seed=1)) for tau in (0.5, 0.25)]
    axes = plot.objective(plot.groups_of(runs, "flow.tau")).axes[0]
    check(axes.get_ylabel() == "F on the particles", axes.get_ylabel())
    runs[0].history["F_heldout"] = 9 + runs[0].column("F")
    axes = plot.objective(plot.groups_of(runs, "flow.tau")).axes[0]
    check(max(line.get_ydata().max() for line in axes.lines) < 9, "held-out F of one group beside F of another")
    runs[1].history["F_heldout"] = 9 + runs[1].column("F")
    axes = plot.objective(plot.groups_of(runs, "flow.tau")).axes[0]
    check(min(line.get_ydata().min() for line in axes.lines) > 9, "held-out F where all have it")


def check_several_keys(plot, root: Path) -> None:
    runs = [plot.Run(make_run(root / f"{tau}-{width}", tau=tau, seed=1, width=width)) for tau in (0.5, 0.25) for width in (3, 5)]
    refused(plot, runs, "flow.tau", "network.hidden", "beside flow.tau")
    labels = [group.label for group in plot.groups_of(runs, "flow.tau,network.hidden")]
    check(labels[0] == "flow.tau = 0.5, network.hidden = [3]" and len(labels) == 4, f"labels: {labels}")


def check_scatter(plot, root: Path) -> None:
    run = plot.Run(make_run(root / "scatter", tau=0.5, seed=1, dim=2))
    times = plot.common_times([run])
    run.load([run.step_at(t) for t in times])
    axes = plot.density_scatter(plot.groups_of([run], None), times).axes
    check(len(axes) == len(times) + 1 and axes[-1].get_ylabel() == "density", "a colour bar")
    for panel, time in zip(axes, times):
        points = run.clouds[run.step_at(time)]
        (x0, x1), (y0, y1) = panel.get_xlim(), panel.get_ylim()
        check(((points > [x0, y0]) & (points < [x1, y1])).all(), f"all particles at t = {time}")


def check_targets(plot, root: Path) -> None:
    """Points and laws that a flow goes toward are drawn, and lie within the limits."""
    import scene

    points = np.random.default_rng(0).normal(size=(50, 2)) + 90
    root.mkdir()
    np.save(root / "y.npy", points)
    np.savez_compressed(root / "y.npz", x=points)
    np.savetxt(root / "y.csv", points, delimiter=";", header="a;b", comments="")
    for name in ("y.npy", "y.npz", "y.csv"):
        check(np.array_equal(scene.read_points(root / name), points), f"points of {name}")
    mixture = 'term = "gaussian_mixture"\nweight = {weight}\nmeans = [[-2, 0], [2, 1]]\nvariances = [0.5, 0.25]\nweights = [1, 3]'
    terms = {"points": f'term = "sinkhorn"\nweight = 1\nreference = "{root / "y.npy"}"', "initial": 'term = "mmd"\nreference = "initial"',
             "mixture": mixture.format(weight=1) + '\n\n[[functional]]\nterm = "entropy"\nweight = 1',
             "other": mixture.format(weight=2) + '\n\n[[functional]]\nterm = "entropy"\nweight = 1',
             "gone": f'term = "sinkhorn"\nweight = 1\nreference = "{root / "gone.npy"}"'}
    grey = matplotlib_rgb(plot.AIM)
    for name, term in terms.items():
        folder = make_run(root / name, tau=0.5, seed=1, dim=2)
        text = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(text.replace('term = "potential"\nexpression = "sum(x^2)"', term))
        run = plot.Run(folder)
        times = plot.common_times([run])
        run.load([run.step_at(t) for t in times])
        with contextlib.redirect_stderr(io.StringIO()) as said:
            target = scene.Target(run)
            axes = plot.density_scatter(plot.groups_of([run], None), times).axes[0]
        check((len(target.clouds), target.mixture is not None) == {"points": (1, False), "mixture": (0, True)}.get(name, (0, False)),
              f"target of {name}")
        drawn = [one for one in axes.collections if len(one.get_facecolor()) and np.allclose(one.get_facecolor()[0][:3], grey)]
        check(len(drawn) == (name == "points"), f"target drawn of {name}")
        check(("gone.npy" in said.getvalue()) == (name == "gone"), f"what cannot be read is said: {said.getvalue()}")
        if name == "points":
            check(np.array_equal(drawn[0].get_offsets(), points) and axes.get_xlim()[1] > points[:, 0].max(), "points of the target")
        if name == "mixture":
            x = np.linspace(-9, 9, 400)
            plane = target.mixture.in_plane(scene.View([np.array([[-9.0, -9], [9, 9]])]), x, x)
            step = x[1] - x[0]
            check(abs(plane.sum() * step**2 - 1) < 1e-6, "mass of the mixture in the plane")
            for axis in (0, 1):
                line = target.mixture.on_line(x, axis)
                check(np.allclose(plane.sum(axis=axis) * step, line, atol=1e-6), f"marginal {axis} of the mixture")


def matplotlib_rgb(colour: str):
    import matplotlib.colors

    return matplotlib.colors.to_rgb(colour)


def check_marginals(plot, root: Path) -> None:
    for dim, count in ((3, 3), (8, 6)):
        run = plot.Run(make_run(root / f"{dim}", tau=0.5, seed=1, dim=dim))
        times = plot.common_times([run])
        run.load([run.step_at(t) for t in times])
        panels = plot.marginals(plot.groups_of([run], None), times).axes
        check(len(panels) == count * (count + 1) // 2, f"{len(panels)} panels of {dim} dimensions")
        if dim == 3:  # rows of a triangle: x[0]; x[1] over x[0]; ...
            first, last = (offsets.get_offsets() for offsets in panels[1].collections)
            check(np.array_equal(last, run.clouds[run.step_at(times[-1])][:, [0, 1]]), "x[1] over x[0] at the end")
            check(np.array_equal(first, run.clouds[0][:, [0, 1]]), "x[1] over x[0] at the start")


def check_formats(plot, root: Path) -> None:
    run = make_run(root / "formats", tau=0.5, seed=1)
    sys.argv = ["plot.py", "--format", "png,pdf,svg", "--times", "0,1", "--out", str(root / "out"), str(run)]
    with contextlib.redirect_stdout(io.StringIO()):
        plot.main()
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for name in ("density", "objective", "certificates"):
        for kind, start in starts.items():
            check((root / "out" / f"{name}.{kind}").read_bytes().startswith(start), f"{name}.{kind}")


WRONG: list[str] = []


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import plot

    with tempfile.TemporaryDirectory() as scratch:
        for one in (check_bands, check_refusals, check_judged, check_several_keys, check_scatter, check_targets, check_marginals, check_formats):
            one(plot, Path(scratch, one.__name__))
    if WRONG:
        sys.exit("\n".join(WRONG))
    print("figures show what the runs have")


if __name__ == "__main__":
    main()
