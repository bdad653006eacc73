"""Methods that are an activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from isorl.plasticity.methods.base import Method
from isorl.plasticity.networks.spec import NetworkSpec

REPLACEABLE = ("relu", "tanh", "identity")


@dataclass
class ActivationMethod(Method):
    """Puts `activation` in the place of ReLU or tanh."""

    activation: ClassVar[str]

    @property
    def claims(self) -> frozenset[str]:
        """Claims the activation."""
        return frozenset({"the activation"})

    def network(self, spec: NetworkSpec) -> NetworkSpec:
        """Returns `spec` with the activation.

        Raises:
            ValueError: the network was chosen for its activation.
        """
        if spec.activation not in (*REPLACEABLE, self.activation):
            raise ValueError(
                f"Method '{self.activation}' and network '{spec.activation}' cannot combine: both decide the "
                "activation. Use network=relu."
            )
        return replace(spec, activation=self.activation)
