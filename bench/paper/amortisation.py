#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws table 8: seconds against points, of a flow's maps on new points and of optimising these directly.

    build/bench/brenier_bench_molecules --cloud ... --potential ... --maps RUN/maps > times.txt
    bench/paper/amortisation.py times.txt -o amortisation.png

Takes what that program prints, or the molecules.json of bench/paper/molecules/latent.py. The line through our maps is the
least-squares fit of a constant and a time a point; on the right, direct optimisation over maps.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "plot"))
import plot  # noqa: E402
from plot import plt  # noqa: E402

# A number of a row, its label, colour and marker.
CURVES = (("seconds_direct", "direct optimisation", plot.ORANGE, "o"), ("seconds_maps", "maps", plot.BLUE, "o"),
          ("published_seconds_direct", "direct, published (V100)", plot.ORANGE, "x"),
          ("published_seconds_maps", "maps, published (V100)", plot.BLUE, "x"))


def read(file):
    """The rows of table 8."""
    text = file.read_text()
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = json.loads([line for line in text.splitlines() if line.startswith("{")][-1])
    return content["amortisation"]


def column(rows, name):
    """Points and values of the rows that have it."""
    known = [(row["points"], row[name]) for row in rows if name in row]
    return np.array(known, dtype=float).reshape(-1, 2).T


def draw(rows):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    for name, label, colour, marker in CURVES:
        points, seconds = column(rows, name)
        if len(points):
            published = marker == "x"
            left.plot(points, seconds, color=colour, marker=marker, ls=":" if published else "-", label=label)
    points, seconds = column(rows, "seconds_maps")
    if len(points) > 1:
        slope, start = np.polyfit(points, seconds, 1)
        grid = np.linspace(points.min(), points.max(), 200)
        left.plot(grid, start + slope * grid, color="black", lw=0.9,
                  label=f"{1e3 * start:.2g} ms + {1e6 * slope:.2g} µs a point")
    left.set(xlabel="points", ylabel="seconds", yscale="log")
    left.set_ylim(top=20 * left.get_ylim()[1])  # room for the legend
    left.legend(loc="upper left", ncol=2, fontsize=7)
    for name, label, marker in (("", "Brenier", "o"), ("published_", "published (V100)", "x")):
        points, maps = column(rows, f"{name}seconds_maps")
        if len(points):
            right.plot(points, column(rows, f"{name}seconds_direct")[1] / maps, color=plot.GREEN, marker=marker,
                       ls=":" if name else "-", label=label)
    right.set(xlabel="points", ylabel="direct optimisation / maps", ylim=(0, None))
    right.legend()
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("times", type=Path, help="output of the benchmark, or molecules.json")
    parser.add_argument("-o", "--out", type=Path, default=Path("amortisation.png"), help="the figure to write")
    options = parser.parse_args()
    try:
        rows = read(options.times)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"amortisation: {options.times} has no rows of table 8: {error!r}")
    plot.save(draw(rows), options.out.resolve().parent, options.out.name)


if __name__ == "__main__":
    main()
