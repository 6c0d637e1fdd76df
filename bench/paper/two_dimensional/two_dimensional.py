#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The five flows in two dimensions of the paper's appendix C, and their figure: densities over time.

Runs the configurations beside this file with --binary into --out (a flow that is there already is not run again),
then draws the clouds of each in a row, coloured by their running log-densities where the flow carries them."""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).resolve().parent
ROWS = {
    "heat": "heat",
    "potential": "potential",
    "fokker_planck": "Fokker-Planck",
    "nonlinear_fokker_planck": "nonlinear\nFokker-Planck",
    "aggregation": "aggregation",
}
COLUMNS = 5


def load_plot():
    """tools/plot/plot.py, which reads run folders."""
    path = HERE.parents[2] / "tools" / "plot" / "plot.py"
    spec = importlib.util.spec_from_file_location("plot", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_flows(binary, out):
    for name in ROWS:
        folder = out / name
        if not (folder / "summary.json").exists():
            subprocess.run([binary, "run", HERE / f"{name}.toml", "--out", folder], check=True)


def draw(runs, chosen):
    figure, panels = plt.subplots(len(runs), COLUMNS, figsize=(1.8 * COLUMNS, 1.8 * len(runs)), squeeze=False)
    for row, (name, run) in zip(panels, runs.items()):
        steps = chosen(run.steps, COLUMNS)
        run.load(steps)
        clouds = [run.clouds[step] for step in steps]
        limit = 1.05 * max(np.percentile(np.abs(points), 99.5) for points in clouds)
        for panel, step, points in zip(row, steps, clouds):
            log_density = run.log_densities.get(step)
            if log_density is None:
                panel.scatter(*points.T, s=0.6, color="#3b6ea5", lw=0, rasterized=True)
            else:
                density = np.exp(log_density - log_density.max())
                order = np.argsort(density)
                panel.scatter(*points[order].T, s=0.6, c=density[order], cmap="viridis", lw=0, rasterized=True)
            panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            panel.set_title(f"t = {run.time(step):.3g}", fontsize=8)
        row[0].set_ylabel(ROWS[name])
    figure.tight_layout()
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=Path, required=True, help="the brenier command")
    parser.add_argument("--out", type=Path, default=Path("runs/two_dimensional"), help="folder of the run folders")
    arguments = parser.parse_args()
    try:
        run_flows(arguments.binary.resolve(), arguments.out)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"two_dimensional: {error}")
    plot = load_plot()
    figure = draw({name: plot.Run(arguments.out / name) for name in ROWS}, plot.chosen)
    path = arguments.out / "two_dimensional.png"
    figure.savefig(path, dpi=150)
    print(path)


if __name__ == "__main__":
    main()
