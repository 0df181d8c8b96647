"""Builds HTML: escapes all text, and refers to nothing outside the page."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 90rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #ddd;
  padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .4rem 0; }
nav a { margin-right: 1rem; white-space: nowrap; }
.plots { display: grid; gap: 1.5rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.parts { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 36rem), 1fr)); }
figure { margin: 0; }
.plots img, .parts img { max-width: 100%; height: auto; }
.plots img { width: 100%; }
figcaption, .note, small { font-size: .875rem; color: #555; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0;
  border-bottom: 1px solid #e4e4e4; overflow-wrap: anywhere; }
th { font-weight: normal; }
th[scope=col] { font-weight: bold; }
th small { display: block; max-width: 32rem; color: #555; }
td { min-width: 5rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
pre { font-size: .8rem; overflow-x: auto; background: #f6f6f6; padding: .6rem; }
.warning { border-left: .3rem solid #d55e00; padding-left: .7rem; }
.good { border-left: .3rem solid #009e73; padding-left: .7rem; }
.strip { display: flex; flex-wrap: wrap; align-items: flex-start; gap: .25rem;
  margin: .15rem 0; }
.strip > b { flex: 0 0 5.5rem; font-size: .8rem; font-weight: normal; color: #555; }
.strip > div { flex: 1 1 12rem; display: flex; flex-wrap: wrap; gap: .25rem; }
.picture { width: 3.4rem; text-align: center; }
.picture figcaption { font-size: .75rem; line-height: 1.25; color: #222;
  overflow-wrap: anywhere; }
.picture img { width: 3rem; height: 3rem; object-fit: contain; display: block;
  margin: 0 auto; border: .2rem solid transparent; }
.pixelated img { image-rendering: pixelated; }
.mark i { display: inline-block; width: 1rem; height: 1rem; margin-right: .5rem;
  vertical-align: -.15rem; }
.chosen img, i.chosen { border: .2rem solid #0072b2; }
.negative img, i.negative { border: .2rem dashed #d55e00; }
.other { color: #a33b00; }
.anchor { border-top: 1px solid #eee; padding: .4rem 0; }
"""


def page(title: str, sections: Mapping[str, str]) -> str:
    """Builds a whole page.

    Args:
      title: title of the page.
      sections: HTML for each heading; empty sections are left out.
    """
    kept = {heading: html for heading, html in sections.items() if html}
    links = [f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in kept]
    body = [f"<nav>{' '.join(links)}</nav>"]
    body += [
        f'<section id="{anchor(name)}">\n<h2>{escape(name)}</h2>\n{html}\n</section>'
        for name, html in kept.items()
    ]
    return PAGE.substitute(title=escape(title), style=STYLE, body="\n".join(body))


def anchor(heading: str) -> str:
    """Returns the id of a section, for links."""
    return heading.lower().replace(" ", "-")


def paragraph(text: str, kind: str = "") -> str:
    """Builds a paragraph; `kind` is its CSS class."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """Builds the heading of a part of a section; '' for ''."""
    return f"<h3>{escape(text)}</h3>" if text else ""


def plot(uri: str, alt: str, caption: str) -> str:
    """Builds a figure with a caption."""
    return (
        f'<figure><img src="{uri}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def block(kind: str, parts: Iterable[str]) -> str:
    """Joins parts in a <div> whose CSS class is `kind`; '' if there are none."""
    inside = "\n".join(part for part in parts if part)
    return f'<div class="{kind}">{inside}</div>' if inside else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Builds a table; '' without rows.

    Args:
      columns: titles of all columns but the first.
      rows: for each row its title, a note below the title ('' for none), and its cells.
    """
    lines = [_row(*row) for row in rows]
    if not lines:
        return ""
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    head = f"<tr><td></td>{titles}</tr>"
    return f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>'


def details(summary: str, text: str) -> str:
    """Builds a text that is shown when its summary is clicked."""
    return (
        f"<details><summary>{escape(summary)}</summary>"
        f"<pre>{escape(text)}</pre></details>"
    )


def picture(
    uri: str,
    name: str,
    *lines: str,
    wrong: bool = False,
    kind: str = "",
    pixelated: bool = False,
) -> str:
    """Builds a thumbnail above short lines.

    Args:
      uri: data URI of the image.
      name: name of the image, shown as a tooltip.
      lines: lines below the image; empty ones are left out.
      wrong: whether to mark the lines.
      kind: CSS class of the frame.
      pixelated: whether to enlarge without smoothing.
    """
    kept = [escape(line) for line in lines if line]
    if wrong:
        kept[0] += " \N{MULTIPLICATION X}"
    caption = "<br>".join(kept)
    if wrong:
        caption = f'<span class="other">{caption}</span>'
    name = escape(name)
    classes = " ".join(filter(None, ["picture", kind, "pixelated" * pixelated]))
    return (
        f'<figure class="{classes}"><img src="{uri}" alt="{name}" title="{name}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def mark(kind: str, meaning: str) -> str:
    """Builds a line of a legend: the frame of pictures of this kind, and its meaning."""
    return f'<p class="mark"><i class="{kind}"></i>{escape(meaning)}</p>'


def note(text: str) -> str:
    """Builds a paragraph in smaller letters; '' for ''."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def strip(title: str, pictures: Iterable[str]) -> str:
    """Builds a row of thumbnails after its title."""
    return (
        f'<div class="strip"><b>{escape(title)}</b><div>{"".join(pictures)}</div></div>'
    )


def columns(names: Sequence[str], facts: Sequence[Mapping[str, str]]) -> str:
    """Builds a table with a column for each run and a row for each name of a fact."""
    every = dict.fromkeys(name for of_a_run in facts for name in of_a_run)
    rows = [(name, "", *(x.get(name, "") for x in facts)) for name in every]
    return table(names, rows)


def side_by_side(
    names: Sequence[str], parts: Sequence[list[str]], introduction: str
) -> str:
    """Shows the parts of one run, or those of several runs in rows.

    Args:
      names: names of the runs.
      parts: HTML of the parts of each run.
      introduction: HTML above all parts.

    Returns:
      HTML; '' if no run has parts.
    """
    if not any(parts):
        return ""
    if len(names) == 1:
        return introduction + block("parts", parts[0])
    named = (
        [block("", [heading(name), part]) for part in of_a_run]
        for name, of_a_run in zip(names, parts, strict=True)
    )
    rows = itertools.zip_longest(*named, fillvalue="<div></div>")
    return introduction + "\n".join(block("parts", row) for row in rows)


def attributed(names: Sequence[str], name: str, sentence: str) -> str:
    """Puts a run's name before a sentence if there are several runs."""
    return f"{name}: {sentence}" if len(names) > 1 else sentence


def _row(title: str, note: str, *cells: str) -> str:
    note = f"<small>{escape(note)}</small>" if note else ""
    return (
        f'<tr><th scope="row">{escape(title)}{note}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )
