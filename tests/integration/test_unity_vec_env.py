"""What a Unity game looks like from SB3: rows, spaces, groups, others, parameters, settings, workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from unity_games import make_build, make_game, player_log

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import HybridSpace, UnityVecEnv
from sb3_ppo_plus.errors import InvalidArgument


def roll(env: Any, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random steps; gives all infos of rows that ended, each with its row."""
    env.action_space.seed(seed)
    env.reset()
    ended = []
    for _ in range(n):
        _, _, dones, infos = env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))
        ended += [{**info, "row": row} for row, info in enumerate(infos) if dones[row]]
    return ended


# ------------------------------------------------ spaces and observations


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("continuous", spaces.Box(-1, 1, (2,))),
        ("branch", spaces.Discrete(4)),
        ("branches", spaces.MultiDiscrete([3, 2])),
        ("hybrid", HybridSpace(spaces.Box(-1, 1, (2,)), [3, 2])),
    ],
)
def test_action_spaces(kind: str, expected: spaces.Space, tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"actions": kind, "agents": 2})
    assert env.action_space == expected
    masks = env.action_masks()
    assert masks is None if kind == "continuous" else masks.shape == (2, 4 if kind == "branch" else 5)
    assert not player_log(tmp_path) or not any("error" in entry for entry in player_log(tmp_path))
    env.close()


@pytest.mark.parametrize("options", [{}, {"layout": "hwc"}, {"png": True}, {"layout": "hwc", "png": True}], ids=str)
@pytest.mark.parametrize("images", ["uint8", "float32"])
def test_many_sensors_keep_the_games_order_whatever_the_images_layout(
    options: dict[str, Any], images: str, tmp_path: Path
) -> None:
    env = make_game(tmp_path, "sensors", {"agents": 3, **options}, images=images)
    assert list(env.observation_space.spaces) == [f"obs_{index:02d}" for index in range(12)]
    obs = env.reset()
    assert env.observation_space.contains({key: value[0] for key, value in obs.items()})
    for _ in range(12):
        number, decision = obs["obs_00"][:, 0].astype(int), obs["obs_00"][:, 2].astype(int)
        for index in (1, 2, 9, 10, 11):
            expected = np.stack([np.full(3, index), number, decision], axis=1)
            assert np.array_equal(obs[f"obs_{index:02d}"], expected)
        full = 255 if images == "uint8" else 1.0
        for row in range(3):
            image = obs["obs_05"][row]
            assert image.shape == (3, 6, 5)
            # green is lit in one place that says who sees it when; blue counts decisions
            lit = np.argwhere(image[1] == full).tolist()
            assert lit == [[decision[row] % 6, number[row] % 5]]
            assert np.allclose(image[2], decision[row] / 255 * full, atol=1e-6)
            entities = obs["obs_08"][row]
            assert entities.shape == (4, 2) and (entities[:, 1] == 1).sum() == decision[row] % 4
        obs, *_ = env.step(np.zeros((3, 1), np.float32))
    env.close()


def test_one_sensor_is_a_box_and_several_a_dict(tmp_path: Path) -> None:
    env = make_game(tmp_path, "grid", {"agents": 2})
    assert list(env.observation_space.spaces) == ["obs_0", "obs_1"]
    assert env.observation_space["obs_1"] == spaces.Box(0, 255, (3, 20, 20), np.uint8)
    assert [sensor.goal for sensor in env.behaviors["Grid"].sensors] == [True, False]
    env.close()


# ------------------------------------------------ rows


def test_rows_are_those_of_all_games(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"agents": 3, "actions": "continuous"}, n_workers=2)
    assert env.num_envs == 6
    obs = env.reset()
    assert obs[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    seeds = [entry["seed"] for entry in player_log(tmp_path) if "seed" in entry and "python" in entry]
    assert sorted(seeds) == [3, 4] and env.seed(5) == [3, 3, 3, 4, 4, 4]
    env.close()


def test_rows_that_do_not_ask_are_marked_and_their_actions_lead_nowhere(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"agents": 2, "periods": "1,4", "actions": "continuous"})
    env.reset()
    asked, answered = [], []
    for _ in range(40):
        _, _, _, infos = env.step(np.zeros((2, 2), np.float32))
        asked.append([not info["invalid_row"] for info in infos])
        answered.append([info["awaits_action"] for info in infos])
    env.close()
    assert np.array_equal(asked[1:], answered[:-1])
    share = np.mean(asked, axis=0)
    assert share[0] == 1.0 and 0.2 < share[1] < 0.3


