#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The five flows in two dimensions of the paper's appendix C: judged, and their figure, densities over time.

Runs the configurations beside this file with --binary into --out (a flow that is there already is not run again, one that
was cut off goes on), judges their ends by what is known in closed form, and draws the clouds of each in a row, coloured by
their running log-densities where the flow carries them.

    heat                     rho_t is a mixture of Gaussians of variance s + 2 t
    potential                x_0 + (x - x_0) exp(-2 t), a particle each
    Fokker-Planck            a mixture of Gaussians around x_0 + (m - x_0) exp(-2 t), of variance
                             s exp(-4 t) + (1 - exp(-4 t))/2
    nonlinear Fokker-Planck  ends at (C - |x - x_0|^2/2)_+, C = 1/sqrt(pi)
    aggregation              ends at the uniform density of the unit disk

F is compared with the exact one, and KL(flow | exact), where the exact density is known, is taken over points that the flow
draws anew (`brenier sample`): E[log rho_flow - log rho]. Exit status: 0 all bars met, 1 one is missed, 2 a flow could not be
run."""

import argparse
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

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
# The initial density of all five, and the centre of V.
MEANS = np.array([(2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)) for k in range(8)]).round(4)
VARIANCE = 0.2  # the paper does not tell its cloud: bumps that are still apart
CENTRE = np.array([1.0, 1.0])
KL_BAR, F_BAR, SECONDS_BAR = 0.01, 1e-3, 60
POINTS = 100_000  # of KL


class Mixture:
    """Gaussians of one variance and of equal weights at `means` (K, 2)."""

    def __init__(self, means, variance):
        self.means, self.variance = means, variance

    def log_density(self, x):
        """(N) of x (N, 2)."""
        exponents = -((x[:, None] - self.means[None]) ** 2).sum(axis=2) / (2 * self.variance)
        top = exponents.max(axis=1)
        total = np.exp(exponents - top[:, None]).mean(axis=1)
        return top + np.log(total) - math.log(2 * math.pi * self.variance)

    def entropy(self):
        """int rho log rho, by the trapezoidal rule: exponentially exact for smooth densities."""
        side = np.linspace(-1, 1, 801)
        reach = np.abs(self.means).max() + 9 * math.sqrt(self.variance)
        grid = reach * np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        logs = np.concatenate([self.log_density(part) for part in np.array_split(grid, 32)])
        return float((np.exp(logs) * logs).sum() * (reach * (side[1] - side[0])) ** 2)

    def spread(self):
        """E|x - x_0|^2."""
        return float(((self.means - CENTRE) ** 2).sum(axis=1).mean() + 2 * self.variance)


def exact(name, t):
    """The density at time t, or nothing where it has no closed form, and F: at the end of time where only that is known."""
    start = Mixture(MEANS, VARIANCE)
    if name == "heat":
        density = Mixture(MEANS, VARIANCE + 2 * t)
        return density, density.entropy()
    if name == "potential":
        return None, start.spread() * math.exp(-4 * t)
    if name == "fokker_planck":
        fall = math.exp(-2 * t)
        density = Mixture(CENTRE + fall * (MEANS - CENTRE), VARIANCE * fall**2 + (1 - fall**2) / 2)
        return density, density.entropy() + density.spread()
    if name == "nonlinear_fokker_planck":
        # rho = (C - r^2/2)_+ with pi C^2 = 1: int rho^2 = 2 pi C^3/3, int r^2 rho = 2 pi C^3/3.
        return None, 4 * math.pi / 3 * math.pi**-1.5
    # The unit disk: E|x - y|^2 = 1, E log|x - y| = -1/4.
    return None, (0.5 + 0.25) / 2


def judge(binary, name, folder):
    """What the end of a flow has of its bars."""
    summary = json.loads((folder / "summary.json").read_text())
    density, functional = exact(name, summary["time"])
    held_out = summary["heldout_functional"]
    row = {"flow": name, "time": summary["time"], "F": held_out, "exact": functional, "error": abs(held_out - functional),
           "seconds": summary["seconds_total"], "warnings": len(summary["warnings"])}
    if density is not None:
        points, logs = folder / "judge.npy", folder / "judge-log-density.npy"
        subprocess.run([binary, "sample", folder, str(POINTS), "--out", points, "--log-density", logs, "--seed", "7"],
                       check=True, capture_output=True)
        gap = np.load(logs) - density.log_density(np.load(points))
        row |= {"KL": float(gap.mean()), "KL_error": float(gap.std() / math.sqrt(POINTS))}
    row["passed"] = row["error"] <= F_BAR and row.get("KL", 0) <= KL_BAR and row["seconds"] <= SECONDS_BAR
    return row


def table(rows):
    """Markdown."""
    lines = ["| flow | t | F | exact | error | KL to the exact density | seconds | warnings | bars |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        kl = f"{row['KL']:.2g} +- {row['KL_error']:.1g}" if "KL" in row else ""
        lines.append(f"| {row['flow']} | {row['time']:.3g} | {row['F']:.5f} | {row['exact']:.5f} | {row['error']:.1e} | {kl} | "
                     f"{row['seconds']:.0f} | {row['warnings']} | {'met' if row['passed'] else 'missed'} |")
    return "\n".join(lines)


def self_test():
    """Closed forms against sums over draws, whose noise is the tolerance."""
    draws = np.random.default_rng(1)
    n = 400_000
    for name, t in (("heat", 0.0), ("heat", 0.4), ("fokker_planck", 0.0), ("fokker_planck", 0.7)):
        density, functional = exact(name, t)
        x = density.means[draws.integers(8, size=n)] + math.sqrt(density.variance) * draws.normal(size=(n, 2))
        terms = density.log_density(x) + (((x - CENTRE) ** 2).sum(axis=1) if name == "fokker_planck" else 0)
        assert abs(terms.mean() - functional) < 5 * terms.std() / math.sqrt(n), (name, t, terms.mean(), functional)
    # Of (C - r^2/2)_+ , r^2/(2 C) has the law Beta(1, 2), and F = E[rho + r^2].
    c = 1 / math.sqrt(math.pi)
    share = draws.beta(1, 2, size=n)
    terms = c * (1 - share) + 2 * c * share
    assert abs(terms.mean() - exact("nonlinear_fokker_planck", 1)[1]) < 5 * terms.std() / math.sqrt(n)
    angle, radius = 2 * math.pi * draws.random(2 * n), np.sqrt(draws.random(2 * n))
    disk = radius * np.exp(1j * angle)
    r = np.abs(disk[:n] - disk[n:])
    terms = (r**2 / 2 - np.log(r)) / 2
    assert abs(terms.mean() - exact("aggregation", 1)[1]) < 5 * terms.std() / math.sqrt(n)
    print("two_dimensional: closed forms agree with draws")


def load_plot():
    """tools/plot/plot.py, which reads run folders."""
    folder = str(HERE.parents[2] / "tools" / "plot")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("plot")


def run_flows(binary, out, names, more=()):
    """Runs what is not there, and to its end what was cut off; `more` are further words for the command. A run whose steps
    are not solved (exit status 3) is judged like the others."""
    for name in names:
        words = [binary, "run", HERE / f"{name}.toml", "--out", out / name, "--quiet", "--resume", *more]
        result = subprocess.run(words, check=False, capture_output=True, text=True)
        if result.returncode not in (0, 3):
            raise OSError(f"{name}: exit status {result.returncode}: {result.stderr.strip()}")


def draw(runs, chosen):
    import matplotlib  # the judge does without

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(runs), COLUMNS, figsize=(1.8 * COLUMNS, 1.8 * len(runs)), squeeze=False)
    for row, (name, run) in zip(panels, runs.items()):
        steps = chosen(run.steps, COLUMNS)
        run.load(steps)
        clouds = [run.clouds[step] for step in steps]
        limit = 1.05 * max(np.percentile(np.abs(points), 99.5) for points in clouds)
        for panel in row[len(steps):]:  # fewer clouds than columns
            panel.axis("off")
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
    parser.add_argument("--binary", type=Path, help="the brenier command")
    parser.add_argument("--self-test", action="store_true", help="check the closed forms, and end")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), help="flows")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--threads", type=int, default=0, help="0: all processors")
    parser.add_argument("--out", type=Path, default=Path("runs/two_dimensional"), help="folder of the run folders")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return
    if arguments.binary is None:
        parser.error("--binary is missing")
    binary = arguments.binary.resolve()
    try:
        run_flows(binary, arguments.out, arguments.only, ["--threads", str(arguments.threads)])
        rows = [judge(binary, name, arguments.out / name) for name in arguments.only]
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"two_dimensional: {error}", file=sys.stderr)
        sys.exit(2)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    plot = load_plot()
    figure = draw({name: plot.Run(arguments.out / name) for name in arguments.only}, plot.chosen)
    path = arguments.out / "two_dimensional.png"
    figure.savefig(path, dpi=150)
    print(path)
    sys.exit(0 if all(row["passed"] for row in rows) else 1)


if __name__ == "__main__":
    main()
