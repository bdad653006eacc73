"""Writes configs/method/NAME.yaml from each method's own defaults: `python -m isorl.experiments.method_files`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re

from isorl.configs.command_line import FOLDER
from isorl.experiments.plugins import defaults
from isorl.plasticity.methods import METHODS


def yaml(name: str) -> str:
    """Returns the file of the method `name`: its paper, and every option with what its docstring says first."""
    method = METHODS[name]
    paper = (importlib.import_module(method.__module__).__doc__ or "").splitlines()[0]
    said = _first_sentences(inspect.getdoc(method) or "")
    options = [
        f"  {key}: {json.dumps(value)}{_comment(said.get(key))}" for key, value in defaults(method).items()
    ]
    return "\n".join([f"# {paper}", *([f"{name}:", *options] if options else [f"{name}: {{}}"])]) + "\n"


def _first_sentences(docstring: str) -> dict[str, str]:
    """Returns attribute -> the first sentence that the section `Attributes` has about it."""
    text = re.sub(r"\n {8}\s*", " ", docstring.partition("\nAttributes:\n")[2])
    return {
        key: re.split(r"(?<!et al)\.(?:\s|$)", said)[0]
        for key, said in re.findall(r"^ {4}(\w+): (.*)$", text, re.MULTILINE)
    }


def _comment(text: str | None) -> str:
    return f"  # {text}" if text else ""


if __name__ == "__main__":
    for name, method in METHODS.items():
        if dataclasses.is_dataclass(method) and method.__module__.startswith("isorl."):
            (FOLDER / "method" / f"{name}.yaml").write_text(yaml(name))
