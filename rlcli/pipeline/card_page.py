"""The dataset card as one HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.pipeline.card_text import column_rows, headline, history, remarks

_STYLE = """
:root { --ink: #1d2430; --soft: #667085; --line: #d9dee7;
  --paper: #ffffff; --fill: #3867d6; --pale: #f4f6fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #343c4a;
    --paper: #14181f; --fill: #7aa2ff; --pale: #1c222c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem;
  color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 1.2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.4rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem; }
.small { grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
figure { margin: 0; padding: .8rem; background: var(--pale); border-radius: .5rem; }
figcaption { color: var(--soft); font-size: .85rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 9px; } svg .bar { fill: var(--fill); }
.small svg text { font-size: 13px; }
svg .dot { fill: var(--fill); fill-opacity: .55; } svg .axis { stroke: var(--line); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } td:first-child, th:first-child { text-align: left; }
.frames { display: flex; flex-wrap: wrap; gap: .5rem; }
.frames img { height: 96px; min-width: 48px; border-radius: .25rem; image-rendering: pixelated; }
code { font: .85rem ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
"""


def page(facts: Mapping[str, Any]) -> str:
    """The whole page. Every text of the dataset is escaped."""
    name = escape(facts["path"].name)
    terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in headline(facts))
    parts = [f"<h1>{name}</h1>", f"<dl>{terms}</dl>"]
    charts = [
        bar_chart(f"{what} of episodes", facts["histograms"][what])
        for what in ("return", "length")
        if facts["histograms"][what]
    ]
    if len(facts["returns_in_order"]) > 1:
        charts.append(dot_chart("return, episodes in stored order", facts["returns_in_order"]))
    if charts:
        parts.append(f"<h2>Episodes</h2><div class=charts>{''.join(charts)}</div>")
    actions = _actions(facts)
    if actions:
        parts.append(f"<h2>Actions</h2><div class='charts small'>{''.join(actions)}</div>")
    for column, pictures in facts["frames"].items():
        images = "".join(f"<img alt='frame {i}' src='{data_url(p)}'>" for i, p in enumerate(pictures))
        parts.append(f"<h2>{escape(column)}</h2><div class=frames>{images}</div>")
    parts.append(f"<h2>Worth knowing</h2><ul>{_items(remarks(facts))}</ul>")
    head = "".join(
        f"<th>{t}</th>" for t in ("column", "dtype", "shape", "min", "mean", "std", "max", "not finite")
    )
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in column_rows(facts)
    )
    parts.append(f"<h2>Columns</h2><div class=scroll><table><tr>{head}</tr>{rows}</table></div>")
    parts.append(f"<h2>Made by</h2><ul>{_items(history(facts), code=True)}</ul>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{name}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _items(sentences: Sequence[str], *, code: bool = False) -> str:
    before, after = ("<code>", "</code>") if code else ("", "")
    return "".join(f"<li>{before}{escape(sentence)}{after}</li>" for sentence in sentences)


def _actions(facts: Mapping[str, Any]) -> list[str]:
    charts = []
    for action in facts["actions"]:
        if action["kind"] != "counts":
            continue
        for k, part in enumerate(action["parts"]):
            name = action["key"] if len(action["parts"]) == 1 else f"{action['key']}[{k}]"
            edges = [part["start"] + i - 0.5 for i in range(len(part["counts"]) + 1)]
            charts.append(bar_chart(name, {"edges": edges, "counts": part["counts"]}, whole=True))
    return charts + [bar_chart(entry["name"], entry) for entry in facts["action_histograms"]]


def bar_chart(title: str, drawn: Mapping[str, Any], *, whole: bool = False) -> str:
    """A histogram as a figure; `whole`: bars stand for the integers between the edges."""
    counts, edges = drawn["counts"], drawn["edges"]
    width, height, low = 300.0, 110.0, 96.0
    most, step = max(1, *counts), width / len(counts)
    bars = "".join(
        f"<rect class=bar x='{i * step + 0.5:.2f}' y='{low - 82 * n / most:.2f}' "
        f"width='{max(step - 1, 0.5):.2f}' height='{82 * n / most:.2f}'>"
        f"<title>{_range(edges[i], edges[i + 1], whole)}: {n:,}</title></rect>"
        for i, n in enumerate(counts)
    )
    first, last = (edges[0] + 0.5, edges[-1] - 0.5) if whole else (edges[0], edges[-1])
    labels = (
        f"<text x='0' y='{height - 2}'>{first:,.4g}</text>"
        f"<text x='{width}' y='{height - 2}' text-anchor='end'>{last:,.4g}</text>"
        f"<text x='{width}' y='8' text-anchor='end'>most: {most:,}</text>"
    )
    line = f"<line class=axis x1='0' x2='{width}' y1='{low}' y2='{low}' />"
    return _figure(
        title, f"<svg viewBox='0 0 {width:.0f} {height:.0f}' role='img'>{bars}{line}{labels}</svg>"
    )


def dot_chart(title: str, values: Sequence[float]) -> str:
    """One dot per value, from left to right."""
    width, height = 300.0, 110.0
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if not len(array):
        return ""
    low, high = float(array.min()), float(array.max())
    scale = 84 / (high - low) if high > low else 0.0
    radius = 2.2
    step = (width - 2 * radius) / max(1, len(array) - 1)
    dots = "".join(
        f"<circle class=dot cx='{radius + i * step:.1f}' cy='{94 - (v - low) * scale:.1f}' r='{radius}' />"
        for i, v in enumerate(array)
    )
    labels = f"<text x='0' y='8'>{high:,.4g}</text><text x='0' y='{height - 2}'>{low:,.4g}</text>"
    return _figure(title, f"<svg viewBox='0 0 {width:.0f} {height:.0f}' role='img'>{dots}{labels}</svg>")


def data_url(picture: NDArray[np.uint8]) -> str:
    """A grey `[H, W]` or RGB `[H, W, 3]` picture as a PNG in a `data:` address."""
    height, width = picture.shape[:2]
    lines = np.zeros((height, 1 + width * (picture.shape[2] if picture.ndim == 3 else 1)), np.uint8)
    lines[:, 1:] = picture.reshape(height, -1)  # the first byte of a line names its filter: none
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if picture.ndim == 3 else 0, 0, 0, 0)
    blocks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in blocks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _range(low: float, high: float, whole: bool) -> str:
    return f"{low + 0.5:,.0f}" if whole else f"{low:,.4g} to {high:,.4g}"


def _figure(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
