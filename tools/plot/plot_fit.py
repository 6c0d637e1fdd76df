#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The figure of a trained potential: its confusion matrix, or R^2, beside the losses of the epochs.

usage: plot_fit.py SUMMARY.json

Writes SUMMARY.png. Needs numpy and matplotlib.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import scene  # noqa: E402

plt.rcParams.update({
    "figure.dpi": 110, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "legend.fontsize": 8, "axes.linewidth": 0.8, "lines.linewidth": 1.5, "legend.frameon": False,
    "figure.constrained_layout.use": True,
})


def confusion(axes, counts, title):
    """Counts, and shares of each label's points as shades."""
    counts = np.array(counts, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for label in range(2):
        for predicted in range(2):
            share = shares[label, predicted]
            axes.text(predicted, label, f"{counts[label, predicted]:.0f}\n{100 * share:.1f} %", ha="center",
                      va="center", color="white" if share > 0.6 else "black")
    axes.set_xticks([0, 1], ["0", "1"])
    axes.set_yticks([0, 1], ["0", "1"])
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(title)


def losses(axes, summary):
    history = summary["history"]
    epochs = np.arange(1, len(history["rate"]) + 1)
    axes.plot(epochs, history["train_loss"], color="#0072B2", label="training")
    axes.plot(epochs, history["validation_loss"], color="#E69F00", label="validation")
    axes.axvline(summary["parameters_of_epoch"], color="#666666", lw=0.9, ls=(0, (4, 2)),
                 label=f"parameters kept: epoch {summary['parameters_of_epoch']}")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(summary["loss"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("summary", type=Path)
    path = parser.parse_args().summary
    try:
        summary = json.loads(path.read_text())
        part = "test" if summary["test"]["count"] else "validation"
        result = summary[part]
        binary = "confusion" in result
        figure, axes = plt.subplots(1, 2 if binary else 1, figsize=(7.2 if binary else 4.4, 3.2), squeeze=False)
        if binary:
            confusion(axes[0, 0], result["confusion"], f"{part}: accuracy {100 * result['accuracy']:.1f} %")
        losses(axes[0, -1], summary)
        if not binary:
            axes[0, 0].set_title(f"{part}: R² {result['r2']:.4f}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(f"plot_fit: '{path}' is no summary of brenier fit: {error}")
    out = path.with_suffix(".png")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    try:
        with scene.whole_file(out) as partial:
            partial.write_bytes(drawn.getbuffer())
    except OSError as error:
        raise scene.CannotWrite("plot_fit: the figure", error, "then call plot_fit.py on the summary") from None
    print(out)


if __name__ == "__main__":
    main()
