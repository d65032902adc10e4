"""The RL Zoo with PPOPlus in it: its own programs, this package's blocks, and run folders of both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

pytest.importorskip("rl_zoo3")

import rl_zoo3
from rl_zoo3.gym_patches import PatchedTimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import InvalidArgument, PPOPlus
from sb3_ppo_plus.cli import EXIT_OK, EXIT_USAGE, main
from sb3_ppo_plus.envs import MujocoVecEnv, TensorVecNormalize
from sb3_ppo_plus.resources import resource_path
from sb3_ppo_plus.runs.config import complete_hyperparameters
from sb3_ppo_plus.runs.envs import probe_spaces
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.prepare import resolve
from sb3_ppo_plus.runs.zoo_folder import load_zoo_yaml, read_zoo_config
from sb3_ppo_plus.zoo import launch, register
from sb3_ppo_plus.zoo.launcher import complete_words
from sb3_ppo_plus.zoo.manager import Manager
from sb3_ppo_plus.zoo.registration import convert_ppo_plus_params, sample_ppo_plus_params

SHORT = ["-n", "256", "--eval-freq", "-1", "--seed", "0", "--verbose", "0"]


# Importing the zoo changes Gymnasium, for all tests of the process: it is taken back, and done again for tests here.
PATCHED = (gymnasium.wrappers, gymnasium.wrappers.common, gymnasium.envs.registration)
for module in PATCHED:
    vars(module)["TimeLimit"] = PatchedTimeLimit.__base__


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in PATCHED:
        monkeypatch.setattr(module, "TimeLimit", PatchedTimeLimit)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manager(env: str = "CartPole-v1", **options: Any) -> Manager:
    """The zoo's manager of a run that was not started."""
    import argparse

    from rl_zoo3 import exp_manager

    register()
    native = options.pop("native", False)
    config = options.pop("config", str(resource_path("zoo_configs", "ppo_plus.yml")))
    made = exp_manager.ExperimentManager(
        argparse.Namespace(), "ppo_plus", env, "logs", eval_freq=-1, verbose=0, config=config, **options
    )
    made.native = native
    return made


def built(env: str = "CartPole-v1", **options: Any) -> tuple[Manager, PPOPlus]:
    """The same with its model."""
    made = manager(env, **options)
    model, _ = made.setup_experiment()
    model.env.close()
    return made, model


def block_file(here: Path, **block: Any) -> str:
    path = here / "blocks.yml"
    path.write_text(yaml.safe_dump({"CartPole-v1": {"n_timesteps": 256, "n_steps": 64, "batch_size": 32, **block}}))
    return str(path)


def installed() -> dict[str, str]:
    """Hashes of the installed zoo's sources."""
    folder = Path(rl_zoo3.__file__).parent
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.py")}


