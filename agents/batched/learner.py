"""S agents of one form as one: what an agent's own `update` runs on, with a first dimension S in every tensor.

The weights of all runs lie in one table, of which each run keeps a view: parameters, gradients and moments of a run
stay where policies, methods, diagnostics and checkpoints look for them, and are always up to date. Whatever changes
more than their values (a method at a task switch) unstacks them; the next update builds anew.

Shapes: S runs, N environment copies, B samples of a minibatch, I inputs, A actions, P parameters of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import MethodType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from isorl.agents.batched.optimizer import ROW_OPTIMIZERS, options_of
from isorl.agents.batched.parameters import ParameterTable, Unbatchable
from isorl.agents.batched.traced import Traces, close, traced
from isorl.plasticity.methods import Batch, Method

LOG = logging.getLogger("isorl")
CHECK_EVERY = 500
"""Minibatches after which a traced loss is compared once more with the run's own."""
TOLERANCE = 1e-3
"""How far a run's gradient may be from autograd's through its own modules, relative to its norm."""
SAME = 1e-5
"""How far it may be where it was traced before modules may have changed; beyond, it is traced anew."""
DISAGREE = (
    "isorl.agents.batched and the run's own modules (isorl.agents.policies) differ: %s. "
    "The run goes on with its own modules."
)


class Engine(NamedTuple):
    """What computes a run's updates.

    Attributes:
        name: "batched": numpy for all runs of a process at once; "compiled": torch's compiler; "torch": its modules,
            operation by operation.
        runs: how many runs are computed as one.
        why: the reason.
    """

    name: str
    runs: int
    why: str


