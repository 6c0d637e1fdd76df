#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The molecule flow with several seeds, beside the paper's tables 2, 4, 5 and 8.

    bench/paper/molecules/latent.py --cloud embeddings.npy --potential surrogate.safetensors       tables 2 and 8
    bench/paper/molecules/latent.py --cloud ... --potential ... --table 4 --table 5 --seeds 3      weights, MMD, and tau
    bench/paper/molecules/latent.py --cloud ... --potential ... --literal                  the authors' own network
    bench/paper/molecules/latent.py --cloud ... --potential ... --literal --table 8        and its maps on new points

Runs go into folders CASE-SEED of --out; one that is finished is not run again, one that was cut off goes on. Writes
molecules.md and molecules.json there after each table. Direct optimisation (table 2) and the time of the maps of seed
1 on new points (table 8) are those of brenier_bench_molecules; bench/paper/amortisation.py draws the latter.

SD is the entropic transport cost between the initial and the final cloud, epsilon = 0.0025, not debiased, whatever
F was; it is epsilon ln N where nothing has moved. Validity, uniqueness and QED are of decoded molecules, which are
not computed here (molecules.py beside this file does). A seed that diverges is counted, and left out of the means. Exit status: 0, 1 where no run of a
case came to its end, 2 where something could not be run.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent  # of the configurations
BUILD = HERE.parent.parent / "build"
EPSILON = 0.0025  # of SD


class CannotRun(Exception):
    """A program is missing, or refuses what it is given."""


@dataclass(frozen=True)
class Case:
    """A flow: a configuration of this folder, and what is set in it."""

    name: str
    config: str = "molecules"
    settings: tuple[str, ...] = ()


FLOW = Case("flow")
# Published numbers of table 2: mean and deviation of five runs.
FLOW_SD = "0.620 +- 0.010"
# The authors' network and settings, and the same settings with a plain softplus network: both drawn anew for each step. No step
# is checked, as theirs are not: our checks take a tenth of the time, and change no map.
LITERAL = (
    (Case("literal", "literal/molecules", ("flow.certificates=false",)),
     "the authors' network: leaky ReLU, squared first layer, activation of the output"),
    (Case("literal_softplus", "literal/molecules",
          ("network.activation=softplus", "network.first_layer=plain", "network.output_activation=false",
           "flow.certificates=false")),
     "plain softplus network"),
)
LITERAL_WEIGHT = 1e4  # lambda_2
STEPS = (1, 10, 50, 100)  # after which SD is told
# Rows of direct optimisation in table 2: method, lambda_2, rate.
DIRECT = (("sgd", 0, 0.5), ("sgd", 1, 0.5), ("sgd", 1000, 0.5), ("adam", 0, 0.1), ("adam", 0, 0.01), ("adam", 1, 0.1),
          ("adam", 1000, 0.1), ("adam", 10000, 0.1))
