#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A film of a Brenier run: .gif, or .mp4 where there is ffmpeg.

usage: movie.py --out flow.gif [--fps 8] RUN

The density over x in one dimension, the particles in two, in the principal axes of the last cloud above. One frame for each
cloud of the run. Needs numpy, matplotlib and, for .gif, Pillow.
"""

import argparse
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib import animation

import plot
import scene

MOST_FRAMES = 400


def frames_1d(run, steps):
    """The figure and what draws frame k into it."""
    figure, axes = plot.plt.subplots(figsize=(5.2, 3.4))
    target = scene.Target(run)
    grid = np.linspace(*scene.interval([run.clouds[step][:, 0] for step in steps] + target.clouds), 601)
    unit, name = plot.unit_of(scene.peak_of([run.log_densities.get(step) for step in steps]))
    for curve in plot.target_lines(target, grid, run.summary["mass"]):
        axes.plot(grid, curve * np.exp(-unit), **plot.TARGET)
    line, = axes.plot(grid, grid, color=plot.BLUE)
    exact, = axes.plot([], [], **plot.EXACT)
    axes.set(xlabel="x", ylabel=name, xlim=(grid[0], grid[-1]))
    # A flow may start thousands of times as high as it ends: the scale follows the curve down to that of half the way.
    tops = np.array([plot.density_on(run, step, grid, unit).max() for step in steps])

    def draw(k):
        line.set_ydata(plot.density_on(run, steps[k], grid, unit))
        if run.exact_density is not None:
            at = np.isclose(run.exact_density[:, 0], run.time(steps[k]), rtol=1e-9, atol=1e-12)
            exact.set_data(run.exact_density[at, 1], run.exact_density[at, 2] * np.exp(-unit))
        axes.set_ylim(0, 1.08 * max(tops[k], np.median(tops)) or 1.0)
        axes.set_title(f"t = {run.time(steps[k]):.4g}")

    return figure, draw


def frames_2d(run, steps):
    target = scene.Target(run)
    view = scene.View(target.clouds + [run.clouds[step] for step in steps])
    figure, axes = plot.plt.subplots(figsize=(4.4, 4.4))
    plot.draw_target(axes, target, view)
    clouds = [view.place(run.clouds[step]) for step in steps]
    mark = axes.scatter(*clouds[0].T, s=90.0 / np.sqrt(len(clouds[0])), lw=0, color=plot.BLUE)
    axes.set(xlabel=view.names[0], ylabel=view.names[1], aspect="equal", xlim=view.limits[0], ylim=view.limits[1])
    densities = [run.log_densities.get(step) for step in steps]
    peak = scene.peak_of(densities)
    colours = plot.plt.get_cmap("viridis")

    def draw(k):
        mark.set_offsets(clouds[k])
        if densities[k] is not None and peak is not None:
            mark.set_facecolor(colours(scene.shade(densities[k], peak)))
        axes.set_title(f"t = {run.time(steps[k]):.4g}")

    return figure, draw


def write(film, path, writer):
    """OSError with a number where the film cannot be written: Pillow and ffmpeg do not say what is wrong with a disk."""
    try:
        film.save(path, writer=writer, dpi=110)
    except (OSError, subprocess.CalledProcessError) as error:
        full = shutil.disk_usage(path.parent).free < 1 << 16
        code = errno.ENOSPC if full else getattr(error, "errno", None) or errno.EIO
        said = os.strerror(code) if full else getattr(error, "strerror", None) or str(error)
        raise OSError(code, said, str(path)) from error


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
    try:
        with scene.whole_file(out) as partial:
            write(film, partial, writer)
    except OSError as error:
        raise scene.CannotWrite("movie: the film", error, "choose another file with --out") from None
    print(f"{len(steps)} frames: {out}")


if __name__ == "__main__":
    main()
