# SPDX-License-Identifier: MIT
"""Times one inner iteration in brenier and in PyTorch on the same numbers, in turn, and prints the ratios.

With --share-inputs, PyTorch writes the parameters and the cloud of each case to files, which the binary
gets as `--maps`, `--cloud` and `--log-density`. Each round times every PyTorch form and brenier once, one
after the other, so that a machine that slows down slows all of them down. Reported: the median over the
rounds of each round's median, and the least time of all. The PyTorch process waits, without work, while
brenier runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from arguments import add_measurement, parser_of

HERE = Path(__file__).resolve().parent
LARGE = 100_000  # particles
DEFAULT_CASES = ("potential:1:1000", "porous_medium:1:1000", "entropy:2:16000", "entropy:20:1000")
Line = dict[str, object]


def case_flags(args: argparse.Namespace, case: str) -> list[str]:
    """The flags that both programs take, from "functional:dim:n"."""
    functional, dim, n = case.split(":")
    flags = {"n": n, "dim": dim, "hidden": args.hidden, "functional": functional, "dtype": args.dtype}
    flags |= {"threads": args.threads, "seconds": args.seconds}
    flags |= {"device": args.device} if args.device else {}
    return [word for key, value in flags.items() for word in (f"--{key}", str(value))]


class Server:
    """A PyTorch process that does one round when asked. A process that ends early is a form that failed."""

    def __init__(self, forms: str, flags: list[str]) -> None:
        command = [sys.executable, str(HERE / "pytorch_inner.py"), "--serve", *flags]
        command += ["--forms", forms] if forms else []
        self.forms = forms or "PyTorch"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.failures: list[Line] = []

    def read(self) -> list[Line]:
        """The JSON lines up to the next {"ready": ...}."""
        lines: list[Line] = []
        for text in self.process.stdout:
            line = json.loads(text)
            if "ready" in line:
                return lines
            lines.append(line)
        message = f"the process ended with status {self.process.wait()}; its message is above"
        self.failures.append({"form": self.forms, "failed": message})
        return []

    def prepare(self) -> None:
        """Waits until its forms are compiled and checked."""
        self.failures += self.read()

    def round(self) -> list[Line]:
        """Times each form once."""
        if self.process.poll() is not None:
            return []
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def brenier_round(binary: Path, flags: list[str]) -> list[Line]:
    """Runs the binary once; a line a form."""
    result = subprocess.run([binary, *flags], capture_output=True, text=True)
    if result.returncode != 0:
        words = (result.stderr.strip() or "no message").splitlines()[0]
        return [{"form": "brenier", "failed": f"status {result.returncode}: {words}"}]
    return [json.loads(text) for text in result.stdout.splitlines() if text.startswith("{")]


def servers(args: argparse.Namespace, flags: list[str], folder: str) -> list[Server]:
    """The PyTorch processes, ready.

    On a GPU one for each form, since a graph that cannot be recorded may leave its process unusable. They
    compile side by side, but for large clouds, whose oracles fill the memory.
    """
    forms = [args.forms or ""]
    if args.device == "cuda":
        from pytorch_inner import default_forms  # imports PyTorch, which nothing else here needs

        forms = args.forms.split(",") if args.forms else default_forms("cuda", flags[flags.index("--functional") + 1])
    started: list[Server] = []
    for number, form in enumerate(forms):
        started.append(Server(form, [*flags, *(["--dump-inputs", folder] if number == 0 else [])]))
        if int(flags[flags.index("--n") + 1]) >= LARGE:
            started[-1].prepare()
    for server in started:
        if int(flags[flags.index("--n") + 1]) < LARGE:
            server.prepare()
    return started


def merge(rounds: list[Line]) -> list[Line]:
    """One line a form, with the median and the least over the rounds."""
    forms: dict[str, list[Line]] = {}
    for line in rounds:
        forms.setdefault(str(line["form"]), []).append(line)
    merged = []
    for lines in forms.values():
        medians = [line["seconds_median"] for line in lines]
        best = min(line["seconds_min"] for line in lines)
        times = {"seconds_median": statistics.median(medians), "seconds_min": best, "seconds_rounds": medians}
        merged.append(lines[0] | times)
    return merged


def measure(args: argparse.Namespace, case: str) -> list[Line]:
    """All rounds of one case."""
    with tempfile.TemporaryDirectory() as folder:
        flags = case_flags(args, case)
        peers = servers(args, flags, folder)
        if args.share_inputs:
            flags += ["--maps", f"{folder}/maps.safetensors", "--cloud", f"{folder}/cloud.npy"]
            flags += ["--log-density", f"{folder}/log_density.npy"]
            if Path(folder, "potential.safetensors").exists():
                flags += ["--potential", f"{folder}/potential.safetensors"]
        rounds: list[Line] = []
        for _ in range(args.rounds):
            if args.binary:
                rounds += brenier_round(args.binary.resolve(), flags)
            for peer in peers:
                rounds += peer.round()
        for peer in peers:
            peer.close()
    failures = [failure for peer in peers for failure in peer.failures]
    failures += [line for line in rounds if "failed" in line][:1]
    return merge([line for line in rounds if "failed" not in line]) + failures


def table(case: str, lines: list[Line]) -> str:
    """One case as text: time, ratio to brenier (above 1: brenier is faster), gradient error."""
    base = next((line for line in lines if line["form"] == "brenier" and "failed" not in line), None)
    rows = [
        f"{case}",
        f"  {'form':28}{'median us':>12}{'least us':>12}{'ratio':>9}{'of least':>13}{'gradient err':>16}",
    ]
    for line in lines:
        if "failed" in line:
            rows.append(f"  {line['form']:28}failed: {line['failed']}")
            continue
        median, least = line["seconds_median"], line["seconds_min"]
        ratios = (
            (median / base["seconds_median"], least / base["seconds_min"]) if base else (float("nan"),) * 2
        )
        error = line.get("gradient_rel_error")
        error_text = "-" if error is None else f"{error:.1e}"
        times = f"{median * 1e6:12.1f}{least * 1e6:12.1f}{ratios[0]:9.2f}{ratios[1]:13.2f}"
        note = "  launches one by one: no graph" if line.get("cudagraph_skips") else ""
        rows.append(f"  {line['form']:28}{times}{error_text:>16}{note}")
    if any(line["seconds_median"] > 1.5 * line["seconds_min"] for line in lines if "failed" not in line):
        rows.append(
            "  some medians exceed 1.5 times the least: the machine was busy, judge by the ratio of the least"
        )
    return "\n".join(rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--binary", type=Path, help="brenier_bench_inner; without it PyTorch runs alone")
    parser.add_argument(
        "--case", action="append", help="functional:dim:n, may be repeated; default: four cases"
    )
    add_measurement(parser, seconds=0.5)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of both; default: PyTorch on the CPU")
    parser.add_argument(
        "--share-inputs", action="store_true", help="pass parameters and cloud to the binary as files"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    results: dict[str, list[Line]] = {}
    for case in args.case or DEFAULT_CASES:
        results[case] = measure(args, case)
        print(table(case, results[case]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    if any("failed" in line for lines in results.values() for line in lines if line["form"] == "brenier"):
        raise SystemExit("brenier failed; its message is in the table")


if __name__ == "__main__":
    main()
