"""What `inspect` makes of a folder."""

import json

import pytest

from isorl.experiments.run.inspect import main


@pytest.mark.parametrize(
    "overrides",
    [
        ("agent=ppo", "sequence=nine_rooms-smoke", "normalize.observations=true"),
        ("agent=dqn", "sequence=nine_rooms-smoke", "network=relu", "optimizer=adam"),
    ],
    ids=["ppo", "dqn"],
)
def test_a_run_folder_says_everything_itself(run, tmp_path, capsys, overrides):
    """The report on the last checkpoint repeats what the run itself measured at its end."""
    summary, folder = run(*overrides)
    main([str(folder), "--out", str(tmp_path / "out")])
    assert "dormant_units" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    measured = summary["diagnostics"][-1]
    network = "actor" if "actor" in found else "q"
    for metric in ("dormant_units", "layer_jacobian_max", "ntk_condition"):
        expected = pytest.approx(measured[f"plasticity/{metric}/{network}"], rel=1e-3)
        assert found[network][metric]["network"] == expected


@pytest.mark.parametrize("words", [["--env", "CartPole-v1"], []], ids=["a folder with --env", "no run"])
def test_refusals_of_folders(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), *words])
    assert stopped.value.code == 2
    assert "run" in capsys.readouterr().err
