# SPDX-License-Identifier: MIT
"""What the design of the hot kernels counts on in their machine code (sm_90), as nvdisasm prints it.

tools/resource_report compares with kernels/cuda/machine_code.txt and writes it. Numbers of a kernel:

    splits        operands of tensor cores that are split into two parts, each counted once in the code
    in three      those whose split takes three instructions: an addition, a mask and a subtraction
    hmma          instructions of the tensor cores
    reads ahead   reads of memory before the first barrier or addition in double waits for one
    fences        MEMBAR.SC, which waits for everything
    loop blocks   basic blocks of the loop with the most exponentials: 1 is a loop without a branch
    loop reads    16-byte reads of memory in that loop
    loop exp      exponentials in that loop
    thousands     of instructions, rounded up: a block of a small cloud runs each once, and reads it
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?(?P<code>[A-Z][\w.]*)(?P<rest>[^;]*);")
LABEL = re.compile(r"^\.(L_\w+):")
SECTION = re.compile(r"^\.text\.(\S+):")
REGISTER = re.compile(r"R\d+")
MASK, HALF = "0xffffe000", "0x1000"  # of a TF32 number, and half of its last place

Facts = dict[str, int]


@dataclass
class Instruction:
    """One line; `labels` are those that stand before it."""

    code: str
    operands: list[str]
    labels: list[str]

    def writes(self) -> str | None:
        """The first register that it writes."""
        if self.code.startswith(("ST", "BAR", "BRA", "RED")) or not self.operands:
            return None
        return self.operands[0] if REGISTER.fullmatch(self.operands[0]) else None


def functions(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each kernel."""
    found: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    labels: list[str] = []
    for line in text.splitlines():
        if match := SECTION.match(line.strip()):
            code, labels = found.setdefault(match[1], []), []
        elif match := LABEL.match(line.strip()):
            labels.append(match[1])
        elif match := INSTRUCTION.search(line):
            operands = [word.strip().removesuffix(".reuse") for word in match["rest"].split(",")]
            code.append(Instruction(match["code"], [w for w in operands if w], labels))
            labels = []
    return found


def splits(code: list[Instruction]) -> tuple[int, int]:
    """Operands that are split, and how many of them in three instructions."""
    last_write: dict[str, Instruction] = {}
    all_splits = in_three = 0
    for at, line in enumerate(code):
        if line.code.startswith("LOP3") and MASK in line.operands:
            all_splits += 1
            source = next((w for w in line.operands[1:] if REGISTER.fullmatch(w)), "")
            rounded = source in last_write and HALF in last_write[source].operands
            in_three += rounded and subtracted(code, at)
        if (target := line.writes()) is not None:
            last_write[target] = line
    return all_splits, in_three