def test_train_enjoy_and_evaluate(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = installed()
    assert main(["zoo", "train", "--env", "CartPole-v1", *SHORT, "-params", "n_envs:2"]) == EXIT_OK
    folder = here / "logs/ppo_plus/CartPole-v1_1"
    assert PPO.load(folder / "CartPole-v1.zip").n_steps == 32, "SB3 opens it, and it is the block of this package"
    assert main(["zoo", "enjoy", "--env", "CartPole-v1", "--no-render", "-n", "50"]) == EXIT_OK
    assert f"Loading {Path('logs/ppo_plus/CartPole-v1_1/CartPole-v1.zip')}" in capfd.readouterr().out
    assert main(["eval", str(folder), "--episodes", "2"]) == EXIT_OK
    assert "CartPole-v1.zip" in capfd.readouterr().out
    words = ["zoo", "train", "--env", "CartPole-v1", "-i", str(folder / "CartPole-v1.zip"), *SHORT]
    assert main(words) == EXIT_OK, "training goes on from a zip"
    assert installed() == before


def test_register_twice_is_register_once() -> None:
    from rl_zoo3 import ALGOS, exp_manager, hyperparams_opt

    register()
    tables = (dict(ALGOS), dict(hyperparams_opt.HYPERPARAMS_SAMPLER), dict(hyperparams_opt.HYPERPARAMS_CONVERTER))
    register()
    assert tables == (dict(ALGOS), hyperparams_opt.HYPERPARAMS_SAMPLER, hyperparams_opt.HYPERPARAMS_CONVERTER)
    assert ALGOS["ppo_plus"] is PPOPlus and ALGOS["ppo"] is PPO and exp_manager.ExperimentManager is Manager


def test_other_algorithms_are_left_alone(here: Path) -> None:
    words = ["--algo", "a2c", "--env", "CartPole-v1", *SHORT]
    launch("train", words)
    assert (here / "logs/a2c/CartPole-v1_1/CartPole-v1.zip").is_file()
    assert complete_words("train", list(words)) == words, "its blocks are the zoo's"


@pytest.mark.parametrize(
    "env",
    [
        name
        for name in yaml.safe_load(resource_path("zoo_configs", "ppo_plus.yml").read_text())
        if name in gymnasium.registry
    ]
    + ["Acrobot-v1"],
)
def test_every_block_means_the_same_in_both(env: str) -> None:
    """The zoo and `ppo-plus train` build the same model of a block, the default one included."""
    if str(gymnasium.spec(env).entry_point).startswith("gymnasium.envs.box2d"):
        pytest.importorskip("Box2D", reason="needs Box2D")
    _, zoo = built(env, n_timesteps=100)
    config = assemble(env)
    config = resolve(config, probe_spaces(config)[0])
    ours = config.hyperparameters
    for name in ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "vf_coef", "max_grad_norm", "use_sde"):
        assert getattr(zoo, name) == ours[name], name
    assert zoo.n_envs == config.n_envs and (zoo.get_vec_normalize_env() is not None) == bool(config.normalize)
    from sb3_ppo_plus.schedules import parse_schedule

    for name, schedule in (("learning_rate", zoo.lr_schedule), ("clip_range", zoo.clip_range)):
        expected = parse_schedule(ours[name], name)
        for progress in (1.0, 0.5, 0.0):
            assert schedule(progress) == pytest.approx(expected(progress) if callable(expected) else expected)
    wanted = (ours.get("policy_kwargs") or {}).get("net_arch")
    assert wanted is None or zoo.policy.net_arch == wanted


@pytest.mark.parametrize(
    ("value", "half"),
    [
        ("lin_1e-3", 5e-4),
        ("const_1e-3", 1e-3),
        ("cos_1e-3", 5e-4),
        (1e-3, 1e-3),
        ({"type": "linear", "start": 1e-3, "end": 5e-4}, 7.5e-4),
    ],
)
def test_schedules_are_what_they_say(value: Any, half: float, here: Path) -> None:
    """The installed zoo takes the first four for the same line to 0, and refuses the last."""
    _, model = built(config=block_file(here, learning_rate=value, clip_range_vf=None))
    assert model.lr_schedule(0.5) == pytest.approx(half)


def test_names_stand_for_classes_and_nothing_is_run_from_a_text(here: Path) -> None:
    _, model = built(config=block_file(here, policy_kwargs={"activation_fn": "relu", "net_arch": [8]}))
    assert model.policy.activation_fn.__name__ == "ReLU"
    _, model = built(config=block_file(here, policy_kwargs="dict(activation_fn=nn.ELU, net_arch=[8])"))
    assert model.policy.activation_fn.__name__ == "ELU"
    with pytest.raises(InvalidArgument, match="cannot read"):
        built(config=block_file(here, policy_kwargs="__import__('os').system('touch hacked')"))
    assert not (here / "hacked").exists()


def test_a_run_that_cannot_begin_leaves_no_folder(here: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"unknown hyperparameter 'n_epoch'.*did you mean n_epochs"):
        built(config=block_file(here, n_epoch=3))
    with pytest.raises(InvalidArgument, match="vf_loss"):
        built(config=block_file(here, vf_loss="hubert"))
    assert not list(here.glob("logs/ppo_plus/*"))


def test_env_kwargs_of_a_block_reach_the_evaluation(here: Path) -> None:
    path = here / "pendulum.yml"
    path.write_text(yaml.safe_dump({"Pendulum-v1": {"n_timesteps": 100, "env_kwargs": {"g": 1.0}}}))
    made, _ = built("Pendulum-v1", config=str(path))
    evaluation = made.create_envs(1, eval_env=True)
    assert evaluation.get_attr("g") == [1.0]


