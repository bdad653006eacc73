"""Writes a document as one self-contained HTML file (no script, no network, light and dark) and as Markdown."""

from __future__ import annotations

import html
from pathlib import Path

from isorl.experiments.report.document import Document, Picture, Section, colour_mark

STYLE = Path(__file__).with_name("page.css")


def to_html(document: Document) -> str:
    """Returns the content of the HTML file."""
    contents = "".join(f'<a href="#s{n}">{html.escape(s.title)}</a>' for n, s in enumerate(document.sections))
    facts = "".join(
        f"<div><b>{html.escape(figure)}</b>{html.escape(what)}</div>" for figure, what in document.facts
    )
    sections = "".join(
        _section(number, section, document) for number, section in enumerate(document.sections)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{html.escape(document.title)}</title>'
        f"<style>{STYLE.read_text()}</style></head><body><main>"
        f"<header><h1>{html.escape(document.title)}</h1><p>{html.escape(document.about)}</p>"
        f'<div class="facts">{facts}</div><nav>{contents}</nav></header>{sections}</main></body></html>\n'
    )


def _section(number: int, section: Section, document: Document) -> str:
    content = [f"<p>{html.escape(text)}</p>" for text in section.texts]
    content += [_legend(document.arms)] if section.legend else []
    content += [table.to_html() for table in section.tables]
    if section.pictures:
        content.append(f'<div class="grid">{"".join(map(_figure, section.pictures))}</div>')
    content += [f"<pre>{html.escape(line)}</pre>" for line in section.code]
    body, title = "".join(content), html.escape(section.title)
    if section.folded:
        return (
            f'<section id="s{number}"><details><summary><h2>{title}</h2></summary>{body}</details></section>'
        )
    return f'<section id="s{number}"><h2>{title}</h2>{body}</section>'


def _figure(picture: Picture) -> str:
    kind = ' class="whole"' if picture.wide else ""
    svg = picture.svg.replace("<svg ", f'<svg aria-label="{html.escape(picture.alt)}" ', 1)
    return f"<figure{kind}><figcaption>{html.escape(picture.title)}</figcaption>{svg}</figure>"


def _legend(arms: list[str]) -> str:
    items = (f"<span>{colour_mark(number)}{html.escape(arm)}</span>" for number, arm in enumerate(arms))
    return f'<div class="legend">{"".join(items)}</div>'


def to_markdown(document: Document) -> str:
    """Returns the same without pictures, for a repository or a letter."""
    lines = [f"# {document.title}", "", document.about, ""]
    lines += [" · ".join(f"**{figure}** {what}" for figure, what in document.facts), ""]
    for section in document.sections:
        if section.texts or section.tables or section.code:
            lines += [f"## {section.title}", ""]
            lines += [line for text in section.texts for line in (text, "")]
            for table in section.tables:
                lines += [table.to_markdown(), ""]
            lines += ["```sh", *section.code, "```", ""] if section.code else []
    return "\n".join(lines).rstrip() + "\n"
