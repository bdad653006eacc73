import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from isorl.envs.failures import EnvironmentFailed

A = dict(env="toy/Counter-v0", kwargs={"base": 0}, agent_steps=5)
B = dict(env="toy/Counter-v0", kwargs={"base": 100, "size": 3, "actions": 3}, agent_steps=4)


def play(env, steps, action=1):
    env.reset()
    return [env.step(np.full(env.num_envs, action)) for _ in range(steps)]


def test_one_switch_worked_by_hand(switching):
    env = switching(A, B)
    assert env.observation_space.shape == (3,)
    np.testing.assert_array_equal(env.reset(), [[0, 0, 0]])
    steps = [env.step(np.array([1])) for _ in range(8)]
    # A: an episode of 3, then 2 steps of the next, then the switch; B: an episode of 3, then one step
    seen = [[1, 1, 0], [2, 1, 0], [0, 0, 0], [1, 1, 0], [100, 0, 0], [101, 1, 0], [102, 1, 0], [100, 0, 0]]
    np.testing.assert_array_equal([step[0][0] for step in steps], seen)
    np.testing.assert_array_equal([step[1][0] for step in steps], [1, 2, 3, 1, 2, 101, 102, 103])
    np.testing.assert_array_equal([step[2][0] for step in steps], [0, 0, 1, 0, 1, 0, 0, 1])

    ended, switched, ended_in_b = (steps[number][3][0] for number in (2, 4, 7))
    assert ended["episode"] == {"r": 6.0, "l": 3, "task": 0, "visit": 0}
    assert not ended["TimeLimit.truncated"]
    np.testing.assert_array_equal(ended["terminal_observation"], [3, 1, 0])
    assert "episode" not in switched  # cut short: no result
    assert switched["TimeLimit.truncated"]
    np.testing.assert_array_equal(switched["terminal_observation"], [2, 1, 0])
    assert ended_in_b["episode"] == {"r": 306.0, "l": 3, "task": 1, "visit": 1}
    assert [step[3][0] for number, step in enumerate(steps) if number not in (2, 4, 7)] == [{}] * 5


def test_an_episode_that_ends_at_the_switch_is_terminated_and_reported(switching):
    env = switching({**A, "agent_steps": 3}, B)
    _, _, dones, infos = play(env, 3)[-1]
    assert dones[0]
    assert not infos[0]["TimeLimit.truncated"]
    assert infos[0]["episode"]["r"] == 6.0
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [3, 1, 0])


def test_all_copies_switch_together_and_the_length_is_rounded_up(switching):
    env = switching(A, B, n_envs=3)
    assert [visit.end for visit in env.sequence.visits] == [6, 12]
    steps = play(env, 4)
    assert [step[2].all() for step in steps] == [False, True, False, False]
    np.testing.assert_array_equal(steps[1][0][:, 0], [100, 100, 100])
    assert env.finished
    np.testing.assert_array_equal(
        env.step(np.ones(3, int))[0][:, 0], [100, 100, 100]
    )  # stays in the last task


def test_actions_are_mapped_by_the_remainder(switching):
    env = switching(A, B)
    env.reset()
    assert env.step(np.array([2]))[0][0, 1] == 0  # A has two actions: 2 is 0
    for _ in range(5):
        observation, *_ = env.step(np.array([2]))
    assert observation[0, 1] == 2  # B has three


def test_gae_does_not_reach_across_a_switch(switching):
    """γ = λ = 1, all values 0 but the bootstrap: what stands in A's advantages knows nothing of B's rewards."""
    env = switching({**A, "kwargs": {"length": 100}}, {**B, "agent_steps": 5})
    buffer = RolloutBuffer(8, env.observation_space, env.action_space, gamma=1.0, gae_lambda=1.0)
    observation, start = env.reset(), np.ones(1)
    for _ in range(8):
        following, reward, done, infos = env.step(np.array([0]))
        if done[0] and infos[0]["TimeLimit.truncated"]:
            reward = (
                reward + infos[0]["terminal_observation"][0]
            )  # SB3 adds γ V(terminal); here V = first entry
        buffer.add(observation, np.zeros(1), reward, start, torch.zeros(1), torch.zeros(1))
        observation, start = following, done
    buffer.compute_returns_and_advantage(torch.zeros(1), start)
    # rewards 1..5 and the bootstrap 5, summed backwards from the switch; then B alone
    np.testing.assert_array_equal(buffer.advantages[:5, 0], [20, 19, 17, 14, 10])
    np.testing.assert_array_equal(buffer.advantages[5:, 0], [306, 205, 103])


