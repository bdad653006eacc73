"""The state of numpy's random generators, of the new and of the old kind, as plain values that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Chance = np.random.Generator | np.random.RandomState


def state_of(generator: Chance) -> dict[str, Any]:
    """Returns what later draws of `generator` follow from."""
    if isinstance(generator, np.random.RandomState):
        _, keys, *place = generator.get_state()
        return {"keys": np.asarray(keys).astype(np.int64), "place": place}
    return dict(generator.bit_generator.state)


def set_state(generator: Chance, state: Mapping[str, Any]) -> None:
    """Lets `generator` draw on as the one did of which `state_of` was asked."""
    if isinstance(generator, np.random.RandomState):
        generator.set_state(("MT19937", np.asarray(state["keys"]).astype(np.uint32), *state["place"]))
    else:
        generator.bit_generator.state = state