def test_robots_on_native_threads(here: Path) -> None:
    words = [
        "--env",
        "HalfCheetah-v5",
        "--vec-env",
        "native",
        *SHORT,
        "-params",
        "n_envs:2",
        "n_steps:64",
        "batch_size:32",
    ]
    launch("train", words)
    assert Manager.native is False, "one run only"
    folder = here / "logs/ppo_plus/HalfCheetah-v5_1"
    config = read_zoo_config(folder)
    assert config.env == "HalfCheetah-v5" and config.normalize and config.hyperparameters["n_steps"] == 64
    assert (folder / "HalfCheetah-v5/vecnormalize.pkl").is_file()
    launch("enjoy", ["--env", "HalfCheetah-v5", "--no-render", "-n", "20"])
    _, model = built("HalfCheetah-v5", native=True, n_timesteps=100)
    assert isinstance(model.env, TensorVecNormalize) and isinstance(model.env.unwrapped, MujocoVecEnv)
    with pytest.raises(InvalidArgument, match="neither one of Gymnasium's MuJoCo tasks"):
        built(native=True, n_timesteps=100)


def test_a_study_of_the_zoo_and_its_trial_number_0(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env", "CartPole-v1", *SHORT, "-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots"]
    study = ["--storage", "logs/study.log", "--study-name", "zoo"]
    launch("train", [*words, *study, "--pruner", "none", "-params", "n_envs:1", "--eval-episodes", "1"])
    import optuna

    from sb3_ppo_plus.tuning.storage import open_storage

    trials = optuna.load_study(storage=open_storage("logs/study.log"), study_name="zoo").get_trials()
    assert len(trials) == 2
    expected = convert_ppo_plus_params({**trials[0].params, "n_envs": 1})
    made = manager(storage="logs/study.log", study_name="zoo", trial_id=0)
    hyperparams, _ = made.read_hyperparameters()
    assert hyperparams["learning_rate"] == expected["learning_rate"]
    assert hyperparams["batch_size"] == expected["batch_size"]
    with pytest.raises(InvalidArgument, match="has trials 0 to 1"):
        manager(storage="logs/study.log", study_name="zoo", trial_id=7).read_hyperparameters()


def test_a_trial_of_this_package_in_the_zoo(here: Path) -> None:
    from tuning_studies import make

    from sb3_ppo_plus.tuning.study import create_study

    opened = create_study("journal:journal.log", make())
    trial = opened.study.ask()
    trial.set_user_attr("settings", {"n_epochs": 7, "learning_rate": "lin_0.002"})
    hyperparams, _ = manager(storage="journal.log", study_name="study", trial_id=0).read_hyperparameters()
    assert (hyperparams["n_epochs"], hyperparams["learning_rate"]) == (7, "lin_0.002")


def test_the_sampler_draws_what_ppo_plus_takes() -> None:
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        drawn = sample_ppo_plus_params(study.ask(), 1, 4, {})
        assert drawn["n_steps"] * 4 % drawn["batch_size"] == 0 and drawn["batch_size"] >= 2
        PPOPlus("MlpPolicy", "CartPole-v1", **drawn, _init_setup_model=False)


def test_run_folders_there_and_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "train",
        "--env",
        "Pendulum-v1",
        "-n",
        "512",
        "--eval-freq",
        "256",
        "--eval-episodes",
        "1",
        "--no-progress",
    ]
    assert main([*words, "--set", "normalize=true", "--set", "n_steps=64", "--set", "use_sde=false"]) == EXIT_OK
    assert main(["zoo", "export-run", "runs/Pendulum-v1_1"]) == EXIT_OK
    zoo = here / "logs/ppo_plus/Pendulum-v1_1"
    assert "ppo-plus zoo enjoy --env Pendulum-v1 -f logs --exp-id 1" in capsys.readouterr().out
    launch("enjoy", ["--env", "Pendulum-v1", "--exp-id", "1", "--no-render", "-n", "10"])
    launch("enjoy", ["--env", "Pendulum-v1", "--load-best", "--no-render", "-n", "10"])
    assert main(["zoo", "import-run", str(zoo)]) == EXIT_OK
    back = here / "runs/Pendulum-v1_2"
    for name in ("model.zip", "vecnormalize.pkl", "evaluations.npz"):
        assert (back / name).read_bytes() == (here / "runs/Pendulum-v1_1" / name).read_bytes()
    assert not (back / "best_model.zip").exists(), "the zoo has no statistics of its own for it"
    first, second = (assemble(config_file=here / f"runs/Pendulum-v1_{k}/config.yml") for k in (1, 2))
    for key in ("n_envs", "n_timesteps", "policy", "seed", "env_kwargs"):
        assert getattr(first, key) == getattr(second, key)
    assert {**complete_hyperparameters({}), **first.hyperparameters} == {
        **complete_hyperparameters({}),
        **second.hyperparameters,
    }
    assert main(["eval", str(back), "--episodes", "2"]) == EXIT_OK
    obs = np.ones((1, 3), np.float32)
    before, after = (
        PPOPlus.load(here / f"runs/Pendulum-v1_{k}/model.zip").predict(obs, deterministic=True)[0] for k in (1, 2)
    )
    assert np.array_equal(before, after)


