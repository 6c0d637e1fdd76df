#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Pages and films of runs: usage: check_report.py FOLDER_OF_PLOT_PY [--browser]

A page names no other file or address, tells warnings first, stays small, and has the numbers of its runs; its script is run
by Node over a page of stubs, where that is installed, and with --browser by Chromium (exit status 77 where there is none):
the slider moves, and what is drawn changes.
"""

from __future__ import annotations

import base64
import contextlib
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import browser

WRONG: list[str] = []


def check(condition, what: str) -> None:
    if not condition:
        WRONG.append(what)


def make_run(run: Path, *, dim: int, particles: int = 3000, steps: int = 20, warnings: tuple[str, ...] = ()) -> Path:
    (run / "clouds").mkdir(parents=True)
    (run / "config.toml").write_text('seed = 1\n\n[cloud]\ndensity = "gaussian"  # </script><b>\n')
    (run / "summary.json").write_text(json.dumps({
        "dim": dim, "status": "done", "warnings": list(warnings), "particles": particles, "functional": {"total": 0.25, "text": "F"},
        "build": {"git": "abc123", "flags": "-O3"}, "runs": [{"command": "brenier run flow.toml", "host": "here"}]}))
    rows = ["step,time,F,F_heldout,missed_share,iterations,residual"]
    for k in range(steps + 1):
        rows.append(f"{k},{0.1 * k!r},{1 / (1 + k)!r},,{'' if k == 0 else 0.001 * k},{5 * k},")
        points = np.random.default_rng(k).normal(size=(particles, dim)) / (1 + k)
        np.save(run / "clouds" / f"step_{k:06d}.npy", points)
        np.save(run / "clouds" / f"log_density_{k:06d}.npy", -0.5 * (points**2).sum(axis=1))
    (run / "history.csv").write_text("\n".join(rows) + "\n")
    return run


class Page(html.parser.HTMLParser):
    """Checks that elements close, and keeps attributes and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.attributes, self.scripts, self.text = [], [], [], ""
        self.feed(text)
        check(not self.open, f"elements that do not close: {self.open}")

    def handle_starttag(self, tag, attributes) -> None:
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        check(self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}")
        self.open = self.open[:-1]

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data


# A page of stubs that counts what is drawn.
STUBS = """
const drawn = [];
const context = () => new Proxy({}, {get: (o, k) => k in o ? o[k] : (...a) => { drawn.push([k, ...a].join(' ')); },
                                     set: (o, k, v) => { o[k] = v; return true; }});
class Node_ {
  constructor() { this.dataset = {}; this.children = []; this.listeners = {}; this.value = '0'; this.attributes = {}; }
  querySelector(name) { this.parts = this.parts || {}; return this.parts[name] = this.parts[name] || new Node_(); }
  getContext() { return this.context = this.context || context(); }
  addEventListener(kind, f) { this.listeners[kind] = f; }
  setAttribute(k, v) { if (/NaN|undefined|Infinity/.test(v)) throw new Error(k + ' = ' + v); this.attributes[k] = v; }
  append(node) { this.children.push(node); }
  remove() {}
}
const movies = [], charts = [];
for (let k = 0; k < COUNT; ++k) for (const list of [movies, charts]) { const node = new Node_(); node.dataset.run = String(k); list.push(node); }
globalThis.document = {getElementById: () => ({textContent: DATA}), querySelectorAll: name => name === '.movie' ? movies : charts,
                       createElementNS: () => new Node_()};
"""
CHECKS = """
for (const movie of movies) {
  const slider = movie.querySelector('input'), told = movie.querySelector('output');
  const first = told.textContent, before = drawn.length;
  slider.value = String(slider.max); slider.listeners.input();
  if (told.textContent === first || drawn.length === before) throw new Error('the slider moves nothing');
  if (drawn.some(line => /NaN|undefined/.test(line))) throw new Error('drawn: ' + drawn.find(line => /NaN|undefined/.test(line)));
  console.log(told.textContent);
}
console.log(charts.map(c => c.children.length).join(' '));
"""


def write_page(report, root: Path) -> tuple[Path, list[Path]]:
    """A page of three runs: in one, two and four dimensions."""
    line = make_run(root / "line", dim=1, particles=500)
    plane = make_run(root / "plane", dim=2, warnings=("F <lies> below its infimum",))
    space = make_run(root / "space", dim=4, particles=50, steps=3)
    out = root / "report.html"
    sys.argv = ["report.py", "--out", str(out), "--", str(line), str(plane), str(space)]
    with contextlib.redirect_stdout(io.StringIO()):
        report.main()
    return out, [line, plane, space]


