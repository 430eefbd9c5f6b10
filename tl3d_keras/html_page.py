"""Web pages that are one file each: style and pictures inside, nothing fetched from a network."""

import base64
import html
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tl3d_keras import whole_folder
from tl3d_keras.errors import InputError


@dataclass(frozen=True)
class Picture:
    """A figure on a page.

    Attributes:
        title: of the case or run.
        caption: one sentence in words.
        png: the file's bytes.
    """

    title: str
    caption: str
    png: bytes


def document(title: str, lead: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: plain text, the page's heading.
        lead: HTML, what the page shows, in a sentence or two.
        body: HTML, sections mostly.
        style: CSS on top of what all pages share.
        script: JavaScript that runs when the page is there.
    """
    return _PAGE.format(
        title=html.escape(title),
        lead=lead,
        body=body,
        style=_STYLE + style,
        scripts="'unsafe-inline'" if script else "'none'",
        script=f"<script>{script}</script>" if script else "",
    )


def check_path(path: str | os.PathLike) -> None:
    """Raises an `InputError` unless a page can be written there and ends in .html."""
    if Path(path).suffix.lower() != ".html":
        raise InputError(f"{path}: expected a file name that ends in .html")
    whole_folder.check_writable(path)


def section(title: str, text: str, content: str) -> str:
    """A titled box: `text` and `content` are HTML."""
    return f"<section><h2>{html.escape(title)}</h2><p>{text}</p>{content}</section>"


def figure(picture: Picture) -> str:
    """A picture with its title and caption."""
    title, caption = html.escape(picture.title), html.escape(picture.caption)
    return (
        f'<figure><img src="{data_uri(picture.png, "png")}" alt="{title}">'
        f"<figcaption><b>{title}</b> {caption}</figcaption></figure>"
    )


def data_uri(content: bytes, kind: str) -> str:
    """A picture file as an address that holds it; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def cards(values: Iterable[tuple[str, str, str]]) -> str:
    """Figures in large type: value, what it is, and small print, as plain text."""
    boxes = "".join(
        f"<div><strong>{html.escape(value)}</strong>{html.escape(name)}"
        f"<small>{html.escape(small)}</small></div>"
        for value, name, small in values
    )
    return f'<div class="cards">{boxes}</div>'


def times(values: Iterable[float]) -> str:
    """Numbers along axes: 3 × 0.9766 × 0.9766."""
    return " × ".join(f"{value:.4g}" for value in values)


def ml(volume: float) -> str:
    """A volume in ml: 1234, 12.3, 0.0123."""
    return f"{volume:.0f}" if volume >= 100 else f"{volume:.3g}"


_STYLE = """
:root { --ink: #1c2330; --soft: #5d6878; --line: #dfe4ea; --paper: #f5f7f9; --accent: #12677a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header { background: linear-gradient(120deg, #10242f, #12677a); color: #fff; padding: 2.6rem 0; }
header div, main { max-width: 1080px; margin: 0 auto; padding: 0 1.5rem; }
h1 { margin: 0 0 .4rem; font-size: 2rem; line-height: 1.2; }
header p { margin: 0; max-width: 44rem; color: #d3e6ea; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px;
          padding: 1.4rem 1.8rem; margin: 1.5rem 0; }
h2 { margin: 0 0 .4rem; color: var(--accent); font-size: 1.35rem; }
section > p { margin: 0 0 1.1rem; max-width: 50rem; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 0 0 1.3rem; }
.cards div { background: var(--paper); border-left: 4px solid var(--accent); border-radius: 6px;
             padding: .6rem 1.4rem .6rem 1rem; font-weight: 600; }
.cards strong { display: block; font-size: 1.9rem; line-height: 1.2; color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-size: .85rem; font-weight: 600; }
thead tr:first-child th { color: var(--ink); font-size: 1rem; text-align: center; }
small { display: block; font-weight: 400; color: var(--soft); }
.group { border-left: 1px solid var(--line); }
.dice { min-width: 7rem; background: linear-gradient(#cde6ea, #cde6ea) left 50% / var(--share) 60%
        no-repeat; }
tfoot th, tfoot td { border-top: 2px solid var(--accent); border-bottom: 0; }
td.best { font-weight: 700; }
figure { margin: 0 0 1.3rem; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 8px;
      border: 1px solid var(--line); }
figcaption { margin-top: .4rem; color: var(--soft); }
figcaption b { color: var(--ink); }
details { margin: -.4rem 0 1.8rem; }
summary { cursor: pointer; font-weight: 600; }
.facts { width: 100%; margin-top: .4rem; font-size: .9rem; }
.facts td, .facts th { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.facts th { white-space: nowrap; color: var(--soft); }
pre { background: #15181e; color: #e8ebf0; padding: .8rem 1rem; border-radius: 8px;
      overflow-x: auto; font-size: .88rem; }
@media (max-width: 40rem) { section { padding: 1rem; } th, td { padding: .35rem .5rem; } }
@media print { header { color: #000; background: none; } section { break-inside: avoid; } }
"""
# Nothing but what the page itself holds may load, whatever a name in it says.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src {scripts}">
<title>{title}</title><style>{style}</style></head>
<body><header><div><h1>{title}</h1><p>{lead}</p></div></header>
<main>{body}</main>{script}</body></html>
"""
