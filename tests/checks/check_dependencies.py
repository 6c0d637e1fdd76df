#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the rules of the source tree that a compiler does not know.

* Includes run one way: kernels <- autodiff <- solvers <- engine <- tools, bench, tests (tests also see tools, bench),
  and also between the rooms inside a room (INNER).
* Only kernels/cpu includes kernels/cpu. What users include lies in the folders include/brenier and is included as
  "brenier/..."; such a header includes neither what is not installed nor third-party code.
* The library never prints and never ends the process. The engine takes operations from backend(), not those of the CPU
  whatever the device; two places say why they do (OF_THE_CPU).
* No file is longer than 900 lines, no folder has more than 20 files of C++; every source names its licence; no file
  has a path of somebody's machine.
* Streams throw where memory is out (exceptions(std::ios::badbit)): by themselves they end early, and say nothing.
* JSON to be written begins as an object or an array: from null, nlohmann-json 3.11.2 first says what it is and then takes
  the memory, and where there is none its destructor reads elements that are not there.
* The programs in README.md and docs/embedding.md are those that the tests build.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MAX_LINES = 900
MAX_FILES = 20
MAX_INSTALLED = 20  # headers that users see without asking for them: all but the engine's
LIBRARY = ("kernels", "autodiff", "solvers", "engine")
MAY_INCLUDE = {room: LIBRARY[: i + 1] for i, room in enumerate(LIBRARY)}
MAY_INCLUDE |= {"tools": (*LIBRARY, "tools"), "bench": (*LIBRARY, "bench")}
MAY_INCLUDE["tests"] = (*LIBRARY, "tools", "bench", "tests")

# The rooms inside a room: each may include itself and those that are named. The public headers of a room (its folder
# include/brenier) are seen by all of it; they include public headers only.
INNER = {
    "kernels/base": (),
    "kernels/model": ("kernels/base",),
    "kernels/device": ("kernels/base",),
    "kernels/operations.hpp": ("kernels/model",),
    "kernels/cuda_devices.hpp": ("kernels/model",),
    "kernels/resident_cloud.hpp": ("kernels/model",),
    "kernels/ref": ("kernels/base", "kernels/model", "kernels/operations.hpp"),
    "kernels/cpu": ("kernels/base", "kernels/model", "kernels/operations.hpp"),
    "kernels/cuda": (
        "kernels/base",
        "kernels/model",
        "kernels/operations.hpp",
        "kernels/cuda_devices.hpp",
        "kernels/resident_cloud.hpp",
        "kernels/device",
    ),
    "engine/src/checks": (),
    "engine/src/device": (),
    "engine/src/files": ("engine/src/checks",),
    "engine/src/functional": ("engine/src/checks", "engine/src/files"),
    "engine/src/maps": ("engine/src/checks", "engine/src/files"),
    "engine/src/oracles": ("engine/src/checks",),
    "engine/src/flow": ("engine/src/checks", "engine/src/device", "engine/src/functional", "engine/src/maps"),
    "engine/src/density": ("engine/src/checks", "engine/src/oracles", "engine/src/flow"),
    "engine/src/config": ("engine/src/fit", "engine/src/flow"),
    "engine/src/c": ("engine/src/config", "engine/src/flow"),
    "engine/src/mpi": ("engine/src/c",),
    "engine/src/fit": ("engine/src/checks", "engine/src/files", "engine/src/flow"),
    "tools/runs": (),
    "tools/command": ("tools/runs",),
}

