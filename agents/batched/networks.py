"""The networks of S runs as one function of torch's, whose layers are computed by numpy kernels.

Shapes: S runs, C networks of a run, B batch, I inputs, O outputs, P parameters of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isorl.agents.batched.kernels import NumpyMLP
from isorl.agents.batched.parameters import ParameterTable, Unbatchable


class BatchedNetworks:
    """Computes networks Sequential(Flatten, body, head) of S runs, each network's body in one product per layer.

    Args:
        networks: of every run by name; all of one structure.
        table: their parameters, the blocks of `blocks_of` first; then those of no network, such as log_std.
        gradients: (S, P), where a backward pass puts the parameters' gradients; None: nothing is differentiated.

    Raises:
        Unbatchable: a layer that no kernel computes.
    """

    def __init__(
        self,
        networks: Sequence[dict[str, nn.Sequential]],
        table: ParameterTable,
        gradients: Tensor | None = None,
    ) -> None:
        self.names, self._gradients = list(networks[0]), gradients
        self.overwrites = False
        """Whether the next backward pass may write over the gradients that are there instead of adding to them."""
        own = table.arrays(table.values)
        first, target = list(networks[0].values()), own if gradients is None else table.arrays(gradients)
        (values, *of_heads), (slopes, *to_heads) = own[: len(first) + 1], target[: len(first) + 1]
        outside = zip(own[len(first) + 1 :], target[len(first) + 1 :], strict=True)
        self._outside = [(v[:, 0], g[:, 0]) for both in outside for v, g in zip(*both, strict=True)]
        try:
            self._body = NumpyMLP(first[0][1], values, slopes)
            self._heads = [
                NumpyMLP(network[2], values, slopes, self._body.largest)
                for network, values, slopes in zip(first, of_heads, to_heads, strict=True)
            ]
        except ValueError as unknown:
            raise Unbatchable(str(unknown)) from None
        self.anchor = torch.zeros((), requires_grad=gradients is not None)

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Maps inputs (S, B, I) to outputs (S, B, O) by the networks' names; differentiable by all parameters.

        Parameters of no network (S, *shape) are among the outputs under their numbers, "0", "1", ...
        """
        names = [*self.names, *map(str, range(len(self._outside)))]
        if self._gradients is not None and torch.is_grad_enabled():
            return dict(zip(names, _Layers.apply(self.anchor, self, x), strict=True))
        features = self._body(x.numpy()[:, None])
        outputs = [head(features[:, c : c + 1])[:, 0] for c, head in enumerate(self._heads)]
        outputs += [value for value, _ in self._outside]
        return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

    def forward_with_cache(self, x: np.ndarray) -> tuple[list[Tensor], Any]:
        """Returns the outputs for x (S, B, I), and what `backward` needs of them."""
        body = self._body.forward_with_cache(x[:, None])
        heads = [head.forward_with_cache(body[-1][:, c : c + 1]) for c, head in enumerate(self._heads)]
        outputs = [values[-1][:, 0] for values in heads] + [value.copy() for value, _ in self._outside]
        return list(map(torch.from_numpy, outputs)), (body, heads)

    def backward(self, output_grads: Sequence[np.ndarray], cache: Any) -> None:
        """Puts the parameters' gradients where they belong."""
        body, heads = cache
        before = None if self.overwrites or self._gradients is None else self._gradients.clone()
        self.overwrites = False
        for (_, gradient), found in zip(self._outside, output_grads[len(heads) :], strict=True):
            gradient[...] = found
        of_features = [
            head.backward(gradient[:, None], values)
            for head, gradient, values in zip(self._heads, output_grads, heads, strict=False)
        ]
        gradient = np.concatenate([each.swapaxes(-1, -2) for each in of_features], 1).swapaxes(-1, -2)
        self._body.backward(gradient, body, needs_input_grad=False)
        if before is not None and self._gradients is not None:
            self._gradients.add_(before)


class _Layers(torch.autograd.Function):
    """The kernels as one node of autograd's graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, networks: BatchedNetworks, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs; `anchor` makes autograd come back here."""
        outputs, ctx.cache = networks.forward_with_cache(x.numpy())
        ctx.networks = networks
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[None, None, None]:
        """Lets the kernels put the gradients where they belong."""
        ctx.networks.backward([gradient.numpy() for gradient in output_grads], ctx.cache)
        return None, None, None


def blocks_of(networks: Sequence[dict[str, nn.Sequential]]) -> list[list[list[nn.Module]]]:
    """Sorts the runs' networks into blocks of one structure, block -> run -> modules: all bodies, then each head.

    Raises:
        Unbatchable: networks of another form, or not alike.
    """
    chains = [chain for run in networks for chain in run.values()]
    if any(len(chain) != 3 or not isinstance(chain[0], nn.Flatten) for chain in chains):
        raise Unbatchable("a network is no MLP")
    if len({str(chain[1]) for chain in chains}) != 1:
        raise Unbatchable("the networks are not alike")
    bodies = [[chain[1] for chain in run.values()] for run in networks]
    return [bodies, *([[run[name][2]] for run in networks] for name in networks[0])]
