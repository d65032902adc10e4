"""sb3_ppo_plus.runs.layers, config and hyperparameters: which value wins, and what is refused."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.resources import resource_path
from sb3_ppo_plus.runs.config import RunConfig, config_from_mapping
from sb3_ppo_plus.runs.envs import probe_spaces
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs, plain_policy_kwargs, ppo_defaults
from sb3_ppo_plus.runs.layers import assemble, zoo_block
from sb3_ppo_plus.runs.prepare import check_device, resolve

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    path = tmp_path / "zoo.yml"
    path.write_text(
        "default: {n_envs: 2, normalize: true, gamma: 0.9}\n"
        "CartPole-v1:\n"
        "  n_timesteps: !!float 1e5\n"
        "  n_envs: 4\n"
        "  n_epochs: 20\n"
        "  gamma: 0.98\n"
        "  learning_rate: lin_1e-3\n"
        '  policy_kwargs: "dict(net_arch=[8], activation_fn=nn.ReLU)"\n'
    )
    return path


def test_the_later_layer_wins(zoo: Path, tmp_path: Path) -> None:
    config_file = tmp_path / "config.yml"
    config_file.write_text("n_envs: 5\nn_epochs: 21\nn_steps: 32\n")
    config = assemble(
        "CartPole-v1", config_file, ["n_epochs=22", "n_steps=64", "batch_size=16"], {"n_steps": 128, "seed": None}, zoo
    )
    assert (config.n_timesteps, config.n_envs, config.seed) == (100_000, 5, 0)  # block, file, nobody
    assert config.hyperparameters == {
        "n_epochs": 22,  # --set over file over block
        "gamma": 0.98,  # block
        "learning_rate": "lin_1e-3",  # untouched
        "policy_kwargs": {"net_arch": [8], "activation_fn": "relu"},
        "n_steps": 128,  # flag over --set over file
        "batch_size": 16,
    }


def test_a_dotted_setting_keeps_the_rest_of_a_string_form(zoo: Path) -> None:
    config = assemble("CartPole-v1", settings=["policy_kwargs.net_arch=[4, 4]"], zoo_file=zoo)
    assert config.hyperparameters["policy_kwargs"] == {"net_arch": [4, 4], "activation_fn": "relu"}


def test_an_unknown_environment_gets_the_default_block(zoo: Path) -> None:
    config = assemble("Acrobot-v1", zoo_file=zoo)
    assert (config.n_envs, config.hyperparameters) == (2, {"gamma": 0.9})
    assert resolve(config, VECTOR).normalize == {"gamma": 0.9}
    assert resolve(config, IMAGE).normalize is False
    assert resolve(config, spaces.Discrete(3)).normalize is False
    assert resolve(assemble("Acrobot-v1", settings=["normalize=false"], zoo_file=zoo), VECTOR).normalize is False


def test_a_block_is_found_behind_a_module_name(zoo: Path) -> None:
    assert assemble("gymnasium:CartPole-v1", zoo_file=zoo).n_envs == 4


def test_a_config_file_may_hold_blocks(zoo: Path, tmp_path: Path) -> None:
    blocks = tmp_path / "blocks.yml"
    blocks.write_text("Acrobot-v1: {n_envs: 3}\nCartPole-v1: {n_envs: 7}\n")
    assert assemble("CartPole-v1", blocks, zoo_file=zoo).n_envs == 7
    with pytest.raises(InvalidArgument, match=r"has blocks for Acrobot-v1, CartPole-v1; choose one with --env"):
        assemble(None, blocks, zoo_file=zoo)
    with pytest.raises(InvalidArgument, match=r"has no block for 'CartPole-v0'; did you mean CartPole-v1"):
        assemble("CartPole-v0", blocks, zoo_file=zoo)
    blocks.write_text("Acrobot-v1: {n_envs: 3}\n")
    assert assemble(None, blocks, zoo_file=zoo).env == "Acrobot-v1"


def test_a_written_config_is_read_back_whole_and_ignores_the_zoo(zoo: Path, tmp_path: Path) -> None:
    first = resolve(assemble("CartPole-v1", settings=["learning_rate=1e-5"], zoo_file=zoo), VECTOR)
    path = tmp_path / "config.yml"
    first.write(path, command="ppo-plus train --env CartPole-v1")
    written = yaml.safe_load(path.read_text())
    assert written["command"] == "ppo-plus train --env CartPole-v1"
    # of the installed package: torch.__version__ adds the name of the build, such as +cpu
    assert written["versions"]["torch"] == version("torch")
    assert written["learning_rate"] == 1e-5
    assert written["compile_update"] == "auto"
    assert set(ppo_defaults()) <= set(written)
    zoo.write_text("CartPole-v1: {n_envs: 99, target_kl: 0.5}\n")
    assert assemble(config_file=path, zoo_file=zoo) == first


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_epocs": 3}, r"unknown hyperparameter 'n_epocs' \(value 3\); did you mean n_epochs"),
        ({"n_timesteps": -5}, "n_timesteps is -5; give a whole number of at least 1"),
        ({"n_envs": 2.5}, "n_envs is 2.5"),
        ({"threads": 0}, "threads is 0; give a whole number of at least 1"),
        ({"seed": "abc"}, "seed is 'abc'"),
        ({"seed": None}, "seed is None"),
        ({"vec_env": "threads"}, "vec_env is 'threads'; give auto, native, torch, dummy, subproc or unity"),
        ({"normalize": 3}, "normalize is 3"),
        ({"normalize": "exec('x')"}, "normalize: cannot read"),
        ({"env_kwargs": [1]}, r"env_kwargs is \[1\]"),
        ({"policy_kwargs": 5}, "policy_kwargs is 5"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
    ],
)
def test_what_cannot_work_is_refused_with_its_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        config_from_mapping({"env": "CartPole-v1", **values})


def test_the_policy_follows_the_observation_space() -> None:
    config = RunConfig("CartPole-v1")
    assert resolve(config, VECTOR).policy == "MlpPolicy"
    assert resolve(config, IMAGE).policy == "CnnPolicy"
    assert resolve(config, spaces.Dict({"a": VECTOR, "b": IMAGE})).policy == "MultiInputPolicy"
    assert resolve(RunConfig("CartPole-v1", policy="MlpPolicy"), IMAGE).policy == "MlpPolicy"


def test_resolving_leaves_nothing_open() -> None:
    config = resolve(RunConfig("CartPole-v1", n_timesteps=5_000, hyperparameters={"gamma": 0.9}), VECTOR)
    assert (config.eval_freq, config.threads) == (500, 1)
    assert config.hyperparameters.keys() == ppo_defaults().keys()
    assert config.hyperparameters["gamma"] == 0.9
    normalized = RunConfig("CartPole-v1", normalize={"norm_reward": False}, hyperparameters={"gamma": 0.9})
    assert resolve(normalized, VECTOR).normalize == {"gamma": 0.9, "norm_reward": False}


@pytest.mark.parametrize(
    ("text", "value"), [("auto", "auto"), ("true", True), ("on", True), ("false", False), ("off", False)]
)
def test_whether_updates_are_compiled_is_written_in_yaml(text: str, value: Any, zoo: Path, tmp_path: Path) -> None:
    by_setting = assemble("CartPole-v1", settings=[f"compile_update={text}"], zoo_file=zoo)
    config_file = tmp_path / "config.yml"
    config_file.write_text(f"compile_update: {text}\n")
    by_file = assemble("CartPole-v1", config_file, zoo_file=zoo)
    for config in (by_setting, by_file):
        found = resolve(config, VECTOR).hyperparameters["compile_update"]
        assert found == value and type(found) is type(value)


def test_a_run_compiles_by_itself_where_a_model_alone_does_not() -> None:
    assert ppo_defaults()["compile_update"] is False
    assert resolve(RunConfig("CartPole-v1"), VECTOR).hyperparameters["compile_update"] == "auto"


def test_names_in_policy_kwargs_become_classes() -> None:
    for name in ("relu", "ReLU"):
        assert build_policy_kwargs({"activation_fn": name})["activation_fn"] is th.nn.ReLU  # type: ignore[index]
    built = build_policy_kwargs({"activation_fn": "leaky_relu", "optimizer_class": "AdamW", "net_arch": [3]})
    assert built == {"activation_fn": th.nn.LeakyReLU, "optimizer_class": th.optim.AdamW, "net_arch": [3]}
    with pytest.raises(InvalidArgument, match=r"policy_kwargs\.activation_fn is 'rellu'; did you mean relu"):
        build_policy_kwargs({"activation_fn": "rellu"})
    assert plain_policy_kwargs("dict(net_arch=[dict(pi=[4], vf=[5])])") == {"net_arch": {"pi": [4], "vf": [5]}}


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    check_device("cpu")
    check_device("auto")
    with pytest.raises(InvalidArgument, match=r"device 'cuda:97' is not there; this machine has auto, cpu"):
        check_device("cuda:97")
    with pytest.raises(InvalidArgument, match=r"device 'gpu' is not a device; this machine has auto, cpu"):
        check_device("gpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig("CartPol-v1"), "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
        (RunConfig("CartPole-v77"), "unknown environment 'CartPole-v77'; did you mean CartPole-v1"),
        (RunConfig("no_such_module:X-v0"), "module 'no_such_module' cannot be imported"),
        (RunConfig("CartPole-v1", env_kwargs={"wheels": 3}), r"cannot be built with env_kwargs=\{'wheels': 3\}"),
        (RunConfig("CartPole-v1", env_wrapper="gymnasium.wrappers.Nope"), "env_wrapper: 'gymnasium.wrappers.Nope'"),
        (RunConfig("CartPole-v1", env_wrapper="Nope"), "env_wrapper: 'Nope' cannot be imported"),
    ],
)
def test_an_environment_that_cannot_be_built_is_explained(config: RunConfig, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        probe_spaces(config)


class Gauges(gym.Env):
    """Two single numbers and a vector in a mapping, as dm_control gives them."""

    observation_space = spaces.Dict(
        {"height": spaces.Box(0.0, 1.0, ()), "speed": spaces.Box(0.0, 1.0, ()), "pose": VECTOR}
    )
    action_space = spaces.Discrete(2)


def test_single_numbers_in_a_mapping_are_to_be_flattened() -> None:
    gym.register("Gauges-v0", entry_point=Gauges)
    with pytest.raises(
        InvalidArgument, match=r"single numbers \(height, speed\).*env_wrapper gymnasium\.wrappers\.Flat"
    ):
        probe_spaces(RunConfig("Gauges-v0"))
    flat = RunConfig("Gauges-v0", env_wrapper="gymnasium.wrappers.FlattenObservation")
    assert probe_spaces(flat)[0].shape == (5,)
    gym.registry.pop("Gauges-v0")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **kwargs: Any) -> gym.Env:
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed, run `pip install gymnasium[mujoco]`")

    monkeypatch.setattr("sb3_ppo_plus.runs.envs.gym.make", absent)
    with pytest.raises(InvalidArgument, match=r'not there: pip install "sb3-ppo-plus\[mujoco\]"'):
        probe_spaces(RunConfig("CartPole-v1"))


def test_wrappers_are_applied_innermost_first() -> None:
    wrappers = [
        "gymnasium.wrappers.FlattenObservation",
        {"gymnasium.wrappers.FrameStackObservation": {"stack_size": 3}},
    ]
    observation_space, _ = probe_spaces(RunConfig("CartPole-v1", env_wrapper=wrappers))
    assert observation_space.shape == (3, 4)


@pytest.mark.parametrize(
    ("env_id", "entry_point", "expected"),
    [
        ("Breakout-v99", "ale_py.env:AtariEnv", "CnnPolicy"),
        ("ale_py:ALE/Pong-v5", None, "CnnPolicy"),
        ("Robot-v99", "robots:Robot", None),
    ],
)
def test_atari_games_without_a_block_share_one(
    env_id: str, entry_point: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if entry_point is not None:
        monkeypatch.setitem(gym.registry, env_id, EnvSpec(env_id, entry_point=entry_point))
    block = zoo_block(env_id)
    assert block.get("policy") == expected
    assert block.get("frame_stack") == (4 if expected else None)


def test_every_block_of_the_package_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Game-v99", EnvSpec("Game-v99", entry_point="ale_py.env:AtariEnv"))
    blocks = yaml.safe_load(resource_path("zoo_configs", "ppo_plus.yml").read_text())
    assert {"default", "atari", "CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "LunarLander-v3"} <= set(blocks)
    for env_id, block in blocks.items():
        config = assemble({"default": "Acrobot-v1", "atari": "Game-v99"}.get(env_id, env_id))
        resolved = resolve(config, IMAGE if env_id == "atari" else VECTOR)
        rows = resolved.n_envs * resolved.hyperparameters["n_steps"]
        assert rows % resolved.hyperparameters["batch_size"] == 0, f"{env_id}: the last minibatch is cut"
        assert config.n_timesteps == block["n_timesteps"]
