# SPDX-License-Identifier: MIT
"""How tools/gpu_check shows what it found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Step:
    """How a step ended."""

    name: str
    status: str = "passed"  # or failed, out of time, no device
    seconds: float = 0
    reason: str = ""
    data: dict = field(default_factory=dict)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines] + [""]


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def peer_rows(case: str, lines: list[dict]) -> list[list[str]]:
    """One case of compare.py."""
    base = next((x["seconds_median"] for x in lines if x["form"] == "brenier" and "failed" not in x), None)
    rows = []
    for line in lines:
        if "failed" in line:
            rows.append([case, line["form"], "failed", "", line["failed"][:120].replace("\n", " ")])
            continue
        ratio = f"{line['seconds_median'] / base:.2f}" if base else ""
        note = "launches one by one: no graph" if line.get("cudagraph_skips") else ""
        rows.append(
            [
                case,
                line["form"],
                microseconds(line["seconds_median"]),
                ratio,
                f"{line['gradient_rel_error']:.1e} {note}".strip(),
            ]
        )
    return rows


def render(machine: dict, steps: list[Step]) -> str:
    """The readable form of everything."""
    data = {key: value for step in steps for key, value in step.data.items()}
    gpu = ", ".join(machine.get("gpu", {}).values()) or "NO GPU"
    lines = [
        f"# GPU check: {gpu}",
        "",
        f"{machine.get('date', '')}, commit {machine.get('commit', '')}, "
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
            ["test", "status", "seconds"],
            [[k, t["status"], f"{t['seconds']:.1f}"] for k, t in data["tests"].items()],
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
                    f"{100 * x['share']:.1f} %",
                    f"{x['gradient_rel_error']:.1e}",
                ]
                for x in data["inner"]
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
