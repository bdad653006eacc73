"""What happens at a switch: each option acts, and acts only when asked for."""

import warnings

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.vec_env import VecNormalize

from isorl.agents import ContinualDQN, ContinualPPO
from isorl.agents.continual import Continual
from isorl.configs import SequenceConfig, TaskConfig
from isorl.configs.schema import SwitchConfig
from isorl.envs import Sequence, SwitchingVecEnv
from isorl.plasticity.methods import METHODS

STEPS = 128


def two_tasks(n_envs=1, env="CartPole-v1"):
    config = SequenceConfig(name="two", tasks=[TaskConfig(env=env, agent_steps=STEPS)] * 2)
    return SwitchingVecEnv(Sequence.from_config(config, seed=0, n_envs=n_envs), n_envs, seed=0)


def ppo(env, **options):
    return ContinualPPO("NetworkPolicy", env, n_steps=32, batch_size=32, seed=0, device="cpu", **options)


def dqn(env, **options):
    arguments = dict(learning_starts=20, buffer_size=1000, exploration_fraction=0.5, seed=0, device="cpu")
    return ContinualDQN("NetworkPolicy", env, **arguments | options)


@pytest.fixture
def at_switch(monkeypatch):
    """Calls `look(agent)` before and after each switch is acted on; gives the pairs of answers."""

    def watch(look):
        seen = []
        act = Continual.on_switch

        def watched(self, env):
            before = look(self)
            act(self, env)
            seen.append((before, look(self)))

        monkeypatch.setattr(Continual, "on_switch", watched)
        return seen

    return watch


