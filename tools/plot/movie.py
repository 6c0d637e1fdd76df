#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A film of a Brenier run: .gif, or .mp4 where there is ffmpeg.

usage: movie.py --out flow.gif [--fps 8] RUN

The density over x in one dimension, the particles in two, in the principal axes of the last cloud above. One frame for each
cloud of the run. Needs numpy, matplotlib and, for .gif, Pillow.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib import animation

import plot

MOST_FRAMES = 400


def frames_1d(run, steps):
    """The figure and what draws frame k into it."""
    figure, axes = plot.plt.subplots(figsize=(5.2, 3.4))
    clouds = [run.clouds[step][:, 0] for step in steps]
    low, high = min(x.min() for x in clouds), max(x.max() for x in clouds)
    margin = 0.08 * (high - low) or 1.0
    grid = np.linspace(low - margin, high + margin, 601)
    line, = axes.plot(grid, grid, color=plot.BLUE)
    exact, = axes.plot([], [], **plot.EXACT)
    axes.set(xlabel="x", ylabel="density", xlim=(grid[0], grid[-1]))
    # A flow may start thousands of times as high as it ends: the scale follows the curve down to that of half the way.
    tops = np.array([plot.density_on(run, step, grid).max() for step in steps])

    def draw(k):
        line.set_ydata(plot.density_on(run, steps[k], grid))
        if run.exact_density is not None:
            at = np.isclose(run.exact_density[:, 0], run.time(steps[k]), rtol=1e-9, atol=1e-12)
            exact.set_data(run.exact_density[at, 1], run.exact_density[at, 2])
        axes.set_ylim(0, 1.08 * max(tops[k], np.median(tops)) or 1.0)
        axes.set_title(f"t = {run.time(steps[k]):.4g}")

    return figure, draw


def frames_2d(run, steps):
    axes_of, centre, names = np.eye(run.dim)[:, :2], np.zeros(run.dim), ("$x_0$", "$x_1$")
    if run.dim > 2:
        last = run.clouds[steps[-1]]
        centre = last.mean(axis=0)
        axes_of = np.linalg.svd(last - centre, full_matrices=False)[2][:2].T
        names = ("first principal axis", "second")
    clouds = [(run.clouds[step] - centre) @ axes_of for step in steps]
    everything = np.concatenate(clouds)
    low, high = everything.min(axis=0), everything.max(axis=0)
    middle, half = 0.5 * (low + high), 0.53 * max((high - low).max(), 1e-12)
    figure, axes = plot.plt.subplots(figsize=(4.4, 4.4))
    mark = axes.scatter(*clouds[0].T, s=90.0 / np.sqrt(len(clouds[0])), lw=0, color=plot.BLUE)
    axes.set(xlabel=names[0], ylabel=names[1], aspect="equal", xlim=(middle[0] - half, middle[0] + half),
             ylim=(middle[1] - half, middle[1] + half))
    densities = [run.log_densities.get(step) for step in steps]
    known = [values[np.isfinite(values)] for values in densities if values is not None]
    peak = max((values.max() for values in known if len(values)), default=None)
    colours = plot.plt.get_cmap("viridis")

    def draw(k):
        mark.set_offsets(clouds[k])
        if densities[k] is not None and peak is not None:
            mark.set_facecolor(colours(np.clip(1 + (densities[k] - peak) / 9, 0, 1)))
        axes.set_title(f"t = {run.time(steps[k]):.4g}")

    return figure, draw


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the .gif or .mp4 file to write")
    parser.add_argument("--fps", type=float, default=8, help="frames a second")
    parser.add_argument("run", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    out, kind = arguments.out, arguments.out.suffix.lower()
    if kind not in (".gif", ".mp4"):
        sys.exit(f"movie: '{out}' ends in neither .gif nor .mp4")
    if not 0 < arguments.fps <= 120:
        sys.exit(f"movie: --fps {arguments.fps}; it must be above 0 and at most 120")
    if kind == ".mp4" and not animation.writers.is_available("ffmpeg"):
        sys.exit("movie: a .mp4 needs ffmpeg (apt-get install ffmpeg); a .gif needs nothing more")
    try:
        run = plot.Run(arguments.run)
        steps = plot.chosen(run.steps, MOST_FRAMES)
        if not steps:
            raise ValueError(f"{run.path} has no clouds")
        run.load(steps)
        figure, draw = (frames_1d if run.dim == 1 else frames_2d)(run, steps)
    except (OSError, ValueError) as error:
        sys.exit(f"movie: {error}")
    film = animation.FuncAnimation(figure, draw, frames=len(steps), init_func=lambda: draw(0))
    writer = animation.PillowWriter(fps=arguments.fps) if kind == ".gif" else animation.FFMpegWriter(fps=arguments.fps)
    partial = out.with_name(f".partial.{out.name}")
    try:
        film.save(partial, writer=writer, dpi=110)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        sys.exit(f"movie: the film cannot be written: {error}; choose another file with --out")
    print(f"{len(steps)} frames: {out}")


if __name__ == "__main__":
    main()
