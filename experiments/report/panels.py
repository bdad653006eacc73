"""Puts pictures for every sequence and arm into a section, as long as there are not too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from isorl.experiments.report.document import Picture, Section
from isorl.experiments.report.study import Study

MAX_PANELS = 60
"""Pictures in one section at most; a larger grid shows its first sequences."""


def panels(section: Section, study: Study, chart: Callable[[Study, str, str], Picture | None]) -> Section:
    """Adds one picture per sequence and arm to `section`, MAX_PANELS at most; returns it."""
    for sequence in study.sequences:
        for arm in study.arms:
            if len(section.pictures) >= MAX_PANELS:
                section.texts.append(f"The first {MAX_PANELS} pictures; name single sequences to see others.")
                return section
            picture = chart(study, sequence, arm)
            if picture is not None:
                title = f"{sequence}: {picture.title}" if len(study.sequences) > 1 else picture.title
                section.pictures.append(Picture(picture.svg, picture.alt, title, picture.wide))
    return section


def present(pictures: Iterable[Picture | None]) -> list[Picture]:
    """Returns those pictures that could be drawn."""
    return [picture for picture in pictures if picture is not None]