def test_agents_beyond_the_rows_do_nothing_and_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = make_game(tmp_path, "echo", {"agents": 4, "actions": "continuous"}, n_agents=3)
    ended = roll(env, 60)
    assert env.num_envs == 3 and {info["row"] for info in ended} == {0, 1, 2}
    assert env.take_log()["unity/agents_without_row"] == 1
    assert "1 agents play without a row and do nothing; give n_agents=4 or more" in caplog.text
    env.close()


def test_more_rows_than_agents_stay_empty(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"agents": 2, "actions": "continuous"}, n_agents=4)
    model = PPOPlus("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(256)
    assert model.rollout_buffer.valid.mean(axis=0).tolist() == [1.0, 1.0, 0.0, 0.0]
    env.close()


@pytest.mark.parametrize("group_reward", ["add", "ignore", "separate"])
def test_group_rewards(group_reward: str, tmp_path: Path) -> None:
    env = make_game(tmp_path, "group", {"agents": 4}, group_reward=group_reward)
    obs = env.reset()
    returns: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(200):
        shared = obs[:, 3:]
        obs, _, dones, infos = env.step(shared)
        for row in np.flatnonzero(dones):
            number = int(infos[row]["terminal_observation"][0])
            returns[number % 2].append(infos[row]["episode"]["r"])
            assert ("group_reward" in infos[row]) == (group_reward == "separate")
    env.close()
    # a perfect echo: six own points for the first of a pair, three for the second, who leaves early
    # (the first ones were under way when the game was reset)
    returns = {number: found[4:] for number, found in returns.items()}
    bonus = 2.0 if group_reward == "add" else 0.0
    assert len(returns[0]) > 20 and len(returns[1]) > 20
    assert np.allclose(returns[0], 6.0 + bonus, atol=1e-4) and np.allclose(returns[1], 3.0, atol=1e-4)


# ------------------------------------------------ others


class Model:
    """Plays goalies: answers with the choice that it hears."""

    def __init__(self) -> None:
        self.n_asked = 0

    def predict(self, obs: np.ndarray) -> tuple[np.ndarray, None]:
        self.n_asked += len(obs)
        return obs[:, 3].astype(int), None


@pytest.mark.parametrize("named", ["Goalie", "Goalie?team=1"])
def test_another_behavior_is_played_by_a_model(named: str, tmp_path: Path) -> None:
    model = Model()
    env = make_game(tmp_path, "two", {"agents": 2}, behavior="Striker", others={named: model})
    roll(env, 60)
    env.close()
    assert model.n_asked >= 2 * 60 // 3
    assert not any("error" in entry for entry in player_log(tmp_path))


def test_a_player_that_answers_for_too_few_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"player of 'Goalie\?team=1' gave 1 actions for \d agents"):
        make_game(tmp_path, "two", {"agents": 6}, behavior="Striker", others=lambda obs, masks: np.zeros(1, int))


# ------------------------------------------------ parameters, settings, channels


def test_the_games_settings_are_those_of_mlagents_learn_unless_told(tmp_path: Path) -> None:
    make_game(tmp_path, "echo", time_scale=3, engine={"quality_level": 1, "width": 100, "height": 50}).close()
    settings = {entry["engine"]: entry["value"] for entry in player_log(tmp_path) if "engine" in entry}
    assert settings == {
        "resolution": [100, 50],
        "quality_level": [1],
        "time_scale": [3.0],
        "target_frame_rate": [-1],
        "capture_frame_rate": [60],
    }


