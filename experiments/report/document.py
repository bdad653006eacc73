"""Holds what a report is made of, before it is a page: sections with texts, tables and pictures."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ARMS = 12
"""Colours of the palette; further arms begin again, in other dashes."""


@dataclass(frozen=True)
class Cell:
    """Holds one cell of a table: its text, and for a heat map its place from -1 (bad) over 0 to 1 (good)."""

    text: str
    shade: float | None = None
    strong: bool = False
    detail: str = ""
    """Text in small letters under the other: an interval."""

    def in_markdown(self) -> str:
        """Returns the cell on one line."""
        text = f"**{self.text}**" if self.strong else self.text
        return f"{text} {self.detail}" if self.detail else text


@dataclass
class Table:
    """Holds rows of cells under a head; the first `left` columns are text."""

    head: Sequence[str]
    rows: list[list[Cell]]
    left: int = 1
    caption: str = ""
    colours: Sequence[int | None] = ()
    """Number of the arm of each row, for its colour mark; None for no mark."""

    def to_html(self) -> str:
        """Returns the table in HTML; it scrolls sideways where the screen is narrow."""
        head = "".join(
            f"<th{self._side(column)}>{html.escape(name)}</th>" for column, name in enumerate(self.head)
        )
        rows = "".join(self._row(number, row) for number, row in enumerate(self.rows))
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'

    def _row(self, number: int, row: list[Cell]) -> str:
        mark = self.colours[number] if number < len(self.colours) else None
        swatch = "" if mark is None else colour_mark(mark)
        cells = []
        for column, cell in enumerate(row):
            text = html.escape(cell.text)
            text = f"<b>{text}</b>" if cell.strong else text
            text += f"<small>{html.escape(cell.detail)}</small>" if cell.detail else ""
            shade = "" if cell.shade is None else f' style="{_shade(cell.shade)}"'
            cells.append(f"<td{self._side(column)}{shade}>{swatch if column == 0 else ''}{text}</td>")
        return f"<tr>{''.join(cells)}</tr>"

    def _side(self, column: int) -> str:
        return ' class="l"' if column < self.left else ""

    def to_markdown(self) -> str:
        """Returns the table as GitHub shows it."""
        lines = [list(self.head), ["---" if c < self.left else "--:" for c in range(len(self.head))]]
        lines += [[cell.in_markdown() for cell in row] for row in self.rows]
        text = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        return f"{text}\n\n*{self.caption}*" if self.caption else text

    def to_latex(self) -> str:
        """Returns a tabular for LaTeX, by booktabs; shades and colour marks are left out."""
        columns = "".join("l" if column < self.left else "r" for column in range(len(self.head)))
        lines = [f"% {_in_latex(self.caption)}"] if self.caption else []
        lines += [
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            _latex_row(map(_in_latex, self.head)),
            "\\midrule",
        ]
        lines += [_latex_row(map(_latex_cell, row)) for row in self.rows]
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "σ": r"$\sigma$", "≥": r"$\geq$",
    "\N{EN DASH}": "--", "\N{DAGGER}": r"$\dagger$", "∞": r"$\infty$", "±": r"$\pm$", "×": r"$\times$",
}  # fmt: skip
"""Characters that LaTeX reads otherwise, or not at all, and what stands for them."""


def colour_mark(arm: int) -> str:
    """Returns the mark of an arm's colour and dashes in HTML."""
    again = arm // ARMS % 4
    kind = f" again{again}" if again else ""
    return f'<i class="mark{kind}" style="--arm:var(--arm{arm % ARMS})"></i>'


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _latex_cell(cell: Cell) -> str:
    text = _in_latex(cell.text)
    text = f"\\textbf{{{text}}}" if cell.strong else text
    return f"{text} {{\\scriptsize {_in_latex(cell.detail)}}}" if cell.detail else text


def _latex_row(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _shade(value: float) -> str:
    """Blue above, orange below, the stronger the further from 0: told apart by the colour blind too."""
    strength = min(abs(value), 1.0) * 55
    return (
        f"background:color-mix(in srgb, var(--{'good' if value > 0 else 'bad'}) {strength:.0f}%, transparent)"
    )


@dataclass(frozen=True)
class Picture:
    """Holds an SVG with what it shows in words."""

    svg: str
    alt: str
    title: str = ""
    wide: bool = False
    """Whether it takes the whole width; others stand side by side where there is room."""


@dataclass
class Section:
    """Holds a part of the report under a heading. Texts are plain; `code` is set as typed."""

    title: str
    texts: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    folded: bool = False
    """Whether it is closed until it is asked for."""
    legend: bool = False
    """Whether it shows which colour is which arm."""


@dataclass
class Document:
    """Holds a whole report: figures for its head, then sections."""

    title: str
    about: str
    facts: list[tuple[str, str]]
    """Pairs of a figure and what it counts."""
    sections: list[Section]
    arms: list[str]


def to_csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns the rows as comma-separated text, one line each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()
