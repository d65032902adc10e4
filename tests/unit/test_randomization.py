"""Domain randomization as data: what is drawn, where it lands, what is said about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco.batch")

from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.envs.mujoco.randomization import parse_term
from sb3_ppo_plus.errors import InvalidArgument

# The same fields on both engines: Hopper runs on mujoco.Batch, Ant on one MjData per simulation.
ENGINES = ("Hopper-v5", "Ant-v5")


def make(task: str = "Hopper-v5", n_envs: int = 3, **options: Any) -> MujocoVecEnv:
    env = MujocoVecEnv(task, n_envs=n_envs, **{"seed": 0, "n_threads": 1, **options})
    env.reset()
    return env


def models(env: MujocoVecEnv) -> list[Any]:
    return env.get_attr("model")


@pytest.mark.parametrize("task", ENGINES)
def test_masses_are_scaled_within_the_range_and_what_follows_from_them_too(task: str) -> None:
    nominal = models(make(task))[0]
    env = make(task, randomization={"body_mass": {"scale": [0.5, 2.0], "names": ["torso"], "also": ["body_inertia"]}})
    torso = nominal.body("torso").id
    factors = [float(model.body_mass[torso] / nominal.body_mass[torso]) for model in models(env)]
    assert len(set(factors)) == 3
    assert all(0.5 <= factor <= 2.0 for factor in factors)
    for model, factor in zip(models(env), factors, strict=True):
        others = [i for i in range(nominal.nbody) if i != torso]
        np.testing.assert_array_equal(model.body_mass[others], nominal.body_mass[others])
        np.testing.assert_allclose(model.body_inertia[torso], factor * nominal.body_inertia[torso], rtol=1e-12)
        # mj_setConst ran: the mass below the root follows.
        change = model.body_subtreemass[0] - nominal.body_subtreemass[0]
        assert change == pytest.approx((factor - 1) * nominal.body_mass[torso])


@pytest.mark.parametrize("task", ENGINES)
def test_what_was_drawn_is_reported_at_reset_and_with_the_step(task: str) -> None:
    env = make(task, randomization={"opt.gravity": {"add": {"normal": [0.0, 0.5]}, "columns": [2]}})
    drawn = [info["randomization/opt.gravity"] for info in env.reset_infos]
    for model, value in zip(models(env), drawn, strict=True):
        assert model.opt.gravity[2] == pytest.approx(-9.81 + value)
        assert list(model.opt.gravity[:2]) == [0.0, 0.0]
    infos = env.step(np.zeros((3, env.action_space.shape[0]), np.float32))[3]
    assert [info["randomization/opt.gravity"] for info in infos] == drawn


@pytest.mark.parametrize("task", ENGINES)
def test_the_physics_obeys(task: str) -> None:
    # Without gravity and controls nothing falls: a free robot keeps its height to within what its noise moves it.
    fall, float_ = make(task), make(task, randomization={"opt.gravity": {"scale": [0.0, 0.0], "columns": [2]}})
    height = {"Hopper-v5": 1, "Ant-v5": 2}[task]
    for env in (fall, float_):
        for _ in range(10):
            env.step(np.zeros((3, env.action_space.shape[0]), np.float32))
    lost = [env.single_env(0).data.qpos[height] for env in (fall, float_)]
    assert lost[1] - lost[0] > 0.02


def test_a_new_episode_draws_again_and_only_for_the_robot_that_ended() -> None:
    env = make(randomization={"geom_friction": {"scale": [0.5, 1.5], "columns": [0], "shared": True}})
    before = env.randomizer.values["geom_friction"].copy()
    rng = np.random.default_rng(0)
    while True:
        done = env.step(rng.uniform(-1, 1, (3, 3)).astype(np.float32))[2]
        if done.any():
            break
    after = env.randomizer.values["geom_friction"]
    assert np.array_equal((after != before)[:, 0], done)


def test_each_entry_draws_by_itself_unless_the_draw_is_shared() -> None:
    each = make(randomization={"dof_damping": {"scale": [0.5, 1.5]}}).randomizer.values["dof_damping"]
    shared = make(randomization={"dof_damping": {"scale": [0.5, 1.5], "shared": True}}).randomizer.values["dof_damping"]
    assert each.shape == (3, 6)
    assert len(set(each[0])) == 6
    assert shared.shape == (3, 1)


def test_named_joints_mean_their_degrees_of_freedom() -> None:
    env = make(randomization={"dof_damping": {"set": [7.0, 7.0], "names": ["foot_joint", "leg_joint"]}})
    damping = models(env)[0].dof_damping
    assert list(damping[4:]) == [7.0, 7.0]
    assert 7.0 not in damping[:4]


def test_terms_that_share_a_field_work_one_after_the_other() -> None:
    nominal = models(make())[0].body_mass
    env = make(
        randomization={
            "everything": {"field": "body_mass", "scale": [2.0, 2.0]},
            "payload": {"field": "body_mass", "add": [1.0, 1.0], "names": ["torso"]},
        }
    )
    expected = 2.0 * nominal
    expected[models(env)[0].body("torso").id] += 1.0
    np.testing.assert_allclose(models(env)[0].body_mass, expected)


def test_the_strength_grows_with_the_steps_of_all_robots() -> None:
    line = {"set": [5.0, 5.0], "strength": {"type": "linear", "start": 0.0, "end": 1.0}, "over": 300}
    env = make(n_envs=3, max_episode_steps=50, randomization={"dof_damping": line})
    nominal = models(make())[0].dof_damping[-1]
    seen = [models(env)[0].dof_damping[-1]]
    env.reset()
    for _ in range(2):
        for _ in range(50):
            env.step(np.zeros((3, 3), np.float32))
        env.reset()
        seen.append(models(env)[0].dof_damping[-1])
    # 150 of 300 steps later half of the way is gone, and all of it after 300.
    assert seen == pytest.approx([nominal, (nominal + 5) / 2, 5.0])


def test_a_strength_by_steps_needs_no_over_and_finish_schedules_jumps_to_its_end() -> None:
    strength = {"type": "linear", "start": 0.0, "end": 1.0, "unit": "steps", "end_step": 300}
    env = make(n_envs=3, max_episode_steps=50, randomization={"dof_damping": {"set": [5.0, 5.0], "strength": strength}})
    nominal = models(make())[0].dof_damping[-1]
    assert models(env)[0].dof_damping[-1] == pytest.approx(nominal)
    for _ in range(50):
        env.step(np.zeros((3, 3), np.float32))
    env.reset()
    assert models(env)[0].dof_damping[-1] == pytest.approx((nominal + 5) / 2)
    # What is reported is what is there.
    assert env.reset_infos[0]["randomization/dof_damping"] == pytest.approx(models(env)[0].dof_damping)
    env.randomizer.finish_schedules()
    env.reset()
    assert models(env)[0].dof_damping[-1] == pytest.approx(5.0)


def test_without_randomization_nothing_is_drawn_and_the_starts_are_the_same() -> None:
    plain = make().state_dict()
    varied = make(randomization={"body_mass": {"scale": [0.9, 1.1]}}).state_dict()
    # Positions and velocities come from the same draws: randomization has a stream of its own.
    assert plain["generators"] == varied["generators"]


def test_log_uniform_and_normal_have_their_moments() -> None:
    rng = np.random.default_rng(0)
    log = parse_term("x", {"scale": {"log_uniform": [0.5, 2.0]}})
    draws = np.log([log.draw(rng, 1)[0] for _ in range(4000)])
    # Symmetric about 0 on a log scale; standard error of the mean: (2 ln 2 / sqrt 12) / sqrt 4000 = 0.0063.
    assert abs(draws.mean()) < 0.026
    normal = parse_term("x", {"add": {"normal": [1.0, 0.5]}})
    draws = np.array([normal.draw(rng, 1)[0] for _ in range(4000)])
    assert draws.mean() == pytest.approx(1.0, abs=0.032)
    assert draws.std() == pytest.approx(0.5, abs=0.024)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"body_mas": {"scale": [1, 1]}}, "body_mass"),
        ({"body_mass": {"scale": [1, 1], "names": ["torsoo"]}}, "torso"),
        ({"body_mass": {"scal": [1, 1]}}, "did you mean 'scale'"),
        ({"body_mass": {"scale": [2, 1]}}, "swap them"),
        ({"body_mass": {"scale": {"log_uniform": [0, 1]}}}, "positive"),
        ({"body_mass": {"scale": {"gauss": [0, 1]}}}, "no distribution"),
        ({"body_mass": {"scale": {"normal": [0, -1]}}}, "standard deviation"),
        ({"body_mass": {"scale": [1]}}, "two finite numbers"),
        ({"body_mass": {}}, "exactly one of scale, add, set"),
        ({"body_mass": {"scale": [1, 1], "add": [0, 0]}}, "exactly one of scale, add, set"),
        ({"body_mass": [0.8, 1.2]}, "give a mapping"),
        ({"geom_friction": {"scale": [1, 1], "columns": [3]}}, "columns"),
        ({"opt.gravity": {"add": [0, 1], "columns": [3]}}, "columns"),
        ({"opt.timestep": {"scale": [1, 1]}}, "frame_skip"),
        ({"opt.gravity": {"scale": [1, 1], "names": ["x"]}}, "no named objects"),
        ({"body_parentid": {"scale": [1, 1]}}, "whole numbers"),
        ({"body_mass": {"scale": [1, 1], "also": ["geom_size"]}}, "same objects"),
        ({"body_mass": {"scale": [1, 1], "strength": "lin_1"}}, "needs `over`"),
        ({"body_mass": {"scale": [1, 1], "strength": 2.0}}, "strength"),
        ({"body_mass": {"scale": [1, 1], "over": 0}}, "over is 0"),
        ({"body_mass": {"scale": [1, 1], "names": "torso"}}, "list of str"),
        ({"body_mass": {"scale": [1, 1], "names": []}}, "leave it out for all"),
        ({"geom_friction": {"scale": [1, 1], "columns": []}}, "leave it out for all"),
        ({"body_mass": {"scale": [1, 1], "shared": "false"}}, "give true or false"),
        ({"body_mass": {"add": [1, 1], "also": ["body_inertia"]}}, "also goes with scale"),
        ({"body_mass": {"scale": [1, 1], "also": ["body_mass"]}}, "name each field once"),
        ({"body_mass": {"scale": [-0.5, 1]}}, "makes body_mass -"),
        ({"body_mass": {"scale": {"normal": [1, 0.6]}}}, "ends after 4 std"),
        ({"body_mass": {"set": [0, 1]}}, "above 0"),
        ({"geom_friction": {"add": [-9, 0]}}, "makes geom_friction -"),
    ],
)
def test_mistakes_are_named_before_anything_is_simulated(spec: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        MujocoVecEnv("Hopper-v5", randomization=spec)