@pytest.mark.parametrize("make", [ppo, dqn])
def test_a_file_names_the_methods_that_it_does_not_hold(make, tmp_path):
    agent = make(two_tasks(), methods={"l2_init": METHODS["l2_init"]()})
    agent.save(tmp_path / "agent.zip")
    with pytest.warns(UserWarning, match=r"saved with methods \(l2_init\)"):
        without = type(agent).load(tmp_path / "agent.zip", env=two_tasks(), device="cpu")
    assert not without.methods
    given = {"l2_init": METHODS["l2_init"](strength=0.5)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = type(agent).load(tmp_path / "agent.zip", env=two_tasks(), device="cpu", methods=given)
    assert again.methods.by_name == given
    again.learn(STEPS)


@pytest.mark.parametrize("make", [ppo, dqn])
@pytest.mark.parametrize(("option", "kept"), [("keep", True), ("reset", False)])
def test_optimizer_moments(at_switch, make, option, kept):
    seen = at_switch(lambda agent: len(agent.policy.optimizer.state))
    make(two_tasks(), switch=SwitchConfig(optimizer=option)).learn(2 * STEPS)
    ((before, after),) = seen
    assert before > 0
    assert after == (before if kept else 0)


def test_replay_is_cleared_and_warmed_up_again():
    agent = dqn(two_tasks(), switch=SwitchConfig(replay="clear")).learn(2 * STEPS)
    assert agent.replay_buffer.size() == STEPS, "only the second task's transitions"
    assert agent.learning_starts == STEPS + 20


def test_replay_is_kept():
    agent = dqn(two_tasks(), switch=SwitchConfig(replay="keep")).learn(2 * STEPS)
    assert agent.replay_buffer.size() == 2 * STEPS
    assert agent.learning_starts == 20


def epsilon_by_step(option):
    rates = []

    class Watched(ContinualDQN):
        def _on_step(self):
            super()._on_step()
            rates.append(self.exploration_rate)

    arguments = dict(learning_starts=20, buffer_size=1000, exploration_fraction=0.5, seed=0, device="cpu")
    Watched("NetworkPolicy", two_tasks(), switch=SwitchConfig(exploration=option), **arguments).learn(
        2 * STEPS
    )
    return rates


def test_exploration_restarts_with_each_visit():
    """Worked by hand: over half a visit of 128 steps, epsilon falls from 1 to 0.05: 1 - 0.95 * (n / 64)."""
    rates = epsilon_by_step("visit")
    for start in (0, STEPS):
        assert rates[start + 15] == pytest.approx(1 - 0.95 * 16 / 64, abs=0.03)
        assert rates[start + 100] == pytest.approx(0.05)


def test_exploration_over_the_run():
    """Worked by hand: over half of 256 steps; the second task begins with almost no exploration."""
    rates = epsilon_by_step("run")
    assert rates[63] == pytest.approx(1 - 0.95 * 64 / 128)
    assert rates[STEPS + 1] == pytest.approx(0.05)


def learning_rates(option):
    rates = []

    class Watched(ContinualPPO):
        def train(self):
            super().train()
            rates.append(self.policy.optimizer.param_groups[0]["lr"])

    Watched(
        "NetworkPolicy",
        two_tasks(),
        learning_rate=lambda progress: 1e-3 * progress,
        n_steps=32,
        batch_size=32,
        n_epochs=1,
        device="cpu",
        switch=SwitchConfig(learning_rate=option),
    ).learn(2 * STEPS)
    return [1e3 * rate for rate in rates]


def test_learning_rate_horizon():
    """Eight updates, four per visit, each after 32 of 256 (of 128) agent steps."""
    assert learning_rates("run") == pytest.approx([7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
    assert learning_rates("visit") == pytest.approx([3 / 4, 2 / 4, 1 / 4, 0] * 2)


@pytest.mark.parametrize(("option", "kept"), [("keep", True), ("reset", False)])
def test_normalizer(at_switch, option, kept):
    seen = at_switch(lambda agent: agent.get_vec_normalize_env().obs_rms.count)
    ppo(VecNormalize(two_tasks()), switch=SwitchConfig(normalizer=option)).learn(2 * STEPS)
    ((before, after),) = seen
    assert before > STEPS
    assert (after == before) is kept


class Balanced(CartPoleEnv):
    """Calls every episode a success."""

    def step(self, action):
        *given, info = super().step(action)
        return *given, {**info, "is_success": True}


gymnasium.register("toy/Balanced-v0", Balanced)


@pytest.mark.parametrize("buffer", ["ep_info_buffer", "ep_success_buffer"])
def test_running_means_belong_to_one_task(at_switch, buffer):
    seen = at_switch(lambda agent: len(getattr(agent, buffer)))
    ppo(two_tasks(env="toy/Balanced-v0")).learn(2 * STEPS)
    ((before, after),) = seen
    assert before > 0
    assert after == 0


ENDS = {"steps": {"agent_steps": 40}, "episodes": {"agent_steps": 5_000, "episodes": 3}}
"""Visits that no rollout and no update interval divides: planned ones, and ones that end unforeseen."""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("policy", "exact"),
    [("NetworkPolicy", True), ("NetworkPolicy", False), ("MlpPolicy", True)],
    ids=["exact", "fast", "SB3's own policy"],
)
@pytest.mark.parametrize("agent", [ContinualPPO, ContinualDQN])
def test_no_update_comes_between_a_switch_and_what_is_done_about_it(monkeypatch, agent, policy, exact, end):
    """Rollouts end at the switch, the last update on the old task is made, then methods and options act."""
    tasks = [TaskConfig(env="CartPole-v1", name=f"task{i}", **ENDS[end]) for i in range(2)]
    env = SwitchingVecEnv(Sequence.from_config(SequenceConfig("two", tasks), 0, 1), 1, seed=0)
    events = []
    for name in ("train", "on_switch"):
        plain = getattr(agent, name)

        def watched(self, *args, name=name, plain=plain, **kwargs):
            learned_from = getattr(self, "rollout_buffer", None)
            events.append(
                (
                    name,
                    env.visit.number,
                    env.visit.start,
                    self.num_timesteps,
                    learned_from and learned_from.pos,
                )
            )
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(agent, name, watched)
    options = (
        dict(n_steps=32, batch_size=32) if agent is ContinualPPO else dict(learning_starts=4, train_freq=7)
    )
    agent(
        policy, env, seed=0, device="cpu", exact=exact, switch=SwitchConfig(replay="keep"), **options
    ).learn(120)
    names = [name for name, *_ in events]
    assert names.count("on_switch") == 1
    at = names.index("on_switch")
    _, visit, start, step, _ = events[at]
    assert visit == 1
    assert step == start, "the moment of the switch"
    assert events[at - 1][3] == start, "the rest of the old task's experience is learned from before"
    if agent is ContinualPPO:
        assert events[at - 1][4] == (start % 32 or 32), "a shorter rollout"
    assert all(number == 1 for _, number, *_ in events[at:])
    assert "train" in names[at:]


def test_methods_without_their_networks_are_refused():
    from isorl.plasticity.methods import METHODS

    with pytest.raises(ValueError, match="NetworkPolicy"):
        ContinualPPO("MlpPolicy", two_tasks(), methods={"l2_init": METHODS["l2_init"]()})


def test_heads_are_free_and_hidden_weights_isometric():
    from isorl.plasticity import AdamO

    agent = ppo(two_tasks(), policy_kwargs={"optimizer_class": AdamO})
    heads = {id(agent.policy.action_net.weight), id(agent.policy.value_net.weight)}
    for group in agent.policy.optimizer.param_groups:
        for parameter in group["params"]:
            is_hidden_weight = parameter.ndim == 2 and id(parameter) not in heads
            assert group["isometric"] is is_hidden_weight
    counted = sum(len(group["params"]) for group in agent.policy.optimizer.param_groups)
    assert counted == len(list(agent.policy.parameters()))
    assert torch.is_tensor(agent.policy.action_net.weight)


def test_steps_that_are_counted_anew_begin_a_new_warm_up_and_no_new_visit():
    agent = dqn(two_tasks(), train_freq=4).learn(STEPS + 20)
    assert agent.learning_starts == STEPS + 20
    agent.learn(100)
    assert agent.learning_starts == 20
    assert (
        agent._n_updates == 27 + 20
    )  # (128 - 20) / 4, none in the first 20 steps of the second visit, (100 - 20) / 4
    assert agent.progress_remaining("visit") == pytest.approx(1 - 120 / STEPS)
    assert agent.exploration_rate == pytest.approx(0.05)  # after half a visit


@pytest.mark.parametrize(("given", "warmup"), [({}, 20), ({"learning_starts": 50}, 50)])
def test_a_loaded_agent_warms_up_as_it_was_made_or_as_it_is_told(tmp_path, given, warmup):
    dqn(two_tasks()).learn(STEPS + 20).save(tmp_path / "agent.zip")
    agent = ContinualDQN.load(tmp_path / "agent.zip", env=two_tasks(), device="cpu", **given)
    assert agent.warmup == warmup
    agent.learn(60)
    assert agent.learning_starts == warmup


@pytest.mark.parametrize("exact", [False, True])
def test_a_rollout_ends_with_the_plan(exact):
    agent = ContinualPPO(
        "NetworkPolicy", two_tasks(), n_steps=48, batch_size=16, seed=0, device="cpu", exact=exact
    )
    agent.learn(2 * STEPS)
    assert agent.num_timesteps == 2 * STEPS
    assert agent.rollout_buffer.pos == STEPS - 2 * 48
