# SPDX-License-Identifier: MIT
"""What is timed on a GPU, and what was predicted for it: one row for each row of the table of predictions."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GRADIENT_BAR = 1e-4  # a gradient in float, against the reference in double
# The same of the latent functional on its random cloud: costs of 128, in float off by 1e-5, are divided by an epsilon of
# 0.0025. The CPU's error in float is 4e-3.
LATENT_BAR = 2e-2
OPERATION_BAR = 3e-5  # an operation in float, against the reference in double
SINKHORN_BAR = 1e-4  # the value in float after the same steps, against double
FAR = 4 / 3  # a row that misses its prediction by more than a third, in either direction, is looked into

Lines = list[dict]


def is_number(value: object) -> bool:
    """NaN is null in JSON."""
    return isinstance(value, (int, float)) and value == value


def wrong_by(key: str, bar: float) -> Callable[[Lines], str]:
    """Says what is wrong where an error of the lines is above the bar, or not a number."""

    def wrong(lines: Lines) -> str:
        for line in lines:
            if not is_number(line.get(key)) or not line[key] <= bar:
                return f"{key} {line.get(key)}; the bar is {bar:g}"
        return ""

    return wrong


@dataclass(frozen=True)
class Bench:
    """One run of a benchmark program. `rows`: the rows it answers, and how they follow from its JSON lines."""

    name: str
    program: str
    words: tuple[str, ...]
    rows: dict[str, Callable[[Lines], float]]
    wrong: Callable[[Lines], str] = lambda lines: ""
    quick: tuple[str, ...] = ()  # in the rounds: the gradient has been checked
    on_cpu: bool = False  # timed on this machine's CPU too, for the ratio
    to_file: bool = False  # the JSON lines go to a file


def seconds(lines: Lines) -> float:
    return lines[-1]["seconds_median"]


def inner(
    name: str, row: str, functional: str, dim: int, n: int, *words: str, more: dict | None = None
) -> Bench:
    """An inner iteration. That of the latent functional takes a CPU long, and its reference is slow."""
    rows, latent = {row: seconds} | (more or {}), functional == "latent"
    common = ("--functional", functional, "--dim", str(dim), "--n", str(n), "--seconds", "0.4", *words)
    wrong = wrong_by("gradient_rel_error", LATENT_BAR if latent else GRADIENT_BAR)
    quick = () if latent else ("--check", "100")
    return Bench(name, "brenier_bench_inner", common, rows, wrong, quick, on_cpu=not latent)


def of_op(op: str, key: str, dim: int | None = None, times: float = 1) -> Callable[[Lines], float]:
    """A number of an operation, of the last line that has it: the largest clouds come last."""
    return lambda lines: times * [x for x in lines if x["op"] == op and dim in (None, x.get("dim"))][-1][key]


MOLECULES = ("--hidden", "100,100", "--check", "50")
BENCHES = (
    inner(
        "d=1, exact log-det",
        "an inner iteration, N = 1000, (100,20), d = 1, exact log det",
        "porous_medium",
        1,
        1000,
    ),
    inner(
        "d=1, L-BFGS",
        "an evaluation of L-BFGS decided by the device, N = 1000, (100,20), d = 1, exact log det, 10 pairs",
        "porous_medium",
        1,
        1000,
        *("--solver", "lbfgs"),
    ),
    inner(
        "d=1, L-BFGS by the host",
        "the same, decided by the host",
        "porous_medium",
        1,
        1000,
        *("--solver", "lbfgs_host"),
    ),
    inner(
        "d=1, a search",
        "a step of the default flow, 8 evaluations",
        "porous_medium",
        1,
        1000,
        *("--solver", "lbfgs", "--evaluations", "8", "--whole"),
    ),
    inner("d=1, no log-det", "d = 1, no log det", "potential", 1, 1000),
    inner("d=1, interaction", "the same with an interaction (aggregation)", "aggregation", 1, 1000),
    inner("d=20, exact log-det", "d = 20, exact", "entropy", 20, 1000),
    inner("d=2, large, no log-det", "N = 1,000,000, d = 2, no log det", "potential", 2, 1_000_000),
    inner("d=2, large, exact", "N = 1,000,000, d = 2, exact", "entropy", 2, 1_000_000),
    Bench(
        "sinkhorn",
        "brenier_bench_sinkhorn",
        ("--n", "1000", "--dim", "128", "--iterations", "100", "--seconds", "0.4"),
        {"Sinkhorn, N = 1000, d = 128, 100 steps with the force": of_op("sinkhorn", "seconds_median")},
        lambda lines: wrong_by("error", SINKHORN_BAR)([x for x in lines if x["op"] == "sinkhorn"]),
    ),
    Bench(
        "pairs",
        "brenier_bench_ops",
        ("--shape", "1:1", "--n", "2", "--filter", "interaction_log", "--dtype", "float", "--pairs", "200000")
        + ("--max-gflop", "1e6", "--seconds", "0.2"),
        {
            "forces of a log kernel, d = 1": of_op("interaction_log", "pairs_per_second", 1),
            "forces of a log kernel, d = 2": of_op("interaction_log", "pairs_per_second", 2),
            "energies of a log kernel, d = 1": of_op("interaction_log_energy", "pairs_per_second", 1),
        },
        wrong_by("error", OPERATION_BAR),
        to_file=True,
    ),
    inner(
        "molecules, 10 steps",
        "molecule flow, an inner iteration (10 Sinkhorn steps)",
        "latent",
        128,
        1000,
        *MOLECULES,
        *("--transport-steps", "10"),
        more={"molecule flow, 50,000 of them": lambda lines: 50_000 * seconds(lines)},
    ),
    inner(
        "molecules, 4 steps",
        "molecule flow, an inner iteration (4 Sinkhorn steps)",
        "latent",
        128,
        1000,
        *MOLECULES,
        *("--transport-steps", "4"),
    ),
    Bench(
        "maps",
        "brenier_bench_ops",
        ("--shape", "128:100,100", "--n", "5000", "--filter", "map", "--dtype", "float", "--pairs", "2")
        + ("--seconds", "0.05"),
        {"100 maps of that flow on 5000 points": of_op("map", "seconds_median", times=100)},
        wrong_by("error", OPERATION_BAR),
        to_file=True,
    ),
)
# Rows that other steps answer.
EAGER = "against eager PyTorch, N = 1000, d = 1"
STRONGEST = "against the strongest PyTorch"
POROUS = "porous medium, order 1"


# --- predictions -------------------------------------------------------------------------------------------------

UNITS = {"µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0, "pairs/s": 1.0, "times": 1.0, "": 1.0}
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
RANGE = re.compile(rf"(below )?({NUMBER})(?: to ({NUMBER}))?(?: (µs|us|ms|s|pairs/s|times))?(?![\w.])")


@dataclass(frozen=True)
class Prediction:
    """A row of the table: seconds, pairs a second, or a ratio, from `low` to `high`."""

    what: str
    text: str
    low: float
    high: float

    def verdict(self, value: float) -> str:
        """'as predicted', or by what factor it is off."""
        if not is_number(value):
            return "NOT A NUMBER"
        if value > self.high * FAR:
            return f"OFF: {value / self.high:.3g} times the most"
        if 0 < value < self.low / FAR:
            return f"OFF: {value / self.low:.2g} times the least"
        return "as predicted"


def prediction(what: str, text: str) -> Prediction | None:
    """The first range of a cell: '1.0 to 1.5 ms', '6.5e12 pairs/s, at most 8.2e12', 'below 1e-4'."""
    found = RANGE.search(text)
    if not found:
        return None
    unit = UNITS[found[4] or ""]
    high = float(found[3] or found[2]) * unit
    low = 0.0 if found[1] else float(found[2]) * unit
    return Prediction(what, text, low, high)


def predictions(folder: Path) -> dict[str, Prediction]:
    """The table of the newest predictions of a folder, by its first column. Empty where there is none."""
    files = sorted(folder.glob("*gpu-predictions.md"))
    found = {}
    for line in files[-1].read_text().splitlines() if files else []:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) >= 2 and (one := prediction(cells[0], cells[1])):
            found[cells[0]] = one
    return found


def row_names() -> list[str]:
    """All rows that are measured."""
    return [*(row for bench in BENCHES for row in bench.rows), POROUS, EAGER, STRONGEST]


def medians(records: list[dict]) -> dict[tuple[str, str], dict]:
    """(row, build) -> the median, the least and the most over the rounds, from records of kind 'row'."""
    values: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record["kind"] == "row" and is_number(record["value"]):
            values.setdefault((record["row"], record["build"]), []).append(record["value"])
    return {
        key: {"median": statistics.median(all_), "least": min(all_), "most": max(all_), "rounds": len(all_)}
        for key, all_ in values.items()
    }


def json_lines(text: str) -> Lines:
    """The lines of a benchmark's output that are JSON objects."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
