# SPDX-License-Identifier: MIT
"""How tools/gpu_check shows what it found: everything, and what bench/results keeps."""

from __future__ import annotations

from collections.abc import Iterable

from gpu.rows import Prediction, is_number, medians, row_names

Records = list[dict]


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Markdown; nothing where there are no rows."""
    lines = [head, ["---"] * len(head), *rows]
    if len(lines) == 2:
        return []
    return ["| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines] + [""]


def number(value: object, form: str) -> str:
    return format(value, form) if is_number(value) else "not a number"


def in_unit(value: object, row: str) -> str:
    """A row's value as people read it: pairs a second, a ratio, an error, or a time."""
    if not is_number(value):
        return "not a number"
    if "kernel, d =" in row:
        return f"{value:.2e} pairs/s"
    if row.startswith("against"):
        return f"{value:.1f} times"
    if row.startswith("porous"):
        return f"{value:.1e}"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if value < limit:
            return f"{value * factor:.4g} {unit}"
    return f"{value:.4g} s"


def of_kind(records: Records, kind: str, key: str = "name") -> dict[str, dict]:
    """The last record for each value of `key`."""
    return {record[key]: record for record in records if record["kind"] == kind}


def predicted_rows(records: Records, expected: dict[str, Prediction]) -> list[list[str]]:
    """What | predicted | measured | spread | verdict, in the order of the predictions; also what nobody measured."""
    found = medians(records)
    failed = {
        record["row"] for record in records if record["kind"] == "row" and not is_number(record["value"])
    }
    wrong = {x["row"]: x["wrong"] for x in records if x["kind"] == "row" and x["build"] == "A" and x["wrong"]}
    rows = []
    for name in dict.fromkeys([*expected, *row_names()]):
        one, measured = expected.get(name), found.get((name, "A"))
        said = one.text if one else "no prediction"
        if not measured:
            rows.append([name, said, "not a number" if name in failed else "not measured", "", ""])
            continue
        spread = f"{in_unit(measured['least'], name)} to {in_unit(measured['most'], name)}"
        spread = f"{spread}, {measured['rounds']} rounds" if measured["rounds"] > 1 else ""
        verdict = one.verdict(measured["median"]) if one else ""
        verdict = f"WRONG: {wrong[name]}" if name in wrong else verdict
        rows.append([name, said, in_unit(measured["median"], name), spread, verdict])
    return rows


def beside(records: Records, first: str, second: str, form: str) -> list[list[str]]:
    """Rows that two builds, or the GPU and the CPU, have measured: what | first | second | second over first."""
    found = medians(records)
    rows = []
    for row in row_names():
        if (row, first) in found and (row, second) in found:
            one, other = found[row, first]["median"], found[row, second]["median"]
            rows.append([row, in_unit(one, row), in_unit(other, row), format(other / one, form)])
    return rows


def gradient_rows(records: Records) -> list[list[str]]:
    """The worst error of each benchmark's own check."""
    worst: dict[str, list] = {}
    for record in records:
        if record["kind"] == "row" and record["build"] == "A":
            for line in record["lines"]:
                for key in ("gradient_rel_error", "error"):
                    if key in line:
                        worst.setdefault(record["row"], []).append(line[key])
    return [
        [row, number(max(errors) if all(map(is_number, errors)) else None, ".1e")]
        for row, errors in worst.items()
    ]


def peer_rows(case: str, lines: Records) -> list[list[str]]:
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
        error = f"{number(line.get('gradient_rel_error'), '.1e')} {note}".strip()
        rows.append([case, line["form"], number(median and median * 1e6, ".1f"), ratio, error])
    return rows


def heading(records: Records) -> tuple[dict, str]:
    """The machine, and where it, its programs and its numbers come from."""
    machines = [record for record in records if record["kind"] == "machine"]
    machine = machines[-1] if machines else {}
    gpu = ", ".join(machine.get("gpu", {}).values()) or "no GPU seen"
    built = machine.get("built") or machine.get("commit") or "unknown"
    said = f"{str(machine.get('date', ''))[:16]}; {gpu}; programs of commit {built}"
    other = machine.get("other sources", "")
    return machine, f"{said}; {machine.get('processors', '')} processors" + (f"; {other}" if other else "")


