#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Figures of Brenier runs: density.png, objective.png and certificates.png.

usage: plot.py [--out FOLDER] RUN [RUN...]

One run: into RUN/figures. Several runs of one problem (seeds): means with bands from the smallest to the
largest value, into FOLDER, by default `figures` beside the runs. Needs numpy and matplotlib.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}
TIMES = 5

plt.rcParams.update({
    "figure.dpi": 110, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "lines.linewidth": 1.5, "legend.frameon": False, "figure.constrained_layout.use": True,
})


class Damaged(ValueError):
    """A file of a run folder that is not what it should be."""

    def __init__(self, path, what):
        super().__init__(f"'{path}' is damaged: {what}")


class Run:
    """A run folder, read only. What is read is checked: Damaged and OSError name the file."""

    def __init__(self, path):
        self.path = Path(path)
        self.summary = self._read_summary()
        self.dim = self.summary["dim"]
        self.history = self._read_history()
        self.clouds, self.log_densities = {}, {}  # by step, after load()
        names = (file.stem.removeprefix("step_") for file in (self.path / "clouds").glob("step_*.npy"))
        steps = {int(name) for name in names if name.isdecimal()}
        self.steps = sorted(step for step in steps if step < len(self.history["step"]))
        self.exact_density = None
        file = self.path / "figures" / "exact_density.npy"
        if file.exists():
            self.exact_density = self._array(file, lambda x: x.ndim == 2 and x.shape[1] == 3)

    def _read_summary(self):
        file = self.path / "summary.json"
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Damaged(file, error) from error
        if not isinstance(summary, dict) or not isinstance(summary.get("dim"), int) or summary["dim"] < 1:
            raise Damaged(file, "it has no dim")
        exact = summary.setdefault("exact", {})
        if not isinstance(exact, dict) or not isinstance(exact.get("functional", 0.0), (int, float)):
            raise Damaged(file, f"exact = {exact!r}")
        if not isinstance(summary.setdefault("mass", 1.0), (int, float)):
            raise Damaged(file, f"mass = {summary['mass']!r}")
        return summary

    def _read_history(self):
        """Columns by name; one row for each step from 0."""
        file = self.path / "history.csv"
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            names = lines[0].split(",") if lines else []
            rows = [line.split(",") for line in lines[1:]]
            if not {"step", "time", "F"} <= set(names):
                raise ValueError("its first line does not name step, time and F")
            if not rows or any(len(row) != len(names) for row in rows):
                raise ValueError("it has no rows, or one with another number of columns")
            table = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows])
            if not np.array_equal(table[:, names.index("step")], np.arange(len(rows))):
                raise ValueError("its steps are not 0, 1, 2, ...")
        except ValueError as error:
            raise Damaged(file, error) from error
        return dict(zip(names, table.T))

    @staticmethod
    def _array(file, fits):
        try:
            x = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise Damaged(file, error) from error
        if x.dtype.kind != "f" or not fits(x):
            raise Damaged(file, f"an array of {x.dtype} with the shape {x.shape}")
        return x

    def load(self, steps):
        """Reads the clouds of these steps."""
        for step in steps:
            self._load(step)

    def _load(self, step):
        file = self.path / "clouds" / f"step_{step:06d}.npy"
        cloud = self._array(file, lambda x: x.ndim in (1, 2) and len(x) > 0 and x.size == len(x) * self.dim)
        if not np.isfinite(cloud).all():
            raise Damaged(file, "a coordinate is not finite")
        self.clouds[step] = cloud.reshape(len(cloud), -1)
        file = self.path / "clouds" / f"log_density_{step:06d}.npy"
        if file.exists():
            self.log_densities[step] = self._array(file, lambda x: x.shape == (len(cloud),))

    def column(self, name):
        """A column of the history, or NaN where the run does not have it."""
        return self.history.get(name, np.full(len(self.history["step"]), np.nan))

    def time(self, step):
        return float(self.history["time"][step])


def chosen(steps, count=TIMES):
    """About `count` of the steps, first and last among them; denser at the start, where flows are fast."""
    steps = list(steps)
    if len(steps) <= count:
        return steps
    places = np.linspace(0, 1, count) ** 1.5 * (len(steps) - 1)
    return [steps[i] for i in sorted(set(np.rint(places).astype(int)))]


def shades(count):
    return plt.get_cmap("viridis")(np.linspace(0.0, 0.85, count))


