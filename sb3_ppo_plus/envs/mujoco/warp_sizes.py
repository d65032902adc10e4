"""How much room contacts and constraints need on a GPU, which cannot make more while it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sb3_ppo_plus.envs.mujoco.bindings import mujoco

# Physics steps of an episode that is tried: a robot that acts at random has fallen by then.
_STEPS = 500
# Physics steps that an action is held, for each episode: pushed for longer, robots get to other places.
_HELD = (1, 5, 25, 125)
# Room over what was seen, since a policy that learns gets to where random actions do not; for contacts also because
# pairs of geoms that may touch, several times as many as do, take the same room for a moment. It costs memory only.
_CONTACT_MARGIN, _ROW_MARGIN = 4, 2
_LEAST = 16


class Sizes(NamedTuple):
    """
    Room for each simulation.

    :param nconmax: contacts, on average over the simulations, which share them
    :param njmax: rows of constraints, of any simulation
    """

    nconmax: int
    njmax: int


def probe_sizes(model: mujoco.MjModel, starts: tuple[np.ndarray, ...]) -> Sizes:
    """
    Let robots act at random in MuJoCo itself, and count.

    :param model: the compiled model
    :param starts: positions [m, nq] and velocities [m, nv] to begin from
    :return: room for several times what was seen
    """
    contacts = rows = 0
    low, high = model.actuator_ctrlrange.T
    rng = np.random.default_rng(0)
    data = mujoco.MjData(model)
    for episode, held in enumerate(_HELD):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = (values[episode % len(values)] for values in starts)
        for step in range(_STEPS):
            if step % held == 0:
                data.ctrl[:] = rng.uniform(low, high)
            mujoco.mj_step(model, data)
            contacts, rows = max(contacts, int(data.ncon)), max(rows, int(data.nefc))
    return Sizes(_rounded(_CONTACT_MARGIN * contacts), _rounded(_ROW_MARGIN * rows))


def find_sizes(model: mujoco.MjModel, starts: tuple[np.ndarray, ...], given: Mapping[str, int | None]) -> Sizes:
    """
    :param model: the compiled model
    :param starts: positions [m, nq] and velocities [m, nv] to begin from
    :param given: sizes that the user knows better, by name; None where a probe decides
    :return: room for each simulation
    """
    known = {name: size for name in Sizes._fields if (size := given.get(name)) is not None}
    return Sizes(**known) if len(known) == len(Sizes._fields) else probe_sizes(model, starts)._replace(**known)


def _rounded(size: int) -> int:
    # A multiple of 8, so that rows of memory begin at even places.
    return -(-max(size, _LEAST) // 8) * 8
