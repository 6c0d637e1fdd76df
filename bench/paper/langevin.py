# SPDX-License-Identifier: MIT
"""Draws figure 3: distances (MMD) to Langevin dynamics over time, from what brenier_bench_langevin prints.

    build/bench/brenier_bench_langevin --order 2 --repeats 16 --iterations 800 > langevin.txt
    bench/paper/langevin.py langevin.txt -o figure_3.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

# Of the program: the whole comparison, and one of minutes.
WHOLE = ("--order", "2", "--repeats", "16", "--iterations", "800")
QUICK = ("--order", "2", "--dim", "8", "--tau", "0.05", "--steps", "8", "--repeats", "4", "--samples", "1000", "--particles",
         "2000", "--iterations", "200", "--substeps", "50")
CURVES = (("brenier", "JKO flow", "BLUE"), ("ula", "Langevin, another seed", "GREEN"), ("descent", "direct descent", "ORANGE"))


def draw(result: dict, folder: Path, name: str = "figure_3.png") -> None:
    """MMD over time, each curve a mean over clouds with a band from the smallest to the largest."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "plot"))
    import plot
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = result["rows"]
    times = [row["t"] for row in rows]
    figure, axes = plot.plt.subplots(figsize=(5.2, 3.4))
    for key, label, colour in CURVES:
        colour = getattr(plot, colour)
        axes.plot(times, [row[key] for row in rows], color=colour, label=label)
        if f"{key}_range" in rows[0]:
            low, high = zip(*(row[f"{key}_range"] for row in rows))
            axes.fill_between(times, low, high, color=colour, alpha=0.25, lw=0)
    axes.set(xlabel="t", ylabel="MMD to Langevin dynamics", yscale="log", title=f"R^{result['dim']}")
    # Little more than a decade: 0.02, 0.05, 0.1, ...
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend()
    plot.save(figure, folder, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("result", type=Path, help="output of brenier_bench_langevin")
    parser.add_argument("-o", "--out", type=Path, default=Path("figure_3.png"), help="the figure to write")
    options = parser.parse_args()
    try:
        lines = [line for line in options.result.read_text().splitlines() if line.startswith("{")]
        draw(json.loads(lines[-1]), options.out.resolve().parent, options.out.name)
    except (OSError, ValueError, KeyError, IndexError) as error:
        sys.exit(f"langevin: {options.result} has no such table: {error!r}")


if __name__ == "__main__":
    main()
