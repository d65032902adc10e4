"""Train with normalized observations, export, prove, and play the file without torch's policy."""

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.export import OnnxPolicy, export_onnx

env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=4, seed=0))
model = PPOPlus("MlpPolicy", env, n_steps=256, gamma=0.95, learning_rate=1e-3, seed=0)
model.learn(100_000)

# The normalizer's statistics go into the file; it takes what the environment gives.
print(export_onnx(model, "pendulum.onnx").text())

policy, pendulum = OnnxPolicy("pendulum.onnx"), gym.make("Pendulum-v1")
observation, _ = pendulum.reset(seed=0)
total, ended = 0.0, False
while not ended:
    observation, reward, terminated, truncated, _ = pendulum.step(policy.act(observation))
    total += float(reward)
    ended = terminated or truncated
print(f"return of one episode: {total:.1f}")
