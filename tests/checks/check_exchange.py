#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Files of other programs: usage: check_exchange.py COMMAND [--vtk]

Arrays in .npz, .csv and whole numbers are read as NumPy has them; `info --json` is JSON; what `export --vtk` writes is read
back by a reader of its XML here, and with --vtk by VTK itself (exit status 77 where there is none); densities on a grid are
those at its points.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import numpy as np

CONFIG = """precision = "double"
[cloud]
density = "gaussian"
dim = 2
variance = 0.5
particles = 30
[[functional]]
term = "potential"
expression = "0.5*sum(x^2)"
[[functional]]
term = "entropy"
[flow]
tau = 0.1
steps = 3
[network]
hidden = [3]
quadratic_rank = 2
[held_out]
particles = 0
[output]
every = 1
"""
WRONG: list[str] = []


def check(condition, what: str) -> None:
    if not condition:
        WRONG.append(what)


class Command:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, *words) -> subprocess.CompletedProcess:
        return subprocess.run([self.path, *map(str, words)], text=True, capture_output=True, errors="replace")

    def json(self, *words) -> dict:
        done = self("info", "--json", *words)
        check(done.returncode == 0, f"info --json {words}: {done.stderr}")
        return json.loads(done.stdout or "{}")


def check_arrays(command: Command, root: Path) -> None:
    x = np.array([[1.5, -2.0], [3e-300, 4.0], [0.1, 1e17]])
    np.savez(root / "one.npz", points=x)
    np.savez(root / "several.npz", y=np.zeros(3), x=x)
    np.savez(root / "strangers.npz", a=x, b=x)
    with zipfile.ZipFile(root / "packed.npz", "w", zipfile.ZIP_BZIP2) as archive, archive.open("x.npy", "w") as member:
        np.save(member, x)
    np.savetxt(root / "plain.txt", x)
    np.savetxt(root / "comma.csv", x, delimiter=",", header="a,b", comments="")
    (root / "semicolon.csv").write_text("\ufeffname;other\r\n1.5;-2\r\n\r\n+3e-300 ; 4.0 # a remark\r\n0.1;1e17", encoding="utf-8")
    np.save(root / "whole.npy", np.array([[1, -2], [3, 4]], dtype=np.int64))
    np.save(root / "same.npy", x)
    for name in ("one.npz", "several.npz", "plain.txt", "comma.csv", "semicolon.csv"):
        # What distance says of the file and the array itself is 0 where they are the same.
        told = command.json(root / name)
        check(told["shape"] == [3, 2], f"{name}: {told}")
        check([[c["min"], c["max"]] for c in told["columns"]] == [[low, high] for low, high in zip(x.min(0), x.max(0))],
              f"{name}: {told}")
    whole = command.json(root / "whole.npy")
    check(whole["dtype"] == "int64" and whole["columns"][0]["max"] == 3, f"whole numbers: {whole}")
    with zipfile.ZipFile(root / "wide.npz", "w") as archive:  # sizes of 64 bits
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write((root / "same.npy").read_bytes())
    check(command.json(root / "wide.npz")["shape"] == [3, 2], "64-bit sizes")

    check_compressed(command, root)

    (root / "word.csv").write_text("1,2\n3,four\n")
    (root / "short.csv").write_text("1,2\n3\n")
    (root / "empty.csv").write_text("# nothing\n")
    (root / "hole.csv").write_text("1,2\n3,\n")
    (root / "cut.npz").write_bytes((root / "one.npz").read_bytes()[:-30])
    (root / "zip.npz").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    for name, *pieces in (("word.csv", "line 2", "'four'"), ("short.csv", "line 2", "1 numbers", "2"), ("empty.csv", "no rows"),
                          ("hole.csv", "line 2", "''"), ("strangers.npz", "a, b", "called x"), ("packed.npz", "method 12", "numpy.savez"),
                          ("cut.npz", "not a whole .npz"), ("zip.npz", "not a whole .npz")):
        done = command("info", root / name)
        check(done.returncode == 2 and all(piece in done.stderr for piece in [name, *pieces]), f"{name}: {done.stderr}")
    # Bytes that are cut or changed anywhere end in an answer or in an error.
    np.savez_compressed(root / "small.npz", x=x)
    for name in ("several.npz", "small.npz"):
        whole_file = (root / name).read_bytes()
        truth = command.json(root / name)["columns"]
        for place in range(0, len(whole_file), 19):
            for text in (whole_file[:place], whole_file[:place] + b"\xff" + whole_file[place + 1:]):
                (root / "damaged.npz").write_bytes(text)
                done = command("info", "--json", root / "damaged.npz")
                check(done.returncode == 2 or done.returncode == 0 and json.loads(done.stdout)["columns"] == truth,
                      f"{name} damaged at {place}: {done.returncode} {done.stdout} {done.stderr}")