def test_replay_stores_the_last_observation_of_the_old_task(switching):
    env = switching({**A, "kwargs": {"length": 100}}, B)
    buffer = ReplayBuffer(10, env.observation_space, env.action_space)
    observation = env.reset()
    for _ in range(6):
        following, reward, done, infos = env.step(np.array([0]))
        stored = following.copy()
        if done[0]:
            stored[0] = infos[0]["terminal_observation"]  # as OffPolicyAlgorithm._store_transition does
        buffer.add(observation, stored, np.zeros((1, 1)), reward, done, infos)
        observation = following
    np.testing.assert_array_equal(buffer.next_observations[:6, 0, 0], [1, 2, 3, 4, 5, 101])
    np.testing.assert_array_equal(buffer.observations[:6, 0, 0], [0, 1, 2, 3, 4, 100])
    assert buffer.dones[4, 0] == 1
    assert (
        buffer.timeouts[4, 0] == 1
    )  # so SB3 samples it as not done: the value of the old task is bootstrapped


def test_visits_by_episodes(switching):
    env = switching({**A, "agent_steps": 50, "episodes": 2}, B)
    steps = play(env, 7)
    assert [number for number, step in enumerate(steps) if step[0][0, 0] >= 100] == [5, 6]
    assert (env.visit.start, env.visit.end) == (6, 10)  # B keeps its 4 steps
    assert not env.finished
    play_on = [env.step(np.ones(1, int)) for _ in range(3)]
    assert env.finished
    assert len(play_on) == 3


def test_visits_by_return(switching):
    env = switching({**A, "agent_steps": 50, "return_threshold": 6.0, "return_window": 3}, B)
    play(env, 8)
    assert env.visit.number == 0
    env.step(np.ones(1, int))
    assert (env.visit.number, env.visit.start) == (1, 9)


def test_a_return_out_of_reach_ends_at_the_limit(switching):
    env = switching({**A, "return_threshold": 7.0}, B)
    play(env, 5)
    assert (env.visit.number, env.visit.start, env.visit.end) == (1, 5, 9)


def test_switch_at_the_end_of_an_episode(switching):
    env = switching(A, B, switch="episode_end")
    steps = play(env, 6)
    assert env.visit.number == 1
    assert env.visit.start == 6  # the episode that was running at step 5 ended
    assert steps[-1][3][0]["episode"]["r"] == 6.0
    assert not steps[-1][3][0]["TimeLimit.truncated"]
    assert env.visit.end == 9  # the schedule is not delayed


def test_an_episode_that_outlasts_the_next_visit_is_refused(switching):
    """A's episodes have 6 steps: the one that runs at step 5 ends at 6, and the visit after should have ended there."""
    env = switching(A, {**B, "agent_steps": 1}, switch="episode_end")
    play(env, 5)
    with pytest.raises(
        EnvironmentFailed, match="outlasted the whole next visit, which was to end at agent step 6"
    ):
        env.step(np.ones(1, int))


def test_drift_moves_an_argument_evenly_and_starts_anew_at_every_visit(switching):
    drifting = dict(env="toy/Counter-v0", kwargs={"speed": 1.0}, drift={"speed": 2.0}, agent_steps=12)
    env = switching(drifting, A, cycles=2)
    rewards = [step[1][0] for step in play(env, 20)]
    np.testing.assert_allclose(rewards[:12:3], [1.0, 1.25, 1.5, 1.75])
    np.testing.assert_allclose(rewards[17:20], [1, 2, 3])


