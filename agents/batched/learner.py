"""S agents of one form as one: what an agent's own `update` runs on, with a first dimension S in every tensor.

The weights of all runs lie in one table, of which each run keeps a view: parameters, gradients and moments of a run
stay where policies, methods, diagnostics and checkpoints look for them, and are always up to date. Whatever changes
more than their values (a method at a task switch) unstacks them; the next update builds anew.

Shapes: S runs, N environment copies, T steps, B samples of a minibatch, I inputs, A actions, P parameters of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples
from torch import Tensor, nn

from isorl.agents.batched.networks import BatchedNetworks, blocks_of
from isorl.agents.batched.optimizer import ROW_OPTIMIZERS, options_of, steps_taken
from isorl.agents.batched.parameters import ParameterTable, Unbatchable
from isorl.agents.batched.traced import TracedLosses
from isorl.plasticity.methods import Batch, Method

TOLERANCE = 1e-3
"""How far a run's gradient by the kernels may be from autograd's through its own modules, relative to its norm."""


class BatchedLearner:
    """Looks like one agent to `update`, the function of the agents' own class, and is its own policy.

    Args:
        agents: fast ones on the CPU with equal `form_of`.

    Raises:
        Unbatchable: they cannot be computed as one, and why.
    """

    other_networks: ClassVar[dict[str, str]] = {}
    """Attributes with networks that are not learned -> the column of a minibatch that a loss asks them for."""
    batch_size: int
    _losses: TracedLosses
    ALIKE: ClassVar[tuple[str, ...]]
    """Attributes that agents computed as one have in common, numbers that an update loops over."""

    def __init__(self, agents: Sequence[Any]) -> None:
        self.agents = sorted(agents, key=lambda agent: str(options_of(agent.policy.optimizer)))
        first = self.agents[0]
        for name in self.ALIKE:
            setattr(self, name, getattr(first, name))
        networks = [agent.learner.networks for agent in self.agents]
        outside: list[list[nn.Module]] = [[nn.ParameterList(each.learner.outside())] for each in self.agents]
        self.table = ParameterTable([*blocks_of(networks), *([outside] if first.learner.outside() else [])])
        self.gradients = self.table.zeros()
        self.methods = BatchedMethods(self)
        self._accumulates = any(type(m).loss is not Method.loss for each in self.agents for m in each.methods)
        self.networks = BatchedNetworks(networks, self.table, self.gradients)
        self._check_complete()
        self._max_norms = np.array([agent.max_grad_norm for agent in self.agents], np.float32)
        self._gradients = self.gradients.numpy()
        own = [agent.policy.optimizer for agent in self.agents]
        self._has_gradients = False
        vars(self).setdefault("_losses", TracedLosses(self))  # it outlives a rebuild
        self.numbers: Any = vars(self).get("numbers", ())
        """What a traced loss depends on besides tensors."""
        self.optimizer = ROW_OPTIMIZERS[type(own[0])](own, self.table, self.gradients, self._make_way)
        self.policy = self
        for function in ("update", "loss"):  # those of the agents, on this learner
            setattr(self, function, MethodType(getattr(type(first), function), self))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Is the agents' class, so that `super()` in a function of theirs finds its way on this learner, too."""
        return type(self.agents[0])

    def maybe_compile(self, loss: Any) -> Any:
        """Returns `loss`, traced: the same operations without a graph made anew for every minibatch."""
        return partial(self._losses, loss)

    @property
    def anchor(self) -> Tensor:
        """What makes autograd come back to the kernels."""
        return self.networks.anchor

    @contextmanager
    def standing_in(self, networks: dict[str, Any]) -> Iterator[None]:
        """Puts others in the place of networks inside."""
        own = {name: getattr(self, name) for name in networks}
        vars(self).update(networks)
        try:
            yield
        finally:
            vars(self).update(own)

    def set_training_mode(self, mode: bool) -> None:
        """Does nothing: none of the layers that are computed here has a mode."""

    def inputs(self, observations: np.ndarray) -> Tensor:
        """Prepares observations (S, B, ...) for the networks: (S, B, I) float32."""
        x = torch.from_numpy(observations)
        policy = self.agents[0].policy
        if x.dtype != torch.float32 or policy.scales_images:
            x = policy.prepared(x.flatten(0, 1))
        return x.reshape(*observations.shape[:2], -1)

    def method_batch(self, batch: Any) -> list[Batch]:
        """Returns what each run's methods see of a minibatch."""
        return [Batch(partial(Tensor.detach, own)) for own in batch.observations] if self.methods else []

    def clip_gradients(self) -> None:
        """Scales every run's gradient down to its `max_grad_norm`, as torch.nn.utils.clip_grad_norm_ does."""
        # row by row: what a run's norm is rounded to must not depend on how many others there are
        norms = np.sqrt([row @ row for row in self._gradients], dtype=np.float32)
        factors = np.minimum(self._max_norms / (norms + np.float32(1e-6)), np.float32(1.0))
        if not factors.min() >= 1:  # also where one is NaN
            self._gradients *= factors[:, None]

    def follow(self) -> None:
        """Takes over what runs have been told since the last update."""
        if not self.optimizer.follow_options():
            self.rebuild()

    def rebuild(self) -> None:
        """Gathers again what runs have replaced."""
        self.unstack()
        self.__init__(self.agents)  # type: ignore[misc]

    def unstack(self) -> None:
        """Leaves every run an optimizer state of its own again."""
        self.optimizer.give_back()

    def _make_way(self) -> None:
        """Prepares for the next gradients; those of the networks are written over what is there."""
        if not self._has_gradients:  # before the first update a run has none
            for parameter, gradient in self.table.each(self.gradients):
                parameter.grad = gradient
            self._has_gradients = True
        self.networks.overwrites = not self._accumulates
        if self._accumulates:
            self.gradients.zero_()

    def example(self, arguments: list[Any]) -> tuple[Any, list[tuple[Any, ...]]]:
        """Returns a minibatch, and what `loss` takes besides: of all runs, then of each."""
        raise NotImplementedError

    def _check_complete(self) -> None:
        held = {id(parameter) for parameter in self.table.parameters}
        groups = [group for agent in self.agents for group in agent.policy.optimizer.param_groups]
        if held != {id(parameter) for group in groups for parameter in group["params"]}:
            raise Unbatchable("the optimizer trains other parameters than those of the networks")

    def disagreements(self, batch: Any, arguments: Sequence[tuple[Any, ...]]) -> dict[int, str]:
        """Compares the kernels' gradients with autograd's through each run's own modules, on one minibatch.

        Args:
            batch: (S, B, ...); nothing is drawn, and nothing learned from it.
            arguments: what `loss` takes besides: of all runs, then of each.

        Returns:
            The number of a run -> where both differ by more than TOLERANCE, and how far; empty where they agree.
        """
        everybodys, *own = arguments
        self._make_way()
        _loss(self, batch, everybodys).sum().backward()
        found = {id(parameter): gradient for parameter, gradient in self.table.each(self.gradients)}
        differ = {}
        for run, (agent, arguments_of_run) in enumerate(zip(self.agents, own, strict=True)):
            part = type(batch)(*(column if column is None else column[run] for column in batch))
            named = {name: p for name, p in agent.policy.named_parameters() if id(p) in found}
            plain = torch.autograd.grad(_loss(agent, part, arguments_of_run), list(named.values()))
            whole = torch.stack([gradient.norm() for gradient in plain]).norm()
            for (name, parameter), gradient in zip(named.items(), plain, strict=True):
                error = (found[id(parameter)] - gradient).norm()
                if error > TOLERANCE * whole:  # not where it is NaN: a run that diverges finds out itself
                    differ[run] = (
                        f"the gradient of '{name}' by {float(error / whole):.1e} of the whole's norm"
                    )
        return differ