CODE = {".hpp", ".cpp", ".cuh", ".cu", ".h", ".c"}
SCRIPTS = {".py", ".sh", ".cmake"}
TEXT = CODE | SCRIPTS | {".txt", ".md", ".toml", ".json", ".in", ".yml", ""}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
PRINTS = re.compile(
    r"\bstd::(?:cout|cerr|clog)\b|\b(?:v?f?printf|v?dprintf|f?puts|putchar|perror)\s*\("
    r"|(?<![\w.>])(?:std::)?_?(?:exit|_Exit|quick_exit|abort|terminate)\s*\("
)
# The backends themselves, and few points of a flow on a device, which are faster here.
OF_THE_CPU = {"engine/src/device/device.cpp", "engine/src/flow/cloud_objective.hpp"}
STREAM = re.compile(r"\s*std::(?:[io]?stringstream|[io]?fstream) (\w+)\b(?!.*\w+,)")
NULL_JSON = re.compile(r"\s*(?:Json|(?:nlohmann::)?(?:ordered_)?json) \w+;")
# Written in parts, so that this file passes its own check.
MACHINE_PATH = re.compile("/" + r"(?:work|root|Users|home)/" + r"\w")
LITERAL = re.compile(r'R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def files(root: Path) -> Iterator[Path]:
    """All texts of the project, without build folders and caches."""
    for top in sorted(root.iterdir()):
        if top.is_dir() and (top.name in MAY_INCLUDE or top.name == ".ci"):
            yield from (p for p in sorted(top.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
        elif top.is_file() and top.name != ".git":  # that of a work tree names a folder of the machine
            yield top


def stripped(text: str) -> str:
    """C++ without comments and strings, lines kept."""
    return LITERAL.sub(lambda m: "\n" * m.group().count("\n"), text)


def target_of(include: str, path: Path, root: Path) -> Path | None:
    """The path from the root that an include leads to, or None where it is not one of ours."""
    beside = path.parent / include
    if beside.is_file() and beside.resolve().is_relative_to(root.resolve()):
        return beside.resolve().relative_to(root.resolve())
    if include.startswith("brenier/"):
        places = (Path(room) / "include" / include for room in LIBRARY)
        return next((place for place in places if (root / place).is_file()), Path("engine/include") / include)
    return Path(include) if Path(include).parts[0] in MAY_INCLUDE else None


def is_public(inside: Path) -> bool:
    """Whether users of the installed library see this header."""
    return inside.parts[0] in LIBRARY and inside.parts[1:3] == ("include", "brenier")


def inner_room(inside: Path) -> str | None:
    """The room inside a room that a file lies in, where INNER names it."""
    return next((room for room in INNER if inside.is_relative_to(room)), None)


def check_include(inside: Path, mark: str, include: str, path: Path, root: Path) -> str | None:
    """What is wrong with one include of the file `inside`, if anything is."""
    target = target_of(include, path, root)
    if target is None:
        if is_public(inside) and (mark == '"' or "/" in include) and not include.startswith("sys/"):
            return f"an installed header includes <{include}>; it may include only the standard library and our own"
        return None
    room = target.parts[0]
    if room not in MAY_INCLUDE[inside.parts[0]]:
        return f'{inside.parts[0]} must not include {room}: "{include}"'
    if target.parts[:2] == ("kernels", "cpu") and inside.parts[:2] != ("kernels", "cpu"):
        return f'"{include}" is compiled once per instruction set; only kernels/cpu may include it'
    if is_public(target):
        return None if include.startswith("brenier/") else f'"{include}" is public: include it as "brenier/..."'
    if is_public(inside):
        return f'an installed header includes "{include}", which is not installed'
    here, there = inner_room(inside), inner_room(target)
    if here and there and here != there and here.split("/")[0] == room and there not in INNER[here]:
        return f'{here} must not include {there}: "{include}"'
    return None


def check_folders(root: Path) -> list[str]:
    """Folders in which nobody knows every file."""
    count: dict[Path, int] = {}
    for path in files(root):
        if path.suffix in CODE:
            folder = path.parent.relative_to(root)
            count[folder] = count.get(folder, 0) + 1
    return [f"{folder}:1: {n} files of C++; at most {MAX_FILES}, make rooms" for folder, n in count.items() if n > MAX_FILES]


def check_installed(root: Path) -> list[str]:
    """Users see what they call, not how it is made."""
    inner = [p for room in LIBRARY[:-1] for p in sorted((root / room / "include/brenier").rglob("*.hpp"))]
    if len(inner) <= MAX_INSTALLED:
        return []
    return [f"{inner[-1].relative_to(root)}:1: {len(inner)} headers below the engine are installed; at most {MAX_INSTALLED}"]


def check_file(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, message) for each breach in one file."""
    inside = path.relative_to(root)
    if path.suffix not in TEXT:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if MACHINE_PATH.search(line):
            yield number, f"a path of somebody's machine: {line.strip()}"
    if path.suffix not in CODE | SCRIPTS and path.name != "CMakeLists.txt":
        return
    if len(lines) > MAX_LINES:
        yield len(lines), f"{len(lines)} lines; at most {MAX_LINES}, split it by content"
    if not any("SPDX-License-Identifier: MIT" in line for line in lines[:2]):
        yield 1, "no SPDX-License-Identifier in the first two lines"
    if path.suffix not in CODE or inside.parts[0] not in MAY_INCLUDE:
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        message = match and check_include(inside, *match.groups(), path, root)
        if message:
            yield number, message
    if inside.parts[0] in (*LIBRARY, "tools"):
        for number, line in enumerate(lines, 1):
            if NULL_JSON.match(line):
                yield number, f"JSON that its first key makes an object of, and which crashes where memory is out: {line.strip()}"
            stream = STREAM.match(line)
            if stream and f"{stream[1]}.exceptions(std::ios::badbit);" not in "".join(lines[number : number + 1]):
                yield number, f"a stream that ends early where memory is out: {line.strip()}"
    if inside.parts[0] in LIBRARY:
        for number, line in enumerate(stripped(text).split("\n"), 1):
            if PRINTS.search(line):
                yield number, f"the library neither prints nor ends the process: {line.strip()}"
            if inside.parts[0] == "engine" and "cpu::operations" in line and inside.as_posix() not in OF_THE_CPU:
                yield number, f"operations of the CPU whatever the device: {line.strip()}"


# Programs that a text shows and the tests build.
SHOWN = {"README.md": ["embed.cpp"], "docs/embedding.md": ["embed.c", "embed.f90", "mpi.c", "mpi.f90", "splitting.cpp"]}
FENCES = {".cpp": "cpp", ".c": "c", ".f90": "fortran"}


def check_shown(root: Path) -> list[str]:
    """Texts show the examples that the tests build."""
    found = []
    for text, examples in SHOWN.items():
        for example in (root / "tools/examples" / name for name in examples):
            if not (root / text).is_file() or not example.is_file():
                continue
            program = example.read_text(encoding="utf-8").split("\n", 1)[1]
            if f"```{FENCES[example.suffix]}\n{program}```" not in (root / text).read_text(encoding="utf-8"):
                found.append(f"{text}:1: the program is not tools/examples/{example.name}")
    return found


def check(root: Path) -> list[str]:
    """All breaches of the tree, as "file:line: message"."""
    found = [f"{p.relative_to(root)}:{line}: {text}" for p in files(root) for line, text in check_file(p, root)]
    return found + check_folders(root) + check_installed(root) + check_shown(root)


SPDX = "// SPDX-License-Identifier: MIT\n"
CLEAN = {
    "kernels/include/brenier/base/view.hpp": SPDX + "// printf( in a comment, exit( too\n",
    "kernels/include/brenier/model/icnn.hpp": SPDX + '#include "brenier/base/view.hpp"\n#include <vector>\n',
    "kernels/base/arena.hpp": SPDX + '#include "brenier/base/view.hpp"\n',
    "kernels/model/adam.hpp": SPDX + '#include "kernels/base/arena.hpp"\n#include "brenier/model/icnn.hpp"\n',
    "kernels/cpu/simd.hpp": SPDX + '#include "kernels/model/adam.hpp"\n',
    "kernels/cpu/backend.cpp": SPDX + '#include "simd.hpp"\nvoid on_exit(int); int f() { return snprintf(0, 0, ""); }\n',
    "autodiff/include/brenier/tape.hpp": SPDX + '#include "brenier/base/view.hpp"\n',
    "autodiff/tape.cpp": SPDX + '#include "kernels/base/arena.hpp"\n',
    "engine/include/brenier/flow.hpp": SPDX + '#include "brenier/map.hpp"\n#include "brenier/tape.hpp"\n',
    "engine/include/brenier/map.hpp": SPDX + 'inline const char* hint = "std::cout << 1; exit(1)";\n',
    "engine/src/checks/shape.hpp": SPDX,
    "engine/src/flow/flow.cpp": SPDX + '#include <nlohmann/json.hpp>\n#include "brenier/flow.hpp"\n#include "engine/src/checks/shape.hpp"\n',
    "tools/command/main.cpp": SPDX + '#include <brenier/flow.hpp>\nint main() { std::cout << 1; exit(2); }\n',
    "tests/test_tools.cpp": SPDX + '#include "tools/command/main.hpp"\n',
    "bench/long.md": "text\n" * 1000,
}
# What is planted, and a part of the message that must follow.
PLANTED = {
    ("tools/runs/stream.cpp", "  std::istringstream in(text);\n"): "ends early where memory is out",
    ("tools/runs/null.cpp", "  nlohmann::ordered_json out;\n"): "crashes where memory is out",
    ("kernels/up.cpp", '#include "brenier/tape.hpp"\n'): "kernels must not include autodiff",
    ("kernels/up2.cpp", '#  include <brenier/flow.hpp>\n'): "kernels must not include engine",
    ("autodiff/up.cpp", '#include "solvers/cg.hpp"\n'): "autodiff must not include solvers",
    ("solvers/up.cpp", '#include "engine/src/checks/shape.hpp"\n'): "solvers must not include engine",
    ("engine/src/up.cpp", '#include "tools/runs/run.hpp"\n'): "engine must not include tools",
    ("engine/src/up2.cpp", '#include "../../bench/timing.hpp"\n'): "engine must not include bench",
    ("tools/up.cpp", '#include "tests/support/near.hpp"\n'): "tools must not include tests",
    ("bench/up.cpp", '#include "tools/runs/run.hpp"\n'): "bench must not include tools",
    ("engine/src/isa.cpp", '#include "kernels/cpu/simd.hpp"\n'): "once per instruction set",
    ("kernels/base/up.hpp", '#include "kernels/model/adam.hpp"\n'): "kernels/base must not include kernels/model",
    ("kernels/model/up.hpp", '#include "kernels/operations.hpp"\n'): "kernels/model must not include kernels/operations",
    ("kernels/ref/up.cpp", '#include "kernels/device/device.hpp"\n'): "kernels/ref must not include kernels/device",
    ("engine/src/checks/up.hpp", '#include "engine/src/flow/state.hpp"\n'): "must not include engine/src/flow",
    ("kernels/path.hpp", '#include "kernels/include/brenier/base/view.hpp"\n'): "include it as",
    ("autodiff/include/brenier/ref.hpp", '#include "kernels/ref/ref.hpp"\n'): "which is not installed",
    ("engine/include/brenier/inside.hpp", '#include "kernels/base/arena.hpp"\n'): "which is not installed",
    ("autodiff/include/brenier/third.hpp", "#include <Eigen/Dense>\n"): "only the standard library",
    ("kernels/print.cpp", 'void f() { std::printf("x"); }\n'): "neither prints nor ends",
    ("engine/src/print.cpp", "void f() { std::cerr << 1; }\n"): "neither prints nor ends",
    ("engine/src/end.cpp", "void f() { std::exit(1); }\n"): "neither prints nor ends",
    ("engine/src/cpu.cpp", "auto& f() { return cpu::operations<double>(); }\n"): "whatever the device",
    ("autodiff/end.cpp", "/* no */ void f() { abort(); }\n"): "neither prints nor ends",
    ("tools/path.cpp", "// see " + "/home" + "/somebody/x\n"): "somebody's machine",
    ("bench/paper/path.toml", 'file = "' + "/work" + '/x.npy"\n'): "somebody's machine",
    ("tests/long.cpp", "\n" * MAX_LINES): "split it by content",
}


def plant(root: Path, name: str, text: str) -> None:
    """Writes one file of a made-up tree."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def self_test() -> list[str]:
    """A clean tree passes; each planted breach is found, alone, where it was planted."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in CLEAN.items():
            plant(root, name, text)
        plant(root, "bench/timing.hpp", SPDX)
        failures += [f"a clean tree fails: {message}" for message in check(root)]
        for (name, text), expected in PLANTED.items():
            plant(root, name, SPDX + text)
            found = check(root)
            if len(found) != 1 or not found[0].startswith(f"{name}:") or expected not in found[0]:
                failures.append(f"planted {text!r} in {name}, expected '{expected}', found {found}")
            (root / name).unlink()
        for k in range(MAX_FILES + 1):
            plant(root, f"solvers/many/{k}.hpp", SPDX)
        if not any(message.startswith("solvers/many:") for message in check(root)):
            failures.append("a flat folder is not found")
        shutil.rmtree(root / "solvers/many")
        for k in range(MAX_INSTALLED + 1):
            plant(root, f"solvers/include/brenier/{k % 2}/{k}.hpp", SPDX)
        if not any("are installed" in message for message in check(root)):
            failures.append("too many installed headers are not found")
        shutil.rmtree(root / "solvers/include")
        plant(root, "autodiff/licence.hpp", "#pragma once\n")
        if not any("SPDX" in message for message in check(root)):
            failures.append("a missing licence is not found")
        (root / "autodiff/licence.hpp").unlink()
        plant(root, "tools/examples/embed.cpp", SPDX + "int main() {}\n")
        plant(root, "README.md", "```cpp\nint main() { return 0; }\n```\n")
        if not any(message.startswith("README.md") for message in check(root)):
            failures.append("a README with another program is not found")
        plant(root, "README.md", "```cpp\nint main() {}\n```\n")
        failures += [f"a clean README fails: {message}" for message in check(root)]
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).resolve().parents[2])
    parser.add_argument("--self-test", action="store_true", help="check the checker with planted breaches")
    args = parser.parse_args()
    messages = self_test() if args.self_test else check(args.root)
    print("\n".join(messages) or "no breach found")
    sys.exit(1 if messages else 0)


if __name__ == "__main__":
    main()
