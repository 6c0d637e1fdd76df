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
import sys
from pathlib import Path

import numpy as np

import plot
import scene

MOST_POINTS = 2000  # particles of a picture
MOST_FRAMES = 60
GRID = 241  # points of a density in one dimension
# Curves over time: title, columns with their labels, a logarithmic axis, and whether step 0 has a value.
CURVES = (
    ("F", (("F", "particles"), ("F_heldout", "held-out particles"), ("F_exact", "exact solution"),
           ("F_scheme", "exact iterates")), False, True),
    ("share of the possible decrease that a step misses",
     (("missed_share", "particles"), ("missed_share_heldout", "held-out particles"), ("floor", "floor")), True, False),
    ("residual of the inner problem", (("residual", ""),), True, False),
    ("smallest eigenvalue of the Hessian", (("min_eigenvalue", ""),), False, False),
    ("round trip through the map and its inverse", (("round_trip", ""),), True, False),
    ("inner iterations", (("iterations", ""),), False, False),
    ("seconds", (("seconds", ""),), False, False),
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
    target = scene.Target(run)
    grid = np.linspace(*scene.interval([run.clouds[step][:, 0] for step in steps] + target.clouds), GRID)
    frames, exact = [], run.exact_density
    for step in steps:
        frame = {"step": step, "time": number(run.time(step)), "y": [number(v) for v in plot.density_on(run, step, grid)]}
        if exact is not None:
            at = np.isclose(exact[:, 0], run.time(step), rtol=1e-9, atol=1e-12)
            if at.any():
                frame["exact"] = [number(v) for v in np.interp(grid, exact[at, 1], exact[at, 2], left=0, right=0)]
        frames.append(frame)
    lines = plot.target_lines(target, grid, run.summary["mass"])
    return {"kind": "lines", "x": [number(v) for v in grid], "frames": frames,
            "target": [[number(v) for v in line] for line in lines]}


def placed(view, points):
    """Points in a view, as 16-bit shares of its sides."""
    low, high = view.limits[:, 0], view.limits[:, 1]
    return packed(np.rint(((view.place(points) - low) / (high - low) * 65535).clip(0, 65535)))


def contours_of(target, view):
    """Lines of equal density of the target, as lists of points in the view."""
    if not target.mixture:
        return []
    x, y, values, levels = target.mixture.contours(view, 81)
    figure, axes = plot.plt.subplots()
    lines = [line for level in axes.contour(x, y, values, levels).allsegs for line in level]
    plot.plt.close(figure)
    low, high = view.limits[:, 0], view.limits[:, 1]
    return [packed(np.rint(((line - low) / (high - low) * 65535).clip(0, 65535))) for line in lines]


def points_of(run):
    """Particles over time, quantised to 16 bits; above two dimensions in the principal axes of the last cloud."""
    steps = frames_of(run)
    run.load(steps)
    target = scene.Target(run)
    view = scene.View(target.clouds + [run.clouds[step] for step in steps])
    peak = scene.peak_of([run.log_densities.get(step) for step in steps])
    frames = []
    for step in steps:
        frame = {"step": step, "time": number(run.time(step)), "points": placed(view, scene.thinned(run.clouds[step], MOST_POINTS))}
        density = run.log_densities.get(step)
        if density is not None and peak is not None:
            frame["shade"] = packed(np.rint(scene.shade(scene.thinned(density, MOST_POINTS), peak) * 65535))
        frames.append(frame)
    out = {"kind": "points", "frames": frames, "names": view.names, "limits": [[number(v) for v in one] for one in view.limits],
           "target": [placed(view, scene.thinned(points, MOST_POINTS)) for points in target.clouds],
           "contours": contours_of(target, view)}
    if peak is not None and abs(peak) < 600:  # else no numbers of doubles, and the colours stand without
        out["densities"] = [number(scene.DENSITIES * np.exp(peak)), number(np.exp(peak))]
    return out


def charts_of(run):
    out = []
    for title, series, log, at_start in CURVES:
        first = 0 if at_start else 1
        known = [{"label": label, "y": column(run, name)[first:]} for name, label in series
                 if np.isfinite(run.column(name)[first:]).any()]
        if known:
            out.append({"title": title, "log": log, "first": first, "series": known})
    return out


def flat(value, prefix=""):
    """Leaves of nested objects as rows."""
    if isinstance(value, dict):
        return [row for key, one in value.items() for row in flat(one, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return [row for k, one in enumerate(value) for row in flat(one, f"{prefix}.{k}")]
    return [(prefix, value)]


def shown(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
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


def section_of(run, index, alone):
    summary, warnings = run.summary, run.summary.get("warnings") or []
    status = str(summary.get("status", "unknown"))
    well = status == "done" and not warnings
    out = [f'<section id="run{index}">' + ("" if alone else f"<h2>{html.escape(run.path.resolve().name)}</h2>")]
    reason = f": {summary['reason']}" if summary.get("reason") else ""
    out.append(f'<p class="status {"well" if well else "ill"}">status: {html.escape(status + str(reason))}, '
               f'{summary.get("steps", len(run.history["step"]) - 1)} steps, t = {shown(run.time(-1))}</p>')
    functional = summary.get("functional") or {}
    results = [("F", functional.get("text", "")), ("F at the end", functional.get("total")),
               ("on held-out particles", summary.get("heldout_functional")), ("its infimum", (summary.get("infimum") or {}).get("functional")),
               ("particles", summary.get("particles")), ("dimension", run.dim), ("standard deviation", summary.get("std")),
               ("seconds", summary.get("seconds_total"))]
    out.append(table([row for row in results if row[1] is not None]))
    out.append(f'<figure class="movie" data-run="{index}"><canvas width="840" height="540"></canvas><div class="bar">'
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
.charts svg { width: 100%; height: auto; overflow: visible } svg text { font: 10px system-ui, sans-serif; fill: #444 }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px }
"""

SCRIPT = r"""
'use strict';
const runs = JSON.parse(document.getElementById('data').textContent);
const colours = ['#0072B2', '#E69F00', '#000000', '#009E73'], grey = '#999999';
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
// With as many digits as tell them apart.
function labels(values) {
  let digits = 4;
  while (digits < 12 && new Set(values.map(v => v.toPrecision(digits))).size < values.length) ++digits;
  return values.map(v => [v, Number(v.toPrecision(digits)).toString()]);
}
// Of logarithms to base 10: powers of ten, with twice and five times of them where there are few.
function logTicks(low, high) {
  const out = [], factors = high - low < 2 ? [1, 2, 5] : [1], stride = Math.max(1, Math.ceil((high - low) / 6));
  for (let p = Math.floor(low / stride) * stride; p <= high; p += stride)
    for (const f of factors) if (p + Math.log10(f) >= low - 1e-9 && p + Math.log10(f) <= high + 1e-9) out.push(p + Math.log10(f));
  return out;
}
function frame(ctx, box, x, y, names) {
  ctx.strokeStyle = '#999'; ctx.fillStyle = '#444'; ctx.font = '12px system-ui, sans-serif'; ctx.lineWidth = 1;
  ctx.strokeRect(box.x, box.y, box.w, box.h);
  ctx.textAlign = 'center';
  for (const [v, label] of labels(ticks(...x))) ctx.fillText(label, box.x + (v - x[0]) / (x[1] - x[0]) * box.w, box.y + box.h + 16);
  ctx.fillText(names[0], box.x + box.w / 2, box.y + box.h + 34);
  ctx.textAlign = 'right';
  for (const [v, label] of labels(ticks(...y))) ctx.fillText(label, box.x - 6, box.y + box.h - (v - y[0]) / (y[1] - y[0]) * box.h + 4);
  ctx.textAlign = 'left';
  ctx.fillText(names[1], box.x, box.y - 8);
}
function key(ctx, x, y, entries) {
  ctx.textAlign = 'left';
  for (const [text, colour, dash] of entries) {
    ctx.beginPath(); ctx.strokeStyle = colour; ctx.lineWidth = 2; ctx.setLineDash(dash);
    ctx.moveTo(x, y - 4); ctx.lineTo(x + 24, y - 4); ctx.stroke(); ctx.setLineDash([]);
    ctx.fillStyle = '#444'; ctx.fillText(text, x + 30, y);
    y += 16;
  }
}
function drawLines(ctx, movie, k) {
  const box = {x: 60, y: 30, w: 760, h: 460}, x = [movie.x[0], movie.x[movie.x.length - 1]];
  // One scale for all frames but the first ones, which may be thousands of times as high.
  const tops = movie.frames.map(f => Math.max(...f.y)), sorted = [...tops].sort((a, b) => a - b);
  const y = [0, 1.08 * Math.max(tops[k], sorted[Math.floor(sorted.length / 2)], ...movie.target.map(t => Math.max(...t))) || 1];
  frame(ctx, box, x, y, ['x', 'density']);
  const line = (values, colour, dash) => {
    ctx.beginPath(); ctx.strokeStyle = colour; ctx.setLineDash(dash); ctx.lineWidth = 2;
    values.forEach((v, i) => ctx.lineTo(box.x + i / (values.length - 1) * box.w, box.y + box.h - (v - y[0]) / (y[1] - y[0]) * box.h));
    ctx.stroke(); ctx.setLineDash([]);
  };
  const entries = [['flow', colours[0], []]];
  for (const target of movie.target) line(target, grey, [2, 3]);
  if (movie.target.length) entries.push(['target', grey, [2, 3]]);
  line(movie.frames[k].y, colours[0], []);
  if (movie.frames[k].exact) { line(movie.frames[k].exact, '#000', [6, 4]); entries.push(['exact', '#000', [6, 4]]); }
  if (entries.length > 1) key(ctx, box.x + box.w - 90, box.y + 20, entries);
}
function drawPoints(ctx, movie, k) {
  const box = {x: 190, y: 30, w: 460, h: 460}, one = movie.frames[k];
  frame(ctx, box, movie.limits[0], movie.limits[1], movie.names);
  one.decoded = one.decoded || words16(one.points);
  if (one.shade && !one.shades) one.shades = words16(one.shade);
  const across = v => box.x + v / 65535 * box.w, up = v => box.y + box.h - v / 65535 * box.h;
  const cloud = (p, colour) => {
    const radius = Math.max(0.9, 60 / Math.sqrt(p.length));
    for (let i = 0; i < p.length / 2; ++i) {
      ctx.fillStyle = colour(i);
      ctx.beginPath(); ctx.arc(across(p[2 * i]), up(p[2 * i + 1]), radius, 0, 7); ctx.fill();
    }
  };
  movie.grey = movie.grey || [movie.target.map(words16), movie.contours.map(words16)];
  for (const p of movie.grey[0]) cloud(p, () => '#c4c4c4');
  ctx.strokeStyle = grey; ctx.lineWidth = 1;
  for (const p of movie.grey[1]) {
    ctx.beginPath();
    for (let i = 0; i < p.length; i += 2) ctx.lineTo(across(p[i]), up(p[i + 1]));
    ctx.stroke();
  }
  cloud(one.decoded, i => one.shades ? shades[Math.floor(one.shades[i] / 65536 * shades.length)] : colours[0]);
  if (movie.target.length || movie.contours.length) key(ctx, box.x + box.w + 20, box.y + 14, [['target', grey, []]]);
  if (!movie.densities) return;
  const bar = {x: box.x + box.w + 20, y: box.y + 90, h: 280};
  shades.forEach((colour, i) => {
    ctx.fillStyle = colour;
    ctx.fillRect(bar.x, bar.y + bar.h * (1 - (i + 1) / shades.length), 14, bar.h / shades.length + 1);
  });
  ctx.fillStyle = '#444'; ctx.textAlign = 'left';
  ctx.fillText('density', bar.x, bar.y - 12);
  const [low, high] = movie.densities.map(Math.log10);
  for (const v of logTicks(low, high)) ctx.fillText(shown(10 ** v), bar.x + 20, bar.y + bar.h * (high - v) / (high - low) + 4);
}
for (const figure of document.querySelectorAll('.movie')) {
  const movie = runs[figure.dataset.run].movie;
  if (!movie) { figure.remove(); continue; }
  const canvas = figure.querySelector('canvas'), slider = figure.querySelector('input'), told = figure.querySelector('output');
  const button = figure.querySelector('button'), ctx = canvas.getContext('2d');
  slider.max = movie.frames.length - 1;
  // As many points as the screen has; all places below are those of 840 x 540.
  const fine = Math.max(1, globalThis.devicePixelRatio || 1);
  canvas.width = 840 * fine; canvas.height = 540 * fine;
  ctx.scale(fine, fine);
  const draw = () => {
    ctx.fillStyle = '#fff'; ctx.fillRect(0, 0, 840, 540);
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
    const times = time.slice(chart.first);
    const all = chart.series.flatMap(s => s.y).filter(v => v !== null), positive = all.filter(v => v > 0);
    const log = chart.log && positive.length === all.length;
    const map = v => log ? Math.log10(v) : v;
    let low = Math.min(...all.map(map)), high = Math.max(...all.map(map));
    if (log && high - low < 1) { low = Math.floor(low); high = Math.max(Math.ceil(high), low + 1); }
    if (!(high > low)) { const pad = 0.1 * Math.abs(high) || 0.5; low -= pad; high += pad; }
    if (!log && low > 0 && low < 0.5 * high) low = 0;
    const w = 300, h = 200, left = 46, right = 16, bottom = 24, names = [];
    let at = 4, row = 0;
    for (const [k, series] of chart.series.entries()) {
      if (!series.label) continue;
      const wide = 5.2 * series.label.length;
      if (at + wide > w) { at = 4; ++row; }
      names.push([series.label, at, 25 + 12 * row, k]);
      at += wide + 10;
    }
    const top = names.length ? 34 + 12 * row : 20;
    const x = t => left + (t - time[0]) / ((time[time.length - 1] - time[0]) || 1) * (w - left - right);
    const up = v => h - bottom - (v - low) / (high - low) * (h - bottom - top);
    const node = svg('svg', {viewBox: `0 0 ${w} ${h}`, role: 'img', 'aria-label': chart.title});
    node.append(svg('text', {x: 4, y: 11}, chart.title));
    for (const [v, label] of log ? logTicks(low, high).map(v => [v, shown(10 ** v)]) : labels(ticks(low, high))) {
      node.append(svg('line', {x1: left, x2: w - right, y1: up(v), y2: up(v), stroke: '#e4e4e4'}));
      node.append(svg('text', {x: left - 4, y: up(v) + 3, 'text-anchor': 'end'}, label));
    }
    for (const [t, label] of labels(ticks(time[0], time[time.length - 1] || 1)))
      node.append(svg('text', {x: x(t), y: h - 10, 'text-anchor': 'middle'}, label));
    for (const [name, x, y, k] of names) node.append(svg('text', {x, y, style: 'fill:' + colours[k % 4]}, name));
    chart.series.forEach((series, k) => {
      const path = series.y.map((v, i) => v === null ? null : [x(times[i]), up(map(v))]).filter(p => p);
      node.append(svg('polyline', {points: path.map(p => p.map(v => v.toFixed(1)).join(',')).join(' '), fill: 'none',
                                   stroke: colours[k % 4], 'stroke-width': 1.5, 'stroke-dasharray': k === 2 ? '4 3' : ''}));
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
    sections = "\n".join(section_of(run, index, len(runs) == 1) for index, run in enumerate(runs))
    warned = [one if len(runs) == 1 else f"{run.path.resolve().name}: {one}" for run in runs for one in run.summary.get("warnings") or []]
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
    try:
        with scene.whole_file(out) as partial:
            partial.write_bytes(text.encode("utf-8", errors="replace"))  # the name of a folder may have other bytes
    except OSError as error:
        raise scene.CannotWrite("report: the page", error, "choose another file with --out") from None
    print(out)


if __name__ == "__main__":
    main()
