#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a benchmark program with tiny sizes and checks what it prints: keys and kinds of values, not times.

Bad options must end with a message and a status other than 0.
"""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

COMMON = {"n": int, "dim": int, "hidden": str, "dtype": str, "seconds_median": float, "seconds_min": float}
COMMON |= {"gflops": float, "peak_gflops": float, "share": float, "threads": int, "backend": str, "version": str}
KEYS = {
    "inner": COMMON | {"form": str, "functional": str, "gradient_rel_error": float},
    "ops": COMMON | {"op": str, "error": float, "tolerance": float, "bandwidth_gbs": float, "bound_share": float},
}
# Rounding errors of sums over these nets, with room; anything above is another result.
MAX_ERROR = {"float": 3e-5, "double": 1e-13}


def run(binary: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The program's result."""
    return subprocess.run([binary, *options], capture_output=True, text=True, timeout=300)


def passed(binary: str, *options: str) -> str:
    """Standard output of a run that must succeed."""
    result = run(binary, *options)
    assert result.returncode == 0, f"{options} ended with {result.returncode}: {result.stderr}"
    return result.stdout


def check_lines(kind: str, text: str) -> list[dict]:
    """JSON lines with all keys, finite values and small errors."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines, "no line was printed"
    for line in lines:
        for key, expected in KEYS[kind].items():
            value = line.get(key)
            assert isinstance(value, expected), f"{key} is {value!r} in {line}"
            assert expected is not float or (math.isfinite(value) and value >= 0), f"{key} is {value} in {line}"
        error = line["error" if kind == "ops" else "gradient_rel_error"]
        assert error <= line.get("tolerance", MAX_ERROR[line["dtype"]]), f"the results are wrong: {line}"
    return lines


def check_rejected(binary: str, *options: str) -> None:
    """Wrong options end the program, with a message."""
    result = run(binary, *options)
    assert result.returncode not in (0, -6, -11), f"{options} ended with {result.returncode}"
    assert result.stderr.strip() or result.stdout.strip(), f"{options}: no message"


def check_inner(binary: str, folder: Path) -> None:
    """Every functional in both precisions; files that are written are read back to the same problem."""
    small = ("--n", "70", "--hidden", "9,5", "--seconds", "0.01", "--threads", "2")
    for functional in ("porous_medium", "entropy", "potential", "aggregation"):
        for dtype in ("float", "double"):
            for dim in ("1", "3"):
                options = (*small, "--functional", functional, "--dtype", dtype, "--dim", dim)
                (line,) = check_lines("inner", passed(binary, *options))
                assert (line["form"], line["functional"], line["dim"]) == ("brenier", functional, int(dim)), line
    cg = ("--log-det", "cg", "--probes", "2", "--cg-iterations", "3")
    (line,) = check_lines("inner", passed(binary, *small, "--dim", "3", "--functional", "entropy", *cg))
    assert line["log_det"] == "cg" and 1 <= line["cg_steps"] <= 3 and line["cg_worst_residual"] > 0, line
    latent = ("--functional", "latent", "--transport-steps", "60", "--epsilon", "1", "--dtype", "double")
    line = json.loads(passed(binary, *small, "--dim", "3", *latent))
    assert line["transport_steps"] == 60 and line["gradient_rel_error"] < 1e-6 and line["seconds_min"] > 0, line
    passed(binary, *small, "--dim", "2", "--dump", str(folder))
    files = ("--maps", f"{folder}/maps.safetensors", "--cloud", f"{folder}/cloud.npy")
    files += ("--log-density", f"{folder}/log_density.npy")
    (line,) = check_lines("inner", passed(binary, "--hidden", "9,5", "--seconds", "0.01", *files))
    assert (line["n"], line["dim"]) == (70, 2), line
    check_rejected(binary, "--hidden", "9,6", "--seconds", "0.01", *files)
    check_rejected(binary, "--n", "0")
    check_rejected(binary, "--functional", "heat")
    check_rejected(binary, "--hidden", "0")
    check_rejected(binary, "--dtype", "half")
    check_rejected(binary, "--cloud", f"{folder}/none.npy")
    check_rejected(binary, "--cloud", f"{folder}/maps.safetensors")
    check_rejected(binary, "--device", "abacus")
    check_rejected(binary, "--log-det", "trace")
    check_rejected(binary, "--speed", "9")


def check_ops(binary: str, folder: Path) -> None:
    """Every operation in both precisions."""
    file = folder / "ops.json"
    small = ("--n", "70", "--seconds", "0.001", "--shape", "1:9,5", "--shape", "3:9,5,4", "--pairs", "300", "--json", str(file))
    table = passed(binary, *small)
    lines = check_lines("ops", file.read_text())
    listed = {name: marks for name, *marks in map(str.split, passed(binary, "--list").splitlines())}
    assert len(listed) > 10 and {"map", "jet_metric", "interaction_log"} <= set(listed), listed
    expected = {(op, dim, dtype) for op in listed for dim in (1, 3) for dtype in ("float", "double")}
    many = [op for op, marks in listed.items() if "many" in marks]
    expected |= {(op, dim, dtype) for op in many for dim in (1, 2) for dtype in ("float", "double")}
    assert {(line["op"], line["dim"], line["dtype"]) for line in lines} == expected
    for line in lines:  # ten steps are enough in these dimensions
        if line["op"] == "solve_hessian":
            assert line["residual"] <= 10 * MAX_ERROR[line["dtype"]], line
    assert len(table.splitlines()) == len(lines) + 2, table
    assert all((line.get("pairs_per_second", 0) > 0) == ("pairs" in listed[line["op"]]) for line in lines)
    assert sum(line["hidden"] == "-" and line["n"] == 300 for line in lines) == 4 * len(many), table
    check_rejected(binary, "--shape", "100,20")
    check_rejected(binary, "--shape", "0:9")
    check_rejected(binary, "--shape", "2:9,x")
    check_rejected(binary, "--n", "-3")
    check_rejected(binary, "--pairs", "0")
    check_rejected(binary, "--json", f"{folder}/none/ops.json", "--n", "10")
    check_rejected(binary, "--device", "abacus")
    check_rejected(binary, "--speed", "9")


def numbers_in(value: object) -> Iterator[float]:
    """All numbers of a JSON value."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(part)
    elif isinstance(value, (int, float)):
        yield value


