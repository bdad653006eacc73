"""Draws SVG that follows the page: text and axes take its ink, arms its palette, in the light and in the dark.

Matplotlib draws with stand-in colours; in its SVG they become the page's variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from isorl.experiments.report.document import ARMS

_INK, _FAINT = "#010203", "#010204"
INK, FAINT = _INK, _FAINT
"""Colours of text and of what stands back: stand-ins for the page's, real ones on paper."""
DASHES: Any = ("-", (0, (4, 1.3)), (0, (1.3, 1.3)), (0, (6, 1.3, 1.3, 1.3)))
"""Of the first, second, third and fourth time that the palette is gone through."""
HEAD = r'<svg viewBox="\1" role="img" xmlns:xlink="http://www.w3.org/1999/xlink">'
LEFT, RIGHT, TOP, BOTTOM = 0.58, 0.08, 0.1, 0.47
"""Margins in inches: laying out by what the labels need takes as long as drawing."""


def _style() -> Any:
    real = {_INK: INK, _FAINT: FAINT}
    return {key: real.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}


STYLE: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text that a journal's checks can read
    "svg.hashsalt": "isorl",  # the same picture is the same text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.useoffset": False,
}


def colour(arm: int) -> str:
    """Returns the stand-in for the page's variable --arm<number>, or on paper its light colour."""
    return f"#0a0b{arm % ARMS:02x}" if _pdfs is None else PAGE[f"arm{arm % ARMS}"]


def stroke(arm: int) -> dict[str, Any]:
    """Returns the colour and dashes that tell an arm's line from the others'."""
    return {"color": colour(arm), "ls": DASHES[arm // ARMS % len(DASHES)]}


PAGE = dict(
    re.findall(r"--(\w+): (#\w+)", Path(__file__).with_name("page.css").read_text().partition("@media")[0])
)
"""The page's light colours by name."""
_pdfs: dict[str, bytes] | None = None


@contextmanager
def on_paper() -> Iterator[dict[str, bytes]]:
    """Draws every panel inside in the page's light colours, and as PDF, too; yields the PDF of each SVG."""
    global INK, FAINT, _pdfs
    INK, FAINT, _pdfs = PAGE["ink"], PAGE["faint"], {}
    try:
        yield _pdfs
    finally:
        INK, FAINT, _pdfs = _INK, _FAINT, None


@contextmanager
def panel(width: float = 3.7, height: float = 2.4) -> Iterator[tuple[Axes, list[str]]]:
    """Yields axes to draw on (sizes in inches) and a list in which the SVG stands afterwards."""
    result: list[str] = []
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(
            left=LEFT / width, right=1 - RIGHT / width, top=1 - TOP / height, bottom=BOTTOM / height
        )
        yield figure.add_subplot(), result
        result.append(svg(figure))
        if _pdfs is not None:
            _pdfs[result[0]] = _pdf(figure)


def svg(figure: Figure) -> str:
    """Returns the figure for a page: no header, sizes relative, stand-ins replaced."""
    file = io.StringIO()
    # "tight": no label is cut off, however long
    figure.savefig(
        file,
        format="svg",
        transparent=True,
        bbox_inches="tight",
        pad_inches=0.03,
        metadata={"Date": None, "Creator": None},
    )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', HEAD, text, count=1)
    text = re.sub(r"#0a0b([0-9a-f]{2})", lambda match: f"var(--arm{int(match[1], 16)})", text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return re.sub(r"\n\s*", "\n", text)


def _pdf(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="pdf", bbox_inches="tight", pad_inches=0.03, metadata={"CreationDate": None})
    return file.getvalue()


def whole_numbers(axes: Axes) -> None:
    """Puts the ticks of the horizontal axis at whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plain_numbers(axes: Axes) -> None:
    """Writes ticks of a logarithmic vertical axis as 2 or 24000, not as products with powers of ten."""
    axes.yaxis.set_major_formatter(_Plain())
    axes.yaxis.set_minor_formatter(_Plain(minor_thresholds=(1.5, 0.6)))


class _Plain(LogFormatter):
    """Labels the ticks that matplotlib would label."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def switches(axes: Axes, starts: np.ndarray) -> None:
    """Draws a faint upright line at each switch."""
    for start in starts[1:]:
        axes.axvline(start, color=FAINT, lw=0.7, zorder=0)


def band(axes: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, arm: int) -> None:
    """Draws an interval around a line."""
    axes.fill_between(x, low, high, color=colour(arm), alpha=0.18, lw=0)


def legend(axes: Axes) -> None:
    """Names the lines beside the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, labelcolor=INK)


def steps_label(axes: Axes, longest: float) -> None:
    """Writes agent steps in thousands or millions, and says so in the label."""
    size, name = (1e6, "million agent steps") if longest >= 2e6 else (1e3, "thousand agent steps")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / size:g}")
    axes.set_xlabel(name)
