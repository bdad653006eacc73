"""Copies in processes of their own: what hangs or dies is named, made anew or resumed; nothing is left behind."""

import contextlib
import functools
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from isorl.configs import SequenceConfig, TaskConfig, UserError
from isorl.configs.schema import FaultsConfig
from isorl.envs import Sequence, SwitchingVecEnv, make
from isorl.envs.failures import EnvironmentFailed, Failures
from isorl.envs.sequence import Task
from isorl.envs.task_env import TaskEnv
from isorl.envs.worker import Worker

SECONDS = 1.5
"""Limit of a step: a busy machine answers within it."""
HANGS = f"no answer within {SECONDS} s"


class Mean(gymnasium.Env):
    """Does what `wrong` says in step `at` of every episode of a copy with `mean_seed`; episodes have 8 steps.

    At 0 it does so when it is first reset, at 9 in the reset after an episode.
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, wrong="", at=5, mean_seed=8):
        self.wrong, self.at, self.mean_seed, self.number = wrong, at, mean_seed, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.number = seed if seed is not None else self.seed, 0
        if self.at == (9 if seed is None else 0) and self.seed == self.mean_seed:
            self._be_mean()
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.number += 1
        if self.number == self.at and self.seed == self.mean_seed:
            self._be_mean()
        return self.np_random.random(2, np.float32), 1.0, self.number == 8, False, {}

    def close(self):
        if self.wrong == "hangs when closed" and multiprocessing.parent_process():
            time.sleep(1000)

    def _be_mean(self):
        match self.wrong:
            case "hangs":
                time.sleep(1000)
            case "hangs deaf":  # as C code: no signal handler of Python runs
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
                time.sleep(1000)
            case "exits":
                os._exit(7)
            case "leaves":
                sys.exit(8)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raises":
                raise OSError("the cable")
            case "slow":
                time.sleep(0.3)


gymnasium.register("test/Mean-v0", Mean, disable_env_checker=True, order_enforce=False)


@pytest.fixture
def env_of():
    """env_of("hangs", environment="restart") -> a sequence with two copies of Mean, of which copy 1 is mean."""
    made = []

    def make(wrong, at=5, env="test/Mean-v0", **faults):
        kwargs = {"wrong": wrong, "at": at} if env == "test/Mean-v0" else {}
        config = SequenceConfig("test", [TaskConfig(env, agent_steps=10_000, kwargs=kwargs)])
        failures = Failures(FaultsConfig(**{"isolate": True, "step_seconds": SECONDS, **faults}))
        made.append(SwitchingVecEnv(Sequence.from_config(config, 0, 2), 2, 7, failures=failures))
        return made[-1]

    yield make
    for env in made:
        env.close()


def workers_of(env):
    return env._env.env._workers


def pids(env):
    return [worker._process.pid for worker in workers_of(env)]


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def eventually(true, seconds=15):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()


def play(env, steps, reset=True):
    actions = np.zeros((env.num_envs, *env.action_space.shape), env.action_space.dtype)
    seen = [env.reset()] if reset else []
    for _ in range(steps):
        observations, rewards, dones, infos = env.step(actions)
        last = [info.get("terminal_observation", 0) for info in infos]
        seen.append(
            [observations, rewards, dones, *last, [info.get("episode", {}).get("r") for info in infos]]
        )
    return seen


def assert_same(one, other):
    np.testing.assert_equal(one, other)


@pytest.mark.parametrize(
    ("wrong", "said"),
    {"hangs": HANGS, "hangs deaf": HANGS, "stopped": HANGS, "exits": "its process ended with exit code 7",
     "leaves": "its process ended with exit code 8", "killed": "its process was killed by SIGKILL",
     "segfault": "its process was killed by SIGSEGV", "raises": "OSError: the cable"}.items(),
)  # fmt: skip
def test_task_copy_and_what_happened_are_named(env_of, wrong, said):
    env = env_of(wrong)
    seen = play(env, 4)
    assert len(seen) == 5
    began = time.monotonic()
    with pytest.raises(EnvironmentFailed) as failed:
        play(env, 1, reset=False)
    assert str(failed.value) == f"Task 'Mean-v0' (test/Mean-v0): copy 1: {said}"
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("wrong", ["hangs", "exits", "raises"])
def test_failed_copy_is_made_anew_and_the_other_goes_on(env_of, wrong):
    env, undisturbed = env_of(wrong, environment="restart"), env_of("")
    results, others = play(env, 12), play(undisturbed, 12)
    assert env.failures.counts["restarts"] == 1
    for result, other in zip(results[1:], others[1:], strict=True):
        assert_same([part[0] for part in result[:3]], [part[0] for part in other[:3]])
    observations, rewards, dones, _, last, _ = results[5]
    assert dones[1]
    assert not dones[0]
    assert rewards[1] == 0
    assert_same(last, results[4][0][1])
    assert not np.array_equal(observations[1], last)
    returns = [result[5] for result in results[1:] if any(result[5])]
    assert returns == [[8.0, None]]  # none of what was cut short


@pytest.mark.parametrize("at", [0, 5, 9])
def test_what_raises_is_treated_as_without_processes(env_of, at):
    inside, alone = (
        env_of("raises", at, environment="restart", isolate=isolate) for isolate in (False, True)
    )
    assert_same(play(inside, 12), play(alone, 12))
    assert inside.failures.counts == alone.failures.counts == {"restarts": 1}
    said = []
    for isolate in (False, True):
        with pytest.raises(EnvironmentFailed) as failed:
            play(env_of("raises", at, isolate=isolate), 8)
        said.append(str(failed.value))
    assert said == ["Task 'Mean-v0' (test/Mean-v0): copy 1: OSError: the cable"] * 2


@pytest.mark.parametrize("environment", ["Acrobot-v1", "ALE/Breakout-v5", "Hopper-v5"])
def test_processes_change_no_number_and_restore_exactly(env_of, environment):
    inside, alone, restored = (
        env_of("", env=environment, isolate=isolate) for isolate in (False, True, True)
    )
    assert_same(play(inside, 40), play(alone, 40))
    restored.load_state_dict(alone.state_dict())
    assert_same(play(inside, 60, reset=False), play(alone, 60, reset=False))
    assert_same(play(alone, 20, reset=False), play(restored, 80, reset=False)[60:])


def test_restarts_are_resumed_exactly(env_of):
    env, restored = (env_of("exits", environment="restart") for _ in range(2))
    play(env, 7)
    restored.load_state_dict(env.state_dict())
    assert_same(play(env, 20, reset=False), play(restored, 20, reset=False))


def test_one_that_died_between_steps_is_saved_as_dead(env_of):
    env, restored = (env_of("", environment="restart") for _ in range(2))
    seen = play(env, 3)
    os.kill(pids(env)[1], signal.SIGKILL)
    restored.load_state_dict(env.state_dict())
    one, other = play(env, 10, reset=False), play(restored, 10, reset=False)
    assert_same(one, other)
    assert one[0][2].tolist() == [False, True]
    assert_same(one[0][4], seen[-1][0][1])
    assert env.failures.counts == restored.failures.counts == {"restarts": 1}


def test_one_that_died_between_steps_is_named_when_saved(env_of):
    env = env_of("")
    play(env, 3)
    os.kill(pids(env)[0], signal.SIGKILL)
    with pytest.raises(EnvironmentFailed, match=r"Task .*: copy 0: its process was killed by SIGKILL"):
        env.state_dict()


@pytest.mark.parametrize("faults", ["stop", "restart"])
def test_beginning_that_hangs(env_of, monkeypatch, faults):
    env = env_of("hangs", at=0, environment=faults)
    monkeypatch.setattr("isorl.envs.isolated.BEGINNING", SECONDS)
    if faults == "restart":
        assert len(play(env, 3)) == 4
        return
    with pytest.raises(EnvironmentFailed, match=r"Task .*: copy 1: no answer within"):
        env.reset()


def test_environment_that_cannot_be_made_is_refused_as_without_processes():
    task = Task(0, "mean", "test/Mean-v0", 1, {"wrongg": 1})
    messages = []
    for isolate in (False, True):
        with pytest.raises(UserError) as refused:
            TaskEnv(task, 2, failures=Failures(FaultsConfig(isolate=isolate)))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def _strictly(task, spec):
    warnings.simplefilter("error")
    return make._make_alone([], cloudpickle.dumps(spec), task, False)


def test_registering_in_the_process_warns_of_nothing():
    task = Sequence.from_config(SequenceConfig("t", [TaskConfig("ALE/Pong-v5", agent_steps=1)]), 0).tasks[0]
    worker = Worker(functools.partial(_strictly, task, gymnasium.spec(task.env)), "copy 0")
    worker.ask(60, "make")
    assert worker.answer() is None  # else it raises what was raised there, a warning too
    worker.close()


class Unmakable(Mean):
    """Its process dies while it is made; never made in a process that has no parent."""

    def __init__(self):
        assert multiprocessing.parent_process(), "made in the run's process"
        os._exit(5)


gymnasium.register("test/Unmakable-v0", Unmakable, disable_env_checker=True, order_enforce=False)


def test_one_that_dies_while_it_is_made_is_named(env_of):
    with pytest.raises(EnvironmentFailed) as failed:
        env_of("", env="test/Unmakable-v0")
    said = "cannot be made: copy 0: its process ended with exit code 5"
    assert str(failed.value) == f"Task 'Unmakable-v0' (test/Unmakable-v0) {said}"


def test_own_numpy_environments_stay_in_the_process(env_of):
    assert not hasattr(env_of("", env="isorl/Catch-v0")._env.env, "_workers")


def test_step_that_was_interrupted_leaves_no_answer_behind(env_of):
    env, undisturbed = env_of("slow", at=3), env_of("slow", at=3)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        play(env, 2)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            play(env, 1, reset=False)
    finally:
        signal.signal(signal.SIGALRM, before)
    env.agent_steps = 0  # or `reset` draws another seed
    assert_same(play(env, 6), play(undisturbed, 6))


@pytest.mark.parametrize("wrong", ["", "hangs", "hangs when closed"])
def test_nothing_is_left_when_closed(env_of, monkeypatch, wrong):
    play(env_of("", at=1), 1)  # what is opened once for all
    monkeypatch.setattr("isorl.envs.worker.CLOSING", 0.3)
    gc.collect()
    handles = set(os.listdir("/proc/self/fd"))
    env = env_of(wrong)
    left = pids(env)
    with contextlib.suppress(EnvironmentFailed):
        play(env, 6)
    env.close()
    env.close()
    assert not any(map(alive, left))
    assert set(os.listdir("/proc/self/fd")) <= handles


def test_forgotten_processes_end_with_their_environment():
    worker = Worker(Mean, "copy 0")
    worker.ask(10, "make")
    worker.answer()
    pid = worker._process.pid
    assert alive(pid)
    del worker
    gc.collect()
    assert not alive(pid)


def test_a_worker_is_asked_to_leave_once_and_its_time_is_not_lengthened():
    worker = Worker(Mean, "copy 0")
    worker.leave()
    until = worker._until
    worker.leave()
    assert worker._until == until
    pid = worker._process.pid
    worker.close()
    assert not alive(pid)


class Talker:
    def talk(self):
        logging.getLogger("isorl").warning("the %s is hot", "motor")

    def close(self):
        pass


def test_what_the_process_logs_is_logged_by_the_run(caplog):
    worker = Worker(Talker, "talker")
    for what in ("make", "talk"):
        worker.ask(10, what)
        worker.answer()
    worker.close()
    assert caplog.messages == ["the motor is hot"]


RUN = """
import os, time
from isorl.envs.worker import Worker

