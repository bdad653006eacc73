"""Adds to the site what is written elsewhere or by the code itself; mkdocs.yml names this file as its hook.

The pages at the top of the repository keep their place there, with links of theirs that fit both; the command line and
the configuration keys are asked of the program that is built.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from isorl.configs import schema

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/own_project/README.md": "own_project.md",
    "examples/first_hour.ipynb": "first_hour.ipynb",
}
"""File of the repository -> page of the site."""
SHOWN = ("corridor.py", "configs/sequence/corridor_turns.yaml", "configs/benchmark/corridor.yaml")
"""Files of examples/own_project that its page shows."""
COMMANDS = ("", "train", "resume", "play", "report", "inspect", "list")
CHOICES = ("agent", "network", "optimizer")
"""Groups whose files the page of configuration keys shows; sequences and methods have pages of their own."""


@event_priority(100)  # before the plugin that makes pages of notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    made = {"reference/command_line.md": command_line(), "reference/configuration.md": configuration()}
    for source, page in ELSEWHERE.items():
        made[page] = moved((ROOT / source).read_text(), source)
    made["own_project.md"] += "".join(_file(ROOT / "examples" / "own_project", name) for name in SHOWN)
    for page, text in made.items():
        if page.endswith(".ipynb"):  # its plugin reads it from the disk
            folder = mkdtemp()
            (Path(folder) / page).write_text(text)
            files.append(File(page, folder, config.site_dir, config.use_directory_urls))
        else:
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links of pages in docs/ to files above docs/ into links to their pages."""
    return moved(markdown, f"docs/{page.file.src_uri}") if page.file.generated_by is None else markdown


def moved(text: str, source: str) -> str:
    """Returns the text of the file `source` of the repository with its links as they are on the site."""

    def link(match: re.Match[str]) -> str:
        text, (target, hash, anchor) = match[1], match[2].partition("#")
        path = os.path.normpath(f"{Path(source).parent}/{target}")
        if path not in ELSEWHERE and not path.startswith("docs/"):
            return f"[{text}](#files)" if target in (*SHOWN, "configs") else text  # not on the site
        page = ELSEWHERE.get(path, path.removeprefix("docs/"))
        if source.endswith(".ipynb"):
            page = page.replace(".md", ".html")  # what links there is HTML before MkDocs sees it
        here = Path(ELSEWHERE.get(source, source.removeprefix("docs/"))).parent
        return f"[{text}]({os.path.relpath(page, here)}{hash}{anchor})"

    return re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s]+)\)", link, text)


def command_line() -> str:
    """Returns a page with what every command says of itself."""
    parts = ["# Command line\n\n`python train.py` is `isorl train`, `python report.py` is `isorl report`."]
    for command in COMMANDS:
        words = [*filter(None, [command]), "--help"]
        run = [sys.executable, "-m", "isorl", *words]
        said = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
        parts.append(f"## isorl {command}".rstrip() + f"\n\n```text\n{said}\n```")
    return "\n\n".join(parts) + "\n"


def configuration() -> str:
    """Returns a page with every key of a run: the dataclasses of configs/schema.py, and the files of small groups."""
    parts = [
        "# Configuration keys\n\n`KEY=VALUE` on the command line sets any of them; `isorl train --cfg job` prints what "
        "holds. A value `${tuned:KEY,DEFAULT}` stands for a default that the sequence's family may replace. "
        "[Sequences](../sequences.md) and [methods](../methods.md) have pages of their own."
    ]
    parts.append(f"## Of a run\n\n{inspect.getdoc(schema.RunConfig)}\n\n{_table(schema.RunConfig, '')}")
    parts += [
        f"## {name}\n\n{inspect.getdoc(kind)}\n\n{_table(kind, f'{name}.')}"
        for name, kind in _parts().items()
    ]
    task = f"{inspect.getdoc(schema.TaskConfig)}\n\n{_table(schema.TaskConfig, 'sequence.tasks.N.')}"
    parts.append(f"## sequence.tasks\n\n{task}")
    for group in CHOICES:
        files = sorted((ROOT / "configs" / group).glob("*.yaml"))
        shown = [f"### {group}={file.stem}\n\n```yaml\n{file.read_text().strip()}\n```" for file in files]
        parts.append("\n\n".join([f"## {group}", *shown]))
    return "\n\n".join(parts) + "\n"


def _parts() -> dict[str, type]:
    kinds = {
        field.name: getattr(schema, str(field.type), None) for field in dataclasses.fields(schema.RunConfig)
    }
    return {name: kind for name, kind in kinds.items() if dataclasses.is_dataclass(kind)}


def _table(kind: type, prefix: str) -> str:
    said = _docstrings(kind)
    rows = [
        f"| `{prefix}{field.name}` | {_default(field)} | {said.get(field.name, '')} |"
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.name not in _parts()
    ]
    return "\n".join(["| key | default | |", "|---|---|---|", *rows])


def _default(field: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is dataclasses.MISSING:
        return ""
    return f"`{json.dumps(field.default)}`"


def _docstrings(kind: type) -> dict[str, str]:
    """Returns field -> the text below it."""
    (body,) = (
        node.body for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef)
    )
    return {
        field.target.id: inspect.cleandoc(text.value.value).replace("\n", " ").replace("|", "\\|")
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _file(folder: Path, name: str) -> str:
    kind = "python" if name.endswith(".py") else "yaml"
    head = "\n## Files\n" if name == SHOWN[0] else ""
    return f"{head}\n### {name}\n\n```{kind}\n{(folder / name).read_text().strip()}\n```\n"