def test_announced_tasks(switching):
    env = switching(A, B, announce=True)
    assert env.observation_space.shape == (5,)
    np.testing.assert_array_equal(env.reset(), [[0, 0, 0, 1, 0]])
    step = [env.step(np.array([1])) for _ in range(5)][-1]
    np.testing.assert_array_equal(step[0], [[100, 0, 0, 0, 1]])
    np.testing.assert_array_equal(step[3][0]["terminal_observation"], [2, 1, 0, 1, 0])


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "Pendulum-v1"])
def test_one_task_is_stable_baselines3s_stream(switching, env_id, n_envs):
    ours = switching(dict(env=env_id, agent_steps=10_000), n_envs=n_envs, seed=5)
    theirs = make_vec_env(env_id, n_envs, seed=5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for _ in range(450):
        actions = np.stack([theirs.action_space.sample() for _ in range(n_envs)])
        a, b = ours.step(actions), theirs.step(actions)
        for left, right in zip(a[:3], b[:3], strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
        for info, expected in zip(a[3], b[3], strict=True):
            if "terminal_observation" in expected:
                np.testing.assert_array_equal(info["terminal_observation"], expected["terminal_observation"])
                assert info["TimeLimit.truncated"] == expected["TimeLimit.truncated"]
                assert info["episode"]["r"] == pytest.approx(expected["episode"]["r"], abs=1e-4)
                assert info["episode"]["l"] == expected["episode"]["l"]
    theirs.close()


@pytest.mark.parametrize("n_envs", [1, 4])
def test_same_seed_same_stream(switching, n_envs):
    def stream(seed):
        env = switching(
            dict(env="CartPole-v1", agent_steps=80, shifts=[{"name": "rotate_observation", "seed": "task_seed"}]),
            dict(env="isorl/Rain-v0", agent_steps=80, wrappers=["FlattenObservation"]),
            n_envs=n_envs, seed=seed, cycles=2, order="shuffled",
        )  # fmt: skip
        rng = np.random.default_rng(0)
        seen = [env.reset()]
        for _ in range(300 // n_envs):
            observations, rewards, dones, _ = env.step(rng.integers(3, size=n_envs))
            seen += [observations, np.concatenate([rewards, dones])]
        return np.concatenate([np.ravel(part) for part in seen])

    np.testing.assert_array_equal(stream(1), stream(1))
    assert not np.array_equal(stream(1), stream(2))


def test_a_seed_given_later_is_as_one_given_at_first(switching):
    """stable-baselines3 hands over the agent's; copy i takes seed + i."""
    tasks = [dict(env="CartPole-v1", agent_steps=9), dict(env="CartPole-v1", agent_steps=9)]
    early, late = switching(*tasks, n_envs=3, seed=7), switching(*tasks, n_envs=3, seed=5)
    assert late.seed(7) == [7, 8, 9] == early.seed() == early.seed(None)
    first = late.reset()
    np.testing.assert_array_equal(first, early.reset())
    for copy, observation in enumerate(first):
        np.testing.assert_array_equal(observation, gymnasium.make("CartPole-v1").reset(seed=7 + copy)[0])
    for _ in range(6):  # beyond the switch
        np.testing.assert_array_equal(late.step(np.ones(3, int))[0], early.step(np.ones(3, int))[0])
    late.seed(0)
    late.reset()
    assert not np.array_equal(late.step(np.ones(3, int))[0], early.step(np.ones(3, int))[0])


def test_later_visits_are_seeded_by_seed_and_agent_step(switching):
    """A rule that stays, so that a run of an earlier version meets the same episodes."""
    env = switching(
        dict(env="CartPole-v1", agent_steps=4), dict(env="CartPole-v1", agent_steps=4), n_envs=2, seed=5
    )
    env.reset()
    for _ in range(2):
        observations = env.step(np.ones(2, int))[0]
    seed = int(np.random.SeedSequence([5, 4]).generate_state(1)[0] >> 1)
    for copy, observation in enumerate(observations):
        np.testing.assert_array_equal(observation, gymnasium.make("CartPole-v1").reset(seed=seed + copy)[0])


def test_the_second_visit_to_a_task_begins_other_episodes(switching):
    env = switching(
        dict(env="CartPole-v1", agent_steps=10), dict(env="CartPole-v1", agent_steps=10), cycles=2
    )
    first = env.reset()
    starts = [first]
    for _ in range(30):
        observations, _, dones, _ = env.step(np.array([1]))
        if dones[0]:
            starts.append(observations)
    assert len({start.tobytes() for start in starts}) == len(starts)
