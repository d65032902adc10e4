"""From the socket to the optimizer and back into the game: what is learned, exported and played again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure
from unity_games import make_game, player_log

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import TensorVecNormalize
from sb3_ppo_plus.export import OnnxPolicy, export_onnx
from sb3_ppo_plus.features import VisualExtractor

pytest.importorskip("onnx")


def returns_of(env: Any, act: Any, n_episodes: int) -> list[float]:
    """Play whole episodes in the game; the first of each agent began before anybody acted."""
    obs, returns = env.reset(), []
    started = np.zeros(env.num_envs, bool)
    while len(returns) < n_episodes:
        obs, _, dones, infos = env.step(act(obs))
        for row in np.flatnonzero(dones):
            if started[row]:
                returns.append(infos[row]["episode"]["r"])
            started[row] = True
    return returns


def learner(env: Any, **overrides: Any) -> PPOPlus:
    arguments = {"n_steps": 256, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3, "seed": 0, "device": "cpu"}
    policy = overrides.pop("policy", "MlpPolicy")
    return PPOPlus(policy, env, **{**arguments, **overrides})


def sighted(env: Any, **overrides: Any) -> PPOPlus:
    sees = {"features_extractor_class": VisualExtractor, "features_extractor_kwargs": {"cnn_output_dim": 64}}
    return learner(env, policy="MultiInputPolicy", policy_kwargs=sees, **overrides)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_balancing_is_learned_and_the_exported_file_balances_in_the_game(n_workers: int, tmp_path: Path) -> None:
    env = make_game(tmp_path, "balance", {"agents": 8 // n_workers}, n_workers=n_workers)
    model = learner(env).learn(60_000)
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 19.0
    report = export_onnx(model, tmp_path / "policy.onnx", "mlagents", n_random=500)
    assert report.verification.passed
    env.close()
    file = OnnxPolicy(tmp_path / "policy.onnx")
    game = make_game(tmp_path, "balance", {"agents": 8}, seed=77)
    from_file = returns_of(game, lambda obs: file.predict(obs)[0], 40)
    from_model = returns_of(game, lambda obs: model.predict(obs, deterministic=True)[0], 40)
    game.close()
    assert np.mean(from_file) > 19.0
    assert abs(np.mean(from_file) - np.mean(from_model)) < 0.5


@pytest.mark.slow
def test_hybrid_actions_of_mixed_rhythms_are_learned_and_exported(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"periods": "1,2,3", "agents": 12})
    # numbers of agents and episodes are among what they see
    normalized = TensorVecNormalize(env, norm_reward=False)
    model = learner(normalized, gamma=0.5, learning_rate=2e-3).learn(100_000)
    export_onnx(model, tmp_path / "policy.onnx", "mlagents", n_random=500)
    file = OnnxPolicy(tmp_path / "policy.onnx")
    by_chance = returns_of(env, lambda obs: np.array([env.action_space.sample() for _ in obs]), 60)
    from_file = returns_of(env, lambda obs: file.predict(obs)[0], 60)
    env.close()
    assert np.mean(from_file) > 1.5 * np.mean(by_chance)
    lengths = np.mean([5 + number % 7 for number in range(12)])
    assert np.mean(from_file) > 0.85 * lengths


def test_masked_actions_are_never_sent(tmp_path: Path) -> None:
    """The game itself reports an action that it had forbidden."""
    env = make_game(tmp_path, "grid", {"agents": 8})
    model = sighted(env, n_steps=64, batch_size=128, n_epochs=1)
    assert model.takes_masks
    model.learn(2048)
    # nor by the exported file, which draws within the masks that the game gives it
    export_onnx(model, tmp_path / "policy.onnx", "mlagents", n_random=200)
    file = OnnxPolicy(tmp_path / "policy.onnx")
    returns_of(env, lambda obs: file.predict(obs, deterministic=False, action_masks=env.action_masks())[0], 50)
    env.close()
    assert not any("violations" in str(entry.get("statistic")) for entry in player_log(tmp_path))
    # and without masks it does
    env = make_game(tmp_path, "grid", {"agents": 8})
    sighted(env, n_steps=64, batch_size=128, n_epochs=1, use_masking=False).learn(512)
    env.close()
    assert any("violations" in str(entry.get("statistic")) for entry in player_log(tmp_path))


def test_the_games_statistics_are_logged(tmp_path: Path) -> None:
    env = make_game(tmp_path, "balance", {"agents": 4})
    model = learner(env, n_steps=64, batch_size=64, n_epochs=1)
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    model.learn(64 * 4 * 3)
    env.close()
    rows = list(csv.DictReader((tmp_path / "log" / "progress.csv").open()))
    drops = sum(float(row["Balance/drops"] or 0.0) for row in rows)
    assert len(rows) == 3 and drops == int(drops) and drops >= 3


@pytest.mark.parametrize("wrap", [lambda env: env, TensorVecNormalize], ids=["bare", "normalized"])
def test_one_seed_gives_one_training(wrap: Any, tmp_path: Path) -> None:
    models = []
    for _ in range(2):
        env = wrap(make_game(tmp_path, "echo", {"periods": "1,2,3", "agents": 4}, n_workers=2))
        models.append(learner(env, n_steps=64, batch_size=64, n_epochs=2).learn(64 * 8 * 2))
        env.close()
    for one, other in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        assert th.equal(one, other)
