"""Mutants change what is computed, one place each, and nothing that is only said."""

import ast
from pathlib import Path

import pytest

from tests.mutants.draw import draw

ROOT = Path(__file__).parents[2]
CODE = '''"""A docstring with 3 numbers."""
from abc import abstractmethod
__all__ = ["f"]
def f(x: int = 4, *, flag: bool = True) -> "tuple[1, 2]":
    """1 < 2."""
    LOG.info("about %s", x + 1)
    assert x > 1
    if x is None:
        raise ValueError(f"{x + 1} is " + "wrong")
    self.count += 1
    g(x, flag)
    h(x, strict=True, where=flag)
    return [-y for y in x[1:] if not y and y < 3]
@decorated(5)
@abstractmethod
def abstract(): return 7
'''


@pytest.fixture
def mutants(tmp_path):
    def drawn(seed=0, code=CODE):
        (tmp_path / "room").mkdir(exist_ok=True)
        (tmp_path / "room" / "module.py").write_text(code)
        return draw(tmp_path, ["room"], seed, [])

    return drawn


def test_every_kind_is_drawn_and_nothing_that_is_only_said(mutants):
    found = {(one.line, one.becomes) for seed in range(30) for one in mutants(seed)}
    expected = {
        (4, 'def f(x: int = 5, *, flag: bool = True) -> "tuple[1, 2]":'),
        (4, 'def f(x: int = 4, *, flag: bool = False) -> "tuple[1, 2]":'),
        (8, "if (x is not None):"), (8, "if (not (x is None)):"), (9, "pass"), (10, "pass"), (10, "self.count -= 1"),
        (11, "pass"), (11, "(g(flag, x))"), (12, "(h(x, strict=True))"),
        (13, "return [(y) for y in x[1:] if not y and y < 3]"), (13, "return [-y for y in x[2:] if not y and y < 3]"),
        (13, "return [-y for y in x[1:] if (not y or y < 3)]"),
        (13, "return [-y for y in x[1:] if not y and (y <= 3)]"),
    }  # fmt: skip
    assert expected <= found
    assert {line for line, _ in found} == {4, 8, 9, 10, 11, 12, 13}
    assert not any("strict=False" in text for _, text in found)


def test_a_mutant_is_the_file_with_one_changed_place(mutants):
    for one in mutants():
        before, after = CODE.splitlines(), one.code.splitlines()
        changed = [
            number for number, pair in enumerate(zip(before, after, strict=True), 1) if pair[0] != pair[1]
        ]
        assert changed == [one.line]
        assert one.was == " ".join(before[one.line - 1].split())
        assert ast.dump(ast.parse(one.code)) != ast.dump(ast.parse(CODE))


def test_the_draw_is_the_seeds_and_survives_changes_elsewhere(mutants):
    keys = [one.key for one in mutants(3)]
    assert keys == [one.key for one in mutants(3)] != [one.key for one in mutants(4)]
    assert keys == [one.key for one in mutants(3, CODE.replace('"""A doc', '"""Another\n\nA doc'))]


def test_equivalent_mutants_have_a_reason_and_are_still_there():
    lines = (Path(__file__).parent / "equivalent.tsv").read_text().splitlines()
    for line in lines:
        file, was, becomes, why = line.split("\t")
        assert becomes != was
        assert len(why) > 10
        assert was in " ".join((ROOT / file).read_text().split()), line
