# SPDX-License-Identifier: MIT
"""The figures: QED histograms along the flow (6, 8), confusion matrices (5, 7), the frontier, molecules."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "plot"))
import plot  # noqa: E402  pylint: disable=wrong-import-position
from plot import plt  # noqa: E402  pylint: disable=wrong-import-position

from chemistry import picture  # noqa: E402  pylint: disable=wrong-import-position
from experiment import Run  # noqa: E402  pylint: disable=wrong-import-position
from tables import Report  # noqa: E402  pylint: disable=wrong-import-position


def histograms(run: Run, folder: Path, name: str) -> None:
    """QED of the valid molecules at every decoded step, from below upwards."""
    steps = sorted(run.clouds)
    figure, axes = plt.subplots(len(steps), 1, figsize=(5.5, 0.75 * len(steps) + 1), sharex=True, squeeze=False)
    for axis, step in zip(axes[:, 0], steps):
        values = run.clouds[step].decoded.qed
        axis.hist(values, bins=np.linspace(0, 1, 51), color=plot.BLUE)
        if values.size:
            axis.axvline(float(np.median(values)), color=plot.ORANGE, lw=1)
        axis.set(yticks=[], ylabel=f"{step}")
    axes[-1, 0].set(xlabel="QED of the decoded molecules; line: median; left: step")
    plot.save(figure, folder, name)


def confusion(matrix: list[list[int]], folder: Path, name: str) -> None:
    """Counts of the test set."""
    counts = np.array(matrix)
    figure, axis = plt.subplots(figsize=(3.2, 2.8))
    axis.imshow(counts / counts.sum(), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axis.text(column, row, f"{count}\n{count / counts.sum():.1%}", ha="center", va="center")
    labels = ["high QED", "low QED"]
    axis.set(xticks=[0, 1], xticklabels=labels, yticks=[0, 1], yticklabels=labels, xlabel="predicted", ylabel="true")
    plot.save(figure, folder, name)


def frontier(report: Report, folder: Path) -> None:
    """Median QED against SD and against validity x uniqueness, flow and descents."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    flows = [run for name, runs in report.flows.items() if name.startswith("sweep") for run in runs]
    descents = [run for runs in report.direct.values() for run in runs]
    for label, runs, colour, marker in (("direct optimisation", descents, plot.ORANGE, "x"), ("flow", flows, plot.BLUE, "o")):
        rows = [(run.end.sd, run.end.decoded.row()) for run in runs if not run.failed]
        rows = [(sd, row) for sd, row in rows if math.isfinite(sd) and math.isfinite(row["qed_median"])]
        qed = [row["qed_median"] for _, row in rows]
        left.plot([sd for sd, _ in rows], qed, ls="", marker=marker, color=colour, label=label)
        right.plot([100 * row["validity"] * row["uniqueness"] for _, row in rows], qed, ls="", marker=marker, color=colour)
    left.set(xlabel="SD", ylabel="median QED", xscale="log")
    right.set(xlabel="validity x uniqueness, %")
    left.legend()
    plot.save(figure, folder, "frontier.png")


def draw(report: Report, folder: Path) -> None:
    """All figures of what the report has run."""
    number = {"moses": (5, 6), "qm9": (7, 8)}[report.experiment.dataset.name]
    if "classifier" in report.numbers:
        confusion(report.numbers["classifier"]["confusion"], folder, f"figure_{number[0]}.png")
    for name, runs in report.flows.items():
        done = [run for run in runs if not run.failed]
        if not done:
            continue
        histograms(done[0], folder, f"figure_{number[1]}.png" if name == "sinkhorn_10000" else f"qed_{name}.png")
        picture(done[0].clouds[0].decoded, done[0].end.decoded, folder / f"molecules_{name}.png")
    if report.direct:
        frontier(report, folder)