def check_page(report, root: Path) -> None:
    out, (_, plane, _) = write_page(report, root)
    text = out.read_text(encoding="utf-8")
    check(len(text) < 5e6, f"{len(text)} bytes")
    page = Page(text)
    check(not re.search(r"(src|href)\s*=", text) and "@import" not in text and "url(" not in text, "another file or address")
    check(set(re.findall(r"https?://[^'\" ]+", text)) <= {"http://www.w3.org/2000/svg"}, "an address")
    check(page.text.index("plane: F <lies> below its infimum") < page.text.index("-O3"), "warnings first")
    for piece in ("abc123", "brenier run flow.toml", "here", "</script><b>"):
        check(piece in page.text, f"the page lacks {piece}")
    data = json.loads(page.scripts[0])
    check(data[0]["charts"][0]["series"][0]["y"] == [float(f"{1 / (1 + k):.6g}") for k in range(21)], "F over time")
    frame = data[1]["movie"]["frames"][-1]
    (low, high), _ = data[1]["movie"]["limits"]
    points = np.frombuffer(base64.b64decode(frame["points"]), "<u2").reshape(-1, 2)[:, 0] / 65535 * (high - low) + low
    there = np.load(plane / "clouds" / "step_000020.npy")[::2, 0]
    check(len(points) == len(there) and np.abs(points - there).max() <= (high - low) / 65535, "particles of the last frame")
    check(data[2]["movie"]["names"][0] == "first principal axis", "axes above two dimensions")
    check(len(json.dumps(data[1]["movie"]["frames"])) < 5e5, "size of a film of particles")

    node = shutil.which("node") or shutil.which("nodejs")
    if node:
        script = STUBS.replace("COUNT", "3").replace("DATA", json.dumps(page.scripts[0])) + page.scripts[1].replace("'use strict';", "") + CHECKS
        (root / "page.js").write_text(script, encoding="utf-8")
        done = subprocess.run([node, root / "page.js"], text=True, capture_output=True)
        said = done.stdout.split("\n")
        check(done.returncode == 0 and said[:3] == ["step 20, t = 2"] * 2 + ["step 3, t = 0.3"] and said[3] == "3 3 3",
              f"node: {done.stdout} {done.stderr[:800]}")


# Painted points of a canvas that are not white, and a number that tells pictures apart.
PICTURE = """(k => { const c = document.querySelectorAll('canvas')[k], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let dark = 0, sum = 0;
  for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255 && d[i] + d[i + 1] + d[i + 2] < 700) { ++dark; sum = (31 * sum + i + d[i]) % 1000003; }
  return [dark, sum]; })"""


def check_browser(program: str, page: Path) -> None:
    """The page as it is seen: pictures that are not empty and change where the slider is clicked, and while it plays."""
    with browser.Page(program, page.as_uri()) as shown:
        print(f"{page.stat().st_size} bytes, the first picture after {shown.value('window.firstPicture'):.0f} ms")
        count = shown.value("document.querySelectorAll('canvas').length")
        for k in range(count):
            movie = f"document.querySelectorAll('.movie')[{k}]"
            pictures, told = [], []
            for across in (None, 0.5, 0.999):
                if across is not None:
                    shown.click(f"{movie}.querySelector('input')", across)
                pictures.append(shown.value(f"{PICTURE}({k})"))
                told.append(shown.value(f"{movie}.querySelector('output').textContent"))
            check(min(dark for dark, _ in pictures) > 2000, f"the canvas of run {k} is empty: {pictures}")
            check(len({tuple(one) for one in pictures}) == 3 and len(set(told)) == 3, f"run {k} stands still: {pictures}, {told}")
            shown.click(f"{movie}.querySelector('button')")
            shown.wait(f"{movie}.querySelector('output').textContent !== {json.dumps(told[-1])}")
        check(shown.value("document.querySelectorAll('.charts svg polyline').length") > 0 or not count, "no curves")
        check(shown.value("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window")
        check(shown.requests == [page.as_uri()], f"asked for: {shown.requests}")
        check(not shown.errors, f"its script threw: {shown.errors}")


def refused(module, name: str, arguments: list[str], *pieces: str) -> None:
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module.main()
    except SystemExit as error:
        check(all(piece in str(error) for piece in pieces), f"{name}: {error}")
    else:
        check(False, f"{name} {arguments} was taken")


def check_film(movie, report, root: Path) -> None:
    for dim in (1, 2, 4):
        run = make_run(root / f"{dim}", dim=dim, particles=40, steps=3)
        sys.argv = ["movie.py", "--out", str(root / f"{dim}.gif"), "--fps=20", "--", str(run)]
        with contextlib.redirect_stdout(io.StringIO()):
            movie.main()
        data = (root / f"{dim}.gif").read_bytes()
        check(data.startswith(b"GIF89a") and data.count(b"\x21\xf9\x04") == 4, f"frames of {dim}.gif")
    refused(movie, "movie.py", ["--out", "flow.avi", "--", str(run)], "flow.avi", ".gif")
    if not shutil.which("ffmpeg"):
        refused(movie, "movie.py", ["--out", "flow.mp4", "--", str(run)], "ffmpeg", ".gif")
    # Names of folders are bytes.
    strange = make_run(root / os.fsdecode(b"b\xff"), dim=1, particles=40, steps=3)
    for script, out in (("report", "r.html"), ("movie", "m.gif"), ("plot", "figures")):
        done = subprocess.run([sys.executable, Path(report.__file__).with_name(script + ".py"), "--out",
                               strange / out, "--", strange], env=os.environ | {"LC_ALL": "C.UTF-8"}, capture_output=True)
        check(done.returncode == 0 and b"b\xff" in done.stdout and (strange / out).exists(), f"{script} of b\\xff: {done.stderr}")
    (run / "history.csv").write_text("")
    refused(movie, "movie.py", ["--out", "flow.gif", "--", str(run)], "history.csv")
    refused(report, "report.py", ["--out", str(root / "none.html"), "--", str(run)], "history.csv")


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import movie
    import report

    seen = sys.argv[2:] == ["--browser"]
    program = browser.find()
    if seen and not program:
        print("SKIPPED: there is no Chromium (Debian: chromium-headless-shell)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as scratch:
        if seen:
            check_browser(program, write_page(report, Path(scratch))[0])
        else:
            check_page(report, Path(scratch, "page"))
            check_film(movie, report, Path(scratch, "film"))
    if WRONG:
        sys.exit("\n".join(WRONG))
    print("pages and films show what the runs have")


if __name__ == "__main__":
    main()
