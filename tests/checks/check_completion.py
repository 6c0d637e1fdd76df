#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Completion of a shell and the manual page: usage: check_completion.py COMMAND DOCS_CONFIGURATION_MD

Bash completes subcommands, options and keys; the manual page names them all, and groff takes it without a warning.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

WRONG: list[str] = []


def check(condition, what: str) -> None:
    if not condition:
        WRONG.append(what)


def complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _brenier; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], text=True, capture_output=True)
    check(done.returncode == 0 and not done.stderr, f"bash: {done.stderr}")
    return done.stdout.split()


def main() -> None:
    command = sys.argv[1]

    def output(*words: str) -> str:
        return subprocess.run([command, *words], text=True, capture_output=True, check=True).stdout

    script, manual = output("completion", "bash"), output("completion", "man")
    commands = re.findall(r"^  (\w+) ", output("--help").split("Subcommands:")[1].split("\n\n")[0], re.M)
    check(len(commands) > 8 and set(commands) <= set(complete(script, "brenier", "")), f"subcommands: {commands}")
    check(complete(script, "brenier", "res") == ["resume"], "resume")
    check(complete(script, "brenier", "run", "flow.toml", "--sw") == ["--sweep"], "an option")
    check(complete(script, "brenier", "run", "flow.toml", "--set", "flow.ta") == ["flow.tau="], "a key")
    check(complete(script, "brenier", "plot", "a", "--by", "inner.itera") == ["inner.iterations"], "a key of --by")
    for name in commands:
        for option in re.findall(r"(--[a-z][a-z-]*)", output(name, "--help").split("Options:")[1].split("\n\n")[0]):
            check(option in complete(script, "brenier", name, option), f"{name} {option} is not completed")
    for word in [*commands, "EXIT STATUS", "flow", "quadratic_rank"]:
        check(word in manual, f"the manual page lacks {word}")
    keys = set(re.findall(r"^\| `(\w+)` \|", open(sys.argv[2], encoding="utf-8").read().split("## brenier fit")[0], re.M))
    check(not [key for key in keys if not re.search(rf"^{key}$", manual, re.M)], "keys that the manual page lacks")
    if shutil.which("fish"):
        code = output("completion", "fish") + "\ncomplete -C'brenier res'; complete -C'brenier run flow.toml --sw'; " \
            "complete -C'brenier run flow.toml --set flow.ta'"
        done = subprocess.run(["fish", "--no-config", "-c", code], text=True, capture_output=True)
        offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
        check(not done.stderr and offered == ["resume", "--sweep", "flow.tau="], f"fish: {done.stdout} {done.stderr}")
    if shutil.which("zsh"):
        code = output("completion", "zsh") + "\nemulate ksh\nCOMP_WORDS=(brenier res); COMP_CWORD=1; _brenier; print -l \"${COMPREPLY[@]}\""
        done = subprocess.run(["zsh", "-f", "-c", code], text=True, capture_output=True)
        # zsh itself chooses those that begin as the word does.
        check(done.returncode == 0 and not done.stderr and "resume" in done.stdout.split(), f"zsh: {done.stdout} {done.stderr}")
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww"], input=manual, text=True, capture_output=True)
        check(done.returncode == 0 and not done.stderr, f"groff: {done.stderr[:500]}")
    if WRONG:
        sys.exit("\n".join(WRONG))
    print("completion and manual page are whole")


if __name__ == "__main__":
    main()
