"""Command lines that random words have shown to end in a traceback once."""

import pytest

from tests.faults.fuzz import _answer


@pytest.mark.parametrize(
    ("words", "said"),
    [(["network=null"], "There is no network 'None'"),
     (["++method.redo=2"], "'method.redo' is 2, but must hold options"),
     (["++sequence.cycles=999999999999999999999"], "it must be at most 1e+06"),
     (["diagnostics.metrics=[relu,tanh]"], "unknown metric 'relu'"),
     (["agent.name=[]"], "There is no agent '[]'"),
     (["optimizer.name={}"], "There is no optimizer '{}'"),
     (["evaluation=0.0001", "evaluation=[relu,tanh]", "++evaluation.eisodes=nan"],
      "does not fit together: invalid literal")],
)  # fmt: skip
def test_refused_with_one_line(words, said):
    assert said in _answer([*words, "run_dir=run"])