def smoothed(x, grid):
    """Gaussian kernel estimate with Silverman's width, by way of a fine histogram."""
    spread = min(x.std(), np.subtract(*np.percentile(x, [75, 25])) / 1.349) or x.std() or 1.0
    width = 0.9 * spread * len(x) ** -0.2
    edges = np.linspace(grid[0] - 4 * width, grid[-1] + 4 * width, 2049)
    counts, _ = np.histogram(x, edges)
    centres = 0.5 * (edges[1:] + edges[:-1])
    kernel = np.exp(-0.5 * ((grid[:, None] - centres[None, :]) / width) ** 2)
    return kernel @ counts / (len(x) * width * np.sqrt(2 * np.pi))


def density_on(run, step, grid):
    """Density of one run at one time on a grid: from the running log-densities where they are known."""
    x, log_density = run.clouds[step][:, 0], run.log_densities.get(step)
    if log_density is None:
        return run.summary["mass"] * smoothed(x, grid)
    order = np.argsort(x)
    return np.interp(grid, x[order], np.exp(log_density[order]), left=0.0, right=0.0)


def density_1d(runs, steps):
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    extent = max(np.abs(run.clouds[step]).max() for run in runs for step in steps)
    grid = np.linspace(-1.15 * extent, 1.15 * extent, 1201)
    exact = runs[0].exact_density
    labelled = False
    for step, colour in zip(steps, shades(len(steps))):
        values = np.array([density_on(run, step, grid) for run in runs])
        values[:, (values == 0).all(axis=0)] = np.nan  # a line ends with its cloud
        time = runs[0].time(step)
        axes.plot(grid, values.mean(axis=0), color=colour, label=f"t = {time:.4g}")
        if len(runs) > 1:
            axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.25, lw=0)
        if exact is None:
            continue
        at = np.isclose(exact[:, 0], time, rtol=1e-9, atol=1e-12)
        if at.any():
            axes.plot(exact[at, 1], exact[at, 2], **EXACT)
            labelled = True
    if labelled:
        axes.plot([], [], **EXACT, label="exact")
    axes.set(xlabel="x", ylabel="density", xlim=(grid[0], grid[-1]), ylim=(0, None))
    axes.legend()
    return figure


