#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A page about Brenier runs that needs nothing but itself.

usage: report.py --out report.html RUN [RUN...]

Warnings first, then what was run and where it came from, the density or the particles over time with a slider, F and the
certificates, tables, and the configuration. One file without references to others, for a browser from a file URL.
Needs numpy and matplotlib's colours.
"""

import argparse
import base64
import html
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

import plot

MOST_POINTS = 2000  # particles of a picture
MOST_FRAMES = 60
GRID = 241  # points of a density in one dimension
CURVES = (
    ("F", (("F", "particles"), ("F_heldout", "held-out particles"), ("F_exact", "exact solution"),
           ("F_scheme", "exact iterates")), False),
    ("share of the possible decrease that a step misses",
     (("missed_share", "particles"), ("missed_share_heldout", "held-out particles"), ("floor", "floor")), True),
    ("residual of the inner problem", (("residual", ""),), True),
    ("smallest eigenvalue of the Hessian", (("min_eigenvalue", ""),), False),
    ("round trip through the map and its inverse", (("round_trip", ""),), True),
    ("inner iterations", (("iterations", ""),), False),
    ("seconds", (("seconds", ""),), False),
)


def number(value):
    """A number for JSON, six digits; None where it is not known."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def column(run, name):
    return [number(value) for value in run.column(name)]


