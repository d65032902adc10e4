"""sb3_ppo_plus.runs.ids and native: which runs step on native threads, and tasks of one's own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan, VecNormalize

from sb3_ppo_plus.envs.processes import ProcessVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs import native
from sb3_ppo_plus.runs.config import RunConfig, config_from_mapping
from sb3_ppo_plus.runs.envs import make_env, make_eval_env, make_training_env, probe_spaces
from sb3_ppo_plus.runs.ids import check_env_id, find_task, uses_mujoco
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.native import choose_vec_env, make_native, warn_if_slower, why_not_native
from sb3_ppo_plus.runs.prepare import resolve

needs_native = pytest.mark.skipif(why_not_native() is not None, reason="MujocoVecEnv cannot be imported")
CHEETAH = RunConfig("HalfCheetah-v5")
WRAPPER = "gymnasium.wrappers.ClipAction"
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
ROBOT = '''
import torch as th
from sb3_ppo_plus.envs import MujocoTask, Outcome

XML = """<mujoco><worldbody><body><joint name="j" type="slide" axis="1 0 0"/><geom size=".1"/></body></worldbody>
<actuator><motor joint="j" ctrlrange="-1 1"/></actuator></mujoco>"""

class Slider(MujocoTask):
    def __init__(self, goal=0.0, max_episode_steps=7):
        super().__init__(XML, frame_skip=2, max_episode_steps=max_episode_steps)
        self.goal = goal
    def evaluate(self, data, action, before, after):
        return Outcome(-(data.qpos[:, 0] - self.goal).abs(), None, {})

class Forgetful(Slider):
    def evaluate(self, data, action, before, after):
        return Outcome(th.zeros(1), None, {})

class Open(Slider):
    def __init__(self, **anything):
        super().__init__()
        self.anything = anything

def slider(): ...
'''


@pytest.fixture
def slider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with tasks of somebody's own."""
    (tmp_path / "some_robot.py").write_text(ROBOT)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "some_robot:Slider"
    sys.modules.pop("some_robot", None)


@pytest.fixture
def old_mujoco(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> type:
        raise ImportError("MujocoVecEnv needs MuJoCo 3.17 or newer; found: 3.3")

    monkeypatch.setattr(native, "_mujoco_vec_env", refuse)


# ------------------------------------------------ which way of stepping


@needs_native
def test_auto_is_native_for_tasks_and_dummy_for_everything_else(slider: str) -> None:
    assert choose_vec_env(CHEETAH) == "native"
    assert choose_vec_env(RunConfig(slider)) == "native"
    assert choose_vec_env(RunConfig("CartPole-v1")) == "dummy"
    assert choose_vec_env(RunConfig("HalfCheetah-v4")) == "dummy"
    assert choose_vec_env(RunConfig("HalfCheetah-v5", env_wrapper=WRAPPER)) == "dummy"
    assert choose_vec_env(RunConfig("gymnasium:HalfCheetah-v5")) == "dummy"


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_what_was_chosen_is_kept(kind: str) -> None:
    assert choose_vec_env(RunConfig("HalfCheetah-v5", vec_env=kind)) == kind


@pytest.mark.usefixtures("old_mujoco")
def test_an_old_mujoco_steps_through_gymnasium_and_says_why_it_is_slower(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_vec_env(CHEETAH) == "dummy"
    pytest.importorskip("mujoco")
    warn_if_slower(RunConfig("CartPole-v1"))
    warn_if_slower(RunConfig("HalfCheetah-v5", vec_env="dummy"))
    assert caplog.messages == []
    warn_if_slower(CHEETAH)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "HalfCheetah-v5 is stepped by Gymnasium" in caplog.text
    assert "needs MuJoCo 3.17" in caplog.text


@needs_native
def test_no_warning_where_it_is_native(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_slower(CHEETAH)
    assert caplog.messages == []


@pytest.mark.usefixtures("old_mujoco")
def test_native_without_a_new_mujoco_names_what_to_install(slider: str) -> None:
    for config in (RunConfig("HalfCheetah-v5", vec_env="native"), RunConfig(slider)):
        with pytest.raises(InvalidArgument, match=r"cannot be stepped on native threads: MujocoVecEnv needs MuJoCo 3"):
            choose_vec_env(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"env": "CartPole-v1", "vec_env": "native"}, "CartPole-v1 is neither one of Gymnasium's .* dummy or subproc"),
        ({"vec_env": "native", "env_wrapper": WRAPPER}, "use a vec_env_wrapper instead, or give vec_env dummy"),
        ({"env": "some_robot:Slider", "vec_env": "dummy"}, "vec_env is 'dummy', but some_robot:Slider is a MujocoTask"),
        ({"env": "some_robot:Slider", "vec_env": "subproc"}, "leave vec_env at auto"),
        ({"env": "some_robot:Slider", "env_wrapper": WRAPPER}, "use a vec_env_wrapper instead$"),
    ],
)
@pytest.mark.usefixtures("slider")
def test_what_native_threads_cannot_do_is_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        probe_spaces(config_from_mapping({"env": "HalfCheetah-v5", **values}))


