"""One HTML page that needs nothing but itself: pictures inside, no scripts, for a phone as for a wide screen."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from imageset.rejections import escape_control_characters

_STYLE = """
:root{color-scheme:light dark;--paper:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5b6675;--rule:#dde2e8;
--bar:#3465a4}
@media(prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1d2229;--ink:#e6e9ee;--soft:#9aa5b4;--rule:#333b46;
--bar:#6f9fdc}}
*{box-sizing:border-box}body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0}
main{max-width:760px;margin:0 auto;padding:16px 14px 48px}h1{font-size:24px;line-height:1.25;margin:8px 0;
overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 6px}h3{font-size:15px;margin:14px 0 4px}p{margin:6px 0}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px;margin:14px 0}
.soft,figcaption{color:var(--soft);font-size:14px}
img{max-width:100%;height:auto;border-radius:4px;display:block;image-rendering:pixelated}img.curve{background:#fff;
image-rendering:auto}
figure{margin:10px 0}.row{display:flex;flex-wrap:wrap;gap:10px}.row figure{margin:4px 0;width:calc(50% - 5px);
max-width:192px}.row.small figure{width:calc(33.3% - 7px);max-width:112px}.small figcaption{font-size:12px}
figcaption{overflow-wrap:anywhere;margin-top:2px}
.numbers{overflow-x:auto}.numbers table{border-collapse:collapse;font:11px/1 ui-monospace,monospace}
.numbers td{width:30px;height:26px;text-align:center;border:1px solid var(--rule);padding:0}
.bars{display:grid;grid-template-columns:minmax(60px,max-content) 1fr max-content;gap:4px 10px;align-items:center}
.bars span{overflow-wrap:anywhere}.bars div{background:var(--bar);height:14px;min-width:1px;border-radius:2px}
.bars b{font-weight:400;font-variant-numeric:tabular-nums}
.big{font-size:26px;font-weight:600}
table.facts{border-collapse:collapse;width:100%;font-size:14px}.facts td,.facts th{text-align:left;
vertical-align:top;padding:5px 8px 5px 0;border-top:1px solid var(--rule)}
.facts th{color:var(--soft);font-weight:400}
.facts td:not(:last-child){font-variant-numeric:tabular-nums}.facts .yes{font-weight:600}
svg{display:block;width:100%;max-width:420px;height:auto}svg .before{fill:var(--soft);opacity:.35}
svg .now{fill:none;stroke:var(--bar);stroke-width:2}svg text{fill:var(--soft);font-size:11px}
"""


def render_page(title: str, lead: str, sections: Iterable[str]) -> bytes:
    """The whole document."""
    name = escape(escape_control_characters(title))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{name}</title><style>{_STYLE}</style></head>\n'
        f"<body><main><h1>{name}</h1><p class=soft>{escape(escape_control_characters(lead))}</p>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    ).encode()


def render_section(title: str, sentence: str, *parts: str) -> str:
    """One card: a heading, one plain sentence, and what there is to see."""
    return f"<section><h2>{escape(title)}</h2><p>{escape(escape_control_characters(sentence))}</p>{''.join(parts)}</section>"


def render_figure(image: bytes, caption: str, is_plot: bool = False) -> str:
    """A picture, a PNG or a JPEG file, with a line under it."""
    data = base64.b64encode(image).decode()
    style = " class=curve" if is_plot else ""
    text = escape(escape_control_characters(caption))
    kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
    element = f'<img{style} alt="{text}" src="data:image/{kind};base64,{data}">'
    return f"<figure>{element}<figcaption>{text}</figcaption></figure>"


def render_row(figures: Sequence[str], small: bool = False) -> str:
    """Figures beside each other, two on a phone; small ones three."""
    return f'<div class="row{" small" if small else ""}">{"".join(figures)}</div>'


def render_heading(text: str) -> str:
    """A smaller heading inside a card."""
    return f"<h3>{escape(escape_control_characters(text))}</h3>"


def render_note(text: str) -> str:
    """A soft line."""
    return f"<p class=soft>{escape(escape_control_characters(text))}</p>"


def render_key_number(value: str, meaning: str) -> str:
    """One number that counts, and what it means."""
    return f"<p><span class=big>{escape(value)}</span> {escape(escape_control_characters(meaning))}</p>"


def render_pixel_values(pixels: np.ndarray) -> str:
    """A patch of a picture, uint8 (h, w), as the numbers that it is, each on its own grey."""
    rows = "".join("<tr>" + "".join(_render_cell(value) for value in line) + "</tr>" for line in pixels.tolist())
    return f"<div class=numbers><table>{rows}</table></div>"


def _render_cell(value: int) -> str:
    ink = "#000" if value > 127 else "#fff"
    return f'<td style="background:rgb({value},{value},{value});color:{ink}">{value}</td>'


def render_bars(values: Sequence[tuple[str, float]]) -> str:
    """Names with their probabilities."""
    lines = (
        f'<span>{escape(escape_control_characters(name))}</span><div style="width:{100 * value:.1f}%"></div><b>{value:.3f}</b>'
        for name, value in values
    )
    return f"<div class=bars>{''.join(lines)}</div>"


def render_table(head: Sequence[str], lines: Iterable[tuple[Sequence[str], bool]]) -> str:
    """A table of short texts; a line that is marked stands out."""
    rows = "".join(
        f"<tr{' class=yes' if marked else ''}>{''.join(f'<td>{escape(escape_control_characters(cell))}</td>' for cell in cells)}</tr>"
        for cells, marked in lines
    )
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<table class="facts"><tr>{names}</tr>{rows}</table>'


def render_histograms(before: np.ndarray, now: np.ndarray, edges: tuple[str, str]) -> str:
    """Two histograms over each other: grey areas under a coloured line, each as high as its highest bin.

    Args:
        before, now: shares (bins,) of the same bins.
        edges: what stands under the first and the last bin.
    """
    width, height, bottom = 320, 90, 84
    step = width / len(before)

    def y(value: float, of: np.ndarray) -> float:
        return bottom - 76 * value / max(float(of.max()), 1e-12)

    areas = "".join(
        f'<rect class=before x="{i * step:.1f}" y="{y(value, before):.1f}" width="{step:.1f}" '
        f'height="{bottom - y(value, before):.1f}"/>'
        for i, value in enumerate(before.tolist())
    )
    line = " ".join(
        f"{x:.1f},{y(value, now):.1f}" for i, value in enumerate(now.tolist()) for x in (i * step, (i + 1) * step)
    )
    return (
        f'<svg viewBox="0 0 {width} {height + 12}" role="img">{areas}<polyline class=now points="{line}"/>'
        f'<text x="0" y="{height + 9}">{escape(edges[0])}</text>'
        f'<text x="{width}" y="{height + 9}" text-anchor="end">{escape(edges[1])}</text></svg>'
    )