def test_evaluation_of_a_zoo_folder_normalizes_as_the_training_did(here: Path) -> None:
    from sb3_ppo_plus.runs.evaluate import load_agent

    launch("train", ["--env", "Pendulum-v1", *SHORT, "-params", "n_envs:1", "normalize:True", "n_steps:128"])
    agent = load_agent(here / "logs/ppo_plus/Pendulum-v1_1")
    env = agent.make_env(1, 0)
    assert isinstance(env, VecNormalize) and not env.training and env.obs_rms.count > 100


def test_files_of_the_zoo_run_nothing(here: Path) -> None:
    path = here / "config.yml"
    path.write_text(
        "!!python/object/apply:collections.OrderedDict\n"
        "- - - gamma\n    - 0.9\n  - - shape\n    - !!python/tuple [1, 2]\n"
    )
    assert load_zoo_yaml(path) == {"gamma": 0.9, "shape": [1, 2]}
    path.write_text("gamma: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(InvalidArgument, match="plain values"):
        load_zoo_yaml(path)
    assert not (here / "hacked").exists()


def test_a_run_s_own_configuration_repeats_it(here: Path) -> None:
    """The installed zoo cannot read the config.yml that it writes."""
    launch("train", ["--env", "CartPole-v1", *SHORT, "-params", "n_envs:1", "gamma:0.91"])
    _, model = built(config="logs/ppo_plus/CartPole-v1_1/CartPole-v1/config.yml", n_timesteps=100)
    assert model.gamma == 0.91


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean train"),
        (["enjoy", "--vec-env", "native"], "is for train"),
        (["export-run", "nothing"], "is no run of `ppo-plus train`"),
        (["import-run", "nothing"], "is no run of the zoo"),
        (["export-run"], "the following arguments are required"),
        (["train", "--algo", "a2c", "--env", "CartPole-v1", "--vec-env", "native"], "is for ppo_plus"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert main(["zoo", *words]) == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_what_the_installed_zoo_cannot_do_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"requests", "pandas", "seaborn"}
    for module in ("launcher", "manager"):
        monkeypatch.setattr(f"sb3_ppo_plus.zoo.{module}.find_spec", lambda name: None if name in missing else object())
    for command, package in (("enjoy", "requests"), ("plot_train", "seaborn")):
        with pytest.raises(InvalidArgument, match=f"pip install {package}"):
            launch(command, [])
    with pytest.raises(InvalidArgument, match="pip install pandas"):
        manager(optimize_hyperparameters=True).setup_experiment()


def test_uploading_with_the_installed_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        from huggingface_sb3.push_to_hub import generate_metadata  # noqa: F401
    except ImportError:
        assert main(["zoo", "push_to_hub"]) == EXIT_USAGE
        assert "generate_metadata" in capsys.readouterr().err
    else:
        pytest.skip("the installed packages fit together")


def test_help_is_this_package_s_and_then_the_zoo_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == EXIT_OK and "export-run" in capsys.readouterr().out
    assert main(["zoo", "train", "--help"]) == EXIT_OK and "--trained-agent" in capsys.readouterr().out
    assert main(["zoo", "import-run", "--help"]) == EXIT_OK