def packed(values):
    """Whole numbers of 16 bits."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<u2").tobytes()).decode()


def frames_of(run):
    """Steps whose clouds are shown."""
    return plot.chosen(run.steps, MOST_FRAMES)


def lines_of(run):
    """Densities in one dimension on a grid, over time."""
    steps = frames_of(run)
    run.load(steps)
    clouds = [run.clouds[step][:, 0] for step in steps]
    low, high = min(x.min() for x in clouds), max(x.max() for x in clouds)
    margin = 0.08 * (high - low) or 1.0
    grid = np.linspace(low - margin, high + margin, GRID)
    frames, exact = [], run.exact_density
    for step in steps:
        frame = {"step": step, "time": number(run.time(step)), "y": [number(v) for v in plot.density_on(run, step, grid)]}
        if exact is not None:
            at = np.isclose(exact[:, 0], run.time(step), rtol=1e-9, atol=1e-12)
            if at.any():
                frame["exact"] = [number(v) for v in np.interp(grid, exact[at, 1], exact[at, 2], left=0, right=0)]
        frames.append(frame)
    return {"kind": "lines", "x": [number(v) for v in grid], "frames": frames}


def points_of(run):
    """Particles over time, quantised to 16 bits; above two dimensions in the principal axes of the last cloud."""
    steps = frames_of(run)
    run.load(steps)
    axes, centre, names = np.eye(run.dim)[:, :2], np.zeros(run.dim), ["x[0]", "x[1]"]
    if run.dim > 2:
        last = run.clouds[steps[-1]]
        centre = last.mean(axis=0)
        axes = np.linalg.svd(last - centre, full_matrices=False)[2][:2].T
        names = ["first principal axis", "second principal axis"]
    clouds = [(run.clouds[step] - centre) @ axes for step in steps]
    low = np.min([points.min(axis=0) for points in clouds], axis=0)
    high = np.max([points.max(axis=0) for points in clouds], axis=0)
    middle, half = 0.5 * (low + high), 0.53 * max((high - low).max(), 1e-12)
    densities = [run.log_densities.get(step) for step in steps]
    known = [values[np.isfinite(values)] for values in densities if values is not None]
    peak = max((float(values.max()) for values in known if len(values)), default=None)
    frames = []
    for step, points, density in zip(steps, clouds, densities):
        every = -(-len(points) // MOST_POINTS)
        places = (points[::every] - middle + half) / (2 * half) * 65535
        frame = {"step": step, "time": number(run.time(step)), "points": packed(np.rint(places.clip(0, 65535)))}
        if density is not None and peak is not None:  # from the peak down to e^-9 of it
            shade = np.where(np.isfinite(density), 1 + (density - peak) / 9, 0)[::every]
            frame["shade"] = packed(np.rint(shade.clip(0, 1) * 65535))
        frames.append(frame)
    return {"kind": "points", "frames": frames, "names": names,
            "limits": [[number(middle[k] - half), number(middle[k] + half)] for k in range(2)],
            "shown": min(MOST_POINTS, max(len(points) for points in clouds)), "of": len(clouds[-1])}


def charts_of(run):
    out = []
    for title, series, log in CURVES:
        known = [{"label": label, "y": column(run, name)} for name, label in series
                 if np.isfinite(run.column(name)).any()]
        if known:
            out.append({"title": title, "log": log, "series": known})
    return out


def flat(value, prefix=""):
    """Leaves of nested objects as rows."""
    if isinstance(value, dict):
        return [row for key, one in value.items() for row in flat(one, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return [row for k, one in enumerate(value) for row in flat(one, f"{prefix}.{k}")]
    return [(prefix, value)]


def shown(value):
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return str(value)


def table(rows, heads=()):
    text = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    text = f"<tr>{text}</tr>" if heads else ""
    for row in rows:
        text += "<tr>" + "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in row) + "</tr>"
    return f"<table>{text}</table>"


def history_table(run):
    names = [name for name in run.history if np.isfinite(run.history[name]).any()]
    rows = [[shown(float(run.history[name][k])) if np.isfinite(run.history[name][k]) else "" for name in names]
            for k in range(len(run.history["step"]))]
    return table(rows, names)


def section_of(run, index):
    summary, warnings = run.summary, run.summary.get("warnings") or []
    status = str(summary.get("status", "unknown"))
    well = status == "done" and not warnings
    out = [f'<section id="run{index}"><h2>{html.escape(run.path.resolve().name)}</h2>']
    reason = f": {summary['reason']}" if summary.get("reason") else ""
    out.append(f'<p class="status {"well" if well else "ill"}">status: {html.escape(status + str(reason))}, '
               f'{summary.get("steps", len(run.history["step"]) - 1)} steps, t = {shown(run.time(-1))}</p>')
    functional = summary.get("functional") or {}
    results = [("F", functional.get("text", "")), ("F at the end", functional.get("total")),
               ("on held-out particles", summary.get("heldout_functional")), ("its infimum", (summary.get("infimum") or {}).get("functional")),
               ("particles", summary.get("particles")), ("dimension", run.dim), ("standard deviation", summary.get("std")),
               ("seconds", summary.get("seconds_total"))]
    out.append(table([row for row in results if row[1] is not None]))
    out.append(f'<figure class="movie" data-run="{index}"><canvas width="840" height="480"></canvas><div class="bar">'
               '<button type="button">play</button> <input type="range" min="0" value="0" step="1" aria-label="step"> '
               '<output></output></div></figure>')
    out.append(f'<div class="charts" data-run="{index}"></div>')
    origin = [("folder", str(run.path.resolve()))]
    origin += flat({key: summary[key] for key in ("build", "version", "backend", "device", "precision", "threads", "seed") if key in summary})
    for k, one in enumerate(summary.get("runs") or []):
        origin += flat(one, f"process {k + 1}")
    out.append("<h3>Where it comes from</h3>" + table(origin))
    out.append("<details><summary>all numbers of summary.json</summary>" +
               table([row for row in flat(summary) if row[0] != "warnings"]) + "</details>")
    out.append(f"<details><summary>all steps</summary>{history_table(run)}</details>")
    config = (run.path / "config.toml").read_text(encoding="utf-8")
    out.append(f"<details><summary>configuration</summary><pre>{html.escape(config)}</pre></details></section>")
    return "\n".join(out)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; color: #1a1a1a; }
h1 { font-size: 1.5em } h2 { font-size: 1.25em; border-top: 1px solid #ccc; padding-top: 1em } h3 { font-size: 1em }
table { border-collapse: collapse; font-size: 13px; margin: .6em 0; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #e4e4e4; padding: .15em .8em .15em 0; text-align: left; vertical-align: top }
.status.well { color: #006d4f } .status.ill { color: #a33f00; font-weight: 600 }
.warnings { background: #fff3e0; border-left: 4px solid #d55e00; padding: .6em 1em .6em 2em }
figure { margin: 1em 0 } canvas { width: 100%; max-width: 840px } .bar { display: flex; gap: .8em; align-items: center }
.bar input { flex: 1 } .charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 1em }
.charts svg { width: 100%; height: auto } svg text { font: 10px system-ui, sans-serif; fill: #444 }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px }
"""

