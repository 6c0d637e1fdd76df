# SPDX-License-Identifier: MIT
"""How tools/gpu_check shows what it found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Step:
    """How a step ended."""

    name: str
    status: str = "passed"  # or failed, out of time, no device, running
    seconds: float = 0
    reason: str = ""
    data: dict = field(default_factory=dict)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines] + [""]


def number(value: object, form: str) -> str:
    """What JSON has as null was not a number."""
    return format(value, form) if isinstance(value, (int, float)) else "not a number"


def microseconds(seconds: float | None) -> str:
    return number(None if seconds is None else seconds * 1e6, ".1f")


def peer_rows(case: str, lines: list[dict]) -> list[list[str]]:
    """One case of compare.py."""
    ours = (x for x in lines if x["form"] == "brenier" and "failed" not in x)
    base = next((x.get("seconds_median") for x in ours), None)
    rows = []
    for line in lines:
        if "failed" in line:
            rows.append([case, line["form"], "failed", "", str(line["failed"])[:120].replace("\n", " ")])
            continue
        median = line.get("seconds_median")
        ratio = f"{median / base:.2f}" if base and median else ""
        note = "launches one by one: no graph" if line.get("cudagraph_skips") else ""
        rows.append(
            [
                case,
                line["form"],
                microseconds(median),
                ratio,
                f"{number(line.get('gradient_rel_error'), '.1e')} {note}".strip(),
            ]
        )
    return rows


def render(machine: dict, steps: list[Step]) -> str:
    """The readable form of everything."""
    data = {key: value for step in steps for key, value in step.data.items()}
    gpu = ", ".join(machine.get("gpu", {}).values()) or "no GPU seen"
    built = machine.get("built") or machine.get("commit", "")
    other = "" if built == machine.get("commit", "") else f", THE PROGRAMS WERE BUILT FROM {built}"
    lines = [
        f"# GPU check: {gpu}",
        "",
        f"{machine.get('date', '')}, commit {machine.get('commit', '')}{other}, "
        f"nvcc {machine.get('nvcc', '')}, {machine.get('processors', '')} processors",
        "",
    ]
    lines += table(
        ["step", "status", "seconds", "reason"],
        [[s.name, s.status, f"{s.seconds:.1f}", s.reason] for s in steps],
    )
    if "ceilings" in data:
        numbers = {key: value for key, value in data["ceilings"].items() if isinstance(value, (int, float))}
        lines += table(["ceiling", "value"], [[key, f"{value:.4g}"] for key, value in numbers.items()])
    if data.get("tests"):
        lines += table(
            ["test", "status", "seconds", "reason"],
            [[k, t["status"], f"{t['seconds']:.1f}", t["reason"]] for k, t in data["tests"].items()],
        )
    if data.get("sanitizers"):
        lines += table(["sanitizer", "verdict"], [[k, v] for k, v in data["sanitizers"].items()])
    if data.get("inner"):
        lines += table(
            ["inner iteration", "device", "us", "start of a loop, us", "of peak", "gradient error"],
            [
                [
                    x["case"],
                    x["device"],
                    microseconds(x["seconds_median"]),
                    microseconds(x["start_seconds"]) if "start_seconds" in x else "",
                    number(x["share"], ".1%"),
                    number(x["gradient_rel_error"], ".1e"),
                ]
                for x in data["inner"]
            ],
        )
    if data.get("sinkhorn"):
        lines += table(
            ["sinkhorn: n, d, schedule, steps", "us", "pairs/s", "value error"],
            [
                [
                    f"{x['n']}, {x['dim']}, {x['schedule']}, {x['iterations']}",
                    microseconds(x["seconds_median"]),
                    number(x["pairs_per_second"], ".3g"),
                    number(x["error"], ".1e"),
                ]
                for x in data["sinkhorn"]
            ],
        )
    if data.get("judge"):
        lines += table(
            ["experiment", "bar", "worst", "passed", "seconds"],
            [
                [
                    f"{x['experiment']}: {x['what']}",
                    f"{x['sense']} {x['bar']:g}",
                    "failed" if x["worst"] is None else f"{x['worst']:.2g}",
                    f"{x['passes']} of {x['of']}",
                    "" if x["seconds"] is None else f"{x['seconds']:.1f}",
                ]
                for x in data["judge"]
            ],
        )
    if data.get("peers"):
        lines += table(
            ["case", "form", "us", "ratio", "gradient error"],
            [row for case, found in data["peers"].items() for row in peer_rows(case, found)],
        )
    return "\n".join(lines)
