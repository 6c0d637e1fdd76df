# SPDX-License-Identifier: MIT
"""Every table of the paper's section 6 and appendices E and F: our numbers, and the published ones beside them."""

from __future__ import annotations

import math
import statistics
from typing import Callable

import numpy as np

import published
from chemistry import kept
from experiment import SWEEP_TIME, Case, Experiment, Run, told

SWEEP = (1e0, 3e0, 1e1, 3e1, 1e2, 1e3, 1e4, 1e5)  # lambda_2 of the frontier
QUICK_SWEEP = (1e1, 1e4)
DIRECT_WEIGHTS = (0, 1, 10, 100, 1000, 10000)
DIRECT_RATES = (0.5, 0.1, 0.01, 0.001, 0.0001)
TABLE_2 = (("sgd", 0, 0.5), ("sgd", 1, 0.5), ("sgd", 1000, 0.5), ("adam", 0, 0.1), ("adam", 0, 0.01), ("adam", 1, 0.1),
           ("adam", 1000, 0.1), ("adam", 10000, 0.1))


def spread(values: list[float], digits: int, scale: float = 1) -> str:
    """Mean +- standard deviation of what is finite; the value alone of one."""
    finite = [scale * v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    text = f"{statistics.fmean(finite):.{digits}f}"
    return text + (f" +- {statistics.stdev(finite):.{digits}f}" if len(finite) > 1 else "")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines) + "\n"


def cells(runs: list[Run], names: tuple[str, ...] = ("validity", "uniqueness", "qed_median"), step: int = -1) -> list[str]:
    """Mean and deviation over the runs that came to their end, of the last or another decoded cloud."""
    rows = [(run.end if step < 0 else run.clouds[step]).decoded.row() for run in runs if not run.failed]
    return [spread([row[name] for row in rows], *((2, 100) if name in ("validity", "uniqueness") else (3,)))
            for name in names]


def sds(runs: list[Run]) -> str:
    """SD at the end."""
    values = [run.end.sd for run in runs if not run.failed]
    return spread(values, 3 if not values or max(values) < 100 else 1)


def failures(runs: list[Run]) -> str:
    """How many runs there are, and why some have no numbers."""
    bad = [run for run in runs if run.failed]
    return f"{len(runs) - len(bad)}" + (f", {len(bad)} failed: {bad[0].failed}" if bad else "")


QED_NAMES = ("validity", "uniqueness", "qed_median", "qed_mean", "qed_deviation")