def subtracted(code: list[Instruction], at: int) -> bool:
    """Whether what instruction `at` writes is subtracted before its register is written again."""
    target = code[at].writes()
    for line in code[at + 1 :]:
        if line.code.startswith("FADD") and f"-{target}" in line.operands:
            return True
        if line.writes() == target:
            return False
    return False


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Bodies of loops: from a label to a branch back to it, branch included."""
    place = {label: at for at, line in enumerate(code) for label in line.labels}
    found = []
    for at, line in enumerate(code):
        if line.code != "BRA":
            continue
        match = re.search(r"\.(L_\w+)", " ".join(line.operands))
        if match and place.get(match[1], at + 1) <= at:
            found.append(code[place[match[1]] : at + 1])
    return found


def busiest_loop(code: list[Instruction]) -> Facts:
    """The smallest loop with the most exponentials that reads 16 bytes at a time."""
    bodies = [body for body in loops(code) if any(line.code.startswith("LDG.E.128") for line in body)]
    if not bodies:
        return {"loop blocks": 0, "loop reads": 0, "loop exp": 0}
    body = min(bodies, key=len)
    inside = [line for at, line in enumerate(body) if at > 0 and line.labels]
    branches = [line for line in body[:-1] if line.code.split(".")[0] in ("BRA", "BSSY", "BSYNC", "CALL")]
    return {
        "loop blocks": 1 + len(inside) + len(branches),
        "loop reads": sum(line.code.startswith("LDG.E.128") for line in body),
        "loop exp": sum(line.code.startswith("MUFU.EX2") for line in body),
    }


def tensor_cores(code: list[Instruction]) -> Facts:
    all_splits, in_three = splits(code)
    return {
        "splits": all_splits,
        "in three": in_three,
        "hmma": sum(line.code.startswith("HMMA") for line in code),
    }


def reads_ahead(code: list[Instruction]) -> Facts:
    waits = (at for at, line in enumerate(code) if line.code.startswith(("DADD", "BAR")))
    first = next(waits, len(code))
    return {
        "reads ahead": sum(line.code.startswith("LDG") for line in code[:first]),
        "fences": sum(line.code.startswith("MEMBAR.SC") for line in code),
    }


# Which facts of which kernels are recorded, and what must be true of them.
STEP = r"(?:step|image)_kernel<TileForm<float, Tf32x3, (?:8|16|32)> >"
LINE = r"step_kernel<LineForm<float, Tf32x3> >"
MOST_THOUSANDS = 16
WATCHED = [
    (STEP, tensor_cores),
    (LINE, lambda code: tensor_cores(code) | {"thousands": -(-len(code) // 1000)}),
    (r"soft_minimum_kernel<float, true>", busiest_loop),
    (r"update_kernel<float>", reads_ahead),
]


def complaints(name: str, facts: Facts) -> list[str]:
    """What of a kernel is not as it must be."""
    wrong = []
    if facts.get("in three") != facts.get("splits"):
        wrong.append(f"{facts['splits'] - facts['in three']} operands of {name} are not split in three instructions")
    if facts.get("splits") == 0:
        wrong.append(f"{name} splits no operand: where are its products?")
    if facts.get("loop blocks", 1) != 1:
        wrong.append(f"the loop of {name} has {facts['loop blocks']} basic blocks: its lanes wait for each other")
    if facts.get("loop reads", 6) < 6:
        wrong.append(f"the loop of {name} has {facts['loop reads']} reads of 16 bytes, not two of each of three arrays")
    if facts.get("reads ahead", 12) < 12:
        wrong.append(f"{name} waits after {facts['reads ahead']} reads")
    if facts.get("thousands", 0) > MOST_THOUSANDS:
        wrong.append(f"{name} has {facts['thousands']} thousand instructions, more than {MOST_THOUSANDS}")
    if facts.get("fences", 0) > 0:
        wrong.append(f"{name} has a fence that waits for everything")
    return wrong


def judge_text(text: str, names: dict[str, str]) -> dict[str, Facts]:
    """Facts of the watched kernels in a listing; `names`: of symbols, as people write them."""
    found: dict[str, Facts] = {}
    for symbol, code in functions(text).items():
        name = names.get(symbol, symbol)
        for pattern, measure in WATCHED:
            if re.fullmatch(pattern, name):
                found[name] = measure(code)
    return found


def disassembler() -> str | None:
    """nvdisasm: of the environment, of the toolkit, or where tools/setup.sh has put it."""
    places = [os.environ.get("NVDISASM"), shutil.which("nvdisasm"), "/usr/local/cuda/bin/nvdisasm"]
    places += sorted(str(path) for path in ROOT.glob("build/tools/nvidia/*/bin/nvdisasm"))
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def listing(cubin: Path, tool: str) -> str:
    return subprocess.run([tool, "-c", str(cubin)], check=True, capture_output=True, text=True).stdout


def render(facts: dict[str, Facts]) -> str:
    """One line a kernel."""
    lines = []
    for name, values in sorted(facts.items()):
        lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    return "".join(line + "\n" for line in lines)


SAMPLE = """\
.text._Z4stepv:
        /*0000*/                   IADD3 R5, R2, 0x1000, RZ ;
        /*0010*/                   LOP3.LUT R9, R5, 0xffffe000, RZ, 0xc0, !PT ;
        /*0020*/                   FADD R11, R2, -R9 ;
        /*0030*/                   HMMA.1688.F32.TF32 R24, R32, R28, R24 ;
        /*0040*/               @P0 EXIT ;
.text._Z4softv:
.L_x_1:
        /*0000*/                   LDG.E.128 R8, desc[UR6][R8.64] ;
        /*0010*/                   MUFU.EX2 R9, R9 ;
        /*0020*/              @!P2 BRA `(.L_x_1) ;
.text._Z6updatev:
        /*0000*/                   LDG.E R8, desc[UR6][R8.64] ;
        /*0010*/                   DADD R8, R8, R10 ;
        /*0020*/                   LDG.E R8, desc[UR6][R8.64] ;
"""


def self_test() -> None:
    """On a few lines of machine code; a split of four instructions and a branch are found."""
    code = functions(SAMPLE)
    assert [len(lines) for lines in code.values()] == [5, 3, 3], code
    step, soft, update = code.values()
    assert tensor_cores(step) == {"splits": 1, "in three": 1, "hmma": 1}
    assert busiest_loop(soft) == {"loop blocks": 1, "loop reads": 1, "loop exp": 1}
    assert reads_ahead(update) == {"reads ahead": 1, "fences": 0}
    four = SAMPLE.replace("FADD R11, R2, -R9", "FADD R11, R2, R9")
    assert tensor_cores(functions(four)["_Z4stepv"])["in three"] == 0
    other = SAMPLE.replace("R2, 0x1000", "R2, 0x800")
    assert tensor_cores(functions(other)["_Z4stepv"])["in three"] == 0
    exponential = "        /*0010*/                   MUFU"
    branch = SAMPLE.replace(exponential, "        /*0008*/ @P0 BRA `(.L_x_2) ;\n.L_x_2:\n" + exponential)
    assert busiest_loop(functions(branch)["_Z4softv"])["loop blocks"] == 3
    names = {"_Z6updatev": "update_kernel<float>"}
    assert judge_text(SAMPLE, names) == {"update_kernel<float>": {"reads ahead": 1, "fences": 0}}
    for number, bad in (
        (0, {"splits": 3, "in three": 3}),
        (1, {"splits": 3, "in three": 2}),
        (1, {"splits": 0, "in three": 0}),
        (2, {"loop blocks": 2, "loop reads": 2}),
        (2, {"reads ahead": 1, "fences": 1}),
        (0, {"splits": 1, "in three": 1, "thousands": MOST_THOUSANDS}),
        (1, {"splits": 1, "in three": 1, "thousands": MOST_THOUSANDS + 1}),
    ):
        assert len(complaints("k", bad)) == number, bad
