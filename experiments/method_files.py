"""Writes configs/method/NAME.yaml, and head/NAME.yaml of a method head_NAME, from the methods' own defaults.

`python -m isorl.experiments.method_files`
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re

from isorl.configs.command_line import FOLDER
from isorl.experiments.plugins import defaults
from isorl.plasticity.method_page import explanations
from isorl.plasticity.methods import METHODS


def yaml(name: str) -> str:
    """Returns the file of the method `name`: its paper, and every option with what its docstring says first."""
    method = METHODS[name]
    paper = (importlib.import_module(method.__module__).__doc__ or "").splitlines()[0]
    said = explanations(method)
    options = [
        f"  {key}: {json.dumps(value)}{_comment(said.get(key, ''))}"
        for key, value in defaults(method).items()
    ]
    return "\n".join([f"# {paper}", *([f"{name}:", *options] if options else [f"{name}: {{}}"])]) + "\n"


def _comment(text: str) -> str:
    """Returns the first sentence as a comment."""
    first = re.split(r"(?<!et al)\.(?:\s|$)", text)[0]
    return f"  # {first}" if first else ""


if __name__ == "__main__":
    for name, method in METHODS.items():
        if dataclasses.is_dataclass(method) and method.__module__.startswith("isorl."):
            (FOLDER / "method" / f"{name}.yaml").write_text(yaml(name))
            if name.startswith("head_"):  # `head=NAME` is one more way to choose the method
                (FOLDER / "head" / f"{name.removeprefix('head_')}.yaml").write_text(
                    f"# @package method\n{yaml(name)}"
                )
