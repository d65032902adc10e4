"""sb3_ppo_plus.runs.values and naming: text to plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import apply_setting, parse_mapping, parse_settings, plain, read_yaml, require_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e6", 1e6),
        ("-2.5E+3", -2500.0),
        (".5e1", 5.0),
        ("lin_3e-4", "lin_3e-4"),
        ("e5", "e5"),
        (["1e-3", {"a": "2e-3"}], [1e-3, {"a": 2e-3}]),
        (True, True),
    ],
)
def test_number_strings_become_floats_and_nothing_else_does(text: Any, value: Any) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_settings_keep_their_order_and_reach_into_mappings() -> None:
    parsed = parse_settings(["learning_rate=3e-4", "policy_kwargs.net_arch=[64, 64]", "preset=null"])
    assert parsed == [(("learning_rate",), 3e-4), (("policy_kwargs", "net_arch"), [64, 64]), (("preset",), None)]
    before: dict[str, Any] = {"policy_kwargs": {"log_std_init": -1}}
    after = apply_setting(before, ("policy_kwargs", "net_arch"), [64, 64])
    assert after == {"policy_kwargs": {"log_std_init": -1, "net_arch": [64, 64]}}
    assert before == {"policy_kwargs": {"log_std_init": -1}}
    assert apply_setting({"a": None}, ("a", "b", "c"), 1) == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize("word", ["n_epochs", "=5", "a..b=1", "x=[1, "])
def test_a_malformed_setting_is_named(word: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_settings([word])
    assert repr(word) in str(caught.value)


def test_a_setting_does_not_run_through_a_number() -> None:
    with pytest.raises(InvalidArgument, match=r"learning_rate is 0\.1, not a mapping"):
        apply_setting({"learning_rate": 0.1}, ("learning_rate", "start"), 1.0)


def test_the_zoo_string_form_is_read_without_eval() -> None:
    text = "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[256, 256], vf=[64]))"
    expected = {
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": "relu",
        "net_arch": {"pi": [256, 256], "vf": [64]},
    }
    assert parse_mapping("policy_kwargs", text) == expected
    assert parse_mapping("normalize", "{'norm_obs': True, 'norm_reward': False}") == {
        "norm_obs": True,
        "norm_reward": False,
    }


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "dict(a=open('x'))",
        "dict(a=os.path)",
        "dict(**{'a': 1})",
        "dict([('a', 1)])",
        "{**{'a': 1}}",
        "-'a'",
        "[1, 2]",
        "dict(",
    ],
)
def test_anything_but_literals_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^policy_kwargs: ") as caught:
        parse_mapping("policy_kwargs", text)
    assert text in str(caught.value)


def test_an_unreadable_file_is_named_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text("n_epochs: 5\nlearning_rate: [1, 2\ngamma: 0.9\n")
    with pytest.raises(InvalidArgument, match=r"broken\.yml, line 3, column \d+: "):
        read_yaml(broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(InvalidArgument, match=r"broken\.yml holds a list, but a mapping"):
        read_yaml(broken)
    broken.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(InvalidArgument, match=r"broken\.yml: not a UTF-8 text file"):
        read_yaml(broken)
    with pytest.raises(InvalidArgument, match=r"none\.yml: No such file"):
        read_yaml(tmp_path / "none.yml")


@pytest.mark.parametrize("value", [-1, 0, 2.5, True, "8", None, float("nan"), float("inf")])
def test_what_is_no_whole_number_is_refused_with_its_value(value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        require_number("n_envs", value, minimum=1)
    assert str(caught.value) == f"n_envs is {value!r}; give a whole number of at least 1"


def test_whole_floats_become_ints() -> None:
    value = require_number("n_timesteps", 1e6, minimum=1)
    assert value == 1_000_000
    assert isinstance(value, int)


def test_near_names_are_offered_whatever_their_case() -> None:
    assert did_you_mean("N_EPOCS", ["n_epochs", "gamma"]) == "did you mean n_epochs?"
    assert did_you_mean("zzz", ["n_epochs", "gamma"]) == ""