# Table 4: the case, its label, and validity %, uniqueness % and median QED as published.
DISTANCES = (
    (Case("sinkhorn_1e3", settings=("functional.1.weight=1000",)), "Sinkhorn, lambda_2 = 1,000",
     "92.46 +- 2.10, 69.92 +- 4.91, 0.746 +- 0.016"),
    (FLOW, "Sinkhorn, lambda_2 = 10,000", "93.02 +- 1.00, 99.25 +- 0.44, 0.769 +- 0.002"),
    # The paper's MMD is half of the squared one, see molecules_mmd.toml.
    (Case("mmd_1e3", "molecules_mmd", ("functional.1.weight=500",)), "MMD, lambda_2 = 1,000",
     "94.56 +- 1.37, 51.67 +- 2.21, 0.780 +- 0.009"),
    (Case("mmd_1e4", "molecules_mmd"), "MMD, lambda_2 = 10,000", "92.02 +- 3.54, 53.77 +- 3.01, 0.776 +- 0.014"),
)
# Table 5, likewise.
TAUS = (
    (Case("tau_1e-2", settings=("flow.tau=1e-2",)), "tau = 0.01", "94.60 +- 0.62, 99.98 +- 0.05, 0.708 +- 0.005"),
    (Case("tau_1e-3", settings=("flow.tau=1e-3",)), "tau = 0.001", "94.62 +- 0.91, 99.98 +- 0.05, 0.716 +- 0.005"),
    (FLOW, "tau = 0.0001", "93.32 +- 0.69, 99.96 +- 0.06, 0.751 +- 0.007"),
)
DECODED = "published validity %, uniqueness %, median QED"


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program."""
    try:
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotRun(f"{words[0]} cannot be run: {error}") from error


def output(*words: str | Path) -> str:
    """What a program prints that must succeed."""
    result = call(*words)
    if result.returncode != 0:
        message = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise CannotRun(f"{' '.join(str(word) for word in words)}: exit status {result.returncode}: {message}")
    return result.stdout


# --- runs -------------------------------------------------------------------------------------------------------


class Runner:
    """Runs cases, each seed in a folder of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.results: dict[str, list[dict]] = {}

    def settings(self, case: Case) -> list[str]:
        """All settings of a run."""
        options = self.options
        texts = [f"cloud.path={options.cloud.resolve()}", f"functional.0.path={options.potential.resolve()}"]
        return texts + list(case.settings) + options.set

    def one(self, case: Case, seed: int) -> dict:
        """The numbers of one run; only the seed and `failed` where it did not come to its end."""
        options = self.options
        folder = options.out / f"{case.name}-{seed}"
        words = [options.binary, "run", HERE / f"{case.config}.toml", "--out", folder, "--seed", str(seed), "--resume"]
        words += ["--quiet", "--threads", str(options.threads)]
        words += ["--device", options.device] if options.device else []
        words += [word for text in self.settings(case) for word in ("--set", text)]
        result = call(*words)
        file = folder / "summary.json"
        summary = json.loads(file.read_text()) if file.is_file() else {}
        if result.returncode == 1 and summary.get("status") == "failed" and "reason" in summary:
            return {"seed": seed, "failed": summary["reason"]}
        # 3: to its end, with steps that miss more than inner.accept; the run says which.
        if (result.returncode, summary.get("status")) not in ((0, "done"), (3, "unsolved")):
            message = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
            raise CannotRun(f"{' '.join(str(word) for word in words)}: exit status {result.returncode}: {message}")
        rows = self.history(case, seed)
        energy = [float(row["potential"]) for row in rows]
        rises = [b - a for a, b in zip(energy, energy[1:]) if b > a]
        clouds = folder / "clouds"
        sd = json.loads(output(options.binary, "distance", clouds / "step_000000.npy",
                               clouds / f"step_{summary['steps']:06d}.npy", "--metric", "sinkhorn", "--epsilon",
                               str(EPSILON), "--threads", str(options.threads), "--json"))["sinkhorn"]
        return {"seed": seed, "potential_start": energy[0], "potential": energy[-1],
                "functional": summary["functional"]["total"], "sd": sd["value"], "sd_about": sd["about"],
                "rises": len(rises), "largest_rise": max(rises, default=0.0),
                "unconverged": sum(float(row["sinkhorn_unconverged"] or 0) for row in rows),
                "seconds": sum(float(row["seconds"] or 0) for row in rows), "device": summary["device"],
                "threads": summary["threads"]}

    def history(self, case: Case, seed: int) -> list[dict]:
        """A row of history.csv for each step, from 0."""
        with (self.options.out / f"{case.name}-{seed}" / "history.csv").open() as lines:
            return list(csv.DictReader(lines))

    def case(self, case: Case) -> list[dict]:
        """All seeds; a case that several tables show runs once."""
        if case.name not in self.results:
            results = []
            for seed in range(1, self.options.seeds + 1):
                results.append(self.one(case, seed))
                print(f"{case.name}, seed {seed}: {told(results[-1])}", file=sys.stderr, flush=True)
            self.results[case.name] = results
        return self.results[case.name]


