"""Modules of the user's own, imported for what they register: `imports=[my_package.my_module, ./my_env.py]`.

What a user names on the command line is imported: a module from sys.path or the current folder, a file from where it
lies. What a run folder has recorded is imported by module name alone, from the user's own sys.path or because the
command line names it too, and never from inside that folder: a folder from a stranger runs nothing of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from isorl.configs.errors import UserError

_named: dict[str, str] = {}
"""Module -> the entry by which the user of this process named it."""
_current_folder: list[str] = []
"""The entry that `take` has put at the end of sys.path."""


def is_file(entry: str) -> bool:
    """Returns whether `entry` names a file rather than a module."""
    return entry.endswith(".py") or os.sep in entry


def module_name(entry: str) -> str:
    """Returns the name under which `entry` is imported: a file's is its stem."""
    return Path(entry).stem if is_file(entry) else entry


def absolute(entry: str) -> str:
    """Returns `entry` as another process with another current folder can take it."""
    return str(Path(entry).expanduser().absolute()) if is_file(entry) else entry


def named() -> list[str]:
    """Returns what was taken so far because the user named it; `take` of it in another process does the same."""
    return list(_named.values())


def modules() -> list[ModuleType]:
    """Returns the modules that the user has named."""
    return [sys.modules[name] for name in _named]


def take(entries: Iterable[str]) -> None:
    """Imports modules and files that the user of this process named; each once.

    Raises:
        UserError: one that is not there, raises, or would take another module's name.
    """
    for entry in map(absolute, entries):
        name = module_name(entry)
        if name not in _named:
            _import_file(name, Path(entry)) if is_file(entry) else _import_module(name)
            _named[name] = entry
        elif is_file(entry) and _named[name] != entry:
            raise UserError(f"imports: '{entry}' and '{_named[name]}' have one name. Rename one of them.")


def take_recorded(entries: Iterable[str], folder: Path) -> list[str]:
    """Imports what the run in `folder` recorded, by module name; gives back a line about each, for the user to read.

    Raises:
        UserError: a module that neither sys.path nor the command line has, or that lies inside `folder`.
    """
    lines = []
    for entry in dict.fromkeys(entries):
        name = module_name(entry)
        if name not in _named:
            with _without_current_folder():
                _check_outside(entry, folder)
                _import_module(name, and_here=False)
        lines.append(f"Imports {name} from {getattr(sys.modules[name], '__file__', None) or 'sys.path'}")
    return lines


def _import_module(name: str, and_here: bool = True) -> ModuleType:
    if and_here and not _current_folder and os.getcwd() not in sys.path:
        _current_folder.append(os.getcwd())
        sys.path.append(os.getcwd())  # last: a folder called `random` or `wandb` hides no package
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and name.startswith(f"{error.name}"):
            where = "on sys.path or in the current folder" if and_here else "on sys.path"
            raise UserError(
                f"imports: there is no module '{name}' {where}. A file is named ./{name}.py."
            ) from None
        raise _refused(name, error) from error


def _import_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"imports: there is no file '{path}'.")
    if not name.isidentifier():
        raise UserError(f"imports: '{path.name}' cannot be the name of a module. Rename it.")
    if name in sys.modules or name in sys.stdlib_module_names:
        raise UserError(f"imports: '{path}' would take the name of the module '{name}'. Rename it.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(
        spec
    )  # where entry points and pickles find it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _refused(str(path), error) from error
    return module


def _refused(entry: str, error: Exception) -> UserError:
    at = traceback.extract_tb(error.__traceback__)[-1]
    said = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(
        f"imports: '{entry}' raises {type(error).__name__} in {at.filename}, line {at.lineno}: {said}"
    )


def _check_outside(entry: str, folder: Path) -> None:
    """Refuses what a run folder names and cannot be had without running code of that folder."""
    top = module_name(entry).partition(".")[0]
    how = f"If you trust it, name it: imports=[{entry}]"
    spec = _found(top)
    if spec is None:
        raise UserError(f"'{folder}' imports '{module_name(entry)}', which is not on sys.path. {how}")
    inside = [place for place in _places(spec) if place.is_relative_to(folder.resolve())]
    if inside:
        raise UserError(f"'{folder}' imports '{module_name(entry)}' from inside itself, which is never run.")


def _found(top: str) -> ModuleSpec | None:
    """Finds a top-level module without importing anything."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # of a module like __main__, which has no specification
        return None


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Inside, sys.path is the user's own, without what `take` added."""
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry not in _current_folder]
    try:
        yield
    finally:
        sys.path[:] = before


def _places(spec: ModuleSpec) -> list[Path]:
    origins = [spec.origin] if spec.has_location and spec.origin else []
    return [Path(place).resolve() for place in [*origins, *(spec.submodule_search_locations or ())]]