@needs_native
def test_the_resolved_word_is_written_and_read_back(tmp_path: Path) -> None:
    resolved = resolve(assemble("HalfCheetah-v5"), VECTOR)
    assert resolved.vec_env == "native"
    resolved.write(tmp_path / "config.yml", "")
    assert yaml.safe_load((tmp_path / "config.yml").read_text())["vec_env"] == "native"
    again = assemble(config_file=tmp_path / "config.yml")
    assert again == resolved == resolve(again, VECTOR)
    assert resolve(assemble("HalfCheetah-v5", settings=[f"env_wrapper={WRAPPER}"]), VECTOR).vec_env == "dummy"


# ------------------------------------------------ building them


@needs_native
def test_training_and_evaluation_are_native_with_everything_around_them() -> None:
    from sb3_ppo_plus.envs import MujocoVecEnv

    wrapper = "stable_baselines3.common.vec_env.VecCheckNan"
    settings = {
        "vec_env_wrapper": wrapper,
        "normalize": {"gamma": 0.9},
        "frame_stack": 2,
        "env_kwargs": {"frame_skip": 3},
    }
    config = config_from_mapping({"env": "HalfCheetah-v5", "n_envs": 3, **settings})
    for env, n_envs in ((make_training_env(config), 3), (make_eval_env(config, 2, seed=7), 2)):
        assert isinstance(env.unwrapped, MujocoVecEnv)
        assert (env.num_envs, env.observation_space.shape) == (n_envs, (34,))
        assert env.unwrapped.task.frame_skip == 3
        inside = [env.venv, env.venv.venv]  # type: ignore[attr-defined]
        assert [type(entry) for entry in inside] == [VecNormalize, VecCheckNan]
        env.close()


@needs_native
def test_native_environments_are_those_of_gymnasium_with_the_same_seeds() -> None:
    firsts = []
    for kind in ("native", "dummy"):
        env = make_env(RunConfig("HalfCheetah-v5", vec_env=kind), 2, 11, {})
        firsts.append(env.reset())
        env.close()
    np.testing.assert_array_equal(*firsts)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_processes_are_used_in_training_only() -> None:
    config = RunConfig("CartPole-v1", vec_env="subproc", n_envs=1)
    env, eval_env = make_training_env(config), make_eval_env(config, 1, seed=1)
    assert isinstance(env, ProcessVecEnv)
    assert isinstance(eval_env, DummyVecEnv)
    env.close()


def test_sb3s_processes_take_their_place_elsewhere_and_end_in_the_middle_of_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "killpg", raising=False)
    env = make_training_env(RunConfig("CartPole-v1", vec_env="subproc", n_envs=1))
    assert isinstance(env, SubprocVecEnv)
    # Ctrl-C in the middle of a step: the answer was read, and the environment does not know.
    env.reset()
    env.step_async(np.zeros(1, np.int64))
    env.remotes[0].recv()
    assert env.waiting
    env.close()
    assert [process.exitcode for process in env.processes] == [0]