def density_scatter(runs, steps):
    """Clouds of the first run; above two dimensions, in the principal axes of the last one."""
    run = runs[0]
    axes_of = np.eye(run.dim)[:, :2]
    names = ("$x_0$", "$x_1$")
    centre = np.zeros(run.dim)
    if run.dim > 2:
        last = run.clouds[steps[-1]]
        centre = last.mean(axis=0)
        axes_of = np.linalg.svd(last - centre, full_matrices=False)[2][:2].T
        names = ("first principal axis", "second")
    clouds = [(run.clouds[step] - centre) @ axes_of for step in steps]
    limit = 1.05 * max(np.percentile(np.abs(points), 99.8) for points in clouds)
    figure, panels = plt.subplots(1, len(steps), figsize=(2.1 * len(steps), 2.8), sharex=True, sharey=True,
                                  squeeze=False)
    for panel, step, points in zip(panels[0], steps, clouds):
        shown = points[:: max(1, len(points) // 5000)]
        log_density = run.log_densities.get(step)
        size = 90.0 / np.sqrt(len(shown))
        if log_density is not None:
            colour = log_density[:: max(1, len(points) // 5000)]
            colour = np.exp(colour - colour.max())
            panel.scatter(*shown.T, s=size, c=colour, cmap="viridis", lw=0, rasterized=True)
        else:
            panel.scatter(*shown.T, s=size, color=BLUE, lw=0, rasterized=True)
        panel.set(title=f"t = {run.time(step):.4g}", xlabel=names[0], aspect="equal")
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit))
    panels[0][0].set_ylabel(names[1])
    return figure


def banded(axes, runs, name, colour, label, skip_first=False, width=1.5):
    """One column over time: a line, or the mean of several runs with a band. True where known."""
    rows = min(len(run.column("time")) for run in runs)
    first = 1 if skip_first else 0
    time = runs[0].column("time")[first:rows]
    values = np.array([run.column(name)[first:rows] for run in runs])
    known = np.isfinite(values).all(axis=0)
    if not known.any():
        return False
    axes.plot(time[known], values.mean(axis=0)[known], color=colour, label=label, lw=width)
    if len(runs) > 1:
        low, high = values.min(axis=0)[known], values.max(axis=0)[known]
        axes.fill_between(time[known], low, high, color=colour, alpha=0.25, lw=0)
    return True


def objective(runs):
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    banded(axes, runs, "F", BLUE, "particles", width=3.5)
    banded(axes, runs, "F_heldout", ORANGE, "held-out particles")
    curve = runs[0].column("F_exact")
    if np.isfinite(curve).sum() > 1:
        axes.plot(runs[0].column("time"), curve, **EXACT, label="exact solution")
    elif "functional" in runs[0].summary["exact"]:
        axes.axhline(runs[0].summary["exact"]["functional"], **EXACT, label="infimum")
    if np.isfinite(runs[0].column("F_scheme")).sum() > 1:
        axes.plot(runs[0].column("time"), runs[0].column("F_scheme"), color=GREEN, lw=0, marker="o", ms=2.5,
                  mfc="none", label="exact iterates")
    axes.set(xlabel="t", ylabel="F")
    axes.legend()
    return figure


def error(run, reference):
    """|F - reference| of the held-out cloud where it is known, otherwise of the particles."""
    rows = len(reference)
    held_out = run.column("F_heldout")[:rows]
    return np.abs(np.where(np.isfinite(held_out), held_out, run.column("F")[:rows]) - reference)


def certificates(runs):
    figure, panels = plt.subplots(2, 4, figsize=(11.2, 4.6))

    def panel(axes, name, title, log, colour=BLUE):
        something = banded(axes, runs, name, colour, None, skip_first=True)
        if not something:
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=GREY)
        elif log and all(np.nanmin(run.column(name)[1:], initial=np.inf) > 0 for run in runs):
            axes.set_yscale("log")
        elif log:  # a decrease is negative where the network lost ground
            largest = max(np.nanmax(np.abs(run.column(name))) for run in runs)
            axes.set_yscale("symlog", linthresh=1e-3 * largest or 1.0)
        axes.set(title=title, xlabel="t")

    panel(panels[0, 0], "residual", "residual of the inner problem", True)
    panel(panels[0, 1], "decrease", r"decrease of $F + W_2^2/2\tau$", True)
    panel(panels[0, 2], "min_log_det", r"smallest $\log\det H$", False)
    panel(panels[0, 3], "min_eigenvalue", r"smallest eigenvalue of $H$", False)
    panel(panels[1, 0], "iterations", "inner iterations", False)
    panel(panels[1, 1], "seconds", "seconds per step", False)
    panel(panels[1, 2], "round_trip", r"round trip $|\nabla u^*(\nabla u(x)) - x|$", True)
    for axes in panels[1, :2]:
        axes.set_ylim(0, None)

    axes = panels[1, 3]
    drawn = False
    rows = min(len(run.column("time")) for run in runs)
    stated = runs[0].summary["exact"].get("functional", np.nan)
    for name, label, colour in (("F_exact", "exact solution", RED), ("F_scheme", "exact iterate", GREEN)):
        references = [run.column(name)[:rows] for run in runs]
        if name == "F_exact" and np.isfinite(references[0]).sum() <= 1:
            references, label = [np.full(rows, stated)] * len(runs), "infimum"
        values = np.array([error(run, reference) for run, reference in zip(runs, references)])
        known = np.isfinite(values).all(axis=0) & (values > 0).all(axis=0)
        known[0] = False  # the start is exact
        if not known.any():
            continue
        drawn = True
        time, values = runs[0].column("time")[:rows][known], values[:, known]
        axes.plot(time, values.mean(axis=0), color=colour, label=label)
        if len(runs) > 1:
            axes.fill_between(time, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.25, lw=0)
    axes.set(title="distance of F from", xlabel="t")
    if drawn:
        axes.set_yscale("log")
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no closed form", transform=axes.transAxes, ha="center", color=GREY)
    return figure


def save(figure, folder, name):
    """Whole or not at all: a figure that is being looked at is never half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial.png"
    figure.savefig(partial)
    os.replace(partial, folder / name)
    plt.close(figure)
    print(folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for the figures")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    try:
        runs = [Run(path) for path in arguments.runs]
        if len({run.dim for run in runs}) > 1:
            sys.exit("plot: the runs have different dimensions; plot them one by one")
        steps = chosen(sorted(set.intersection(*(set(run.steps) for run in runs))))
        for run in runs:
            run.load(steps)
    except (OSError, Damaged) as error:
        sys.exit(f"plot: {error}")
    out = arguments.out
    if out is None:
        out = runs[0].path / "figures" if len(runs) == 1 else \
            Path(os.path.commonpath([run.path.resolve().parent for run in runs])) / "figures"
    try:
        if steps:
            density = density_1d if runs[0].dim == 1 else density_scatter
            save(density(runs, steps), out, "density.png")
        save(objective(runs), out, "objective.png")
        save(certificates(runs), out, "certificates.png")
    except OSError as error:
        sys.exit(f"plot: the figures cannot be written: {error}; choose another folder with --out")


if __name__ == "__main__":
    main()
