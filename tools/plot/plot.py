#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Figures of Brenier runs: density, objective and certificates, above two dimensions marginals, as .png, .pdf or .svg.

usage: plot.py [--out FOLDER] [--by KEY] [--times T,T,...] [--format png,pdf,svg] RUN [RUN...]

One run: into RUN/figures. Several runs of one problem (seeds): means over time with bands from the smallest to the
largest value, into FOLDER, by default `figures` beside the runs. With --by flow.tau a line for each value of that key; runs of a sweep have one for each of its values.
Runs of different problems are refused. Needs numpy and matplotlib.
"""

import argparse
import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import scene  # noqa: E402

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
EXACT = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}
TARGET = {"color": GREY, "lw": 1.1, "ls": (0, (1, 1))}
AIM = "#B0B0B0"  # points and contours of a target
TIMES = 5
LARGEST = 1e150  # a coordinate whose square is a number
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)

# Keys that make no other result to compare: what a run is repeated with, where it ran, what it writes.
FREE = ("seed", "threads", "device", "flow.steps", "held_out.every", "output.")
# Keys that make another problem, whose runs are never drawn in one figure; these of [cloud] do not.
PROBLEM = ("cloud.", "functional.", "parameters.", "exact.", "flow.start_time")
SAME_PROBLEM = ("cloud.particles", "cloud.sampling")

plt.rcParams.update({
    "figure.dpi": 110, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "lines.linewidth": 1.5, "legend.frameon": False, "figure.constrained_layout.use": True,
})


def settings(text):
    """The keys of a resolved configuration, which has one on each line, with their values as written."""
    out, table, arrays = {}, "", {}
    for line in text.splitlines():
        if line.startswith("[["):
            name = line.strip("[]")
            arrays[name] = arrays.get(name, -1) + 1
            table = f"{name}.{arrays[name]}."
        elif line.startswith("["):
            table = line.strip("[]") + "."
        elif " = " in line and not line.startswith("#"):
            key, value = line.split(" = ", 1)
            out[table + key] = value
    return out


class Damaged(ValueError):
    """A file of a run folder that is not what it should be."""

    def __init__(self, path, what):
        super().__init__(f"'{path}' is damaged: {what}")


class Run:
    """A run folder, read only. What is read is checked: Damaged and OSError name the file."""

    def __init__(self, path):
        self.path = Path(path)
        self.settings = self._read_settings()
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

    def _read_settings(self):
        file = self.path / "config.toml"
        try:
            return settings(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise Damaged(file, error) from error

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
        if (largest := np.abs(cloud).max()) > LARGEST:
            raise ValueError(f"'{file}' has the coordinate {largest:.4g}; at most {LARGEST:g} can be drawn: "
                             "choose another unit of length")
        self.clouds[step] = cloud.reshape(len(cloud), -1)
        file = self.path / "clouds" / f"log_density_{step:06d}.npy"
        if file.exists():
            self.log_densities[step] = self._array(file, lambda x: x.shape == (len(cloud),))

    def column(self, name):
        """A column of the history, or NaN where the run does not have it."""
        return self.history.get(name, np.full(len(self.history["step"]), np.nan))

    def time(self, step):
        return float(self.history["time"][step])

    def step_at(self, time):
        """The step whose cloud is there at a time, or None."""
        return next((step for step in self.steps if same_time(self.time(step), time)), None)


def compact(figure):
    """No empty space between panels that are squares, where matplotlib knows how (3.6)."""
    try:
        figure.set_layout_engine("compressed")
    except (AttributeError, ValueError):
        pass
    return figure


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


def unit_of(peak):
    """The logarithm of the density that densities are drawn in, and how the axis calls them: of clouds that are very small or
    very large they are no numbers of doubles."""
    if peak is None or abs(peak) < 300:
        return 0.0, "density"
    return peak, f"density, in exp({peak:.4g})"


def density_on(run, step, grid, unit=0.0):
    """Density of one run at one time on a grid: from the running log-densities where they are known."""
    x, log_density = run.clouds[step][:, 0], run.log_densities.get(step)
    if log_density is None:
        return run.summary["mass"] * smoothed(x, grid)
    order = np.argsort(x)
    return np.interp(grid, x[order], np.exp(log_density[order] - unit), left=0.0, right=0.0)


def same_time(a, b):
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-3)


class Group:
    """Runs that differ in their seed only, or one run."""

    def __init__(self, label, runs):
        self.label, self.runs = label, runs

    def band(self, name, skip_first=False):
        """One column over time: (times, mean, smallest, largest), or None where it is not known. Runs with other times
        are interpolated between theirs, where all of them are known."""
        curves = []
        for run in self.runs:
            time, values = run.column("time"), run.column(name)
            known = np.isfinite(values)
            known[:1] &= not skip_first
            if not known.any():
                return None
            curves.append((time[known], values[known]))
        times = curves[0][0]
        if any(len(time) != len(times) or not np.allclose(time, times, rtol=1e-9, atol=1e-12) for time, _ in curves):
            first, last = max(time[0] for time, _ in curves), min(time[-1] for time, _ in curves)
            times = np.unique(np.concatenate([time for time, _ in curves]))
            times = times[(times >= first) & (times <= last)]
            if not len(times):
                return None
        values = np.array([np.interp(times, time, column) for time, column in curves])
        return times, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def swept(runs):
    """The keys that a sweep was over, with commas between, where the runs are of one sweep; else None."""
    folders = {run.path.resolve().parent for run in runs}
    if len(runs) < 2 or len(folders) > 1:
        return None
    try:
        with (folders.pop() / "summary.csv").open(encoding="utf-8", newline="") as file:
            names = next(csv.reader(file), [])
    except (OSError, ValueError):
        return None
    keys = names[1:names.index("status")] if names[:1] == ["run"] and "status" in names else []
    return ",".join(key for key in keys if key not in FREE) or None


def shown(value):
    """A value of a configuration for a label."""
    return value.strip('"')


def groups_of(runs, by):
    """The runs by the values of the keys in `by`, with commas between. ValueError, with the key, for runs that cannot be in one figure."""
    keys = by.split(",") if by else []
    first = runs[0]
    for run in runs[1:]:
        for key in sorted(set(first.settings) | set(run.settings)):
            values = [one.settings.get(key, "(not there)") for one in (first, run)]
            if values[0] == values[1] or any(key == free or free[-1] == "." and key.startswith(free) for free in FREE):
                continue
            what = f"{key} is {values[0]} in {first.path}, but {values[1]} in {run.path}"
            if key.startswith(PROBLEM) and key not in SAME_PROBLEM:
                raise ValueError(f"the runs are of different problems: {what}; plot them one by one")
            if key not in keys:
                raise ValueError(f"the runs differ in more than their seed: {what}; "
                                 f"draw a line for each value with --by {key}" if by is None else
                                 f"beside {by} the runs differ in {what}; plot those apart")
    if not keys:
        return [Group(None, runs)]
    out = {}
    for run in runs:
        for key in keys:
            if key not in run.settings:
                raise ValueError(f"{run.path} has no key '{key}'; brenier info RUN/config.toml shows those it has")
        out.setdefault(tuple(run.settings[key] for key in keys), []).append(run)
    return [Group(", ".join(f"{key} = {shown(value)}" for key, value in zip(keys, values)), members)
            for values, members in out.items()]


def common_times(runs, wanted=None):
    """Times at which every run has a cloud: about TIMES of them, or the nearest ones to those that are wanted."""
    first = runs[0]
    times = [first.time(step) for step in first.steps]
    times = [t for t in times if all(run.step_at(t) is not None for run in runs)]
    if wanted is None or not times:
        return chosen(times)
    return sorted({min(times, key=lambda t: abs(t - one)) for one in wanted})


def density_1d(groups, times):
    """One panel a group."""
    runs = [run for group in groups for run in group.runs]
    figure, panels = plt.subplots(1, len(groups), figsize=(5.2 if len(groups) == 1 else 4.0 * len(groups), 3.4),
                                  squeeze=False, sharex=True, sharey=True)
    target = scene.Target(runs[0])
    unit, name = unit_of(scene.peak_of([run.log_densities.get(run.step_at(t)) for run in runs for t in times]))
    grid = np.linspace(*scene.interval([run.clouds[run.step_at(t)][:, 0] for run in runs for t in times] + target.clouds), 1201)
    for axes, group in zip(panels[0], groups):
        exact = group.runs[0].exact_density
        labelled = False
        for time, colour in zip(times, shades(len(times))):
            values = np.array([density_on(run, run.step_at(time), grid, unit) for run in group.runs])
            values[:, (values == 0).all(axis=0)] = np.nan  # a line ends with its cloud
            axes.plot(grid, values.mean(axis=0), color=colour, label=f"t = {time:.4g}")
            if len(group.runs) > 1:
                axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.25, lw=0)
            if exact is None:
                continue
            at = np.isclose(exact[:, 0], time, rtol=1e-9, atol=1e-12)
            if at.any():
                axes.plot(exact[at, 1], exact[at, 2] * np.exp(-unit), **EXACT)
                labelled = True
        if labelled:
            axes.plot([], [], **EXACT, label="exact")
        for k, curve in enumerate(target_lines(target, grid, runs[0].summary["mass"])):
            axes.plot(grid, curve * np.exp(-unit), **TARGET, label="target" if k == 0 else None)
        axes.set(xlabel="x", xlim=(grid[0], grid[-1]), ylim=(0, None), title=group.label or "")
        axes.legend()
    panels[0][0].set_ylabel(name)
    return figure


def target_lines(target, grid, mass):
    """Densities that a flow on the line goes toward, those of points smoothed."""
    out = [mass * smoothed(points[:, 0], grid) for points in target.clouds]
    return out + ([mass * target.mixture.on_line(grid)] if target.mixture else [])


def draw_target(axes, target, view):
    for points in target.clouds:
        shown = scene.thinned(view.place(points))
        axes.scatter(*shown.T, s=90.0 / np.sqrt(len(shown)), color=AIM, lw=0, rasterized=True, zorder=0)
    if target.mixture:
        x, y, values, levels = target.mixture.contours(view)
        axes.contour(x, y, values, levels, colors=AIM, linewidths=0.8, zorder=0)


def density_scatter(groups, times):
    """Clouds of the first run of each group, a row each, over the target in grey; above two dimensions, in the principal axes
    of the last cloud."""
    runs = [group.runs[0] for group in groups]
    steps = [[run.step_at(t) for t in times] for run in runs]
    target = scene.Target(runs[0])
    view = scene.View(target.clouds + [run.clouds[step] for run, row in zip(reversed(runs), reversed(steps)) for step in row])
    figure, panels = plt.subplots(len(runs), len(times), figsize=(2.1 * len(times) + 0.8, 2.4 * len(runs) + 0.4),
                                  sharex=True, sharey=True, squeeze=False)
    peak = scene.peak_of([run.log_densities.get(step) for run, row in zip(runs, steps) for step in row])
    scale, (unit, name) = None, unit_of(peak)
    if peak is not None:
        top = np.exp(peak - unit)
        scale = matplotlib.colors.LogNorm(scene.DENSITIES * top, top, clip=True)
    mark = None
    for panels_row, run, row, group in zip(panels, runs, steps, groups):
        for panel, step, time in zip(panels_row, row, times):
            draw_target(panel, target, view)
            points, log_density = scene.thinned(view.place(run.clouds[step])), run.log_densities.get(step)
            size = 90.0 / np.sqrt(len(points))
            if log_density is not None and scale:
                mark = panel.scatter(*points.T, s=size, c=np.exp(scene.thinned(log_density) - unit), cmap="viridis", norm=scale,
                                     lw=0, rasterized=True)
            else:
                panel.scatter(*points.T, s=size, color=BLUE, lw=0, rasterized=True)
            panel.set(title=f"t = {time:.4g}", aspect="equal", xlim=view.limits[0], ylim=view.limits[1])
        panels_row[0].set_ylabel(view.names[1] if group.label is None else f"{group.label}\n{view.names[1]}")
    for panel in panels[-1]:
        panel.set_xlabel(view.names[0])
    if mark is not None:
        figure.colorbar(mark, ax=panels, label=name, extend="min")
    return compact(figure)


MOST_MARGINALS = 6


def marginals(groups, times):
    """Pairwise marginals of the first run at the first and the last time, over the target in grey: the coordinates, or where
    there are many the leading principal axes of the last cloud."""
    run = groups[0].runs[0]
    first, last = (run.clouds[run.step_at(t)] for t in (times[0], times[-1]))
    target = scene.Target(run)
    count = min(run.dim, MOST_MARGINALS)
    axes_of, centre, names = np.eye(run.dim), np.zeros(run.dim), [f"x[{k}]" for k in range(run.dim)]
    if run.dim > MOST_MARGINALS:
        centre = last.mean(axis=0)
        axes_of = np.linalg.svd(last - centre, full_matrices=False)[2].T
        names = [f"axis {k + 1}" for k in range(run.dim)]
    shown = [(scene.thinned((points - centre) @ axes_of), label, colour) for points, label, colour in
             [(points, "target", AIM) for points in target.clouds] +
             [(first, f"t = {times[0]:.4g}", ORANGE), (last, f"t = {times[-1]:.4g}", BLUE)]]
    limits = [scene.interval([points[:, k] for points, *_ in shown]) for k in range(count)]
    figure, panels = plt.subplots(count, count, figsize=(1.5 * count + 0.6, 1.5 * count + 0.4), squeeze=False, sharex="col")
    for i in range(count):
        for j in range(count):
            panel = panels[i, j]
            if j > i:
                panel.remove()
                continue
            panel.set_xlim(limits[j])
            if i == j:
                grid = np.linspace(*limits[i], 401)
                for points, label, colour in shown:
                    panel.plot(grid, smoothed(points[:, i], grid), color=colour, label=label, lw=1.2)
                if target.mixture and run.dim <= MOST_MARGINALS:
                    panel.plot(grid, target.mixture.on_line(grid, i), **TARGET, label="target")
                panel.set(ylim=(0, None), yticks=[])
                panel.spines["left"].set_visible(False)
            else:
                for points, _, colour in shown:
                    panel.scatter(points[:, j], points[:, i], s=40.0 / np.sqrt(len(points)), color=colour, lw=0, rasterized=True)
                panel.set_ylim(limits[i])
                if j == 0:
                    panel.set_ylabel(names[i])
                else:
                    panel.tick_params(labelleft=False)
            if i == count - 1:
                panel.set_xlabel(names[j])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right")
    return figure


def banded(axes, group, name, colour, label, skip_first=False, width=1.5):
    """One column over time: a line, or the mean of several runs with a band. True where known."""
    curve = group.band(name, skip_first)
    if curve is None:
        return False
    times, mean, low, high = curve
    axes.plot(times, mean, color=colour, label=label, lw=width)
    if len(group.runs) > 1:
        axes.fill_between(times, low, high, color=colour, alpha=0.25, lw=0)
    return True


def coloured(groups):
    colours = COLOURS if len(groups) <= len(COLOURS) else shades(len(groups))
    return zip(groups, colours)


def objective(groups):
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    first, label = groups[0].runs[0], "F"
    if len(groups) == 1:
        banded(axes, groups[0], "F", BLUE, "particles", width=3.5)
        banded(axes, groups[0], "F_heldout", ORANGE, "held-out particles")
    else:
        # One or the other for all of them: F of the particles lies below that of held-out ones.
        judged = "F_heldout" if all(group.band("F_heldout") for group in groups) else "F"
        label = "F on held-out particles" if judged == "F_heldout" else "F on the particles"
        for group, colour in coloured(groups):
            banded(axes, group, judged, colour, group.label)
    # At the times of the run with the most steps: between them are straight lines.
    finest = max((run for group in groups for run in group.runs), key=lambda run: np.isfinite(run.column("F_exact")).sum())
    curve = finest.column("F_exact")
    if np.isfinite(curve).sum() > 1:
        axes.plot(finest.column("time"), curve, **EXACT, label="exact solution")
    elif "functional" in first.summary["exact"]:
        axes.axhline(first.summary["exact"]["functional"], **EXACT, label="infimum")
    if len(groups) == 1 and np.isfinite(first.column("F_scheme")).sum() > 1:
        axes.plot(first.column("time"), first.column("F_scheme"), color=GREEN, lw=0, marker="o", ms=2.5,
                  mfc="none", label="exact iterates")
    axes.set(xlabel="t", ylabel=label)
    axes.legend()
    return figure


PANELS = (("missed_share", "share of the decrease missed", True), ("missed_share_heldout", "the same of held-out particles", True),
          ("residual", "residual of the inner problem", True), ("decrease", r"decrease of $F + W_2^2/2\tau$", True),
          ("min_log_det", r"smallest $\log\det H$", False), ("min_eigenvalue", r"smallest eigenvalue of $H$", False),
          ("iterations", "inner iterations", False), ("seconds", "seconds per step", False),
          ("round_trip", r"round trip $|\nabla u^*(\nabla u(x)) - x|$", True),
          ("error_exact", r"$|F - F_{\mathrm{exact}}|$, exact solution", True),
          ("error_scheme", r"$|F - F_{\mathrm{exact}}|$, exact iterates", True))


def add_errors(run):
    """Columns with |F - reference|, of the held-out cloud where it is known, otherwise of the particles."""
    held_out, functional = run.column("F_heldout"), run.column("F")
    judged = np.where(np.isfinite(held_out), held_out, functional)
    exact = run.column("F_exact")
    if np.isfinite(exact).sum() <= 1:
        exact = np.full(len(judged), run.summary["exact"].get("functional", np.nan))
    for name, reference in (("error_exact", exact), ("error_scheme", run.column("F_scheme"))):
        values = np.abs(judged - reference)
        run.history[name] = np.where(values > 0, values, np.nan)


def certificates(groups):
    """What is known, and a panel for nothing else."""
    for group in groups:
        for run in group.runs:
            add_errors(run)
    known = [panel for panel in PANELS if any(group.band(panel[0], True) for group in groups)]
    if not known:
        return None
    columns = min(4, len(known))
    rows = -(-len(known) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(2.8 * columns, 2.3 * rows), squeeze=False)
    for spare in panels.flat[len(known):]:
        spare.remove()
    for axes, (name, title, log) in zip(panels.flat, known):
        for group, colour in coloured(groups):
            banded(axes, group, name, colour, group.label, skip_first=True)
        values = [group.band(name, True)[2] for group in groups if group.band(name, True)]
        if log and min(low.min() for low in values) > 0:
            axes.set_yscale("log")
            low, high = np.log10(axes.get_ylim())  # whole decades: labels like 1.2e-4 are none
            if high - low < 3:
                axes.set_ylim(10 ** np.floor(low), 10 ** np.ceil(high))
        elif log:  # a decrease is negative where the network lost ground
            axes.set_yscale("symlog", linthresh=1e-3 * max(np.abs(low).max() for low in values) or 1.0)
        if name in ("iterations", "seconds"):
            axes.set_ylim(0, None)
        axes.set(title=title, xlabel="t")
    if groups[0].label:
        panels.flat[0].legend()
    return figure


def save(figure, folder, name):
    """Drawn first and written then: libraries of pictures do not say what is wrong with a disk."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=name.rpartition(".")[2])
    folder.mkdir(parents=True, exist_ok=True)
    with scene.whole_file(folder / name) as partial:
        partial.write_bytes(drawn.getbuffer())
    plt.close(figure)
    print(folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for the figures")
    parser.add_argument("--by", metavar="KEY", help="a line, or a panel, for each value of a key: flow.tau; of several: KEY,KEY")
    parser.add_argument("--times", metavar="T,T,...", help="times of the densities; the nearest clouds are drawn")
    parser.add_argument("--format", default="png", help="png, pdf, svg, or several of them: png,pdf")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    formats = arguments.format.split(",")
    for one in formats:
        if one not in ("png", "pdf", "svg"):
            sys.exit(f"plot: --format {one}; it must be of png, pdf, svg")
    try:
        wanted = [float(t) for t in arguments.times.split(",")] if arguments.times else None
    except ValueError:
        sys.exit(f"plot: --times {arguments.times}; it must be numbers with commas between: 0,0.1,1")
    try:
        runs = [Run(path) for path in arguments.runs]
        groups = groups_of(runs, arguments.by or swept(runs))
        times = common_times(runs, wanted)
        for run in runs:
            run.load([run.step_at(t) for t in times])
    except (OSError, ValueError) as error:
        sys.exit(f"plot: {error}")
    out = arguments.out
    if out is None:
        out = runs[0].path / "figures" if len(runs) == 1 else \
            Path(os.path.commonpath([run.path.resolve().parent for run in runs])) / "figures"
    drawings = {"objective": objective, "certificates": certificates}
    if times:
        density = density_1d if runs[0].dim == 1 else density_scatter
        drawings = {"density": lambda all_groups: density(all_groups, times)} | drawings
        if runs[0].dim > 2:
            drawings["marginals"] = lambda all_groups: marginals(all_groups, times)
    try:
        for name, draw in drawings.items():
            for one in formats:
                figure = draw(groups)
                if figure is not None:
                    save(figure, out, f"{name}.{one}")
    except OSError as error:
        raise scene.CannotWrite("plot: the figures", error, "choose another folder with --out") from None


if __name__ == "__main__":
    main()