def told(result: dict) -> str:
    """A run in a few words."""
    if "failed" in result:
        return f"failed: {result['failed']}"
    return f"E[V] {result['potential']:.4g}, SD {result['sd']:.4g}, {result['seconds']:.0f} s"


# --- tables -----------------------------------------------------------------------------------------------------


def mean(values: list[float], digits: int) -> str:
    """Mean +- deviation; the mean alone of one."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.{digits}g}"
    return text + (f" +- {statistics.stdev(values):.2g}" if len(values) > 1 else "")


def flow_cells(results: list[dict]) -> list[str]:
    """Cells of one case: seeds, E[V], F, SD, rises of E[V], unconverged solves, seconds."""
    done = [result for result in results if "failed" not in result]
    seeds = f"{len(done)}" if len(done) == len(results) else f"{len(done)}, {len(results) - len(done)} diverged"
    rises = [result["rises"] for result in done]
    most = max((result["largest_rise"] for result in done), default=0.0)
    spread = f"{min(rises)}..{max(rises)}" if rises and min(rises) < max(rises) else f"{max(rises, default='')}"
    return [seeds, mean([r["potential"] for r in done], 4), mean([r["functional"] for r in done], 6),
            mean([r["sd"] for r in done], 4), spread + (f" (by at most {most:.1g})" if most > 0 else ""),
            f"{sum(r['unconverged'] for r in done):g}", mean([r["seconds"] for r in done], 3)]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines) + "\n"


HEADER = ["", "seeds", "E[V]", "F", "SD", "steps where E[V] rises", "unconverged solves", "seconds"]


def cases_table(runner: Runner, cases: tuple) -> tuple[str, list[dict]]:
    """Tables 4 and 5."""
    lines, rows = [], []
    for case, label, published in cases:
        results = runner.case(case)
        lines.append([label, *flow_cells(results), published])
        rows.append({"label": label, "case": case.name, "published": published, "runs": results})
    return markdown([*HEADER, DECODED], lines), rows


def direct_rows(options: argparse.Namespace) -> list[dict]:
    """The rows of table 2 from the whole benchmark of direct optimisation."""
    rows = []
    for method in ("sgd", "adam"):
        chosen = [(weight, rate) for name, weight, rate in DIRECT if name == method]
        text = output(options.bench, "--cloud", options.cloud, "--potential", options.potential, "--methods", method,
                      "--weights", ",".join(str(w) for w in sorted({w for w, _ in chosen})),
                      "--rates", ",".join(str(r) for r in sorted({r for _, r in chosen})),
                      "--threads", str(options.threads), "--steps", str(options.direct_steps))
        rows += [row for row in json.loads(text.splitlines()[-1])["direct"] if (row["weight"], row["rate"]) in chosen]
    return rows


def table_2(runner: Runner) -> tuple[str, list[dict]]:
    """The flow and direct optimisation."""
    results = runner.case(FLOW)
    lines = [["JKO-ICNN, lambda_2 = 10,000, tau = 1e-4", *flow_cells(results), FLOW_SD]]
    rows = [{"label": "JKO-ICNN", "case": FLOW.name, "published_sd": FLOW_SD, "runs": results}]
    for row in direct_rows(runner.options):
        label = f"{'SGD' if row['method'] == 'sgd' else 'Adam'}, lambda_2 = {row['weight']:g}, rate {row['rate']:g}"
        published = f"{row['published_sd']:g} +- {row['published_deviation']:g}" if "published_sd" in row else ""
        if "diverged_after" in row:
            lines.append([label, "", "", "", f"diverged after {row['diverged_after']} steps", "", "", "", published])
        else:
            functional = row["potential"] + row["weight"] * row["sd"]
            lines.append([label, "", f"{row['potential']:.4g}", f"{functional:.6g}", f"{row['sd']:.4g}", "",
                          f"{row['unconverged']:g}", f"{row['seconds']:.3g}", published])
        rows.append({"label": label, **row})
    return markdown([*HEADER, "published SD"], lines), rows


def literal_table(runner: Runner) -> tuple[str, list[dict]]:
    """SD along the flow with the paper's own settings."""
    lines, rows = [], []
    for case, label in LITERAL:
        results = runner.case(case)
        done = [result for result in results if "failed" not in result]
        curves = [[float(row["divergence"]) / LITERAL_WEIGHT for row in runner.history(case, result["seed"])]
                  for result in done]
        cells = [mean([curve[step] for curve in curves if step < len(curve)], 3) for step in STEPS]
        lines.append([label, f"{len(done)}", *cells, mean([r["potential"] for r in done], 3),
                      mean([r["seconds"] for r in done], 3)])
        rows.append({"label": label, "case": case.name, "runs": results, "sd_by_step": curves})
    header = ["", "seeds", *(f"SD after {step}" for step in STEPS), "E[V] at the end", "seconds"]
    return markdown(header, lines) + f"\nPublished: {FLOW_SD} after 100.\n", rows


