"""Makes mutants: changes of one place of the code, of the kinds that mutation testing has settled on.

Arithmetic, comparisons, logic, constants, calls that are left out, arguments that are left out or swapped (Offutt et
al. 1996; Just et al. 2014). A place is text between two positions, so a mutant keeps the layout of its file. What
cannot change what is computed is left out by rule: annotations, docstrings and other strings, decorators, what is
logged or said in an error, `__all__`, asserts (for the type checker here), protocols, looks of pictures.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
NAMES = {"min": "max", "any": "all", "mean": "sum", "zeros": "ones", "argmin": "argmax", "floor": "ceil"}
NAMES |= {"minimum": "maximum", "zeros_like": "ones_like", "clamp_min": "clamp_max", "amin": "amax"}
NAMES |= {other: name for name, other in NAMES.items()}
SAID = {"debug", "info", "warning", "warn", "print"}
"""Functions whose arguments only say something; whether debug and info are called at all matters to nobody."""
ONE_ORDER = {"isinstance", "issubclass", "getattr", "hasattr", "typed", "min", "max", "minimum", "maximum"}
"""Functions that fail at once, or do the same, where their arguments are swapped."""
GUARDS_AND_LOOKS = {
    "strict",
    "alpha",
    "lw",
    "linewidth",
    "fontsize",
    "figsize",
    "zorder",
    "color",
    "loc",
    "dpi",
    "pad",
}


@dataclass(frozen=True)
class Mutant:
    """One changed place of a file."""

    file: str
    line: int
    lines: int
    was: str
    """The lines of the place, without their indentation."""
    becomes: str
    code: str
    """The whole file."""

    @property
    def key(self) -> str:
        """Names the mutant wherever its lines stand in the file."""
        return f"{self.file}\t{self.was}\t{self.becomes}"


def draw(root: Path, folders: list[str], seed: int, exclude: list[str]) -> list[Mutant]:
    """Returns one mutant of every place, in an order that `seed` draws and that changes elsewhere leave as it is."""
    files = sorted(file for folder in folders for file in (root / folder).rglob("*.py"))
    names = [file.relative_to(root).as_posix() for file in files]
    chosen: dict[str, Mutant] = {}

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed}\t{mutant.key}".encode()).hexdigest()

    for name in names:
        if not name.startswith(tuple(exclude)):
            for place, mutants in enumerate(_places(name, (root / name).read_text())):
                if mutants:
                    chosen[f"{name} {place}"] = min(mutants, key=rank)
    return sorted(chosen.values(), key=rank)


def _places(file: str, text: str) -> Iterator[list[Mutant]]:
    lines = text.splitlines(keepends=True)

    def mutant(node: ast.AST, new: str) -> Mutant:
        begin, end = node.lineno - 1, node.end_lineno - 1  # type: ignore[attr-defined]
        head = lines[begin].encode()[: node.col_offset].decode()  # type: ignore[attr-defined]
        tail = lines[end].encode()[node.end_col_offset :].decode()  # type: ignore[attr-defined]
        becomes = head + new + tail
        was = "".join(lines[begin : end + 1])
        code = "".join([*lines[:begin], becomes, *lines[end + 1 :]])
        return Mutant(file, begin + 1, end - begin + 1, _one_line(was), _one_line(becomes), code)

    for node in _nodes(ast.parse(text)):
        found = [mutant(node, new) for new in _mutations(node)]
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            found.append(mutant(node.test, f"(not ({ast.unparse(node.test)}))"))
        yield [one for one in found if one.was != one.becomes]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walks the nodes whose change can matter, outer ones first."""
    match node:
        case ast.ClassDef() if any("Protocol" in ast.unparse(base) for base in node.bases):
            return
        case ast.FunctionDef() if any(
            "abstract" in ast.unparse(d) or "overload" in ast.unparse(d) for d in node.decorator_list
        ):
            return
        case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Raise():
            if isinstance(node, ast.Raise):
                yield node
            return
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in SAID:
            return
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="debug" | "info"))):
            return
        case ast.keyword(arg=name) if name in GUARDS_AND_LOOKS:
            return
    yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "decorator_list", "type_params"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _nodes(child)


def _mutations(node: ast.AST) -> Iterator[str]:
    """Yields the texts that may stand in a node's place."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            for new in OPERATORS[type(op)]:
                yield _changed(node, op=new())
        case ast.BoolOp(op=op):
            yield _changed(node, op=OPERATORS[type(op)][0]())
        case ast.Compare(ops=[op]) if type(op) in OPERATORS:
            for new in OPERATORS[type(op)]:
                yield _changed(node, ops=[new()])
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() | float() as value):
            yield str(value + 1)
            if value:
                yield "0"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
            yield NAMES[name]
        case ast.Attribute(attr=name) if name in NAMES:
            yield _changed(node, attr=NAMES[name])
        case ast.Call(args=args, keywords=keywords):
            for number, keyword in enumerate(keywords):
                if keyword.arg and keyword.arg not in GUARDS_AND_LOOKS:
                    yield _changed(node, keywords=keywords[:number] + keywords[number + 1 :])
            fixed = (ast.unparse(node.func).rpartition(".")[2]) in ONE_ORDER
            if len(args) == 2 and not fixed and not any(isinstance(arg, ast.Starred) for arg in args):
                yield _changed(node, args=args[::-1])
    match node:
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign():
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"


def _changed(node: ast.AST, **fields: object) -> str:
    new = type(node)(**{**dict(ast.iter_fields(node)), **fields})
    text = ast.unparse(ast.fix_missing_locations(new))
    return text if isinstance(node, ast.stmt) else f"({text})"