class Sleeper:
    def sleep(self, seconds): time.sleep(seconds); return seconds
    def close(self): pass

if __name__ == "__main__":
    workers = [Worker(Sleeper, "copy") for _ in range(2)]
    for worker in workers:
        worker.ask(60, "make"), worker.answer()
    try:
        print(*(worker._process.pid for worker in workers), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    for worker in workers:
        worker.ask(60, "sleep", 0)
        assert worker.answer() == 0
    workers[0].ask(0.5, "sleep", 1000)
    print("still there", flush=True)
    time.sleep(60)
"""


def test_ctrl_c_is_left_to_the_run_and_no_process_outlives_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()}
    )  # fmt: skip
    with run:
        left = [int(pid) for pid in run.stdout.readline().split()]
        os.killpg(run.pid, signal.SIGINT)
        assert run.stdout.readline() == "still there\n"
        assert all(map(alive, left))
        run.kill()
    assert eventually(lambda: not any(map(alive, left)))
    assert eventually(lambda: not _session(run.pid))


def _session(number):
    """Processes of this session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(entry.name)) == number and alive(int(entry.name)):
                found.append(entry.name)
    return found


class Drifting(gymnasium.Env):
    """Shows the argument that drifts, and a random number; raises in the third step of its second episode."""

    observation_space = spaces.Box(0, 10, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, speed=0.0, raises=True):
        self.speed, self.raises, self.number = speed, raises, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = 0
        return self._seen(), {}

    def step(self, action):
        self.number += 1
        if self.raises and self.number == 3 and self.speed == 4:
            raise OSError("the cable")
        return self._seen(), 1.0, self.number == 4, False, {}

    def _seen(self):
        return np.array([self.speed, self.np_random.random()], np.float32)


