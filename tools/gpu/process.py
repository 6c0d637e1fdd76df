# SPDX-License-Identifier: MIT
"""Other programs: for a limited time, ended with us, and what they print is kept in one log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77  # exit status of our programs where there is no device


class Failed(Exception):
    """A step did not do what it should; the message says why."""


class NoDevice(Failed):
    """nvidia-smi or one of our programs says that there is no GPU."""


class Stopped(BaseException):
    """A signal came, or the time of the whole call is over. No step may take it for a failure of its own."""


@dataclass
class Result:
    """A finished command: its exit status, None where it was stopped, and what it printed on both streams."""

    status: int | None
    text: str

    def last(self) -> str:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "no message"

    def first_error(self) -> str:
        """The first line in which a compiler, a linker or CMake names an error; the last line otherwise."""
        for line in self.text.splitlines():
            if ERROR.search(line):
                return line.strip()[:300]
        return self.last()


ERROR = re.compile(
    r"\berror\b(?: *#?[-\w]+)? *:|CMake Error|undefined reference|No space left|Killed", re.IGNORECASE
)


class Log:
    """One file for everything that was run: few files come back from a machine that is lent.

    Of a command that prints much, the two ends are kept; of very many commands, the first ones.
    """

    def __init__(self, path: Path, command_bytes: int = 200_000, bytes_in_all: int = 15_000_000) -> None:
        self.path, self.command_bytes, self.left = path, command_bytes, bytes_in_all
        self.lock = threading.Lock()
        path.write_text("")

    def add(self, command: str, text: str, ended: str) -> None:
        if len(text) > self.command_bytes:
            half = self.command_bytes // 2
            text = f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
        entry = f"$ {command}\n{text.rstrip()}\n[{ended}]\n\n".encode(errors="replace")
        with self.lock:
            if len(entry) > self.left:
                return
            self.left -= len(entry)
            with self.path.open("ab") as out:
                out.write(entry)


class Running:
    """The commands that run now, in all threads, so that nothing outlives us."""

    def __init__(self) -> None:
        self.lock, self.processes, self.closed = threading.Lock(), set(), False

    def start(self, words: list[str], **options: object) -> subprocess.Popen:
        with self.lock:
            if self.closed:
                raise OSError(0, "not started: the time is over")
            process = subprocess.Popen(words, start_new_session=True, **options)
            self.processes.add(process)
        return process

    def end(self, process: subprocess.Popen) -> None:
        """Ends a command with its children, compilers among them. One that hangs in the driver is left there."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass

    def forget(self, process: subprocess.Popen) -> None:
        with self.lock:
            self.processes.discard(process)

    def close(self) -> None:
        """Ends all of them; no other starts."""
        with self.lock:
            self.closed = True
            left = list(self.processes)
        for process in left:
            self.end(process)

    def open(self) -> None:
        self.closed = False


running = Running()


def run(
    command: list, limit: float, log: Log | None = None, env: dict | None = None, cwd: Path = ROOT
) -> Result:
    """Runs a command in a process group of its own, for at most `limit` seconds."""
    words = [str(word) for word in command]
    setting = "".join(f"{key}={value} " for key, value in (env or {}).items())
    shown = setting + " ".join(words)
    with tempfile.TemporaryFile() as file:
        status: int | None = None
        ended = "stopped: everything was"
        try:
            process = running.start(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env=os.environ | (env or {}),
            )
        except OSError as error:
            if log:
                log.add(shown, error.strerror or str(error), "not started")
            return Result(127, f"{words[0]}: {error.strerror}")
        try:
            status = process.wait(max(limit, 0.1))
            if running.closed:  # ended by us, in another thread
                status = None
            else:
                ended = f"status {status}"
        except subprocess.TimeoutExpired:
            ended = "stopped: out of time"
        finally:  # whatever ends this, what was printed so far is kept
            if process.returncode is None:
                running.end(process)
            running.forget(process)
            file.seek(0)
            text = file.read().decode(errors="replace")
            if log:
                log.add(shown, text, ended)
    return Result(status, text)
