"""The tasks known by Gymnasium's id."""

from __future__ import annotations

from importlib import import_module

from sb3_ppo_plus.envs.tasks.base import MujocoTask

_MODULE = "sb3_ppo_plus.envs.tasks"
# id: (module, class)
TASKS: dict[str, tuple[str, str]] = {
    "Ant-v5": ("ant", "Ant"),
    "HalfCheetah-v5": ("half_cheetah", "HalfCheetah"),
    "Hopper-v5": ("hopper", "Hopper"),
    "Humanoid-v5": ("humanoid", "Humanoid"),
    "HumanoidStandup-v5": ("humanoid", "HumanoidStandup"),
    "InvertedDoublePendulum-v5": ("pendulums", "InvertedDoublePendulum"),
    "InvertedPendulum-v5": ("pendulums", "InvertedPendulum"),
    "Pusher-v5": ("pusher", "Pusher"),
    "Reacher-v5": ("reacher", "Reacher"),
    "Swimmer-v5": ("swimmer", "Swimmer"),
    "Walker2d-v5": ("hopper", "Walker2d"),
}


def task_class(name: str) -> type[MujocoTask]:
    """
    Find a task by its id.

    :param name: a key of :data:`TASKS`
    :return: its class
    """
    module, attribute = TASKS[name]
    return getattr(import_module(f"{_MODULE}.{module}"), attribute)