class BatchedLearner:
    """Looks like one agent to `update`, the function of the agents' own class, and is its own policy and methods.

    Args:
        agents: fast ones on the CPU with equal `form_of`.
        traces: what has been traced for so many agents of this form.
    """

    batch_size: int
    ALIKE: ClassVar[tuple[str, ...]]
    """Attributes that agents computed as one have in common, numbers that an update loops over."""
    _minibatches = 0  # these two outlive a rebuild
    _own_modules = False
    errors: dict[int, Exception]
    """By agents' ids what their methods have raised in this update; set anew before each."""
    _overwrites = False
    """Whether the next gradients may be written over those that are there instead of being added to them."""

    def __init__(self, agents: Sequence[Any], traces: Traces) -> None:
        self.agents = sorted(agents, key=lambda agent: str(options_of(agent.policy.optimizer)))
        self._traces = traces
        self._gather()
        for name in self.ALIKE:
            setattr(self, name, getattr(self.agents[0], name))
        norms = [np.inf if agent.max_grad_norm is None else agent.max_grad_norm for agent in self.agents]
        self._max_norms = np.array(norms, np.float32)
        self._add_terms = any(type(m).loss is not Method.loss for each in self.agents for m in each.methods)
        self._anchor = torch.zeros((), requires_grad=True)
        self.policy = self.methods = self
        self.update = MethodType(type(self.agents[0]).update, self)

    def _gather(self) -> None:
        """Moves the parameters, gradients and moments of all runs into tables."""
        trained, others = zip(*map(parameters_of, self.agents), strict=True)
        self._names = [*trained[0]]
        self.table = ParameterTable([list(own.values()) for own in trained])
        fixed = ParameterTable([list(own.values()) for own in others])
        views = [*self.table.views(self.table.values), *fixed.views(fixed.values)]
        self._weights = dict(zip((*trained[0], *others[0]), views, strict=True))
        self._arrays = [view.numpy() for view in views]
        self.gradients = self.table.zeros()
        self._gradients = self.gradients.numpy()
        self._has_gradients = False
        own = [agent.policy.optimizer for agent in self.agents]
        self.optimizer = ROW_OPTIMIZERS[type(own[0])](own, self.table, self.gradients, self._make_way)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Is the agents' class, so that `super()` in a function of theirs finds its way on this learner, too."""
        return type(self.agents[0])

    def set_training_mode(self, mode: bool) -> None:
        """Does nothing: none of the layers that are computed here has a mode."""

    def method_batch(self, batch: Any) -> list[Batch]:
        """Returns what each run's methods see of a minibatch; nothing where no run has any."""
        if not any(agent.methods for agent in self.agents):
            return []
        return [agent.method_batch(_part(batch, run)) for run, agent in enumerate(self.agents)]

    def add_loss(self, loss: Tensor, batches: Sequence[Batch]) -> Tensor:
        """Adds the terms of every run's methods to its loss (S,)."""
        if not batches:
            return loss
        own = zip(self.agents, loss.unbind(), batches, strict=True)
        return torch.stack(
            [self._or_left(agent, term, agent.methods.add_loss, term, batch) for agent, term, batch in own]
        )

    def after_update(self, batches: Sequence[Batch]) -> None:
        """Lets every run's methods act."""
        for agent, batch in zip(self.agents, batches, strict=bool(batches)):
            self._or_left(agent, None, agent.methods.after_update, batch)
        if batches and not self.optimizer.holds_state:
            self.rebuild()

    def _or_left(self, agent: Any, otherwise: Any, function: Callable[..., Any], *given: Any) -> Any:
        """Returns what a run's method returns; where it raises, `otherwise`: that run ends, the others go on."""
        try:
            with agent.drawing_as_if_alone():
                return function(*given)
        except Exception as error:
            self.errors.setdefault(id(agent), error)
            return otherwise

    @torch.no_grad()
    def compute(self, function: Callable[..., Sequence[Tensor]], *given: Tensor) -> list[Tensor]:
        """Returns what `function` of an agent and of tensors (...) returns for every run, of tensors (S, ...)."""

        def by_modules() -> list[Tensor]:
            own = [function(agent, *parts) for agent, *parts in zip(self.agents, *given, strict=True)]
            return [torch.stack(results) for results in zip(*own, strict=True)]

        def agrees(trace: tuple[Any, Any]) -> bool:
            return close(trace[0](*arrays), by_modules())

        arrays = [*self._arrays, *(tensor.numpy() for tensor in given)]
        graph, _ = self._graph(function, partial(function, self.agents[0]), given, agrees)
        if graph is None:
            return by_modules()
        return [torch.from_numpy(np.asarray(array)) for array in graph(*arrays)]

    def loss(self, batch: Any, numbers: Any = ()) -> Any:
        """Returns the agents' own loss (S,) of a minibatch (S, B, ...), with terms where it has any.

        Args:
            batch: a named tuple.
            numbers: what the loss takes besides: a named tuple of numbers, or (S,) of them where runs differ.
        """
        loss = self._traced_loss(batch, numbers)
        if not self._own_modules:
            return loss
        own = [self._own_loss(run, batch, numbers) for run in range(len(self.agents))]
        if not isinstance(own[0], tuple):
            return torch.stack(own)
        losses, terms = zip(*own, strict=True)
        return torch.stack(losses), {name: torch.stack([each[name] for each in terms]) for name in terms[0]}

    def _own_loss(self, run: int, batch: Any, numbers: Any) -> Any:
        """Computes the loss of one run by its own modules."""
        return self.agents[run].loss(_part(batch, run), *([_part(numbers, run)] if numbers else []))

    def _traced_loss(self, batch: Any, numbers: Any) -> Any:
        """Returns what `loss` does; of no meaning where the runs compute by their own modules from now on."""
        flat = (*batch, *numbers)
        varying = [number for number, value in enumerate(flat) if isinstance(value, Tensor)]
        given = [flat[number] for number in varying]

        def text(*given: Tensor) -> dict[str, Tensor]:
            values = list(flat)
            for number, value in zip(varying, given, strict=True):
                values[number] = value
            own, rest = type(batch)(*values[: len(batch)]), values[len(batch) :]
            found = self.agents[0].loss(own, *([type(numbers)(*rest)] if rest else []))
            loss, terms = found if isinstance(found, tuple) else (found, {})
            return {"loss": loss, **terms}

        def agrees(trace: tuple[Any, Any]) -> bool:
            graph, names = trace
            gradients, runs = graph(*arrays)[len(names) :], range(len(self.agents))
            return not any(self._difference(run, batch, numbers, gradients, SAME) for run in runs)

        arrays = [*self._arrays, *(tensor.numpy() for tensor in given)]
        constant = tuple(None if isinstance(value, Tensor) else value for value in flat)
        graph, names = self._graph(constant, text, given, agrees, self._names)
        if graph is None:
            return None
        found = graph(*arrays)
        loss, *terms = map(torch.from_numpy, found[: len(names)])
        gradients = found[len(names) :]
        self._minibatches += 1
        if self._minibatches % CHECK_EVERY == 1:
            runs = len(self.agents) if self._minibatches == 1 else 1
            self._check(range(runs), batch, numbers, gradients)
        loss = _Known.apply(self._anchor, loss, partial(self._add, gradients))
        return (loss, dict(zip(names[1:], terms, strict=True))) if terms else loss

    def _graph(
        self,
        name: Any,
        function: Callable[..., Any],
        given: Sequence[Tensor],
        agrees: Callable[[tuple[Any, Any]], bool],
        differentiated: Sequence[str] = (),
    ) -> tuple[Any, Any]:
        """Returns what `traced` does for tensors of these shapes; (None, None) where that is not possible.

        Args:
            name: of the function, unlike others'.
            function: from tensors, given one by one, to tensors.
            given: (S, ...) each.
            agrees: tells of a trace that modules may have changed since whether it is still theirs.
            differentiated: names of weights.
        """
        policy, key = self.agents[0].policy, (name, *(tensor.shape for tensor in given))
        if not self._own_modules:
            try:
                return self._traces.get(
                    key, lambda: traced(policy, function, self._weights, given, differentiated), agrees
                )
            except Exception as error:  # of a text that does what cannot be traced
                reason = f"it cannot be traced: {str(error).splitlines()[0]}"
                LOG.info("updates are computed by torch from now on: %s", reason)
                self._leave(self.agents, reason)
        return None, None

    def _leave(self, agents: Sequence[Any], reason: str) -> None:
        """Lets every run compute by its own modules: here until the update has ended, by itself from then on."""
        self._own_modules = True
        for agent in agents:
            agent.engine = Engine("torch", 1, reason)

    def _check(self, runs: Iterable[int], batch: Any, numbers: Any, gradients: list[np.ndarray]) -> None:
        """Compares gradients with autograd's through each run's own modules; where they differ, it is left."""
        for run in runs:
            if difference := self._difference(run, batch, numbers, gradients):
                LOG.warning(DISAGREE, difference)
                self._leave([self.agents[run]], f"numpy and the modules differ in {difference}")

    def _difference(
        self, run: int, batch: Any, numbers: Any, gradients: list[np.ndarray], tolerance: float = TOLERANCE
    ) -> str | None:
        """Returns where gradients differ from autograd's through the run's own modules; None where they do not."""
        own = self._own_loss(run, batch, numbers)
        loss = own[0] if isinstance(own, tuple) else own
        parameters = self.table.owners[run]
        plain = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        whole = torch.stack([gradient.norm() for gradient in plain]).norm()
        errors = [(torch.from_numpy(a[run]) - b).norm() for a, b in zip(gradients, plain, strict=True)]
        error, place = torch.stack(errors).max(0)
        if whole.isfinite() and not error <= tolerance * whole:  # a run that diverges finds out itself
            return f"the gradient of '{self._names[place]}' by {float(error / whole):.1e} of the whole's norm"
        return None

    def _add(self, gradients: list[np.ndarray], by_loss: Tensor) -> None:
        """Puts gradients where they belong, scaled by that of the loss (S,)."""
        there, scale = self._gradients[:, : self.table.size], by_loss.numpy()[:, None]
        out = there if self._overwrites else None
        found = np.concatenate([gradient.reshape(len(gradient), -1) for gradient in gradients], 1, out=out)
        if not (scale == 1).all():
            found *= scale
        if not self._overwrites:
            there += found
        self._overwrites = False

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
        self.__init__(self.agents, self._traces)  # type: ignore[misc]

    def unstack(self) -> None:
        """Leaves every run an optimizer state of its own again."""
        self.optimizer.give_back()

    def _make_way(self) -> None:
        """Prepares for the next gradients; where nothing is added to them, they are written over what is there."""
        if not self._has_gradients:  # before the first update a run has none
            for parameter, gradient in self.table.each(self.gradients):
                parameter.grad = gradient
            self._has_gradients = True
        self._overwrites = not (self._add_terms or self._own_modules)
        if not self._overwrites:
            self.gradients.zero_()