def last_line(text: str) -> dict:
    """The JSON line that ends the tables of whole flows; all numbers in its rows are finite."""
    content = json.loads(text.splitlines()[-1])
    for row in content["rows"]:
        assert all(map(math.isfinite, numbers_in(row))), row
    return content


def check_ornstein_uhlenbeck(binary: str, _: Path) -> None:
    """Below the published distances, and at those of the exact JKO iterates up to the error of the samples."""
    small = ("--dims", "2", "--targets", "1", "--particles", "4096", "--minibatch", "512", "--iterations", "300")
    # So many judging samples that their noise, some (2 KL / N)^(1/2), is below the floors.
    content = last_line(passed(binary, *small, "--samples", "65536"))
    assert [row["t"] for row in content["rows"]] == [0.5, 0.9], content
    for row in content["rows"]:
        assert 0 < row["value"] < min(row["published"], 5 * row["floor"]), row
        shares = row["profile"].values()  # how large they are is not a test's business
        assert min(shares) >= 0 and 0 < sum(shares) <= 1 + 1e-9, row
    (row,) = last_line(passed(binary, *small, "--table", "fan", "--samples", "4096"))["rows"]
    assert row["floor"] - 0.05 < row["value"] < row["floor"] + 0.5, row
    check_rejected(binary, "--tau", "0.03")
    check_rejected(binary, "--dims", "3,x")
    check_rejected(binary, "--table", "none")


def check_flows(binary: str, _: Path) -> None:
    """The default solver is as exact as Adam with a fraction of its gradients, and all steps are solved."""
    rows = []
    for only in ("porous", "Ornstein"):
        rows += last_line(passed(binary, "--steps", "3", "--adam", "100", "--only", only))["rows"]
    assert [row["solver"] for row in rows] == ["default", "adam"] * 3, rows
    for row in rows[::2]:
        assert row["error"] < 1e-4 and row["unsolved"] == 0, row
    for auto, adam in zip(rows[::2], rows[1::2]):
        assert auto["gradients"] < adam["gradients"] / 4, (auto, adam)
    words = ("--log-dets", "--steps", "1", "--adam", "20", "--only", "d = 24")
    exact, noisy = last_line(passed(binary, *words))["rows"]
    assert exact["error"] < noisy["error"], (exact, noisy)
    check_rejected(binary, "--steps", "-1")


def check_mixtures(binary: str, _: Path) -> None:
    """A few steps bring the model nearer to the target; the metrics agree on where it is at the start."""
    small = ("--dims", "2", "--targets", "1", "--particles", "2000", "--minibatch", "200", "--samples", "1000")
    short = last_line(passed(binary, *small, "--iterations", "30", "--tau", "0.01", "--time", "0.01"))["rows"][0]
    long = last_line(passed(binary, *small, "--iterations", "100", "--time", "1", "--refresh", "50"))["rows"][0]
    for key in ("kl_model", "kl_target", "symmetric_kl", "energy_distance"):
        assert 0 < long[key] < 0.5 * short[key], (key, short, long)
    check_rejected(binary, "--dims", "3")
    check_rejected(binary, "--targets", "0")


