"""MuJoCo-Warp on a GPU: the contract, a step that nobody waits for, and the numbers of its CPU device."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th

pytest.importorskip("mujoco.batch", reason="MuJoCo 3.17 or newer is not installed")
pytest.importorskip("mujoco_warp", reason="MuJoCo-Warp is not installed: pip install sb3_ppo_plus[warp]")

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.contract import TensorVecEnvContract

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not th.cuda.is_available(), reason="there is no CUDA device"),
]


def make(task: str, n_envs: int, device: str, seed: int | None = 3, **options: Any) -> Any:
    return MujocoVecEnv(task, n_envs, seed, engine="warp", device=device, **options)


class Contract(TensorVecEnvContract):
    """A task by its id; a GPU sums in any order, so numbers are equal to rounding."""

    task: ClassVar[str]
    device = "cuda"
    tolerance = 1e-3
    n_steps = 20

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return make(self.task, n_envs, "cuda", seed, max_episode_steps=9, engine_options={"deterministic": True})


class TestHopper(Contract):
    task = "Hopper-v5"


class TestAnt(Contract):
    task = "Ant-v5"


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5", "Humanoid-v5", "Pusher-v5"])
def test_a_step_makes_nobody_wait(task: str) -> None:
    randomization = {"body_mass": {"scale": [0.8, 1.2]}}
    env = make(task, 256, "cuda", randomization=randomization, action_delay=[0, 2], observation_noise=0.01)
    env.reset_tensors()
    actions = th.zeros(256, *env.action_space.shape, device="cuda")
    env.step_tensors(actions)
    th.cuda.synchronize()
    th.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(70):
            step = env.step_tensors(actions)
    finally:
        th.cuda.set_sync_debug_mode("default")
    assert step.obs.isfinite().all()


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Hopper-v5", "Humanoid-v5"])
def test_a_step_from_equal_states_is_that_of_the_cpu_device(task: str) -> None:
    host, gpu = (make(task, 16, device) for device in ("cpu", "cuda"))
    host.reset_tensors()
    gpu.reset_tensors()
    rng, space = np.random.default_rng(0), host.action_space
    for _ in range(20):
        gpu.load_state_dict(host.state_dict())
        actions = th.from_numpy(rng.uniform(space.low, space.high, (16, *space.shape)).astype(np.float32))
        theirs, ours = host.step_tensors(actions), gpu.step_tensors(actions.cuda())
        assert th.equal(ours.terminated.cpu(), theirs.terminated)
        th.testing.assert_close(ours.rewards.cpu(), theirs.rewards, rtol=1e-3, atol=1e-3)


def test_what_runs_out_of_room_arrives_at_the_host() -> None:
    env = make("HalfCheetah-v5", 64, "cuda", engine_options={"nconmax": 1, "njmax": 4})
    env.reset_tensors()
    for _ in range(200):
        env.step_tensors(th.rand(64, 6, device="cuda") * 2 - 1)
    th.cuda.synchronize()
    assert env.take_log().get("env/constraint_overflows", 0) > 0


def test_training_on_it() -> None:
    env = make("HalfCheetah-v5", 256, "cuda")
    model = PPOPlus("MlpPolicy", env, n_steps=16, batch_size=1024, seed=0, device="cuda")
    model.learn(3 * 16 * 256)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