def check_compressed(command: Command, root: Path) -> None:
    """Archives of numpy.savez_compressed, and others with blocks of every kind: the same numbers as uncompressed ones."""
    random = np.random.default_rng(0)
    arrays = {"noise": random.normal(size=(5000, 2)), "zeros": np.zeros((40000, 1)), "few": random.integers(0, 3, (9000, 2)),
              "one": np.array([[0.1]]), "none": np.zeros((0, 2)), "ramp": np.arange(60000.0).reshape(-1, 3), "floats":
              random.normal(size=(700, 3)).astype(np.float32).round(2)}
    for name, array in arrays.items():
        np.save(root / "plain.npy", array)
        np.savez_compressed(root / "numpy.npz", x=array)
        for level in (0, 1, 9):
            with zipfile.ZipFile(root / f"level{level}.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
                archive.write(root / "plain.npy", "x.npy")
        expected = command.json(root / "plain.npy")
        for packed in ("numpy.npz", "level0.npz", "level1.npz", "level9.npz"):
            told = command.json(root / packed)
            check({k: v for k, v in told.items() if k not in ("path", "file", "bytes")} ==
                  {k: v for k, v in expected.items() if k not in ("path", "file", "bytes")}, f"{name} in {packed}: {told} {expected}")


def arrays_of(file: Path) -> dict[str, np.ndarray]:
    """The data arrays of a .vtp file, by name."""
    root = ET.parse(file).getroot()
    check(root.attrib["type"] == "PolyData" and root.attrib["header_type"] == "UInt64", f"{file}: {root.attrib}")
    out = {}
    for array in root.iter("DataArray"):
        raw = base64.b64decode(array.text, validate=True)
        check(int.from_bytes(raw[:8], "little") == len(raw) - 8, f"{file}: size of {array.attrib}")
        values = np.frombuffer(raw[8:], {"Float64": "<f8", "Int64": "<i8"}[array.attrib["type"]])
        components = int(array.attrib["NumberOfComponents"])
        out[array.attrib["Name"]] = values.reshape(-1, components) if components > 1 else values
    return out


def check_vtk(command: Command, run: Path, root: Path) -> None:
    out = root / "vtk"
    done = command("export", run, "--vtk", "-o", out)
    check(done.returncode == 0 and "4 clouds" in done.stdout, f"export: {done.stdout}{done.stderr}")
    sets = list(ET.parse(out / "flow.pvd").getroot().iter("DataSet"))
    check([round(float(one.attrib["timestep"]), 12) for one in sets] == [0.0, 0.1, 0.2, 0.3], "times of flow.pvd")
    for k, one in enumerate(sets):
        cloud = np.load(run / "clouds" / f"step_{k:06d}.npy")
        log_density = np.load(run / "clouds" / f"log_density_{k:06d}.npy")
        arrays = arrays_of(out / one.attrib["file"])
        check(np.array_equal(arrays["Points"][:, :2], cloud) and not arrays["Points"][:, 2].any(), f"points of step {k}")
        check(np.array_equal(arrays["log_density"], log_density), f"log-densities of step {k}")
        check(np.array_equal(arrays["connectivity"], np.arange(30)) and np.array_equal(arrays["offsets"], np.arange(1, 31)),
              f"vertices of step {k}")


def check_vtk_itself(command: Command, root: Path) -> None:
    """What VTK's own readers find in the collection and in each of its files, to the bit."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkFileOutputWindow, vtkOutputWindow
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader
    from vtkmodules.vtkIOXMLParser import vtkXMLUtilities

    window = vtkFileOutputWindow()  # what VTK complains of
    window.SetFileName(str(root / "vtk.log"))
    window.FlushOn()
    vtkOutputWindow.SetInstance(window)
    entropy = CONFIG.index("[[functional]]\nterm = \"entropy")
    without = CONFIG[:entropy] + CONFIG[CONFIG.index("[flow]"):]
    for name, config in (("line", CONFIG.replace("dim = 2", "dim = 1")), ("plane", CONFIG), ("five", CONFIG.replace("dim = 2", "dim = 5")),
                         ("edge", CONFIG.replace('"gaussian"', '"uniform"').replace("variance = 0.5\n", "lower = -1\nupper = 1\n")), ("none", without)):
        (root / f"{name}.toml").write_text(config)
        run, out = root / name, root / f"{name} & <vtk>"
        done = command("run", root / f"{name}.toml", "--out", run, "-q", "--set", "flow.steps=2")
        check(done.returncode in (0, 3), f"{name}: {done.stderr}")
        done = command("export", run, "--vtk", "-o", out)
        check(done.returncode == 0, f"{name}: {done.stderr}")
        if done.returncode != 0:
            continue
        collection = vtkXMLUtilities.ReadElementFromFile(str(out / "flow.pvd"))
        check(collection is not None and collection.GetAttribute("type") == "Collection", f"{name}: flow.pvd by VTK")
        sets = collection.FindNestedElementWithName("Collection")
        check(sets.GetNumberOfNestedElements() == 3, f"{name}: clouds in flow.pvd")
        for k in range(sets.GetNumberOfNestedElements()):
            file = out / sets.GetNestedElement(k).GetAttribute("file")
            check(abs(float(sets.GetNestedElement(k).GetAttribute("timestep")) - 0.1 * k) < 1e-12, f"{name}: time of step {k}")
            reader = vtkXMLPolyDataReader()
            check(reader.CanReadFile(str(file)) == 1, f"{file}: not what VTK reads")
            reader.SetFileName(str(file))
            reader.Update()
            data = reader.GetOutput()
            cloud = np.load(run / "clouds" / f"step_{k:06d}.npy")
            shown = min(3, cloud.shape[1])
            points = vtk_to_numpy(data.GetPoints().GetData())
            check(np.array_equal(points[:, :shown], cloud[:, :shown]) and not points[:, shown:].any(), f"{file}: points")
            check(data.GetNumberOfVerts() == len(cloud) == data.GetNumberOfCells(), f"{file}: {data.GetNumberOfVerts()} vertices")
            arrays = {data.GetPointData().GetArrayName(i): vtk_to_numpy(data.GetPointData().GetArray(i))
                      for i in range(data.GetPointData().GetNumberOfArrays())}
            expected = {"x": cloud} if cloud.shape[1] > 3 else {}
            log_density = run / "clouds" / f"log_density_{k:06d}.npy"
            if log_density.exists():
                expected |= {"log_density": np.load(log_density), "density": np.exp(np.load(log_density))}
            check(arrays.keys() == expected.keys(), f"{file}: arrays {list(arrays)}")
            for array, values in expected.items():
                check(array in arrays and np.allclose(arrays[array], values, rtol=0 if array != "density" else 1e-15, atol=0),
                      f"{file}: {array}")
    said = (root / "vtk.log").read_text() if (root / "vtk.log").exists() else ""
    check(not said, f"VTK says: {said[:500]}")


def check_folders(command: Command, run: Path, root: Path) -> None:
    """A run folder in the place of a cloud is its last one; what has one format needs not be told."""
    last = run / "clouds" / "step_000003.npy"
    done = command("distance", run, last, "--metric", "w2")
    check(done.returncode == 0 and "step_000003.npy" in done.stdout, f"distance of a run: {done.stdout}{done.stderr}")
    done = command("distance", run, run / "clouds" / "step_000000.npy", "--metric", "w2", "--json")
    other = command("distance", last, run / "clouds" / "step_000000.npy", "--metric", "w2", "--json")
    check(done.returncode == 0 and done.stdout == other.stdout and json.loads(done.stdout)["w2"]["value"] > 0,
          f"distance of a run: {done.stdout}{done.stderr}")
    done = command("export", run, "-o", root / "plain")
    check(done.returncode == 0 and (root / "plain" / "flow.pvd").exists(), f"export without a format: {done.stderr}")


def check_grid(command: Command, run: Path, root: Path) -> None:
    done = command("density", run, "--grid=-2:2:9,-1:1:5", "-o", root / "grid.npy")
    check(done.returncode == 0, f"grid: {done.stderr}")
    grid = np.load(root / "grid.npy")
    check(grid.shape == (9, 5), f"shape of the grid: {grid.shape}")
    x, y = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-1, 1, 5), indexing="ij")
    np.savetxt(root / "points.csv", np.stack([x.ravel(), y.ravel()], axis=1), delimiter=",", fmt="%.17g")
    done = command("density", run, root / "points.csv", "-o", root / "points.npy")
    check(done.returncode == 0 and np.array_equal(np.load(root / "points.npy"), grid.ravel()), f"its points: {done.stderr}")
    check(np.isfinite(grid).all(), "the grid is finite")
    for words, piece in ((["--grid=-2:2:9", "-o", "x.npy"], "2 axes"), (["--grid=-2:2:9,0:1:2.5", "-o", "x.npy"], "whole"),
                         (["--grid=-2:2:9,0:1:3"], "-o"), ([], "POINTS"), (["--grid=-2:2:9,a:1:3", "-o", "x.npy"], "no number"),
                         (["--grid=-2:2:9:0:1:3", "-o", "x.npy"], "colons"),
                         ([str(root / "points.csv"), "--grid=-2:2:9,0:1:3", "-o", "x.npy"], "side by side")):
        done = command("density", run, *words)
        check(done.returncode == 2 and piece in done.stderr, f"{words}: {done.returncode} {done.stderr}")


def check_all(command: Command, root: Path) -> None:
    (root / "flow.toml").write_text(CONFIG)
    run = root / "run"
    done = command("run", root / "flow.toml", "--out", run, "-q")
    check(done.returncode in (0, 3), done.stderr)
    check_arrays(command, root)
    check_vtk(command, run, root)
    check_grid(command, run, root)
    check_folders(command, run, root)
    build = command.json()
    check(build["compiler"] and build["processors"] >= 1 and "git" in build, f"the build: {build}")
    told = command.json(run)
    check(told["summary"]["steps"] == 3 and told["files"]["damaged"] == {}, f"the run: {told}")
    settings = command.json(root / "flow.toml")["settings"]
    check(settings["flow.tau"] == "0.1" and settings["output.every"] == "1", f"settings: {settings}")


def main() -> None:
    command, by_vtk = Command(sys.argv[1]), sys.argv[2:] == ["--vtk"]
    if by_vtk:
        try:
            import vtkmodules.vtkIOXML  # noqa: F401
        except ImportError:
            print("SKIPPED: there is no VTK (Debian: python3-vtk9)")
            sys.exit(77)
    with tempfile.TemporaryDirectory() as scratch:
        (check_vtk_itself if by_vtk else check_all)(command, Path(scratch))
    if WRONG:
        sys.exit("\n".join(WRONG))
    print("files of other programs are read and written as they are")


if __name__ == "__main__":
    main()
