"""Search spaces: read, checked, drawn from, and turned into settings."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("optuna")

from sb3_ppo_plus import InvalidArgument
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.tuning.samplers import grid_draws
from sb3_ppo_plus.tuning.settings import SB3_DEFAULTS, apply_settings, batch_size, check_space, draws_of, settings_of
from sb3_ppo_plus.tuning.space import BUILT_IN, load_space, space_from_mapping
from sb3_ppo_plus.tuning.spec import make_spec

NUMBER = {"type": "float", "low": 0.1, "high": 0.4}


def base(env: str = "CartPole-v1", **changes):
    spec = make_spec(assemble(env), load_space("core"), name="any")
    return {**spec.base, **changes}


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_spaces_of_the_package_work_at_every_end(name: str, env: str) -> None:
    space = load_space(name)
    check_space(space, base(env))
    assert {"clip_range", "learning_rate", "n_epochs"} <= {parameter.name for parameter in space.parameters}


def test_core_is_what_the_user_asked_for() -> None:
    assert [parameter.name for parameter in load_space("core").parameters] == [
        "clip_range",
        "learning_rate",
        "n_epochs",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clip_rage": NUMBER}, "unknown parameter; did you mean clip_range"),
        ({"xyzzy": NUMBER}, "unknown parameter"),
        ({"seed": NUMBER}, "cannot be searched"),
        ({"n_timesteps": NUMBER}, "cannot be searched"),
        ({"clip_range": {**NUMBER, "hihg": 1}}, "unknown key 'hihg'; did you mean high"),
        ({"clip_range": {"type": "float", "low": 0.4, "high": 0.1}}, "low must be below high"),
        ({"clip_range": {"type": "float", "low": 0.1}}, "high is None"),
        ({"clip_range": {"type": "float", "low": "a", "high": 1}}, "low is 'a'"),
        ({"clip_range": {"type": "float", "low": float("nan"), "high": 1}}, "low is nan"),
        ({"clip_range": {"type": "number", "low": 0.1, "high": 1}}, "type is 'number'"),
        ({"clip_range": {**NUMBER, "step": -1}}, "step is -1"),
        ({"clip_range": {**NUMBER, "step": 0.1, "log": True}}, "step goes with neither"),
        ({"clip_range": {**NUMBER, "log": "yes"}}, "log is 'yes'"),
        ({"learning_rate": {"type": "float", "low": 0.0, "high": 1e-3, "log": True}}, "needs low > 0"),
        ({"n_epochs": {"type": "int", "low": 1.5, "high": 3}}, "needs a whole number"),
        ({"n_steps": {"type": "int", "low": 100, "high": 200, "power_of_two": True}}, "ends such as 64"),
        ({"gamma": {"type": "float", "low": 0.9, "high": 1.0, "complement": True}}, "high < 1"),
        ({"vf_loss": {"choices": ["sb3"]}}, "at least two"),
        ({"vf_loss": ["sb3", "max"]}, "give a mapping"),
        ({"learning_rate_schedule": {"choices": ["const", "wave"]}}, "unknown shape 'wave'"),
        ({"learning_rate_schedule": NUMBER}, "chosen, not drawn"),
        ({"clip_range_vf": {**NUMBER, "when": {"vf_loss": "max"}}}, "no choice that comes before it"),
        (
            {"vf_loss": {"choices": ["sb3", "huber"]}, "clip_range_vf": {**NUMBER, "when": {"vf_loss": "max"}}},
            "its choices are sb3, huber",
        ),
        (
            {
                "batch_size": {"type": "int", "low": 8, "high": 64},
                "n_minibatches": {"type": "int", "low": 1, "high": 4},
            },
            "leave one out",
        ),
        ({}, "searches nothing"),
    ],
)
def test_a_space_that_cannot_work_is_refused(content, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        space_from_mapping("mine", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gamma": {"type": "float", "low": 0.9, "high": 1.5}}, "gamma = 1.5 cannot work"),
        ({"n_epochs": {"type": "int", "low": 0, "high": 3}}, "n_epochs = 0 cannot work"),
        ({"clip_range": {"type": "float", "low": -0.1, "high": 0.3}}, "clip_range = -0.1 cannot work"),
        ({"kl_stop": {"choices": ["minibatch", "rollback"]}}, "kl_stop = 'rollback' cannot work.*target_kl"),
        ({"vf_loss": {"choices": ["sb3", "hubert"]}}, "vf_loss = 'hubert' cannot work"),
        ({"controllers.kl_coef": {"choices": {"none": None, "band": {"type": "kl_bend"}}}}, "kl_bend"),
    ],
)
def test_a_value_that_ppo_refuses_is_found_before_the_first_trial(content, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_space(space_from_mapping("mine", content), base())


def test_an_unknown_space_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="did you mean core"):
        load_space("cor")
    (tmp_path / "own.yml").write_text("n_epochs: {type: int, low: 1, high: 3}\n")
    assert load_space(tmp_path / "own.yml").parameters[0].extremes() == [1, 3]


def test_draws_become_settings_and_back() -> None:
    space = load_space("standard")
    known = base(**{"n_steps": 512, "n_envs": 8, "batch_size": 256, "gamma": 0.98, "learning_rate": "lin_0.001"})
    draws = draws_of(space, known)
    assert draws["log2_n_steps"] == 9
    assert draws["log2_n_minibatches"] == 4
    assert draws["one_minus_gamma"] == pytest.approx(0.02)
    assert draws["learning_rate"] == 0.001 and draws["learning_rate_schedule"] == "lin"
    settings = settings_of(space, draws, known)
    assert (settings["n_steps"], settings["batch_size"], settings["gamma"]) == (512, 256, 0.98)
    assert settings["learning_rate"] == "lin_0.001"
    assert "n_minibatches" not in settings and "learning_rate_schedule" not in settings


def test_a_value_outside_the_range_moves_to_its_end() -> None:
    space = space_from_mapping("mine", {"n_epochs": {"type": "int", "low": 1, "high": 5}, "clip_range": NUMBER})
    assert draws_of(space, SB3_DEFAULTS) == {"n_epochs": 5, "clip_range": 0.2}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (3e-4, 0.002),
        ("lin_1e-3", "lin_0.002"),
        ("cos_1e-3", "cos_0.002"),
        ({"type": "linear", "start": 1e-3, "end": 1e-4}, {"type": "linear", "start": 0.002, "end": 2e-4}),
    ],
)
def test_a_drawn_number_keeps_the_shape_of_the_base(known, expected) -> None:
    space = space_from_mapping("mine", {"learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}})
    assert settings_of(space, {"learning_rate": 0.002}, base(learning_rate=known))["learning_rate"] == expected


def test_a_searched_shape_takes_the_place_of_the_base_s() -> None:
    space = space_from_mapping(
        "mine",
        {
            "clip_range": NUMBER,
            "clip_range_schedule": {"choices": ["const", "lin"]},
            "ent_coef_schedule": {"choices": ["const", "lin"]},
        },
    )
    draws = {"clip_range": 0.3, "clip_range_schedule": "const", "ent_coef_schedule": "lin"}
    settings = settings_of(space, draws, base(clip_range="lin_0.2", ent_coef=0.01))
    assert settings == {"clip_range": 0.3, "ent_coef": "lin_0.01"}


@pytest.mark.parametrize(
    ("rollout", "minibatches", "size"), [(1024, 4, 256), (1000, 3, 250), (1000, 16, 50), (6, 100, 2), (7, 2, 7)]
)
def test_minibatches_always_divide_the_rollout(rollout: int, minibatches: int, size: int) -> None:
    # 1000 / 3 = 333.3: the divisors around it are 250 and 500, and 250 is nearer by ratio
    assert batch_size(rollout, minibatches) == size
    assert rollout % size == 0


def test_conditions_decide_what_is_drawn() -> None:
    space = load_space("plus")
    draws = space.middle({"vf_loss": "max"})
    assert "clip_range_vf" in draws and "huber_delta" not in draws
    config = apply_settings(base(), settings_of(space, draws, base()))
    assert config.hyperparameters["vf_loss"] == "max" and config.hyperparameters["controllers"] is None
    band = apply_settings(base(), settings_of(space, space.middle({"controllers.kl_coef": "band"}), base()))
    assert band.hyperparameters["controllers"] == {"kl_coef": {"type": "kl_band", "target": 0.01}}
    assert band.hyperparameters["kl_coef"] == 0.1


def test_a_grid_has_every_combination_once() -> None:
    space = space_from_mapping(
        "mine",
        {
            "n_epochs": {"type": "int", "low": 1, "high": 5},
            "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "vf_loss": {"choices": ["sb3", "max"]},
            "clip_range_vf": {**NUMBER, "when": {"vf_loss": "max"}},
        },
    )
    draws = grid_draws(space)
    # 3 * 3 without a clip range of values, 3 * 3 * 3 with one
    assert len(draws) == 9 + 27
    assert sorted({draw["n_epochs"] for draw in draws}) == [1, 3, 5]
    assert sorted({draw["learning_rate"] for draw in draws}) == pytest.approx([1e-4, 1e-3, 1e-2])


def test_drawn_numbers_are_short() -> None:
    space = load_space("standard")
    settings = settings_of(space, {"learning_rate": 0.000123456, "one_minus_gamma": 0.0123456, "n_epochs": 3}, base())
    assert settings["learning_rate"] == "lin_0.0001235" or settings["learning_rate"] == 0.0001235
    assert settings["gamma"] == 0.98765