class Report:
    """Makes the tables, in the order that they need each other, and remembers the flows."""

    def __init__(self, experiment: Experiment, seeds: int, sweep_seeds: int, quick: bool) -> None:
        self.experiment, self.seeds, self.sweep_seeds, self.quick = experiment, seeds, sweep_seeds, quick
        self.flows: dict[str, list[Run]] = {}
        self.direct: dict[tuple[str, float, float], list[Run]] = {}
        self.numbers: dict[str, dict] = {}

    # --- runs ----------------------------------------------------------------------------------------------------

    def flow(self, case: Case, seeds: int | None = None) -> list[Run]:
        """All seeds of a case."""
        runs = self.flows.setdefault(case.name, [])
        for seed in range(len(runs) + 1, (seeds or self.seeds) + 1):
            runs.append(self.experiment.flow(case, seed))
            run = runs[-1]
            told(f"{case.name}, seed {seed}: " + (f"failed: {run.failed}" if run.failed else
                 f"E[V] {run.potential[0]:.3g} to {run.potential[1]:.3g}, SD {run.end.sd:.4g}, median QED "
                 f"{run.end.decoded.row()['qed_median']:.3f}, {run.seconds:.0f} s"))
        return runs[:seeds or self.seeds]

    def descents(self, seeds: int) -> dict[tuple[str, float, float], list[Run]]:
        """The grid of direct optimisation."""
        weights, rates = ((0, 1000), (0.1, 0.01)) if self.quick else (DIRECT_WEIGHTS, DIRECT_RATES)
        done = max((len(runs) for runs in self.direct.values()), default=0)
        for seed in range(done + 1, seeds + 1):
            for key, run in self.experiment.descents(seed, weights, rates).items():
                self.direct.setdefault(key, []).append(run)
            told(f"direct optimisation, seed {seed}: {len(self.direct)} configurations")
        return self.direct

    def verify(self) -> None:
        """What must hold of any run, and that the autoencoder does what is recorded of it. Raises AssertionError."""
        found, count = self.numbers["autoencoder"], self.numbers["autoencoder"]["molecules"]
        for name, recorded in self.experiment.recorded.items():
            # Four standard errors of a share of so few molecules.
            assert abs(found[name] - recorded) <= 4 * math.sqrt(recorded * (1 - recorded) / count) + 0.005, (name, found)
        assert self.numbers["classifier"]["share"] > 0.99, self.numbers["classifier"]
        points = self.experiment.size.cloud
        for name, runs in self.flows.items():
            for run in runs:
                assert not run.failed, (name, run.failed)
                assert run.clouds[0].decoded.validity == 1, name
                assert run.potential[1] < run.potential[0], (name, run.potential)
                assert run.end.sd >= 0.0025 * math.log(points) - 1e-6, (name, run.end.sd)
        by_weight = sorted((runs[0].end.sd, float(name.split("_")[1])) for name, runs in self.flows.items()
                           if name.startswith("sweep"))
        assert by_weight == sorted(by_weight, key=lambda pair: -pair[1]), f"a smaller weight goes farther: {by_weight}"
        assert self.direct and all(run.clouds or run.failed for runs in self.direct.values() for run in runs)

    # --- tables --------------------------------------------------------------------------------------------------

    def autoencoder(self) -> str:
        """The autoencoder beside what it has to do."""
        found = self.numbers["autoencoder"] = self.experiment.autoencoder()
        bars = {"exact": ">= 60", "valid": ">= 97", "prior": ">= 80"}
        names = {"exact": "exact reconstruction, %", "valid": "validity of decoded encodings, %",
                 **{f"noise_{n}": f"the same, moved by {n} deviations of each coordinate, %" for n in (0.1, 0.2, 0.3, 0.5)},
                 "prior": "validity of decoded prior samples, %"}
        rows = [[label, f"{100 * found[name]:.2f}", bars.get(name, "")] for name, label in names.items()]
        rows += [["decoded greedily: exact reconstruction, %", f"{100 * found['greedy_exact']:.2f}", ""],
                 ["decoded greedily: validity of decoded encodings, %", f"{100 * found['greedy_valid']:.2f}", ""]]
        rows += [["coordinates whose mean moves (deviation > 0.1)", f"{found['active']}", "(paper: 11 of 128)"],
                 ["posterior deviation there", f"{found['deviation']:.3f}", ""]]
        return f"{found['molecules']} held-out molecules.\n\n" + markdown(["", "here", "asked"], rows)

    def classifier(self) -> str:
        """Accuracy, confusion and where the gradient lies (figures 5 and 7); beside it, fitted to the means."""
        made = [self.experiment.classifier(), self.experiment.classifier("qed_means", sampled=False)]
        tests = [summary["test"] for _, summary in made]
        slopes = [self.experiment.gradient(file) for file, _ in made]
        bounds = [self.experiment.plain_accuracy(name) for name in ("qed", "qed_means")]
        self.numbers["classifier"] = {**tests[0], **slopes[0], "plain": bounds[0]}
        rows = [["accuracy, %", *(f"{100 * t['accuracy']:.2f}" for t in tests),
                 published.ACCURACY[self.experiment.dataset.name]],
                ["accuracy of a network of that size that need not be convex, %", *(f"{100 * b:.2f}" for b in bounds), ""],
                ["confusion (rows: true, columns: predicted; first: high QED)", *(f"{t['confusion']}" for t in tests), ""],
                [f"share of the squared gradient in the {slopes[0]['active']} active coordinates, %",
                 *(f"{100 * s['share']:.1f}" for s in slopes), "0 in the authors' own classifier"],
                ["root mean square of the logit's gradient at the start (then scaled to the paper's)",
                 *(f"{summary['gradient']:.3g}" for _, summary in made), "66"]]
        return markdown(["", "here: draws of the posterior", "means", "paper"], rows)

    def table_2(self) -> str:
        """The flow and selected descents."""
        flow = self.flow(Case.of("sinkhorn", 10000))
        rows = [["start", *cells(flow, step=0), "", *published.START_MOSES[:3], ""]]
        rows += [["JKO-ICNN, lambda_2 = 10,000", *cells(flow), sds(flow), *published.TABLE_2_FLOW]]
        direct = self.descents(self.seeds)
        for key in TABLE_2:
            if key in direct:
                rows.append([f"{key[0]}, lambda_2 = {key[1]:g}, rate {key[2]:g}", *cells(direct[key]), sds(direct[key]),
                             *published.DIRECT.get(key, published.DIRECT_START)])
        ours = ["validity %", "uniqueness %", "QED median", "SD"]
        return markdown(["", *ours, *(f"paper: {name}" for name in ours)], rows)

    def table_4(self) -> str:
        """Distances and weights (table 9 for QM9)."""
        moses = self.experiment.dataset.name == "moses"
        table, start = (published.TABLE_4, published.START_MOSES) if moses else (published.TABLE_9, published.START_QM9)
        rows = []
        for (distance, weight), row in table.items():
            runs = self.flow(Case.of(distance, weight))
            if not rows:
                rows.append(["start", "", *cells(runs, QED_NAMES, 0), "", *start])
            rows.append([f"{distance}, {weight:,}", failures(runs), *cells(runs, QED_NAMES), sds(runs), *row])
        ours = ["validity %", "uniqueness %", "QED median", "mean", "deviation"]
        return markdown(["D, lambda_2", "seeds", *ours, "SD", *(f"paper: {name}" for name in ours)], rows)

    def table_5(self) -> str:
        """The step tau."""
        rows = []
        for tau, row in published.TABLE_5.items():
            runs = self.flow(Case.of("sinkhorn", 10000, tau))
            rows.append([f"{tau:g}", failures(runs), *cells(runs), sds(runs), *row])
        ours = ["validity %", "uniqueness %", "QED median"]
        return markdown(["tau", "seeds", *ours, "SD", *(f"paper: {name}" for name in ours)], rows)

    def tables_6_7(self) -> str:
        """The whole grid of direct optimisation."""
        rows = []
        for key, runs in self.descents(self.seeds).items():
            rows.append([key[0], f"{key[1]:g}", f"{key[2]:g}", *cells(runs), sds(runs) or failures(runs),
                         *published.DIRECT.get(key, published.DIRECT_START)])
        ours = ["validity %", "uniqueness %", "QED median", "SD"]
        return markdown(["", "lambda_2", "rate", *ours, *(f"paper: {name}" for name in ours)], rows)

    def table_8(self) -> str:
        """Maps on new molecules: time, and what these become."""
        run = self.best()[1][0]
        if run.failed:
            return f"The flow has no maps: {run.failed}\n"
        rows = []
        cloud = run.end.decoded.row()["qed_median"]
        others = np.load(self.experiment.others(max(self.experiment.size.new)))
        for row in self.experiment.amortisation(run):
            count = row["points"]
            file = self.experiment.folder / "start" / f"new_{count}.npy"
            np.save(file, others[:count])
            moved = self.experiment.pushed(run, file)
            paper = published.TABLE_8.get(count, ("", "", "", "", "", ""))
            numbers = moved.decoded.row()
            rows.append([f"{count}", f"{numbers['qed_median']:.3f}", f"{numbers['qed_median'] - cloud:+.3f}",
                         f"{100 * numbers['validity']:.1f}", f"{row['sd_maps']:.3f}", f"{row['seconds_maps']:.3f}",
                         f"{row['seconds_direct']:.2f}", f"{row['seconds_direct'] / row['seconds_maps']:.0f}",
                         *map(str, paper)])
        header = ["points", "QED median", "less that of the cloud", "validity %", "SD", "maps, s", "direct, s", "ratio",
                  "paper: QED median", "SD", "maps, s", "direct: QED median", "SD", "s"]
        return f"Maps of {run.folder.name} (lambda_2 of the best row below).\n\n" + markdown(header, rows)

    def best(self) -> tuple[float, list[Run]]:
        """The sweep's weight with the largest median QED among those that keep validity and uniqueness; else the best
        product of the three."""
        weights = QUICK_SWEEP if self.quick else SWEEP

        def merit(weight: float) -> tuple[bool, float]:
            run = self.flow(Case.swept(weight, self.experiment.size.steps), self.sweep_seeds)[0]
            if run.failed:
                return False, -1.0
            row = run.end.decoded.row()
            wanted = self.experiment.dataset
            good = row["validity"] >= wanted.valid and row["uniqueness"] >= wanted.unique
            return good, row["qed_median"] * (1 if good else row["validity"] * row["uniqueness"])

        weight = max(weights, key=merit)
        return weight, self.flow(Case.swept(weight, self.experiment.size.steps))

    def frontier(self) -> str:
        """The sweep of lambda_2, and direct optimisation, by how far the molecules went."""
        weight, runs = self.best()
        rows = []
        for value in QUICK_SWEEP if self.quick else SWEEP:
            mine = self.flow(Case.swept(value, self.experiment.size.steps), self.sweep_seeds)
            rows.append([f"flow, {value:g}", *self.frontier_cells(mine)])
        rows.append([f"flow, {weight:g} (best, all seeds)", *self.frontier_cells(runs)])
        for key, mine in self.descents(self.sweep_seeds).items():
            rows.append([f"{key[0]}, {key[1]:g}, rate {key[2]:g}", *self.frontier_cells(mine)])
        header = ["lambda_2", "SD", "QED median", "validity x uniqueness %", "same molecule %", "similarity to the own start",
                  "to the nearest start"]
        return markdown(header, rows)

    def frontier_cells(self, runs: list[Run]) -> list[str]:
        """SD, QED, validity x uniqueness, and how much of the start is left."""
        done = [run for run in runs if not run.failed]
        if not done:
            return [failures(runs), "", "", "", "", ""]
        ends = [run.end.decoded.row() for run in done]
        left = [kept(self.experiment.start(run.seed).decoded, run.end.decoded) for run in done]
        return [sds(runs), spread([r["qed_median"] for r in ends], 3),
                spread([r["validity"] * r["uniqueness"] for r in ends], 2, 100), spread([k["same"] for k in left], 1, 100),
                spread([k["similarity"] for k in left], 3), spread([k["nearest"] for k in left], 3)]

    def window(self) -> str:
        """A second property: QED, and logP between two bounds, as a sum of three potentials."""
        log_p = self.experiment.labelled()["log_p"]
        low, high = np.nanquantile(log_p, [0.3, 0.6])
        unknown = np.isnan(log_p)
        below = self.experiment.classifier("logp_low", np.where(unknown, np.nan, log_p < low))
        above = self.experiment.classifier("logp_high", np.where(unknown, np.nan, log_p > high))
        weight = self.best()[0]
        case = Case(f"window_{weight:g}", "molecules_window", (f"functional.1.weight={weight!r}",
                                                                f"flow.tau={SWEEP_TIME / self.experiment.size.steps!r}"))
        # The term at place 1 is transport; the potentials are at 0, 2 and 3.
        files = (self.experiment.classifier()[0], below[0], above[0])
        case = Case(case.name, case.config, (*case.settings, f"functional.2.path={files[1]}", f"functional.3.path={files[2]}"))
        run = self.experiment.flow(case, 1)
        if run.failed:
            return f"failed: {run.failed}\n"
        alone = self.best()[1][0]
        rows = []
        for label, cloud in (("start", run.clouds[0]), ("QED alone", alone.end), ("QED and window", run.end)):
            values = cloud.decoded.log_p
            inside = float(np.mean((values >= low) & (values <= high))) if values.size else math.nan
            row = cloud.decoded.row()
            rows.append([label, f"{100 * inside:.1f}", f"{row['qed_median']:.3f}", f"{100 * row['validity']:.2f}",
                         f"{100 * row['uniqueness']:.2f}"])
        accuracies = ", ".join(f"{100 * made[1]['test']['accuracy']:.1f} %" for made in (below, above))
        return (f"logP between {low:.2f} and {high:.2f}; accuracies of the two classifiers {accuracies}.\n\n"
                + markdown(["", "logP inside %", "QED median", "validity %", "uniqueness %"], rows))

    def sections(self) -> list[tuple[str, Callable[[], str]]]:
        """Titles and tables, in order."""
        made = [("The autoencoder", self.autoencoder), ("The classifier (figures 5 and 7)", self.classifier)]
        if self.experiment.dataset.name == "qm9":
            return made + [("Distances and weights (table 9)", self.table_4), ("The frontier", self.frontier)]
        made += [("The flow and direct optimisation (table 2)", self.table_2)]
        if not self.quick:
            made += [("Distances and weights (table 4)", self.table_4), ("The step tau (table 5)", self.table_5),
                     ("Direct optimisation (tables 6 and 7)", self.tables_6_7)]
        made += [("Maps on new molecules (table 8)", self.table_8), ("The frontier", self.frontier)]
        return made + ([] if self.quick else [("A second property", self.window)])
