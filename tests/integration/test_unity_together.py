"""Two behaviors of one game that learn at the same time, each with a model of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from unity_games import EchoAccount, make_build, player_log

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import TensorVecNormalize, UnityVecEnv
from sb3_ppo_plus.envs.unity import learn_together
from sb3_ppo_plus.errors import InvalidArgument

FORMS = {"Striker": (3, 0), "Goalie": (0, 1)}


def make_envs(folder: Path, **arguments: Any) -> dict[str, UnityVecEnv]:
    build = make_build(folder, "two", agents=3, player_log=folder / "player.log")
    return UnityVecEnv.for_behaviors(build, list(FORMS), **{"seed": 3, "timeout": 20, "graphics": False, **arguments})


def make_models(envs: dict[str, Any], **overrides: Any) -> dict[str, PPOPlus]:
    arguments: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    return {name: PPOPlus("MlpPolicy", env, **{**arguments, **overrides}) for name, env in envs.items()}


class Accountant:
    """Keeps an account of every episode from within a training."""

    def __init__(self, name: str) -> None:
        self.account = EchoAccount(*FORMS[name])

    def __call__(self, shown: dict[str, Any], _: Any) -> bool:
        infos, dones = shown["infos"], shown["dones"]
        self.account.note(shown["self"]._last_obs, shown["clipped_actions"], shown["rewards"], dones, infos)
        return True


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def close(envs: dict[str, Any]) -> None:
    next(iter(envs.values())).close()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_both_learn_and_every_return_is_right(n_workers: int, tmp_path: Path) -> None:
    envs = make_envs(tmp_path, n_workers=n_workers)
    assert envs["Striker"].action_space.shape == (3,) and envs["Goalie"].action_space.n == 4
    models, accounts = make_models(envs), {name: Accountant(name) for name in FORMS}
    before = {name: model.policy.action_net.weight.clone() for name, model in models.items()}
    from sb3_ppo_plus.envs.unity import together

    # learn() takes one callback for all; each model gets its own account
    for name, model in models.items():
        model.learn = lambda steps, learn=model.learn, account=accounts[name]: learn(steps, callback=account)  # type: ignore[method-assign]
    together.learn_together(models, 32 * 3 * n_workers * 6)
    close(envs)
    for name, account in accounts.items():
        assert account.account.n_episodes > 20 and account.account.mistakes == []
        assert not th.equal(before[name], models[name].policy.action_net.weight)
        assert models[name].num_timesteps == 32 * 3 * n_workers * 6
    assert not any("error" in entry for entry in player_log(tmp_path))


def test_the_same_seed_gives_the_same_two_models(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        envs = make_envs(tmp_path, n_workers=2)
        models = make_models({name: TensorVecNormalize(env) for name, env in envs.items()})
        learn_together(models, {"Striker": 32 * 6 * 3, "Goalie": 32 * 6})
        close(envs)
        results.append([parameter for model in models.values() for parameter in model.policy.parameters()])
    assert all(th.equal(one, other) for one, other in zip(*results, strict=True))


def test_who_is_done_goes_on_playing_as_it_learned(tmp_path: Path) -> None:
    envs = make_envs(tmp_path)
    models = make_models(envs)
    asked = []
    predict = models["Goalie"].predict
    models["Goalie"].predict = lambda obs, **more: (asked.append(len(obs)), predict(obs, **more))[1]  # type: ignore
    learn_together(models, {"Striker": 32 * 3 * 6, "Goalie": 32 * 3})
    close(envs)
    assert len(asked) > 20


def test_alone_one_of_them_is_an_environment_as_any_other(tmp_path: Path) -> None:
    envs = make_envs(tmp_path)
    model = PPOPlus("MlpPolicy", envs["Goalie"], n_steps=16, batch_size=16, n_epochs=1, device="cpu").learn(100)
    assert model.num_timesteps >= 100
    close(envs)


def test_an_error_of_one_ends_the_training_of_all(tmp_path: Path) -> None:
    before = threading.active_count()
    envs = make_envs(tmp_path)

    def fail(shown: dict[str, Any], _: Any) -> bool:
        if shown["self"] is models["Goalie"] and shown["self"].num_timesteps > 60:
            raise ValueError("enough")
        return True

    models = make_models(envs)
    with pytest.raises(ValueError, match="enough"):
        learn_together(models, 10_000, callback=fail)
    close(envs)
    assert wait_for(lambda: threading.active_count() <= before, 20.0), threading.enumerate()


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    envs = make_envs(tmp_path)
    one, other = (make_models(envs)["Striker"] for _ in range(2))
    with pytest.raises(InvalidArgument, match="each another behavior"):
        learn_together({"Striker": one, "Goalie": other}, 100)
    close(envs)
    with pytest.raises(InvalidArgument, match="has no UnityVecEnv"):
        learn_together({"x": PPOPlus("MlpPolicy", "CartPole-v1", device="cpu")}, 100)
    with pytest.raises(InvalidArgument, match="behaviors='Striker' has to be a list"):
        UnityVecEnv.for_behaviors("game", "Striker")