def table_8(runner: Runner, case: Case = FLOW) -> tuple[str, list[dict]]:
    """The maps of seed 1 of a case on new points."""
    options = runner.options
    first = runner.case(case)[0]
    if "failed" in first:
        raise CannotRun(f"{case.name}: the flow of seed 1 has no maps for table 8: {first['failed']}")
    text = output(options.bench, "--cloud", options.cloud, "--potential", options.potential, "--maps",
                  options.out / f"{case.name}-1" / "maps", "--points", options.points, "--threads",
                  str(options.threads), "--steps", str(options.direct_steps), "--seconds", str(options.timing))
    rows = json.loads(text.splitlines()[-1])["amortisation"]
    lines = [[f"{r['points']}", f"{r['seconds_maps']:.3g}", f"{r.get('published_seconds_maps', '')}",
              f"{r['seconds_direct']:.3g}", f"{r.get('published_seconds_direct', '')}",
              f"{r['seconds_direct'] / r['seconds_maps']:.0f}", f"{r['sd_maps']:.4g}", f"{r['sd_direct']:.4g}",
              f"{r['potential_maps']:.4g}", f"{r['potential_direct']:.4g}"] for r in rows]
    header = ["points", "maps, seconds", "published", "direct, seconds", "published", "ratio", "SD maps", "SD direct",
              "E[V] maps", "E[V] direct"]
    return markdown(header, lines), rows


TABLES = {
    2: ("The flow and direct optimisation (table 2)", table_2),
    4: ("Distances and their weights (table 4)", lambda runner: cases_table(runner, DISTANCES)),
    5: ("The step tau (table 5)", lambda runner: cases_table(runner, TAUS)),
    8: ("The maps on new points (table 8)", table_8),
}


def about(runner: Runner) -> str:
    """What the numbers were computed with, and where they start."""
    done = [result for results in runner.results.values() for result in results if "failed" not in result]
    if not done:
        return "No run came to its end.\n"
    devices = sorted({f"{result['device']}, {result['threads']} threads" for result in done})
    extra = f"; with {' '.join(runner.options.set)}" if runner.options.set else ""
    return (f"{'; '.join(devices)}{extra}. E[V] is {done[0]['potential_start']:.4f} at the start. "
            f"SD: epsilon = {EPSILON:g}, not debiased. Mean +- standard deviation over the seeds.\n")