class _Known(torch.autograd.Function):
    """A loss whose gradients are known before they are asked for."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, loss: Tensor, add: Callable[[Tensor], None]) -> Tensor:
        """Returns the loss (S,); `anchor` makes autograd come back here."""
        ctx.add = add
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[None, None, None]:
        """Adds the gradients, scaled by that of the loss."""
        add, ctx.add = ctx.add, None  # what is freed is still in the processor's cache for the next minibatch
        add(by_loss)
        return None, None, None


def parameters_of(agent: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parameters of a policy by name: those that are trained, in the optimizer's order, and the others."""
    names = {id(parameter): name for name, parameter in agent.policy.named_parameters()}
    held = [parameter for group in agent.policy.optimizer.param_groups for parameter in group["params"]]
    if not names.keys() >= set(map(id, held)):
        raise Unbatchable("the optimizer trains other parameters than those of the networks")
    if not all(parameter.requires_grad for parameter in agent.policy.parameters()):
        raise Unbatchable("some of its weights are frozen")
    trained = {names[id(parameter)]: parameter for parameter in held}
    return trained, {name: p for name, p in agent.policy.named_parameters() if name not in trained}


def _part(columns: Any, run: int) -> Any:
    """Returns one run's part of a named tuple of tensors (S, ...) and others."""
    return type(columns)(*(each[run] if isinstance(each, Tensor) else each for each in columns))