def test_environment_parameters_and_samplers_reach_the_game(tmp_path: Path) -> None:
    sampled = {"sampler_type": "uniform", "sampler_parameters": {"min_value": 1.0, "max_value": 2.0}}
    intervals = {"sampler_type": "multirangeuniform", "sampler_parameters": {"intervals": [[0, 1], [3, 4]]}}
    env = make_game(
        tmp_path, "balance", environment_parameters={"gravity": 3.5, "mass": sampled, "size": intervals}, n_workers=2
    )
    env.set_environment_parameters(gravity=1.25)
    env.reset()
    env.step(np.zeros((env.num_envs, 2), np.float32))
    env.close()
    log = [entry for entry in player_log(tmp_path) if "parameter" in entry]
    assert [entry["value"] for entry in log if entry["parameter"] == "gravity"].count(1.25) == 2
    samplers = [entry for entry in log if "sampler" in entry]
    assert {entry["sampler"] for entry in samplers} == {"uniform", "multirange"}
    assert {entry["seed"] for entry in samplers} == {3, 4}, "each game draws for itself"


def test_a_curriculum_follows_the_returns_and_tells_the_game(tmp_path: Path) -> None:
    lessons = [
        {"name": "light", "value": 0.5, "completion_criteria": {"threshold": 0.1, "min_lesson_length": 5}},
        {"name": "heavy", "value": 9.81},
    ]
    env = make_game(tmp_path, "balance", environment_parameters={"gravity": {"curriculum": lessons}})
    assert env.take_log()["lesson/gravity"] == 0.0
    roll(env, 400)
    assert env.take_log()["lesson/gravity"] == 1.0
    env.close()
    values = [entry["value"] for entry in player_log(tmp_path) if entry.get("parameter") == "gravity"]
    assert values[0] == 0.5 and values[-1] == pytest.approx(9.81)


def test_the_users_own_channel(tmp_path: Path) -> None:
    import uuid

    from mlagents_envs.side_channel.raw_bytes_channel import RawBytesChannel

    made = []

    def channels(worker: int) -> list[Any]:
        made.append(RawBytesChannel(uuid.UUID(int=worker + 1)))
        made[-1].send_raw_data(b"hello")
        return made[-1:]

    make_game(tmp_path, "echo", n_workers=2, side_channels=channels).close()
    assert len(made) == 2
    assert all(channel.message_queue == [] for channel in made), "sent"


@pytest.mark.slow
def test_large_messages_pass(tmp_path: Path) -> None:
    """1,400 images of 20 x 20 x 3 floats, 6.7 MB; gRPC's own limit is 4 MiB."""
    env = make_game(tmp_path, "grid", {"agents": 1400})
    assert env.num_envs == 1400
    env.reset()
    env.step(np.zeros(1400, int))
    env.close()


# ------------------------------------------------ SB3 around it


def test_sb3s_ppo_and_wrappers_take_it(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo", {"agents": 3, "actions": "continuous"})
    model = PPO("MlpPolicy", VecNormalize(VecMonitor(env)), n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    model.learn(300)
    assert len(model.ep_info_buffer) > 0
    env.close()


def test_behind_sb3s_wrappers_it_is_learned_as_on_tensors(tmp_path: Path) -> None:
    results = []
    for wrap in (lambda env: env, lambda env: VecNormalize(env, norm_obs=False, norm_reward=False)):
        env = wrap(make_game(tmp_path, "echo", {"agents": 3, "periods": "1,2,3", "actions": "continuous"}))
        model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(64 * 3 * 2)
        results.append({name: value.clone() for name, value in model.policy.state_dict().items()})
        env.close()
    for name, value in results[0].items():
        th.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-5)


def test_it_cannot_be_saved_and_says_so(tmp_path: Path) -> None:
    env = make_game(tmp_path, "echo")
    with pytest.raises(InvalidArgument, match="cannot give its state"):
        env.state_dict()
    with pytest.raises(InvalidArgument, match="2 actions for 4 agents"):
        env.step(np.zeros((2, 4)))
    assert env.get_images() == [None] * 4
    env.close()


def test_the_editor_is_waited_for(tmp_path: Path) -> None:
    """Nothing is started: whoever connects is played with."""
    import subprocess

    build = make_build(tmp_path, "echo", agents=2)
    with pytest.raises(InvalidArgument, match="there is one editor"):
        UnityVecEnv(None, n_workers=2)
    player = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; exec {build} --mlagents-port 5004"])
    env = UnityVecEnv(None, timeout=20)
    env.reset()
    assert env.num_envs == 2
    env.close()
    assert player.wait(10) == 0