gymnasium.register("test/Drifting-v0", Drifting, disable_env_checker=True, order_enforce=False)


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "isolated"])
def test_a_restarted_copy_goes_on_drifting_and_is_seeded_by_the_run(isolate):
    """Ten units over ten steps of each copy: the second episode begins at 4, the one after the restart at 7."""
    task = TaskConfig("test/Drifting-v0", agent_steps=20, kwargs={"speed": 0.0}, drift={"speed": 10.0})
    faults = FaultsConfig(isolate=isolate, environment="restart", step_seconds=5)
    config, seen = SequenceConfig("test", [task]), {}
    for seed in (7, 8):
        failures = Failures(faults)
        env = SwitchingVecEnv(Sequence.from_config(config, 0, 2), 2, seed, failures=failures)
        restored = SwitchingVecEnv(Sequence.from_config(config, 0, 2), 2, seed, failures=Failures(faults))
        with contextlib.closing(env), contextlib.closing(restored):
            play(env, 5)
            restored.load_state_dict(env.state_dict())
            here, there = (play(each, 4, reset=False) for each in (env, restored))
            np.testing.assert_equal(here, there)
        assert failures.counts == {"restarts": 2}
        seen[seed] = np.array([observations for observations, *_ in here])
        assert seen[seed][:, :, 0].tolist() == [[4, 4]] + 3 * [[7, 7]]
    assert not (seen[7][1:, :, 1] == seen[8][1:, :, 1]).any()
