"""Writes docs/methods.md from the methods themselves: `python -m isorl.plasticity.method_page > docs/methods.md`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

from isorl.plasticity.methods import METHODS, Method

COSTS = Path(__file__).parents[1] / "docs" / "method_costs.json"

HEAD = """# Methods

Written by `python -m isorl.plasticity.method_page` from the modules in `plasticity/methods/`; do not edit.

`python train.py method=[redo,l2_init] network=relu optimizer=adam method.redo.tau=0.1` combines methods. They act in
the order in which they are given, which the run's log repeats; what cannot combine is refused with both names and the
reason. A run that is too short for a method's first act says so when it starts: it equals a run without the method.
*Boundary* says whether a method is told when the task switches (informed) or goes by what it sees (agnostic); tables
and reports show it and rank agnostic arms among themselves, too. What the agent itself does at a switch, such as
clearing its replay, is the same in all arms (`switch.*`). Methods that act at switches act at every N-th update with
`every=N` instead, and with `rank_drop` only at those where the features' effective rank has fallen.
Every method treats actor, critic and Q-network alike, MLP and CNN; its state is part of every checkpoint.
AdamO, AdamW and AEI networks are choices of `optimizer=` and `network=`. Replay and EWC learn from labels and are for
`agent=classifier` alone.

*Cost* is the time of an update over that of plain Adam in the same run{costs}, between
the acts of methods that act now and then; plasticity injection before it injects, EWC before its first switch, Kron
without torch.compile. Methods that do nothing between acts measured 0.70 to 1.15: that is the noise of the shared
machine. The classifier's plain Adam is torch's fused one, so that its ratios are higher.
"""


def page() -> str:
    """Returns the whole page as Markdown."""
    costs: dict[str, Any] = (
        json.loads(COSTS.read_text()) if COSTS.exists() else {"settings": {}, "machine": "", "ratios": {}}
    )
    settings: dict[str, str] = costs["settings"]
    where = f" ({costs['machine']}; `python -m benchmarks.methods`)" if settings else ""
    rows = [_row(name, costs) for name in sorted(METHODS)]
    header = ["method", "boundary", "resets", *settings.values()]
    table = [_line(header), _line(["---"] * len(header)), *rows]
    sections = [_section(name, method) for name, method in sorted(METHODS.items())]
    return "\n".join([HEAD.format(costs=where), *table, "", *sections])


def _row(name: str, costs: dict[str, Any]) -> str:
    ratios = costs["ratios"].get(name, {})
    measured = [f"{ratios[setting]:.2f}" if setting in ratios else "" for setting in costs["settings"]]
    return _line([f"[{name}](#{name})", boundary(METHODS[name]), METHODS[name].resets, *measured])


def boundary(method: type[Method]) -> str:
    """Returns whether a method is told of switches, and the option with which it goes without."""
    default = method().boundary
    return f"{default}; agnostic with {method.agnostic_form}" if method.agnostic_form else default


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _section(name: str, method: type[Method]) -> str:
    paper = (importlib.import_module(method.__module__).__doc__ or "").splitlines()[0]
    text = inspect.cleandoc(method.__doc__ or "").partition("\n\nAttributes:\n")[0]
    explained = explanations(method)
    options = [
        f"- `{field.name}` = `{field.default}`: {explained[field.name]}"
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
    ]
    formula, _, rest = text.partition("\n\n")
    parts = [f"## {name}", paper, f"```\n{formula}\n```" if not rest.startswith(" ") else text]
    parts += [rest] if rest and not rest.startswith(" ") else []
    return "\n\n".join([*parts, "\n".join(options)] if options else parts) + "\n"


def explanations(method: type[Method]) -> dict[str, str]:
    """Returns attribute -> what the section `Attributes` of the class says of it, or that of the class it is from."""
    found: dict[str, str] = {}
    for cls in reversed(method.__mro__):
        attributes = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
        joined = re.sub(r"\n {8}\s*", " ", attributes)
        found |= dict(re.findall(r"^ {4}(\w+): (.*)$", joined, re.MULTILINE))
    return found


if __name__ == "__main__":
    print(page(), end="")