@needs_native
@pytest.mark.parametrize(
    ("env_kwargs", "message"),
    [
        ({"ctrl_cost": 1.0}, "HalfCheetah-v5 has no argument 'ctrl_cost'"),
        ({"reset_noise_scale": -1.0}, "reset_noise_scale"),
        ({"action_delay": -1}, "action_delay"),
        ({"randomization": {"body_mas": {"scale": [0.5, 2.0]}}}, "body_mas"),
        ({"xml_file": "no_such.xml"}, "there is no MJCF file 'no_such.xml'"),
        ({"n_envs": 4}, "env_kwargs.n_envs is 4, but n_envs belongs to the run; give it beside env_kwargs"),
    ],
)
def test_wrong_arguments_of_a_native_environment_are_named(env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        probe_spaces(RunConfig("HalfCheetah-v5", env_kwargs=env_kwargs))


@needs_native
def test_options_of_the_vectorized_environment_reach_it() -> None:
    options = {"max_episode_steps": 3, "n_threads": 1, "ctrl_cost_weight": 0.5, "observation_noise": 0.1}
    env = make_native(CHEETAH, 2, 0, options)
    assert (env.max_episode_steps, env.task.ctrl_cost_weight) == (3, 0.5)  # type: ignore[attr-defined]
    quiet = make_native(CHEETAH, 2, 0, {})
    assert not np.array_equal(env.reset(), quiet.reset())
    for each in (env, quiet):
        each.close()


# ------------------------------------------------ a task of one's own


@needs_native
def test_a_task_of_ones_own_gets_its_arguments_and_the_engine_the_rest(slider: str) -> None:
    env = make_native(RunConfig(slider), 2, 5, {"goal": 0.5, "max_episode_steps": 3, "action_delay": 1})
    assert (type(env.task).__name__, env.task.goal, env.max_episode_steps) == ("Slider", 0.5, 3)  # type: ignore[attr-defined]
    assert env.num_envs == 2
    env.close()
    anything = make_native(RunConfig("some_robot:Open"), 1, None, {"color": "red", "max_episode_steps": 4})
    assert anything.task.anything == {"color": "red"}  # type: ignore[attr-defined]
    assert anything.max_episode_steps == 4
    anything.close()
    observation_space, action_space = probe_spaces(RunConfig(slider))
    assert (observation_space.shape, action_space.shape) == ((2,), (1,))


@needs_native
@pytest.mark.parametrize(
    ("env", "env_kwargs", "message"),
    [
        ("Slider", {"gaol": 1.0}, r"env_kwargs\.gaol: neither some_robot:Slider nor MujocoVecEnv .* did you mean goal"),
        ("Slider", {"seed": 3}, r"env_kwargs\.seed is 3, but seed belongs to the run"),
        ("Slider", {"observation_noise": -1.0}, "observation_noise"),
        ("Forgetful", {}, r"the reward of Forgetful\.evaluate\(\) gave \[1\]"),
    ],
)
@pytest.mark.usefixtures("slider")
def test_wrong_arguments_of_ones_own_task_are_named(env: str, env_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        probe_spaces(RunConfig(f"some_robot:{env}", env_kwargs=env_kwargs))


@needs_native
def test_a_task_that_cannot_be_made_says_why(tmp_path: Path, slider: str) -> None:
    (tmp_path / "some_robot.py").write_text(ROBOT.replace("goal=0.0", "goal"))
    with pytest.raises(InvalidArgument, match=r"some_robot:Slider cannot be built with env_kwargs=\{\}.*'goal'"):
        probe_spaces(RunConfig(slider))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("some_robot:Slidr", "unknown environment 'some_robot:Slidr'; did you mean Slider"),
        ("some_robot:slider", "slider is not a subclass of sb3_ppo_plus.envs.MujocoTask"),
        ("some_robot.py:Slider", "module 'some_robot.py' cannot be imported .*; write some_robot:Slider"),
        ("some_robot:Zzzz", "write module:EnvId when another module registers it, module:Class for a MujocoTask"),
        ("broken_robot:Slider", r"'broken_robot' cannot be imported \(ZeroDivisionError: division by zero\)"),
    ],
)
@pytest.mark.usefixtures("slider")
def test_an_id_that_leads_nowhere_is_explained(env_id: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken_robot.py").write_text("1 / 0")
    with pytest.raises(InvalidArgument, match=message):
        check_env_id(env_id)


def test_a_module_that_registers_its_environment_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    (tmp_path / "cart_maker.py").write_text(
        f"import gymnasium as gym\ngym.register('Cart-v0', entry_point='{entry}')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_task("cart_maker:Cart-v0") is None
    assert probe_spaces(RunConfig("cart_maker:Cart-v0"))[0].shape == (4,)
    gym.registry.pop("Cart-v0")


def test_mujoco_is_known_by_id_module_or_entry_point(slider: str) -> None:
    gym.register("Reacher3000-v0", entry_point="gymnasium_robotics.envs.fetch.reach:MujocoFetchReachEnv")
    robots = ["HalfCheetah-v5", "HalfCheetah-v4", "Reacher3000-v0", "dm_control/cheetah-run-v0", slider]
    assert [env_id for env_id in robots if not uses_mujoco(env_id)] == []
    assert not uses_mujoco("CartPole-v1")
    gym.registry.pop("Reacher3000-v0")


def test_a_block_may_have_the_full_name(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo.yml"
    zoo.write_text("default: {n_envs: 2}\nHalfCheetah-v5: {n_envs: 3}\nother:HalfCheetah-v5: {n_envs: 4}\n")
    found = [
        assemble(name, zoo_file=zoo).n_envs for name in ("HalfCheetah-v5", "other:HalfCheetah-v5", "a:HalfCheetah-v5")
    ]
    assert found == [3, 4, 3]
    found = [assemble(name, zoo).n_envs for name in ("other:HalfCheetah-v5", "a:HalfCheetah-v5", "b:New")]
    assert found == [4, 3, 2]