class BatchedMethods:
    """The plasticity methods of all runs; each sees its own run, by the functions by which it sees it alone."""

    def __init__(self, learner: BatchedLearner) -> None:
        self._learner = learner

    def __bool__(self) -> bool:
        return any(agent.methods for agent in self._learner.agents)

    def add_loss(self, loss: Tensor, batches: Sequence[Batch]) -> Tensor:
        """Adds every run's terms to its loss (S,)."""
        if not batches:
            return loss
        own = zip(self._learner.agents, loss.unbind(), batches, strict=True)
        return torch.stack([agent.methods.add_loss(term, batch) for agent, term, batch in own])

    def after_update(self, batches: Sequence[Batch]) -> None:
        """Lets every run's methods act."""
        for agent, batch in zip(self._learner.agents, batches, strict=bool(batches)):
            agent.methods.after_update(batch)
        if batches and not self._learner.optimizer.holds_state:
            self._learner.rebuild()


class BatchedOnPolicy(BatchedLearner):
    """S agents that learn from rollouts."""

    ALIKE = (
        "n_envs",
        "n_steps",
        "n_epochs",
        "batch_size",
        "target_kl",
        "normalize_advantage",
        "action_space",
    )

    def __init__(self, agents: Sequence[Any]) -> None:
        if any(agent.target_kl is not None for agent in agents):
            raise Unbatchable("each run may end its epochs early (target_kl)")
        super().__init__(agents)
        policy = self.agents[0].policy
        self.is_discrete = policy.is_discrete
        for function in ("forward", "evaluate_actions", "predict_values"):
            setattr(self, function, MethodType(getattr(type(policy), function), self))

    @torch.no_grad()
    def act(self, observations: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Answers every run's observations (N, ...) with actions (N, ...), values (N, 1), log-probabilities (N,)."""
        answers = self.forward(self.inputs(_stacked(observations)))  # type: ignore[attr-defined]
        return list(zip(*(answer.numpy() for answer in answers), strict=True))

    @torch.no_grad()
    def values(self, observations: list[np.ndarray]) -> list[Tensor]:
        """Values every run's observations (N, ...): (N, 1)."""
        return list(self.predict_values(self.inputs(_stacked(observations))).unbind())  # type: ignore[attr-defined]

    def learn(self, coefficients: list[Any]) -> list[dict[str, Tensor]]:
        """Runs the agents' `update` on the rollouts of all; returns what each logs."""
        self.rollout_buffer, folded = BatchedRollout(self), _folded(coefficients)
        self.numbers = tuple(coefficients)
        logged = self.update(folded)  # type: ignore[attr-defined]
        self.optimizer.tell_own()
        return [
            {name: value if value.ndim == 0 else value[:, run] for name, value in logged.items()}
            for run in range(len(self.agents))
        ]

    def example(self, coefficients: list[Any]) -> tuple[Any, list[tuple[Any, ...]]]:
        """Returns a minibatch, and what `loss` takes besides: of all runs, then of each."""
        arguments = [_folded(coefficients), *coefficients]
        return BatchedRollout(self).first(self.batch_size), [(each,) for each in arguments]

    def _outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.networks(x)
        if not self.is_discrete:
            self.log_std = outputs["0"][:, None]  # (S, 1, A)
        return outputs["actor"], outputs["critic"]

    def _noise(self, outputs: Tensor) -> Tensor:
        """Draws the noise of every run's actions from its own generator."""
        noise = torch.empty_like(outputs)
        for own, agent in zip(noise.unbind(), self.agents, strict=True):
            agent.policy.fill_noise(own, agent.rng.torch)
        return noise


class BatchedRollout:
    """The rollouts of S runs.

    Raises:
        Unbatchable: they differ in length.
    """

    def __init__(self, learner: BatchedOnPolicy) -> None:
        self._agents = learner.agents
        buffers = [agent.rollout_buffer for agent in self._agents]
        if len({buffer.pos for buffer in buffers}) > 1:
            raise Unbatchable("the rollouts differ in length")
        steps = buffers[0].pos
        names = ("actions", "values", "log_probs", "advantages", "returns")
        columns = [[getattr(buffer, name)[:steps] for buffer in buffers] for name in ("observations", *names)]
        observations, *others = ([own.reshape(-1, *own.shape[2:]) for own in column] for column in columns)
        self._columns = [
            learner.inputs(_stacked(observations)).numpy(),
            *map(np.stack, others),
        ]  # (S, T N, ...)

    def get(self, batch_size: int) -> Iterator[RolloutBufferSamples]:
        """Yields minibatches (S, B, ...) of one epoch, each run's samples in the order that it draws alone."""
        orders = [agent.rollout_buffer.order(agent.rng.numpy) for agent in self._agents]
        rows = np.stack(orders) + np.arange(len(orders))[:, None] * len(orders[0])
        shuffled = (column.reshape(-1, *column.shape[2:])[rows] for column in self._columns)
        parts = (torch.from_numpy(column).split(batch_size, dim=1) for column in shuffled)
        yield from map(RolloutBufferSamples, *parts)

    def first(self, size: int) -> RolloutBufferSamples:
        """Returns the first samples (S, B, ...), drawing nothing."""
        return RolloutBufferSamples(*(torch.from_numpy(column[:, :size]) for column in self._columns))


class BatchedOffPolicy(BatchedLearner):
    """S agents that learn from a replay buffer."""

    ALIKE = ("n_envs", "batch_size", "train_freq", "gradient_steps", "action_space")
    other_networks: ClassVar = {"targets": "next_observations"}
    _vec_normalize_env = None

    def __init__(self, agents: Sequence[Any]) -> None:
        if any(agent.get_vec_normalize_env() is not None for agent in agents):
            raise Unbatchable("each run normalises what it samples")
        if not all(agent.replay_buffer.stores_arrays for agent in agents):
            raise Unbatchable("the replay does not store observations as they come")
        super().__init__(agents)
        self.replay_buffer = BatchedReplay(self)
        gammas = [agent.gamma for agent in self.agents]
        self.gamma = gammas[0] if len(set(gammas)) == 1 else torch.tensor(gammas)[:, None, None]
        targets = [agent.learner.targets for agent in self.agents]
        self.targets = BatchedNetworks(targets, ParameterTable(blocks_of(targets)))

    @torch.no_grad()
    def act(self, observations: list[np.ndarray]) -> list[np.ndarray]:
        """Answers every run's observations (N, ...) with the greedy actions (N,)."""
        return list(self.q_net(self.inputs(_stacked(observations))).numpy().argmax(-1))

    def learn(self, arguments: list[tuple[int, int]]) -> list[Tensor]:
        """Runs the agents' `update` on the replay of all; returns the mean loss of each."""
        losses = self.update(*arguments[0])  # type: ignore[attr-defined]
        self.optimizer.tell_own()
        return list(losses.unbind())

    def example(self, arguments: list[tuple[int, int]]) -> tuple[Any, list[tuple[Any, ...]]]:
        """Returns a minibatch, and what `loss` takes besides: of all runs, then of each."""
        return self.replay_buffer.first(arguments[0][1]), [()] * (len(self.agents) + 1)

    def q_net(self, x: Tensor) -> Tensor:
        """Maps inputs (S, B, I) to the values (S, B, A) of all actions."""
        return self.networks(x)["q"]

    def q_net_target(self, x: Tensor) -> Tensor:
        """Does the same by the target networks."""
        return self.targets(x)["q"]


class BatchedReplay:
    """The replay buffers of S runs."""

    def __init__(self, learner: BatchedOffPolicy) -> None:
        self._learner = learner
        self._buffers = [agent.replay_buffer for agent in learner.agents]

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Returns a minibatch (S, B, ...), every run's rows drawn as it draws them alone."""
        pairs = zip(self._learner.agents, self._buffers, strict=True)
        return self._gathered([buffer.rows(batch_size, agent.rng.numpy) for agent, buffer in pairs])

    def first(self, size: int) -> ReplayBufferSamples:
        """Returns the first transitions (S, B, ...), drawing nothing."""
        return self._gathered(
            [np.arange(size) % (buffer.pos * buffer.n_envs or size) for buffer in self._buffers]
        )

    def _gathered(self, rows: Sequence[np.ndarray]) -> ReplayBufferSamples:
        shape = (len(rows), len(rows[0]))
        first = self._buffers[0]
        observations, after = np.empty((2, *shape, *first.obs_shape), first.observations.dtype)
        actions = np.empty((*shape, 1), first.actions.dtype)
        rewards, dones, timeouts = np.empty((3, *shape), np.float32)
        names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        for name, out in zip(names, (observations, after, actions, rewards, dones, timeouts), strict=True):
            for run, buffer in enumerate(self._buffers):
                array = getattr(buffer, name)
                # "clip": the rows are there, and looking whether they are takes a copy
                array.reshape(-1, *array.shape[2:]).take(rows[run], axis=0, out=out[run], mode="clip")
        now, later = self._learner.inputs(observations), self._learner.inputs(after)
        ended = torch.from_numpy(dones * (1 - timeouts))[..., None]
        return ReplayBufferSamples(
            now, torch.from_numpy(actions), later, ended, torch.from_numpy(rewards)[..., None]
        )


LEARNERS: dict[str, type[BatchedLearner]] = {"on_policy": BatchedOnPolicy, "off_policy": BatchedOffPolicy}
"""What an agent says in `batched_as` -> how agents like it are computed as one."""


def form_of(agent: Any) -> Any:
    """Returns what must be equal for agents to be computed as one; rates, strengths and methods need not be.

    Raises:
        Unbatchable: this agent can only be computed alone.
    """
    options = options_of(agent.policy.optimizer)
    return (
        type(agent),
        str(agent.learner.networks),
        type(agent.policy.optimizer),
        tuple(group.get("isometric") for group in agent.policy.optimizer.param_groups),
        options.get("iso_target"),
        tuple(str(getattr(agent, name)) for name in LEARNERS[agent.batched_as].ALIKE),
        agent.clip_ranges() if hasattr(agent, "clip_ranges") else None,
        None if len(steps_taken(agent.policy.optimizer)) == 1 else id(agent),
    )


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    """Stacks arrays (...) to (S, ...), three times as fast as np.stack."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def _loss(agent: Any, batch: Any, arguments: tuple[Any, ...]) -> Tensor:
    """Computes the loss of a minibatch by the agent's own text."""
    loss = agent.loss(batch, *arguments)
    return loss[0] if isinstance(loss, tuple) else loss


def _folded(coefficients: list[Any]) -> Any:
    """Folds every run's numbers into one tuple: a number where all have the same, else a tensor (S,)."""
    columns = zip(*coefficients, strict=True)
    return type(coefficients[0])(*(c[0] if len(set(c)) == 1 else torch.tensor(c) for c in columns))
