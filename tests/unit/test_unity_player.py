"""
The stand-in for Unity games, asked by ML-Agents' own low-level API: an account of the protocol that is not ours.

What is claimed here is what the sources of the Unity package 3.0 do; tests of our own environments rely on it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import slow_but

pytest.importorskip("mlagents_envs")
sys.path.insert(0, str(Path(__file__).parents[1] / "unity_player"))

from low_level import Connection, at_random, echo, play
from mlagents_envs import exception as errors
from mlagents_envs.base_env import ActionTuple, DimensionProperty, ObservationType
from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel
from mlagents_envs.side_channel.environment_parameters_channel import EnvironmentParametersChannel
from mlagents_envs.side_channel.stats_side_channel import StatsAggregationMethod, StatsSideChannel

pytestmark = pytest.mark.filterwarnings("ignore:distutils Version:DeprecationWarning")

SCENES = ("balance", "echo", "grid", "group", "respawn", "sensors", "two")


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Connection]]:
    made: list[Connection] = []

    def make(scene: str, **options: Any) -> Connection:
        made.append(Connection(tmp_path, scene, **options))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


# ------------------------------------------------ all scenes


@pytest.mark.parametrize("scene", slow_but(["balance", "sensors", "two"], SCENES))
def test_every_scene_plays(scene: str, connect: Callable[..., Connection]) -> None:
    game = connect(scene, agents=3)
    game.env.reset()
    assert len(game.env.behavior_specs) >= 1
    ledgers = play(game.env, at_random(), 80)
    assert all(sum(len(asked) for _, asked in ledger.exchanges) > 10 for ledger in ledgers.values())
    game.env.close()
    assert game.process.returncode == 0
    assert game.log("error") == []
    assert game.log("seed")[0]["seed"] == 5
    # ML-Agents stops its server right after it has asked; on a busy machine the connection is gone before the word.
    assert game.log("left") in ([{"left": "asked to"}], [{"left": "StatusCode.UNAVAILABLE"}])


# ------------------------------------------------ order of events


@pytest.mark.parametrize("actions, form", [("hybrid", (2, (3, 2))), ("continuous", (2, ())), ("branch", (0, (4,)))])
def test_a_perfect_echo_returns_the_number_of_its_decisions(
    actions: str, form: tuple[int, tuple[int, ...]], connect: Callable[..., Connection]
) -> None:
    game = connect("echo", agents=5, periods="1,2,3,5", actions=actions)
    game.env.reset()
    (spec,) = game.env.behavior_specs.values()
    assert (spec.action_spec.continuous_size, spec.action_spec.discrete_branches) == form
    ledger = play(game.env, echo, 150)["Echo?team=0"]
    assert {episode["id"] for episode in ledger.episodes} == {1, 2, 3, 4, 5}
    assert ledger.first_rewards == [0.0] * len(ledger.first_rewards)
    for episode in ledger.episodes:
        number, count, decision, *rest = episode["last"][0].tolist()
        length = 5 + number % 7
        assert episode["return"] == length == episode["decisions"] == decision
        assert episode["interrupted"] == (count % 2 == 1)
        assert not any(rest)
        assert episode["first"][0].tolist()[:3] == [number, count, 0.0]


def test_end_and_restart_come_together_at_period_one(connect: Callable[..., Connection]) -> None:
    game = connect("echo", agents=1)
    game.env.reset()
    ledger = play(game.env, echo, 40)["Echo?team=0"]
    assert len(ledger.episodes) == 7  # five decisions each
    assert all(asked == [1] for _, asked in ledger.exchanges)


def test_end_comes_alone_at_longer_periods(connect: Callable[..., Connection]) -> None:
    game = connect("echo", agents=1, periods="3")
    game.env.reset()
    ledger = play(game.env, echo, 48)["Echo?team=0"]
    # Five decisions, then the end with the academy step after the last action; steps without news are not exchanged.
    assert ledger.exchanges == ([([], [1])] * 5 + [([1], [])]) * 8


def test_a_reset_ends_nothing_and_costs_one_action_of_zeros(connect: Callable[..., Connection]) -> None:
    game = connect("echo", agents=2, actions="branch")
    game.env.reset()
    decisions, _ = game.env.get_steps("Echo?team=0")
    assert decisions.obs[0][:, 2].tolist() == [0.0, 0.0]
    assert decisions.reward.tolist() == [0.0, 0.0]
    episodes = decisions.obs[0][:, 1]
    play(game.env, echo, 3)
    rewards = set()
    for count in range(1, 9):
        game.env.reset()
        decisions, terminals = game.env.get_steps("Echo?team=0")
        assert len(terminals) == 0
        assert decisions.agent_id.tolist() == [1, 2]
        assert decisions.obs[0][:, 1].tolist() == (episodes + count).tolist()
        assert decisions.obs[0][:, 2].tolist() == [1.0, 1.0]
        rewards |= set(decisions.reward.tolist())
    # the choice 0 in the only branch, where any of four may have been wanted
    assert rewards == {0.5, 1.0}
    assert len(game.log("reset")) == 8


def test_max_step_counts_academy_steps(connect: Callable[..., Connection]) -> None:
    def hold(spec: Any, decisions: Any) -> ActionTuple:
        tilt, ball, velocity = (decisions.obs[0][:, i : i + 2] for i in (0, 2, 4))
        wanted = -(8.0 * ball + 4.0 * velocity) / 9.81
        return ActionTuple(np.clip(4.0 * (wanted - tilt), -1.0, 1.0).astype(np.float32), np.zeros((len(tilt), 0)))

    game = connect("balance", agents=3, max_step=50)
    game.env.reset()
    episodes = play(game.env, hold, 45)["Balance?team=0"].episodes
    assert len(episodes) == 12
    for episode in episodes:
        assert episode["interrupted"]
        assert episode["decisions"] == 10
        assert episode["return"] == pytest.approx(1.0)


# ------------------------------------------------ side channels


def test_settings_and_parameters_arrive_and_statistics_come_back(connect: Callable[..., Connection]) -> None:
    engine, parameters, statistics = EngineConfigurationChannel(), EnvironmentParametersChannel(), StatsSideChannel()
    engine.set_configuration_parameters(84, 60, 5, 20.0, -1, 60)
    parameters.set_uniform_sampler_parameters("gravity", 30.0, 40.0, 11)
    game = connect("balance", agents=4, side_channels=[engine, parameters, statistics])
    game.env.reset()
    parameters.set_float_parameter("wind", 0.5)
    parameters.set_gaussian_sampler_parameters("mass", 1.0, 0.25, 7)
    parameters.set_multirangeuniform_sampler_parameters("size", [(0.0, 1.0), (3.0, 4.0)], -1)
    ledger = play(game.env, at_random(), 200)["Balance?team=0"]
    settings = {entry["engine"]: entry["value"] for entry in game.log("engine")}
    assert settings == {
        "resolution": [84, 60],
        "quality_level": [5],
        "time_scale": [20.0],
        "target_frame_rate": [-1],
        "capture_frame_rate": [60],
    }
    assert game.log("parameter") == [
        {"parameter": "gravity", "sampler": "uniform", "numbers": [30.0, 40.0], "seed": 11},
        {"parameter": "wind", "value": 0.5},
        {"parameter": "mass", "sampler": "gaussian", "numbers": [1.0, 0.25], "seed": 7},
        {"parameter": "size", "sampler": "multirange", "numbers": [0.0, 1.0, 3.0, 4.0], "seed": -1},
    ]
    drawn = [entry["value"] for entry in game.log("drawn")]
    assert len(set(drawn)) > 10
    assert min(drawn) >= 30.0
    assert max(drawn) <= 40.0
    drops = statistics.get_and_reset_stats()["Balance/drops"]
    assert set(drops) == {(1.0, StatsAggregationMethod.SUM)}
    assert len(drops) == sum(not episode["interrupted"] for episode in ledger.episodes) > 0


# ------------------------------------------------ what agents see


@pytest.mark.parametrize("png", [False, True])
def test_pictures_are_the_same_in_both_layouts(png: bool, connect: Callable[..., Connection], tmp_path: Path) -> None:
    found = {}
    for layout in ("hwc", "chw"):
        game = connect("grid", layout=layout, **({"png": True} if png else {}))
        game.env.reset()
        goal, picture = game.env.behavior_specs["Grid"].observation_specs
        assert (goal.name, goal.shape, goal.observation_type) == ("goal", (2,), ObservationType.GOAL_SIGNAL)
        plain, moved = DimensionProperty.NONE, DimensionProperty.TRANSLATIONAL_EQUIVARIANCE
        first = layout == "chw"
        assert picture.shape == ((3, 20, 20) if first else (20, 20, 3))
        assert picture.dimension_property == ((plain, moved, moved) if first else (moved, moved, plain))
        images = game.env.get_steps("Grid")[0].obs[1]
        found[layout] = images if first else images.transpose(0, 3, 1, 2)
        game.close()
    np.testing.assert_array_equal(found["hwc"], found["chw"])
    assert np.unique(found["chw"]).tolist() == [0.0, 1.0]
    assert found["chw"].sum(axis=(2, 3)).tolist() == [[16.0] * 3] * 4


def test_walls_are_masked_and_violations_are_told(connect: Callable[..., Connection]) -> None:
    statistics = StatsSideChannel()
    game = connect("grid", agents=5, side_channels=[statistics])
    game.env.reset()
    for _ in range(30):
        decisions, _ = game.env.get_steps("Grid")
        at = decisions.obs[1][:, 0].reshape(len(decisions), -1).argmax(axis=1)
        row, column = at // 20 // 4, at % 20 // 4
        walls = [np.zeros_like(row, bool), column == 4, column == 0, row == 4, row == 0]
        np.testing.assert_array_equal(decisions.action_mask[0], np.stack(walls, axis=1))
        game.env.set_actions("Grid", at_random()(game.env.behavior_specs["Grid"].action_spec, decisions))
        game.env.step()
    assert not statistics.get_and_reset_stats()
    n_walls = 0
    for _ in range(10):
        decisions, _ = game.env.get_steps("Grid")
        n_walls += int(decisions.action_mask[0][:, 1].sum())
        game.env.set_actions("Grid", ActionTuple(discrete=np.ones((len(decisions), 1), np.int32)))
        game.env.step()
    game.env.step()
    assert len(statistics.get_and_reset_stats()["Grid/violations"]) >= n_walls > 5
    assert len(game.log("statistic")) >= n_walls


def test_sensors_keep_the_order_of_their_names(connect: Callable[..., Connection]) -> None:
    game = connect("sensors", agents=2)
    game.env.reset()
    specs = game.env.behavior_specs["Sensors"].observation_specs
    assert [spec.name for spec in specs] == [f"sensor_{index:02d}" for index in range(12)]
    assert [spec.shape for spec in specs[4:9]] == [(3,), (3, 6, 5), (3,), (3,), (4, 2)]
    assert specs[8].dimension_property == (DimensionProperty.VARIABLE_SIZE, DimensionProperty.NONE)
    for _ in range(8):
        decisions, _ = game.env.get_steps("Sensors")
        for step in decisions.values():
            number, decision = step.obs[0][[0, 2]].astype(int)
            for index in (1, 2, 3, 4, 6, 7, 9, 10, 11):
                assert step.obs[index].tolist() == [index, number, decision]
            assert step.obs[5][1].sum() == step.obs[5][1, decision % 6, number % 5] == 1.0
            np.testing.assert_allclose(step.obs[5][2], decision / 255.0, atol=1e-7)
            assert step.obs[8][:, 1].sum() == decision % 4
        game.env.step()


# ------------------------------------------------ agents that come and go


def test_groups_share_rewards_and_the_dead_stay_away(connect: Callable[..., Connection]) -> None:
    game = connect("group", agents=4, periods="1,2")
    game.env.reset()
    ledger = play(game.env, echo, 60)["Group?team=0"]
    ids: dict[float, list[int]] = {}
    for episode in ledger.episodes:
        number, count, decision, *rest = episode["last"][0].tolist()
        dies = number % 2 == 1
        assert (episode["return"], episode["group return"]) == ((3.0, 0.0) if dies else (6.0, 2.0))
        assert episode["decisions"] == decision == (3 if dies else 6)
        assert episode["interrupted"] == (not dies and count % 2 == 1)
        assert episode["group"] == 1 + number // 2
        assert not any(rest)
        ids.setdefault(number, []).append(episode["id"])
    assert len(set(ids[0])) == len(set(ids[2])) == 1
    assert len(set(ids[1])) == len(ids[1]) >= 5
    # period one: the second of the pair is away for the last three decisions of each episode of the first
    asks = [len({1, *ids[1]}.intersection(asked)) for _, asked in ledger.exchanges]
    assert asks[:6] == [2, 2, 2, 1, 1, 1]


def test_agents_that_come_and_go_have_one_episode_each(connect: Callable[..., Connection]) -> None:
    game = connect("respawn", agents=2, periods="1,2")
    game.env.reset()
    ledger = play(game.env, echo, 200)["Echo?team=0"]
    ids = [episode["id"] for episode in ledger.episodes]
    assert len(set(ids)) == len(ids) > 10
    for episode in ledger.episodes:
        number, count, decision, *_ = episode["last"][0].tolist()
        assert episode["return"] == decision == 5 + number % 7
        assert count == number
        assert episode["interrupted"] == (number % 2 == 1)
    assert any(not asked for _, asked in ledger.exchanges)


def test_nothing_is_sent_while_nobody_is_there(connect: Callable[..., Connection]) -> None:
    """Agents are who sends: the end of the last one waits for the next one to come."""
    game = connect("respawn", agents=1, periods="1")
    game.env.reset()
    ledger = play(game.env, echo, 120)["Echo?team=0"]
    ends = [(ended, asked) for ended, asked in ledger.exchanges if ended]
    assert len(ends) > 8
    assert all(asked == [ended[0] + 1] for ended, asked in ends)


def test_two_behaviors_have_forms_and_rhythms_of_their_own(connect: Callable[..., Connection]) -> None:
    game = connect("two", agents=1)
    game.env.reset()
    assert sorted(game.env.behavior_specs) == ["Striker?team=0"]  # the goalies have not asked yet
    ledgers = play(game.env, echo, 90)
    specs = game.env.behavior_specs
    forms = {
        name: (spec.action_spec.continuous_size, *spec.action_spec.discrete_branches) for name, spec in specs.items()
    }
    assert forms == {"Striker?team=0": (3,), "Goalie?team=1": (0, 4)}
    assert [specs[name].observation_specs[0].shape for name in sorted(specs)] == [(4,), (6,)]
    for ledger in ledgers.values():
        assert len(ledger.episodes) > 3
        assert all(episode["return"] == 5 + episode["last"][0][0] % 7 for episode in ledger.episodes)


# ------------------------------------------------ trouble


def test_a_crash_is_seen(connect: Callable[..., Connection]) -> None:
    game = connect("echo", crash_after=6)
    game.env.reset()
    with pytest.raises(errors.UnityEnvironmentException, match="return code 1"):
        play(game.env, echo, 10)


def test_who_quits_says_so(connect: Callable[..., Connection]) -> None:
    game = connect("echo", quit_after=6)
    game.env.reset()
    with pytest.raises(errors.UnityCommunicatorStoppedException):
        play(game.env, echo, 10)
    assert game.log("left") == [{"left": "quit"}]
    # The API answers a goodbye when it is closed; until then the game waits.
    game.env.close()
    assert game.process.wait(20) == 0


def test_a_hang_lasts_until_it_is_killed(connect: Callable[..., Connection]) -> None:
    game = connect("echo", hang_after=3, timeout=1)
    game.env.reset()
    with pytest.raises(errors.UnityTimeOutException):
        play(game.env, echo, 10)
    game.process.terminate()
    time.sleep(0.2)
    assert game.process.poll() is None
    game.env.close()
    assert game.process.wait(20) == -9


def test_trouble_may_come_at_the_first_reset_or_at_the_end(connect: Callable[..., Connection]) -> None:
    game = connect("echo", crash_in="reset")
    with pytest.raises(errors.UnityEnvironmentException, match="return code 1"):
        game.env.reset()
    game = connect("echo", hang_in="close", timeout=1)
    game.env.reset()
    game.env.close()
    assert game.process.wait(20) == -9


def test_trouble_may_come_once(connect: Callable[..., Connection], tmp_path: Path) -> None:
    options = {"crash_after": 2, "only_first": tmp_path / "has failed"}
    first = connect("echo", **options)
    first.env.reset()
    with pytest.raises(errors.UnityEnvironmentException):
        play(first.env, echo, 10)
    first.close()
    second = connect("echo", **options)
    second.env.reset()
    play(second.env, echo, 10)


def test_other_versions_are_told(connect: Callable[..., Connection]) -> None:
    with pytest.raises(errors.UnityEnvironmentException, match=r"Unity API: 2\.0\.0"):
        connect("echo", communication_version="2.0.0")


def test_the_player_leaves_when_python_is_gone(connect: Callable[..., Connection]) -> None:
    game = connect("echo")
    game.env.reset()
    game.env._communicator.server.stop(None).wait()
    assert game.process.wait(10) == 0
    assert game.log("left")[0]["left"].startswith("StatusCode.")


def test_slow_answers_take_their_time(connect: Callable[..., Connection]) -> None:
    game = connect("echo", slow=0.05)
    game.env.reset()
    started = time.monotonic()
    play(game.env, echo, 10)
    assert time.monotonic() - started >= 0.5
