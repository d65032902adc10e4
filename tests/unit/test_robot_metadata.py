"""What a file tells about a MuJoCo robot: equal to Gymnasium's own description, at full precision."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.export import export_onnx
from sb3_ppo_plus.export.metadata import SPEC, load_onnx, read_json, read_metadata
from sb3_ppo_plus.export.robot import describe_robot, flat_keys, observation_terms

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("onnx")

from sb3_ppo_plus.envs import MujocoVecEnv  # noqa: E402
from sb3_ppo_plus.envs.tasks.registry import TASKS  # noqa: E402

SERVO = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <body name="base"><freejoint name="root"/><geom size="0.1" mass="1"/>
      <body name="arm" pos="0 0 0.2"><joint name="shoulder" axis="0 1 0" range="-90 90" limited="true" damping="0.5"/>
        <geom size="0.05" mass="0.1"/>
        <body name="hand" pos="0 0 0.2"><joint name="slider" type="slide" ref="0.123456789012345"/>
          <geom size="0.05" mass="0.1"/></body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="hold" joint="shoulder" kp="123.45678901234" kv="7.5" ctrlrange="-1 1"/>
    <motor name="push" joint="slider" gear="3"/>
  </actuator>
</mujoco>
"""


class FakeEnv:
    """An environment that shows a model and nothing else."""

    def __init__(self, model: object, size: int) -> None:
        self.model, self.observation_space = model, gym.spaces.Box(-1, 1, (size,))

    def get_attr(self, name: str, indices: object = None) -> list[object]:
        return [{"model": self.model, "dt": 0.01, "spec": None}[name]]


@pytest.mark.parametrize("task", TASKS)
def test_terms_are_those_that_gymnasium_declares(task: str) -> None:
    env = gym.make(task)
    robot = describe_robot(DummyVecEnv([lambda: env]))
    assert robot is not None
    sizes = {term["name"]: term["size"] for term in robot["observation_terms"]}
    declared = getattr(env.unwrapped, "observation_structure", None)
    if declared is not None:
        expected = {name: int(size) for name, size in declared.items() if size and name != "skipped_qpos"}
        assert sizes == expected
    assert sum(sizes.values()) == env.observation_space.shape[0]  # type: ignore[index]
    assert robot["control_dt"] == pytest.approx(env.unwrapped.dt)  # type: ignore[attr-defined]
    assert robot == describe_robot(MujocoVecEnv(task, 2))


def test_names_of_elements_follow_the_joints() -> None:
    robot = describe_robot(MujocoVecEnv("Ant-v5", 1))
    assert robot is not None
    qpos, qvel, forces = robot["observation_terms"]
    assert qpos["elements"][:5] == ["root.z", "root.qw", "root.qx", "root.qy", "root.qz"]
    assert qpos["units"][:2] == ["m", "1"] and qpos["units"][-1] == "rad"
    assert qvel["elements"][3] == "root.wx" and qvel["units"][3] == "rad/s"
    assert forces["name"] == "cfrc_ext" and len(forces["bodies"]) == 13


def test_servos_and_motors_at_full_precision() -> None:
    model = mujoco.MjModel.from_xml_string(SERVO)
    robot = describe_robot(FakeEnv(model, model.nq + model.nv))  # type: ignore[arg-type]
    assert robot is not None
    assert robot["joint_names"] == ["shoulder", "slider"] and robot["action_names"] == ["shoulder", "slider"]
    assert [actuator["type"] for actuator in robot["actuators"]] == ["position", "torque"]
    assert robot["action_type"] == "mixed" and robot["actuators"][1]["gear"][0] == 3.0
    assert robot["joint_stiffness"] == [123.45678901234, 0.0] and robot["joint_damping"] == [7.5, 0.0]
    assert robot["default_joint_pos"] == [0.0, 0.123456789012345]
    assert robot["joints"][1]["range"] == pytest.approx([-np.pi / 2, np.pi / 2])
    assert (robot["control_dt"], robot["physics_dt"]) == (0.01, 0.002)
    flat = flat_keys(robot, "my_run")
    assert flat["joint_names"] == "shoulder,slider" and flat["run_path"] == "my_run"
    assert [float(text) for text in flat["joint_stiffness"].split(",")] == [123.45678901234, 0.0]
    assert [float(text) for text in flat["default_joint_pos"].split(",")] == [0.0, 0.123456789012345]
    assert flat["observation_names"] == "obs" and flat["command_names"] == ""


def test_an_observation_of_somebodys_own_is_called_unknown() -> None:
    model = mujoco.MjModel.from_xml_string(SERVO)
    for size in (99, model.nq + model.nv):
        assert observation_terms(model, "Mine-v0", size) == [{"name": "obs", "size": size, "units": "unknown"}]


def test_the_file_of_a_robot_holds_it_all(tmp_path: Path) -> None:
    env = MujocoVecEnv("Hopper-v5", 2, seed=0)
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=64, seed=3).learn(128)
    path = tmp_path / "hopper.onnx"
    export_onnx(model, path, "robot", n_random=20, metadata={"command_names": ["velocity"]})
    flat = read_metadata(load_onnx(path))
    spec = read_json(flat, SPEC)
    assert spec["robot"]["joint_names"][-1] == "foot_joint" and flat["command_names"] == "velocity"
    assert spec["training"]["env_id"] == "Hopper-v5" and spec["training"]["steps"] == 128
    assert spec["training"]["seed"] == 3 and "mujoco" in spec["versions"]
    assert json.loads(json.dumps(spec)) == spec
    wanted = "joint_names joint_stiffness joint_damping default_joint_pos command_names observation_names action_scale"
    assert {*wanted.split(), "run_path"} <= set(flat)