def measurements(records: Records, expected: dict[str, Prediction]) -> list[str]:
    """The tables that are numbers."""
    lines = table(
        ["what", "predicted", "measured", "over the rounds", "verdict"], predicted_rows(records, expected)
    )
    if compared := beside(records, "A'", "B", ".3f"):
        lines += ["Two builds in turn:", "", *table(["what", "A", "B", "B over A"], compared)]
    if cpu := beside(records, "A", "cpu", ".2f"):
        lines += ["The same run on the machine's CPU:", "", *table(["what", "GPU", "CPU", "ratio"], cpu)]
    ceilings = [record["lines"][-1] for record in records if record["kind"] == "ceilings"]
    if ceilings:
        numbers = {key: value for key, value in ceilings[-1].items() if is_number(value)}
        lines += table(["ceiling", "value"], [[key, f"{value:.4g}"] for key, value in numbers.items()])
    profiles = of_kind(records, "profile")
    lines += table(
        ["profile", "metrics"],
        [
            [f"{name}: {p['kernel']}", "; ".join(f"{k} {v}" for k, v in p["metrics"].items())]
            for name, p in profiles.items()
        ],
    )
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
            for x in of_kind(records, "judge", "what").values()
        ],
    )
    lines += table(
        ["case", "form", "us", "ratio", "gradient error"],
        [
            row
            for case, found in of_kind(records, "peers", "case").items()
            for row in peer_rows(case, found["lines"])
        ],
    )
    return lines


def results(records: Records, expected: dict[str, Prediction]) -> str:
    """What bench/results keeps of calls on one machine."""
    _, said = heading(records)
    tests = of_kind(records, "test")
    whole = {name: test for name, test in tests.items() if "," not in name}
    passed = sum(test["status"] == "passed" for test in whole.values())
    sanitizers = of_kind(records, "sanitizer")
    clean = sum(record["verdict"] == "clean" for record in sanitizers.values())
    lines = [
        "# Measured on a GPU",
        "",
        said + ".",
        "",
        "By `tools/gpu_check`, medians over the rounds. A row that misses "
        "its prediction by more than a third is marked.",
        "",
    ]
    lines += measurements(records, expected)
    lines += [
        f"Tests: {passed} of {len(whole)} passed. compute-sanitizer: {clean} of {len(sanitizers)} runs clean.",
        "",
    ]
    lines += [
        f"* {name}: {test['status']} {test['reason']}".rstrip()
        for name, test in tests.items()
        if test["status"] != "passed"
    ]
    lines += [
        f"* {name}: {record['verdict']}"
        for name, record in sanitizers.items()
        if record["verdict"] != "clean"
    ]
    return "\n".join(lines)


def render(records: Records, expected: dict[str, Prediction]) -> str:
    """Everything."""
    _, said = heading(records)
    lines = ["# GPU check", "", said, ""]
    steps = of_kind(records, "step")
    lines += table(
        ["step", "status", "seconds", "limit", "reason"],
        [
            [s["name"], s["status"], f"{s['seconds']:.1f}", f"{s['limit']:.0f}", s["reason"]]
            for s in steps.values()
        ],
    )
    programs = [record for record in records if record["kind"] == "program"]
    lines += table(["program", "trouble"], [[f"{p['name']} ({p['build']})", p["trouble"]] for p in programs])
    tests = of_kind(records, "test")
    lines += table(
        ["test", "status", "seconds", "reason"],
        [[name, t["status"], f"{t['seconds']:.1f}", t["reason"]] for name, t in tests.items()],
    )
    lines += table(
        ["sanitizer", "verdict", "seconds"],
        [[name, s["verdict"], f"{s['seconds']:.1f}"] for name, s in of_kind(records, "sanitizer").items()],
    )
    if any(record["kind"] == "row" for record in records):
        lines += measurements(records, expected)
        lines += table(["row", "worst error of its check"], gradient_rows(records))
    lines += table(
        ["benchmark, build", "trouble"],
        [[name, x["reason"]] for name, x in of_kind(records, "trouble").items()],
    )
    return "\n".join(lines)
