"""Videos of a run, and why some cannot be made."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from isorl import train
from isorl.configs import UserError
from isorl.experiments.grid.expand import Composer
from isorl.experiments.grid.work import work
from isorl.experiments.run import experiment
from isorl.experiments.run.play import play


class Unseen(gymnasium.Env):
    """Has no picture of itself; `how` says what it does instead."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None, how=""):
        self.render_mode, self.how = render_mode, how

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, False, True, {}

    def render(self):
        if self.how == "raises":
            raise NotImplementedError
        return None if self.how == "none" else np.zeros((32, 32, 3), np.uint8)


class Blind(Unseen):
    metadata = {"render_modes": []}  # noqa: RUF012


for name, entry in (("test/Unseen-v0", Unseen), ("test/Blind-v0", Blind)):
    gymnasium.register(name, entry, disable_env_checker=True, order_enforce=False)


def trained(tiny, folder, env, how, name="task"):
    task = f"[{{env: {env}, agent_steps: 64, kwargs: {{how: '{how}'}}, name: '{name}'}}]"
    words = [word for word in tiny if not word.startswith("sequence")]
    config = Composer()([*words, f"sequence.tasks={task}", f"run_dir={folder}"])
    experiment.start(config)
    return str(folder)


@pytest.mark.filterwarnings("ignore:.*render")
@pytest.mark.parametrize(
    ("env", "how", "reason"),
    [
        ("test/Unseen-v0", "raises", r"NotImplementedError\. A video needs"),
        ("test/Unseen-v0", "none", "it drew NoneType instead of a picture"),
        ("test/Blind-v0", "none", "it drew .* the environment has: none"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_reason(tiny, tmp_path, env, how, reason):
    folder = trained(tiny, tmp_path / "run", env, how)
    with pytest.raises(UserError, match=rf"Task 'task' \({env}\) cannot be drawn: .*{reason}"):
        play(folder)


def test_a_name_is_no_path_and_no_formula(tiny, tmp_path):
    folder = trained(tiny, tmp_path / "run", "test/Unseen-v0", "", name="g[/x] $a_$b |")
    [video] = play(folder)
    assert video.parent == tmp_path / "run" / "videos"
    assert video.stat().st_size > 0


def test_a_random_agent_is_neither_resumed_nor_played(tiny, tmp_path):
    folder = tmp_path / "random"
    assert work(Composer()([*tiny, "reference=random", f"run_dir={folder}"])).did == "run"
    for command in (experiment.resume, play):
        with pytest.raises(UserError, match="learns nothing"):
            command(str(folder))


def test_the_command_names_every_file(monkeypatch, capsys):
    monkeypatch.setattr(
        "isorl.experiments.run.play.play", lambda folder: [f"{folder}/a.mp4", f"{folder}/b.mp4"]
    )
    assert train._dispatch(SimpleNamespace(play="runs/x")) is None
    assert capsys.readouterr().out == "runs/x/a.mp4\nruns/x/b.mp4\n"
