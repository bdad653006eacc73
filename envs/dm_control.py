"""DeepMind's control suite by Gymnasium ids, dm_control/walker-walk-v0 and so on, through the package `shimmy`.

Observations are dictionaries: a task flattens them by `wrappers: [FlattenObservation]`. An episode has 1,000 agent
steps and ends by its time limit alone, every reward lies between 0 and 1. A saved run plays its episode again.
"""

from __future__ import annotations

import importlib.util
import warnings

from isorl.configs import UserError


def register() -> None:
    """Registers the suite's ids; called again, does nothing.

    Raises:
        UserError: dm_control or shimmy is not installed, or the MuJoCo that is cannot build its models.
    """
    if not all(map(importlib.util.find_spec, ("dm_control", "shimmy"))):
        raise UserError("dm_control is not installed. Install it with: pip install -e '.[dmc]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine without a screen, on which nothing has to be drawn
        try:
            import dm_control.suite
            import shimmy  # noqa: F401  registers what it finds installed

            dm_control.mujoco.Physics.from_xml_string("<mujoco/>")  # an older MuJoCo fails here
        except Exception as error:  # of a MuJoCo that this dm_control does not know, too
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"dm_control does not work with the MuJoCo that is installed: {reason}. Install it with: "
                "pip install -e '.[dmc]', apart from Meta-World, which needs an older one."
            ) from None