SCRIPT = r"""
'use strict';
const runs = JSON.parse(document.getElementById('data').textContent);
const colours = ['#0072B2', '#E69F00', '#000000', '#009E73'];
const shades = %SHADES%;
const shown = v => Number(v.toPrecision(4)).toString();
function words16(text) {
  const raw = atob(text), out = new Uint16Array(raw.length / 2);
  for (let i = 0; i < out.length; ++i) out[i] = raw.charCodeAt(2 * i) | raw.charCodeAt(2 * i + 1) << 8;
  return out;
}
function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough), out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) out.push(Math.abs(v) < 1e-9 * step ? 0 : v);
  return out;
}
function frame(ctx, box, x, y, names) {
  ctx.strokeStyle = '#999'; ctx.fillStyle = '#444'; ctx.font = '12px system-ui, sans-serif'; ctx.lineWidth = 1;
  ctx.strokeRect(box.x, box.y, box.w, box.h);
  ctx.textAlign = 'center';
  for (const v of ticks(...x)) ctx.fillText(shown(v), box.x + (v - x[0]) / (x[1] - x[0]) * box.w, box.y + box.h + 16);
  ctx.fillText(names[0], box.x + box.w / 2, box.y + box.h + 34);
  ctx.textAlign = 'right';
  for (const v of ticks(...y)) ctx.fillText(shown(v), box.x - 6, box.y + box.h - (v - y[0]) / (y[1] - y[0]) * box.h + 4);
  ctx.textAlign = 'left';
  ctx.fillText(names[1], box.x, box.y - 8);
}
function drawLines(ctx, movie, k) {
  const box = {x: 60, y: 30, w: 760, h: 390}, x = [movie.x[0], movie.x[movie.x.length - 1]];
  // One scale for all frames but the first ones, which may be thousands of times as high.
  const tops = movie.frames.map(f => Math.max(...f.y)), sorted = [...tops].sort((a, b) => a - b);
  const y = [0, 1.08 * Math.max(tops[k], sorted[Math.floor(sorted.length / 2)]) || 1];
  frame(ctx, box, x, y, ['x', 'density']);
  const line = (values, colour, dash) => {
    ctx.beginPath(); ctx.strokeStyle = colour; ctx.setLineDash(dash); ctx.lineWidth = 2;
    values.forEach((v, i) => ctx.lineTo(box.x + i / (values.length - 1) * box.w, box.y + box.h - (v - y[0]) / (y[1] - y[0]) * box.h));
    ctx.stroke(); ctx.setLineDash([]);
  };
  line(movie.frames[k].y, colours[0], []);
  if (movie.frames[k].exact) line(movie.frames[k].exact, '#000', [6, 4]);
}
function drawPoints(ctx, movie, k) {
  const box = {x: 220, y: 25, w: 400, h: 400}, one = movie.frames[k];
  frame(ctx, box, movie.limits[0], movie.limits[1], movie.names);
  one.decoded = one.decoded || words16(one.points);
  if (one.shade && !one.shades) one.shades = words16(one.shade);
  const p = one.decoded, size = Math.max(1.5, 110 / Math.sqrt(p.length));
  for (let i = 0; i < p.length / 2; ++i) {
    ctx.fillStyle = one.shades ? shades[Math.floor(one.shades[i] / 65536 * shades.length)] : colours[0];
    ctx.fillRect(box.x + p[2 * i] / 65535 * box.w - size / 2, box.y + box.h - p[2 * i + 1] / 65535 * box.h - size / 2, size, size);
  }
}
for (const figure of document.querySelectorAll('.movie')) {
  const movie = runs[figure.dataset.run].movie;
  if (!movie) { figure.remove(); continue; }
  const canvas = figure.querySelector('canvas'), slider = figure.querySelector('input'), told = figure.querySelector('output');
  const button = figure.querySelector('button'), ctx = canvas.getContext('2d');
  slider.max = movie.frames.length - 1;
  const draw = () => {
    ctx.fillStyle = '#fff'; ctx.fillRect(0, 0, canvas.width, canvas.height);
    (movie.kind === 'lines' ? drawLines : drawPoints)(ctx, movie, +slider.value);
    const one = movie.frames[+slider.value];
    told.textContent = 'step ' + one.step + ', t = ' + shown(one.time);
  };
  let timer = 0;
  slider.addEventListener('input', draw);
  button.addEventListener('click', () => {
    if (timer) { clearInterval(timer); timer = 0; button.textContent = 'play'; return; }
    button.textContent = 'stop';
    timer = setInterval(() => { slider.value = (+slider.value + 1) % movie.frames.length; draw(); }, 250);
  });
  draw();
}
const svg = (name, attributes, text) => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  return node;
};
for (const place of document.querySelectorAll('.charts')) {
  const run = runs[place.dataset.run], time = run.time;
  for (const chart of run.charts) {
    const all = chart.series.flatMap(s => s.y).filter(v => v !== null), positive = all.filter(v => v > 0);
    const log = chart.log && positive.length === all.length;
    const map = v => log ? Math.log10(v) : v;
    let low = Math.min(...all.map(map)), high = Math.max(...all.map(map));
    if (!(high > low)) { low -= 0.5; high += 0.5; }
    const w = 300, h = 200, left = 46, bottom = 24, top = 20;
    const x = t => left + (t - time[0]) / ((time[time.length - 1] - time[0]) || 1) * (w - left - 8);
    const y = v => h - bottom - (map(v) - low) / (high - low) * (h - bottom - top);
    const node = svg('svg', {viewBox: `0 0 ${w} ${h}`, role: 'img', 'aria-label': chart.title});
    node.append(svg('text', {x: 4, y: 11}, chart.title));
    for (const v of ticks(low, high)) {
      const at = h - bottom - (v - low) / (high - low) * (h - bottom - top);
      node.append(svg('line', {x1: left, x2: w - 8, y1: at, y2: at, stroke: '#eee'}));
      node.append(svg('text', {x: left - 4, y: at + 3, 'text-anchor': 'end'}, log ? '1e' + shown(v) : shown(v)));
    }
    for (const t of ticks(time[0], time[time.length - 1] || 1)) node.append(svg('text', {x: x(t), y: h - 10, 'text-anchor': 'middle'}, shown(t)));
    chart.series.forEach((series, k) => {
      const path = series.y.map((v, i) => v === null ? null : [x(time[i]), y(v)]).filter(p => p);
      node.append(svg('polyline', {points: path.map(p => p.map(v => v.toFixed(1)).join(',')).join(' '), fill: 'none',
                                   stroke: colours[k % 4], 'stroke-width': 1.5, 'stroke-dasharray': k === 2 ? '4 3' : ''}));
      if (series.label) node.append(svg('text', {x: w - 10, y: top + 10 + 11 * k, 'text-anchor': 'end', style: 'fill:' + colours[k % 4]}, series.label));
    });
    place.append(node);
  }
}
"""