def check_langevin(binary: str, _: Path) -> None:
    """The flow keeps up with the diffusion, descent without noise does not."""
    small = ("--dim", "4", "--samples", "1500", "--particles", "4000", "--iterations", "200", "--repeats", "2")
    content = last_line(passed(binary, *small, "--steps", "15", "--tau", "0.02", "--beta", "0.7"))
    assert len(content["rows"]) == 15 and content["beta"] == 0.7, content
    last = content["rows"][-1]
    assert last["brenier"] < 1.6 * last["ula"] and last["descent"] > 2 * last["brenier"], last
    assert last["symmetric_kl_of_moments"] < 0.1, last
    check_rejected(binary, "--dim", "0")


def write_cloud(path: Path, rows: list[list[float]]) -> None:
    """An .npy file of float64."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    data = b"".join(struct.pack("<d", value) for row in rows for value in row)
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data)


def write_potential(path: Path, dim: int, width: int) -> None:
    """A network of one hidden layer that falls along the first axis."""
    tensors = {"layer0.input.weight": ([width, dim], [((3 * k) % 7 - 3) / 4 for k in range(width * dim)])}
    tensors["layer0.bias"] = ([width], [0.1 * k for k in range(width)])
    tensors["output.hidden.weight"] = ([1, width], [0.2] * width)
    tensors["output.input.weight"] = ([1, dim], [-2.0] + [0.0] * (dim - 1))
    tensors["output.bias"] = ([1], [0.5])
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        block = b"".join(struct.pack("<f", value) for value in values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(block)]}
        data += block
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def check_molecules(binary: str, folder: Path) -> None:
    """Descent lowers V, a weight on the distance keeps the points near, Adam 0.1 moves farther than 0.01."""
    dim, n = 3, 40
    write_cloud(folder / "cloud.npy", [[math.sin(7 * i + 3 * c) for c in range(dim)] for i in range(n)])
    write_potential(folder / "v.safetensors", dim, 4)
    files = ("--cloud", f"{folder}/cloud.npy", "--potential", f"{folder}/v.safetensors")
    options = ("--weights", "0,100", "--rates", "0.1,0.01", "--steps", "5")
    rows = json.loads(passed(binary, *files, *options).splitlines()[-1])["direct"]
    found = {(row["method"], row["weight"], row["rate"]): row for row in rows}
    assert len(found) == 8 and all(math.isfinite(row["sd"]) for row in rows), rows
    for method in ("sgd", "adam"):
        free, held = found[method, 0, 0.1], found[method, 100, 0.1]
        assert free["sd"] > held["sd"] and free["potential"] < held["potential"], (free, held)
        assert free["sd"] > found[method, 0, 0.01]["sd"], rows
    # Adam moves every coordinate by about its rate a step: half of 3 times (5 x 0.1)^2, less where it turns round.
    assert 0.15 < found["adam", 0, 0.1]["sd"] < 0.4, found["adam", 0, 0.1]
    # The clouds themselves: the value of SD is that of the file, up to what a step of Adam can move a coordinate.
    (folder / "ends").mkdir()
    words = (*files, *options, "--methods", "adam", "--out", f"{folder}/ends")
    written = json.loads(passed(binary, *words).splitlines()[-1])["direct"]
    assert len({row["cloud"] for row in written}) == 4 == len(list((folder / "ends").iterdir())), written
    assert [row["sd"] for row in written] == [row["sd"] for row in rows if row["method"] == "adam"], (written, rows)
    for row in written:
        data = (folder / "ends" / row["cloud"]).read_bytes()[-8 * n * dim:]
        moved = [abs(value - math.sin(7 * (k // dim) + 3 * (k % dim)))
                 for k, value in enumerate(struct.unpack(f"<{n * dim}d", data))]
        assert 0 < max(moved) <= 5.5 * row["rate"], (row, max(moved))
    check_rejected(binary, *files, "--out", f"{folder}/none")
    (folder / "maps").mkdir()
    check_rejected(binary, *files, "--maps", f"{folder}/maps")
    check_rejected(binary, *files, "--maps", f"{folder}/maps", "--points", "0")
    check_rejected(binary, "--cloud", f"{folder}/none.npy", "--potential", f"{folder}/v.safetensors")
    check_rejected(binary, "--cloud", f"{folder}/cloud.npy", "--potential", f"{folder}/cloud.npy")
    check_rejected(binary, *files, "--methods", "newton")
    check_rejected(binary, *files, "--rates", "0")


def check_molecule_tables(binary: str, folder: Path, command: str) -> None:
    """All tables of bench/paper/molecules/latent.py from two steps of small flows; its second call goes on with them."""
    script = str(Path(__file__).resolve().parents[2] / "bench" / "paper" / "molecules" / "latent.py")
    dim, n, steps = 3, 40, 2
    # A grid: nothing but a point itself is within reach of the small epsilon.
    write_cloud(folder / "cloud.npy", [[i % 4, i // 4 % 4, i // 16] for i in range(n)])
    write_potential(folder / "v.safetensors", dim, 4)
    options = [script, "--cloud", f"{folder}/cloud.npy", "--potential", f"{folder}/v.safetensors", "--seeds", "2"]
    options += ["--out", f"{folder}/runs", "--binary", command, "--bench", binary, "--direct-steps", str(steps)]
    options += ["--set", f"flow.steps={steps}", "--set", "network.hidden=[5]", "--set", "inner.iterations=1000"]
    options += ["--points", "50,80", "--timing", "0.01", *(f"--table={table}" for table in (2, 4, 5, 8))]
    text = passed(sys.executable, *options)
    assert text.count("JKO-ICNN") == 1 and text.count("| tau = ") == 3 and text.count("MMD, lambda_2") == 2, text
    content = json.loads((folder / "runs" / "molecules.json").read_text())
    tables = content["tables"]
    assert [len(tables[key]) for key in ("2", "4", "5", "8")] == [9, 4, 3, 2], tables
    assert [row["points"] for row in content["amortisation"]] == [50, 80], content
    runs = {row["case"]: row["runs"] for key in ("2", "4", "5") for row in tables[key] if "case" in row}
    assert set(runs) == {"flow", "sinkhorn_1e3", "mmd_1e3", "mmd_1e4", "tau_1e-2", "tau_1e-3"}, runs
    still = 0.0025 * math.log(n)
    for name, seeds in runs.items():
        assert [run["seed"] for run in seeds] == [1, 2], (name, seeds)
        for run in seeds:
            assert all(math.isfinite(v) for v in run.values() if not isinstance(v, str)), (name, run)
            assert run["potential"] < run["potential_start"] and run["sd"] >= still - 1e-6, (name, run)
            assert run["unconverged"] == 0 and 0 <= run["rises"] <= steps, (name, run)
            weight = {"sinkhorn_1e3": 1e3}.get(name, 1e4)
            if not name.startswith("mmd"):  # F as the run has it, SD as the clouds in its folder do
                parts = run["potential"] + weight * run["sd"]
                assert abs(parts - run["functional"]) <= 1e-6 * abs(run["functional"]), (name, run)
    assert runs["sinkhorn_1e3"][0]["potential"] < runs["flow"][0]["potential"], "a smaller weight holds less"
    # New points from a file: the cloud itself ends where the flow of the seed did.
    maps = ("--cloud", f"{folder}/cloud.npy", "--potential", f"{folder}/v.safetensors", "--maps",
            f"{folder}/runs/flow-1/maps", "--new", f"{folder}/cloud.npy", "--steps", "1", "--seconds", "0.01")
    row = json.loads(passed(binary, *maps, "--points", f"{n}").splitlines()[-1])["amortisation"][0]
    assert abs(row["potential_maps"] - runs["flow"][0]["potential"]) < 1e-4, (row, runs["flow"][0])
    check_rejected(binary, *maps, "--points", f"{n + 1}")
    again = passed(sys.executable, *options[:-4], "--table=5")
    assert again.split("\n\n")[1].strip() in text, (again, text)  # the same numbers, from the same folders
    passed(sys.executable, *options[:-4], "--literal", "--table=8")
    tables = json.loads((folder / "runs" / "molecules.json").read_text())["tables"]
    assert [row["points"] for row in tables["literal_8"]] == [50, 80], tables
    assert all(a["sd_maps"] != b["sd_maps"] for a, b in zip(tables["literal_8"], tables["8"])), "maps of another network"
    rows = tables["literal"]
    assert [row["case"] for row in rows] == ["literal", "literal_softplus"], rows
    for row in rows:
        assert len(row["sd_by_step"]) == 2, row
        for curve in row["sd_by_step"]:
            assert len(curve) == steps + 1 and abs(curve[0] - still) < 1e-5 and min(curve) >= still - 1e-5, row
    check_rejected(sys.executable, *options, "--set", "flow.tau=none")
    check_rejected(sys.executable, script, "--cloud", f"{folder}/cloud.npy")


def main() -> None:
    kind, binary, *more = sys.argv[1:]
    checks = {"inner": check_inner, "ops": check_ops, "ornstein_uhlenbeck": check_ornstein_uhlenbeck,
              "flows": check_flows}
    checks |= {"mixtures": check_mixtures, "langevin": check_langevin, "molecules": check_molecules}
    checks |= {"molecule_tables": check_molecule_tables}
    with tempfile.TemporaryDirectory() as folder:
        checks[kind](binary, Path(folder), *more)
    print(f"{kind}: passed")


if __name__ == "__main__":
    main()
