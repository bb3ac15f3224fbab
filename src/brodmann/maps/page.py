"""The report's paper: escaped HTML elements, inline style, pictures as data, no script and nothing remote."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--wash:#f5f7fa;--ink:#1b1f24;--soft:#5a6472;--line:#dfe3e8;--accent:#0072b2;
--warm:#b35900;--card:#fff}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--wash:#1c2127;--ink:#e8ebef;--soft:#a3adba;--line:#333a43;
--accent:#62b5e8;--warm:#f0b35e;--card:#fff}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 28px}
header{padding-top:34px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:2.6rem 0 .7rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;max-width:78ch}
.asked{font-size:1.08rem;color:var(--soft);max-width:80ch}
.hero{display:grid;grid-template-columns:minmax(250px,5fr) 7fr;gap:30px;align-items:center;background:var(--wash);
border-radius:14px;padding:26px 28px;margin:22px 0}
.hero .what{color:var(--soft);font-size:.95rem}
.big{font-size:3.5rem;font-weight:680;line-height:1.05;letter-spacing:-.03em;color:var(--accent);
font-variant-numeric:tabular-nums}
.between{font-size:1.05rem;font-variant-numeric:tabular-nums}
.fact{margin:.55rem 0 0;font-size:.93rem}
.fact b{font-weight:600}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--ink);font:13px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
svg .num{font-variant-numeric:tabular-nums}
svg .tick{fill:var(--soft);font-size:11.5px}
table{border-collapse:collapse;width:100%;font-size:.93rem;margin:.6rem 0}
caption{text-align:left;color:var(--soft);font-size:.88rem;padding-bottom:.4rem}
th,td{text-align:left;padding:.38rem .7rem .38rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{font-weight:600;color:var(--soft);font-size:.85rem}
tbody th{font-weight:500}
td.num,th.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.ours th,tr.ours td{font-weight:680}
.scroll{overflow-x:auto}
figure{margin:1.3rem 0}
figure img{display:block;max-width:100%;height:auto;background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:6px}
figure.wide{grid-column:1/-1}
figure.wide img{width:100%}
figcaption{font-size:.92rem;color:var(--soft);margin-top:.45rem;max-width:95ch}
figcaption b{color:var(--ink)}
.pair{display:grid;grid-auto-flow:dense;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));
gap:8px 28px;align-items:start}
ul{padding-left:1.15rem;max-width:84ch}
li{margin:.3rem 0}
.limits{border-left:4px solid var(--warm);padding:.2rem 0 .2rem 18px;margin:1rem 0}
.methods{background:var(--wash);border-radius:10px;padding:14px 18px;max-width:none}
pre{background:var(--wash);border-radius:10px;padding:14px 18px;overflow-x:auto;
font:13px/1.5 ui-monospace,SFMono-Regular,
Menlo,Consolas,monospace}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;word-break:break-all}
details{border-bottom:1px solid var(--line);padding:.5rem 0}
summary{cursor:pointer;font-weight:600}
summary:focus-visible{outline:2px solid var(--accent);outline-offset:3px}
footer{color:var(--soft);font-size:.86rem;padding-top:2.4rem;padding-bottom:3rem}
@media(max-width:760px){.hero,.pair{grid-template-columns:1fr}main,header,footer{padding:0 16px}}
@media print{:root{--paper:#fff;--wash:#f5f7fa;--ink:#000;--soft:#444;--line:#ccc;--accent:#00588a;--warm:#b35900}
body{font-size:10.5pt}main,header,footer{max-width:none;padding:0}h2{break-after:avoid}
figure,.hero,tr{break-inside:avoid}
details>*{display:block}}
"""


def text(value: object) -> str:
    """Anything as text inside HTML: markup escaped, schemes of links and folders of absolute paths left out."""
    return html.escape(private(str(value)), quote=True)


def private(value: str) -> str:
    """Text without remote addresses' schemes, absolute folders and control characters.

    A report is forwarded: it must not say whose home folder a run lay in, and it holds no link to load.
    """
    value = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", value)
    value = re.sub(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://(?:/)?", "", value)
    value = re.sub(r"(?<![\w.~:/…-])(?:~|/[\w.@+-]+)(?:/[\w.@+ -]*[\w.@+-])*/([\w.@+-]+)", r"…/\1", value)
    return re.sub(r"\b[A-Za-z]:\\(?:[^\\\s\"']+\\)*([^\\\s\"']*)", r"…/\1", value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", ours: int = -1) -> str:
    """HTML table: the first column heads its row, numbers are right aligned, row ``ours`` is emphasised."""
    body: list[str] = []
    numeric = [True] * len(head)
    listed = [list(row) for row in rows]
    for row in listed:
        for column, cell in enumerate(row):
            numeric[column] &= isinstance(cell, int | float) or bool(
                re.fullmatch(r"[-+]?[\d.,]+(e[-+]\d+)?( \[.*\])?|–|\[.*\]|", str(cell))
            )
    kind = [' class="num"' if is_number and column else "" for column, is_number in enumerate(numeric)]
    for index, row in enumerate(listed):
        cells = [f'<th scope="row">{text(row[0])}</th>']
        cells += [f"<td{kind[column]}>{text(cell)}</td>" for column, cell in enumerate(row[1:], start=1)]
        body.append(f"<tr{' class=ours' if index == ours else ''}>{''.join(cells)}</tr>")
    top = "".join(f'<th scope="col"{kind[column]}>{text(name)}</th>' for column, name in enumerate(head))
    said = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}<thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def figure(title: str, caption: str, source: str, *, size: tuple[int, int], kind: str = "") -> str:
    """Picture with its caption; the title is its alternative text."""
    alt = text(f"{title}. {caption}" if len(caption) < 160 else title)
    shown = f'<img alt="{alt}" src="{source}" width="{size[0]}" height="{size[1]}">'
    words = f"<b>{text(title)}</b>{'. ' if caption else ''}{text(caption)}"
    return f'<figure class="{kind}">{shown}<figcaption>{words}</figcaption></figure>'


def encode(picture: Path | str | bytes, *, widest: int, quality: int) -> tuple[str, tuple[int, int]]:
    """PNG as a data URI, shrunk to at most ``widest`` pixels; lossless if that is small, else WebP at ``quality``.

    Returns
    -------
    uri : str
    size : (width, height) in CSS pixels, half the stored pixels where there are enough of them (sharp on good screens)
    """
    from PIL import Image

    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
        image = opened.convert("RGBA")
    flat = Image.new("RGBA", image.size, "white")
    flat.alpha_composite(image)
    image = flat.convert("RGB")
    if image.width > widest:
        image = image.resize((widest, max(1, round(image.height * widest / image.width))), Image.Resampling.LANCZOS)
    stored = io.BytesIO()
    image.save(stored, "PNG")
    mime = "png"
    if stored.tell() > 60_000:
        lossy = io.BytesIO()
        image.save(lossy, "WEBP", quality=quality, method=4)
        if lossy.tell() < stored.tell():
            stored, mime = lossy, "webp"
    scale = 0.5 if image.width > 900 else 1.0
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return f"data:image/{mime};base64,{base64.b64encode(stored.getvalue()).decode()}", size


def document(title: str, body: str) -> str:
    """Whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CSP}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