def page(runs):
    shades = [plot.matplotlib.colors.to_hex(colour) for colour in plot.shades(32)]
    data = []
    for run in runs:
        movie = (lines_of if run.dim == 1 else points_of)(run) if run.steps else None
        data.append({"time": column(run, "time"), "charts": charts_of(run), "movie": movie})
    # "</script>" within a text would end the element.
    embedded = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    title = "Brenier: " + ", ".join(run.path.resolve().name for run in runs)
    sections = "\n".join(section_of(run, index) for index, run in enumerate(runs))
    warned = [f"{run.path.resolve().name}: {one}" for run in runs for one in run.summary.get("warnings") or []]
    lead = '<ul class="warnings">' + "".join(f"<li>{html.escape(one)}</li>" for one in warned) + "</ul>" if warned else ""
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>{lead}\n"
            f'{sections}\n<script type="application/json" id="data">{embedded}</script>\n'
            f"<script>{SCRIPT.replace('%SHADES%', json.dumps(shades))}</script></body></html>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the .html file to write")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    try:
        text = page([plot.Run(path) for path in arguments.runs])
    except (OSError, ValueError) as error:
        sys.exit(f"report: {error}")
    out = arguments.out
    partial = out.with_name(f".partial.{out.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        sys.exit(f"report: the page cannot be written: {error}; choose another file with --out")
    print(out)


if __name__ == "__main__":
    main()