def report(runner: Runner, tables: list[int]) -> bool:
    """Runs and writes; whether every case has a run that came to its end."""
    options = runner.options
    texts, numbers = [], {}
    chosen = [(str(number), *TABLES[number]) for number in tables]
    if options.literal:
        chosen.append(("literal", "The paper's own settings (table 2)", literal_table))
        if 8 in tables:
            chosen.append(("literal_8", "The maps of the authors' network on new points (table 8)",
                           lambda runner: table_8(runner, LITERAL[0][0])))
    for number, title, make in chosen:
        text, numbers[number] = make(runner)
        texts.append(f"## {title}\n\n{text}")
        # After each table: a long series that is cut off leaves what it knows.
        (options.out / "molecules.md").write_text("\n".join([about(runner), *texts]))
        content = {"seeds": options.seeds, "settings": options.set, "tables": numbers}
        content |= {"amortisation": numbers["8"]} if "8" in numbers else {}
        (options.out / "molecules.json").write_text(json.dumps(content, indent=2) + "\n")
        print(texts[-1], flush=True)
    return all(any("failed" not in result for result in results) for results in runner.results.values())


# --- the command ------------------------------------------------------------------------------------------------


def self_test() -> None:
    """Means, cells of cases with seeds that diverged, and that published rows are the paper's."""
    assert mean([1.0, 3.0], 3) == "2 +- 1.4" and mean([0.5], 3) == "0.5" and mean([], 3) == ""
    good = {"seed": 1, "potential": -3.0, "functional": 171.0, "sd": 0.017, "rises": 2, "largest_rise": 4e-4,
            "unconverged": 1.0, "seconds": 10.0}
    bad = {"seed": 2, "failed": "nan"}
    assert flow_cells([good, bad]) == ["1, 1 diverged", "-3", "171", "0.017", "2 (by at most 0.0004)", "1", "10"]
    assert flow_cells([bad])[:3] == ["0, 1 diverged", "", ""]
    assert flow_cells([good, {**good, "rises": 5}])[4] == "2..5 (by at most 0.0004)"
    assert markdown(["a", "b"], [["1", "2|3"]]) == "| a | b |\n| --- | --- |\n| 1 | 2/3 |\n"
    assert math.isclose(float(FLOW_SD.split()[0]), 0.62) and len(DIRECT) == len(set(DIRECT)) == 8
    print("molecules: self-test passed")


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloud", type=Path, help="the initial points, .npy (N, d)")
    parser.add_argument("--potential", type=Path, help="V, .safetensors")
    parser.add_argument("--table", type=int, action="append", choices=list(TABLES), help="may be repeated (2 and 8)")
    parser.add_argument("--literal", action="store_true", help="also the flow with the paper's own settings: long")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 .. N (5)")
    parser.add_argument("--out", type=Path, default=Path("runs/molecules"), help="folder of the runs (runs/molecules)")
    parser.add_argument("--binary", type=Path, default=BUILD / "tools" / "brenier", help="build/tools/brenier")
    parser.add_argument("--bench", type=Path, default=BUILD / "bench" / "brenier_bench_molecules",
                        help="build/bench/brenier_bench_molecules")
    parser.add_argument("--device", default="", help="of the flows, e.g. cuda (as configured)")
    parser.add_argument("--threads", type=int, default=0, help="0: all processors")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every flow")
    parser.add_argument("--direct-steps", type=int, default=100, help="steps of direct optimisation (100)")
    parser.add_argument("--points", default="1000,2000,3000,4000,5000", help="new points of table 8")
    parser.add_argument("--timing", type=float, default=1.0, help="seconds for each timing of table 8 (1)")
    parser.add_argument("--self-test", action="store_true", help="checks the tables, runs nothing")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; at least 1")
    if not options.self_test and not (options.cloud and options.potential):
        parser.error("--cloud and --potential are needed: the embeddings and the classifier of the authors' release")
    return options


def main() -> int:
    options = arguments()
    if options.self_test:
        self_test()
        return 0
    tables = sorted(set(options.table or (() if options.literal else (2, 8))))
    needed = [options.cloud, options.potential, options.binary]
    needed += [options.bench] if {2, 8} & set(tables) else []
    try:
        for file in needed:
            if not file.is_file():
                raise CannotRun(f"{file} is not there; build it, or give its place")
        options.out.mkdir(parents=True, exist_ok=True)
        return 0 if report(Runner(options), tables) else 1
    except (CannotRun, OSError) as error:
        print(f"molecules: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
