# SPDX-License-Identifier: MIT
"""A page in headless Chromium, by the DevTools protocol over two pipes: no port, no package."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
# Seen by a page before its own script: when its first picture has been drawn and shown, milliseconds after the start.
FIRST_PICTURE = """addEventListener('DOMContentLoaded', () => requestAnimationFrame(() => requestAnimationFrame(
                   () => { window.firstPicture = performance.now(); })));"""


def find() -> str | None:
    """The browser, or None where none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page that is open. `errors` has what its scripts threw, `requests` the addresses that it asked for."""

    def __init__(self, program: str, address: str, width: int = 1000, height: int = 1200, seconds: float = 60) -> None:
        self.errors, self.requests = [], []
        self._numbers, self._pending, self._session = itertools.count(1), b"", None
        self._until = time.monotonic() + seconds
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (their_in, their_out)]
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}", "about:blank"]
        log = os.path.join(self._folder.name, "log")
        self._process = os.posix_spawn(program, words, os.environ, setpgroup=0, file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)])
        for end in (their_in, their_out, *high):
            os.close(end)
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            target = next(one["targetId"] for one in targets if one["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network"):
                self._call(f"{domain}.enable")
            self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
            self._call("Page.addScriptToEvaluateOnNewDocument", source=FIRST_PICTURE)
            self._call("Page.navigate", url=address)
            self.wait("window.firstPicture > 0")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        for end in (self._out, self._in):
            os.close(end)
        try:
            os.killpg(self._process, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self._process, 0)
        self._folder.cleanup()

    def _read(self) -> dict:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._in], [], [], max(0, self._until - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                said = Path(self._folder.name, "log").read_text(encoding="utf-8", errors="replace")
                raise TimeoutError(f"the browser does not answer: {said[-500:]}")
            self._pending += piece
        text, self._pending = self._pending.split(b"\0", 1)
        return json.loads(text)

    def _call(self, method: str, **parameters) -> dict:
        message = {"id": next(self._numbers), "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        rest = json.dumps(message).encode() + b"\0"
        while rest:
            rest = rest[os.write(self._out, rest):]
        while True:
            told = self._read()
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(told["params"]["exceptionDetails"])
            elif told.get("method") == "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            elif told.get("id") == message["id"]:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]

    def value(self, expression: str):
        """What an expression of JavaScript is, as JSON has it."""
        told = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait(self, expression: str) -> None:
        while not self.value(expression):
            if time.monotonic() > self._until:
                raise TimeoutError(f"never true: {expression}")
            time.sleep(0.02)

    def click(self, element: str, across: float = 0.5) -> None:
        """A click of the mouse on an element, given as an expression, at a part of its width."""
        box = self.value(f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); "
                         "const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()")
        place = {"x": box[0] + across * box[2], "y": box[1] + 0.5 * box[3], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, **place)

    def picture(self, whole: bool = False) -> bytes:
        """What is seen, or the page from its top to its end, as a .png file."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])
