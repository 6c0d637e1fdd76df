#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The paper's molecules, from SMILES to SMILES: its tables 2 and 4 to 9 and figures 5 to 8, ours beside its.

    run --quick          the whole way, small: 2,000 molecules for the classifier, flows of 10 steps
    run                  MOSES as in the paper; --dataset qm9 for its appendix F
    run --retrain        trains the autoencoder first (hours on a CPU); goes on where it was stopped

`run` sets up numpy, RDKit and matplotlib, and then calls this file. The autoencoder's weights lie beside it; how they
came about is in weights.md. Molecules are fetched once. Tables go to report.md in the folder that is named at the end, and
figures beside it; everything is kept there, so that a second call goes on where the first was stopped.

Decoding: beam search of 4. V: the logit of a convex classifier fitted to draws of the posterior, multiplied such that its
gradient at the start is that of the authors' V, for which lambda_2, tau and rates are.

Validity: RDKit reads the string, and it is not empty. Uniqueness: different canonical strings among the valid. QED: of
the valid. SD: entropic transport between the initial and the final cloud, epsilon = 0.0025, not debiased.
Exit status: 0, 1 where --quick finds something that must not be, 2 where something cannot be run, 77 where there is no network to fetch molecules from.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def retrain(options: argparse.Namespace) -> Path:
    """Trains the autoencoder; the weights."""
    from data import sets  # pylint: disable=import-outside-toplevel
    sets(options.dataset, options.out / "data")
    folder = options.out / f"autoencoder-{options.dataset}"
    words = [sys.executable, HERE / "train.py", "--out", folder, "--resume", "--minutes", options.minutes]
    words += ["--train", options.out / "data" / f"{options.dataset}_train.txt.gz"]
    words += ["--start", options.start] if options.start else []
    words += ["--test", options.out / "data" / f"{options.dataset}_test.txt.gz", "--both-ways"]
    subprocess.run([str(word) for word in words], check=True)
    return folder / "weights.safetensors"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench/paper/molecules/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run of every stage, in minutes")
    parser.add_argument("--dataset", choices=("moses", "qm9"), default="moses")
    parser.add_argument("--retrain", action="store_true", help="train the autoencoder anew (needs PyTorch)")
    parser.add_argument("--minutes", type=float, default=240, help="of --retrain, of the processor (240)")
    parser.add_argument("--start", type=Path, help="weights that --retrain begins with (random ones)")
    parser.add_argument("--weights", type=Path, help="of the autoencoder, .safetensors (those beside this program)")
    parser.add_argument("--seeds", type=int, help="clouds and seeds of every flow (5; --quick: 1)")
    parser.add_argument("--sweep-seeds", type=int, default=1, help="of the sweep of lambda_2 (1)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only tables with this word in the title")
    parser.add_argument("--size", action="append", metavar="NAME=N", default=[],
                        help="another size: labelled, epochs, cloud, steps, descent_steps, every, measured")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", default=[], help="a setting of every flow")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "molecules", help="folder (runs/molecules)")
    parser.add_argument("--programs", type=Path, default=ROOT / "build", help="build folder of brenier (build)")
    parser.add_argument("--threads", type=int, default=0, help="0: all processors")
    options = parser.parse_args()
    # After the options, so that --help needs no package.
    from data import CannotRun  # pylint: disable=import-outside-toplevel
    try:
        return run(options)
    except CannotRun as error:
        print(f"molecules: {error}", file=sys.stderr)
        return 77 if "cannot be fetched" in str(error) else 2


def run(options: argparse.Namespace) -> int:
    """All tables and figures."""
    import figures  # pylint: disable=import-outside-toplevel
    import self_test  # pylint: disable=import-outside-toplevel
    from data import CannotRun  # pylint: disable=import-outside-toplevel
    from experiment import DATASETS, Experiment, size_of  # pylint: disable=import-outside-toplevel
    from tables import Report  # pylint: disable=import-outside-toplevel
    begun = time.monotonic()
    if options.quick:
        self_test.main()
    weights = options.weights or HERE / f"{options.dataset}.safetensors"
    if options.retrain:
        weights = retrain(options)
    experiment = Experiment(DATASETS[options.dataset], size_of(options.quick, options.size, options.set), weights,
                            options.out.resolve(), options.programs.resolve(), options.threads)
    report = Report(experiment, options.seeds or (1 if options.quick else 5), options.sweep_seeds, options.quick)
    texts = [f"# Molecules: {options.dataset}\n\nWeights {weights.name}; mean +- standard deviation over "
             f"{report.seeds} clouds and seeds.\n"]
    chosen = [(title, make) for title, make in report.sections()
              if not options.only or any(word.lower() in title.lower() for word in options.only)]
    if not chosen:
        raise CannotRun(f"no table has {' or '.join(options.only)} in its title")
    for title, make in chosen:
        texts.append(f"## {title}\n\n{make()}")
        print(texts[-1], flush=True)
        # After each table: a long series that is cut off leaves what it knows.
        (experiment.folder / "report.md").write_text("\n".join(texts))
    figures.draw(report, experiment.folder / "figures")
    if options.quick and not options.only:
        report.verify()
    print(f"{experiment.folder / 'report.md'}, {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
