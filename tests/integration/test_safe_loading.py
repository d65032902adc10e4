"""Files of models and normalizers: what is in them is not run, and damage has one class of error."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import make_damaged
import make_hostile
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import assert_same_tensors, make_model
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.errors import DamagedFile, UntrustedFile
from sb3_ppo_plus.files.normalizer import read_normalizer, write_normalizer

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
HONEST: dict[str, Callable[[], PPO]] = {
    "mlp": lambda: PPO("MlpPolicy", "CartPole-v1", **SMALL),
    "images": lambda: PPO(
        "CnnPolicy", FakeImageEnv(), policy_kwargs={"features_extractor_kwargs": {"features_dim": 16}}, **SMALL
    ),
    "dict": lambda: PPO("MultiInputPolicy", SimpleMultiObsEnv(), **SMALL),
    "multidiscrete": lambda: PPO("MlpPolicy", IdentityEnvMultiDiscrete(4), **SMALL),
    "multibinary": lambda: PPO("MlpPolicy", IdentityEnvMultiBinary(4), **SMALL),
    "gsde": lambda: PPO("MlpPolicy", "Pendulum-v1", use_sde=True, **SMALL),
    "schedules": lambda: PPO(
        "MlpPolicy", "Pendulum-v1", learning_rate=LinearSchedule(1e-3, 1e-4, 0.5), clip_range_vf=0.2, **SMALL
    ),
    "policy_kwargs": lambda: PPO(
        "MlpPolicy",
        "Pendulum-v1",
        policy_kwargs={
            "activation_fn": th.nn.ELU,
            "net_arch": {"pi": [8], "vf": [8, 8]},
            "optimizer_class": th.optim.RMSprop,
            "features_extractor_class": FlattenExtractor,
            "share_features_extractor": False,
        },
        **SMALL,
    ),
    "normalized": lambda: PPO("MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1", 2)), **SMALL),
}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "model.zip"
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **SMALL).learn(16).save(path)
    return path


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "checkpoint.zip"
    model = PPOPlus("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **SMALL).learn(16)
    assert save_checkpoint(model, path) == []
    return path


@pytest.fixture(scope="module")
def normalizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "vecnormalize.pkl"
    env = VecNormalize(make_vec_env("Pendulum-v1", 2))
    env.reset()
    env.step(np.zeros((2, 1), np.float32))
    write_normalizer(path, env)
    return path


def assert_same(one: Any, two: Any, place: str = "") -> None:
    """Compare attributes as far down as they go."""
    assert type(one) is type(two), place
    if isinstance(one, np.ndarray):
        assert np.array_equal(one, two), place
    elif isinstance(one, dict):
        assert list(one) == list(two), place
        for key in one:
            assert_same(one[key], two[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        for number, (first, second) in enumerate(zip(one, two, strict=True)):
            assert_same(first, second, f"{place}[{number}]")
    elif type(one).__module__.startswith("stable_baselines3") and type(one).__name__.endswith("Schedule"):
        assert_same(vars(one), vars(two), place)
    else:
        assert repr(one) == repr(two) if isinstance(one, np.random.Generator) else one == two, place


@pytest.mark.parametrize("name", HONEST)
def test_models_of_sb3_open_with_the_values_that_sb3_gives(name: str, tmp_path: Path) -> None:
    HONEST[name]().learn(32).save(tmp_path / "model.zip")
    trusted = PPOPlus.load(tmp_path / "model", device="cpu", trust=True)
    opened = PPOPlus.load(tmp_path / "model", device="cpu")
    assert_same_tensors(trusted, opened)
    made = {"policy", "rollout_buffer", "_controllers", "profile", "_update_guard", "_rollouts", "device"}
    kept = vars(trusted).keys() - made
    assert kept - {"lr_schedule"} == vars(opened).keys() - made - {"lr_schedule"}
    for attribute in sorted(kept - {"observation_space", "action_space"}):
        assert_same(vars(trusted)[attribute], vars(opened)[attribute], attribute)
    for attribute in ("observation_space", "action_space"):
        assert repr(getattr(trusted, attribute)) == repr(getattr(opened, attribute))
        assert getattr(trusted, attribute) == getattr(opened, attribute)


class Extractor(FlattenExtractor):
    """A class of the user's."""


def test_what_a_user_wrote_comes_beside_the_file(tmp_path: Path) -> None:
    env = gym.make("Pendulum-v1")
    PPO("MlpPolicy", env, policy_kwargs={"features_extractor_class": Extractor}, **SMALL).save(tmp_path / "a.zip")
    with pytest.raises(UntrustedFile, match=rf"data/policy_kwargs.*{__name__}.Extractor.*custom_objects.*trust=True"):
        PPOPlus.load(tmp_path / "a.zip")
    for given in (
        {f"{__name__}.Extractor": Extractor},
        {"policy_kwargs": {"features_extractor_class": Extractor}},
    ):
        opened = PPOPlus.load(tmp_path / "a.zip", custom_objects=given)
        assert type(opened.policy.features_extractor) is Extractor
    assert type(PPOPlus.load(tmp_path / "a.zip", trust=True).policy.features_extractor) is Extractor


def test_a_schedule_that_is_a_function_is_named(tmp_path: Path) -> None:
    PPO("MlpPolicy", "Pendulum-v1", learning_rate=lambda left: 1e-3 * left, **SMALL).save(tmp_path / "a.zip")
    with pytest.raises(UntrustedFile, match=r"data/learning_rate.*the function .*lambda"):
        PPOPlus.load(tmp_path / "a.zip")
    assert PPOPlus.load(tmp_path / "a.zip", custom_objects={"learning_rate": 5e-4}).lr_schedule(1.0) == 5e-4
    assert PPOPlus.load(tmp_path / "a.zip", trust=True).lr_schedule(0.5) == 5e-4


def hostile(files: list[tuple[str, bytes]], canary: Path, open_: Callable[[Path], Any], folder: Path) -> list[str]:
    """Open files, and list those that ran something or failed otherwise than by the class of error."""
    wrong = []
    for name, content in files:
        (folder / "hostile").write_bytes(content)
        try:
            open_(folder / "hostile")
        except DamagedFile as error:
            if "hostile" not in str(error):
                wrong.append(f"{name}: does not name the file: {error}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        if canary.exists():
            wrong.append(f"{name}: ran")
            canary.rmdir()
    return wrong


def test_no_hostile_model_runs(model_file: Path, tmp_path: Path) -> None:
    files = list(make_hostile.checkpoints(model_file.read_bytes(), tmp_path / "canary"))
    slow = {"a deep pickle", "a bomb", "many layers"}
    some = [entry for number, entry in enumerate(files) if number % 4 == 0 or entry[0] in slow]
    assert len(some) >= 60
    assert hostile(some, tmp_path / "canary", lambda path: PPOPlus.load(path, device="cpu"), tmp_path) == []


def test_no_hostile_checkpoint_runs(checkpoint_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint.zip"
    copy.write_bytes(checkpoint_file.read_bytes())
    files = list(make_hostile.resumable(copy, tmp_path / "canary"))
    assert hostile(files, tmp_path / "canary", lambda path: resume(path, "CartPole-v1", "cpu"), tmp_path) == []


def test_no_hostile_normalizer_runs(normalizer_file: Path, tmp_path: Path) -> None:
    files = list(make_hostile.normalizers(normalizer_file.read_bytes(), tmp_path / "canary"))
    assert hostile(files, tmp_path / "canary", read_normalizer, tmp_path) == []


def test_trust_is_what_makes_them_run(model_file: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    content = make_hostile.with_data(model_file.read_bytes(), surprise=make_hostile.techniques(canary)["os.mkdir"])
    (tmp_path / "hostile.zip").write_bytes(content)
    PPOPlus.load(tmp_path / "hostile.zip", device="cpu", trust=True)
    assert canary.is_dir()


def outcomes(content: bytes, kinds: tuple[str, ...], count: int, open_: Callable[[Path], Any], path: Path) -> list[str]:
    """Open damaged copies; list those that are neither refused by name nor open as the whole file does."""
    chance, wrong = random.Random(0), []
    path.write_bytes(content)
    expected = open_(path)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path.write_bytes(make_damaged.damaged(content, kind, chance))
        try:
            found = open_(path)
        except DamagedFile as error:
            if str(path) not in str(error) or not error.reason:
                wrong.append(f"{number} {kind}: {error}")
        except Exception as error:
            wrong.append(f"{number} {kind}: {type(error).__name__}: {error}")
        else:
            if found != expected:
                wrong.append(f"{number} {kind}: opened with other content")
    return wrong


def fingerprint(model: PPO) -> str:
    """All that a model is, in words."""
    parts = {**model.get_parameters()["policy"], "optimizer": model.get_parameters()["policy.optimizer"]}
    skipped = {"policy", "rollout_buffer", "_controllers", "profile", "_update_guard", "lr_schedule", "env", "_logger"}
    attributes = {name: vars(model)[name] for name in sorted(vars(model).keys() - skipped)}
    return f"{parts}{attributes.get('observation_space')}{attributes.get('action_space')}" + "".join(
        f"{name}={value}" for name, value in attributes.items() if isinstance(value, (int, float, str, list, dict))
    )


def statistics(normalizer: VecNormalize) -> str:
    """All that a normalizer is, in words."""

    def words(value: Any) -> Any:
        if isinstance(value, RunningMeanStd):
            return words(vars(value))
        return {key: words(part) for key, part in value.items()} if isinstance(value, dict) else repr(value)

    return str({name: words(vars(normalizer)[name]) for name in sorted(vars(normalizer))})


def test_damaged_models_are_refused_by_name(model_file: Path, tmp_path: Path) -> None:
    kinds = (*make_damaged.KINDS, *make_damaged.ZIP_KINDS)
    load = lambda path: fingerprint(PPOPlus.load(path, device="cpu"))  # noqa: E731
    assert outcomes(model_file.read_bytes(), kinds, 120, load, tmp_path / "model.zip") == []


def test_damaged_checkpoints_are_refused_by_name(checkpoint_file: Path, tmp_path: Path) -> None:
    kinds = (*make_damaged.KINDS, *make_damaged.ZIP_KINDS)
    load = lambda path: fingerprint(resume(path, "CartPole-v1", "cpu"))  # noqa: E731
    assert outcomes(checkpoint_file.read_bytes(), kinds, 80, load, tmp_path / "checkpoint.zip") == []


def test_damaged_normalizers_are_refused_by_name(normalizer_file: Path, tmp_path: Path) -> None:
    load = lambda path: statistics(read_normalizer(path))  # noqa: E731
    assert outcomes(normalizer_file.read_bytes(), make_damaged.KINDS, 150, load, tmp_path / "a.pkl") == []


def test_a_file_cut_to_the_zip_inside_it_is_refused(model_file: Path, tmp_path: Path) -> None:
    """Most prefixes of SB3's zips end in a whole zip of weights; SB3 then loads nothing and says nothing."""
    model, content = make_model(env="CartPole-v1", policy_kwargs={"net_arch": [4]}), model_file.read_bytes()
    end = content.index(b"policy.optimizer.pth") - 30
    (tmp_path / "cut.zip").write_bytes(content[:end])
    assert zipfile.is_zipfile(tmp_path / "cut.zip")
    for open_ in (PPOPlus.load, lambda path: model.set_parameters(path, exact_match=False)):
        with pytest.raises(DamagedFile):
            open_(tmp_path / "cut.zip")


def test_parameters_are_set_from_files(model_file: Path) -> None:
    model = PPOPlus("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **{**SMALL, "seed": 9})
    model.set_parameters(str(model_file))
    assert_same_tensors(model, PPO.load(model_file, device="cpu"))


def test_normalizers_of_sb3_open_with_the_same_values(tmp_path: Path) -> None:
    for name in ("Pendulum-v1", "dict"):
        env = VecNormalize(make_vec_env(name if name != "dict" else SimpleMultiObsEnv, 2), norm_obs_keys=None)
        env.reset()
        env.save(str(tmp_path / "a.pkl"))
        found, expected = read_normalizer(tmp_path / "a.pkl"), pickle.loads((tmp_path / "a.pkl").read_bytes())
        assert vars(found).keys() == vars(expected).keys()
        assert statistics(found) == statistics(expected)


def test_what_sb3_opens_is_still_opened_by_sb3(normalizer_file: Path) -> None:
    env = make_vec_env("Pendulum-v1", 2)
    assert VecNormalize.load(str(normalizer_file), env).clip_obs == 10.0


def test_old_gym_spaces_open(model_file: Path, tmp_path: Path) -> None:
    """Files from before Gymnasium name gym's classes, whose attributes are the same."""
    space = pickle.dumps(spaces.Discrete(2), 4).replace(
        b"\x8c\x19gymnasium.spaces.discrete", b"\x8c\x13gym.spaces.discrete"
    )
    body = space[:2] + space[11:]  # without the frame, whose length is another now
    path = tmp_path / "old.zip"
    path.write_bytes(make_hostile.with_data(model_file.read_bytes(), action_space=body))
    assert PPOPlus.load(path, device="cpu").action_space == spaces.Discrete(2)


def test_errors_name_file_member_and_reason(model_file: Path, tmp_path: Path) -> None:
    content = model_file.read_bytes()
    for changes, member, reason in (
        ({"data": None}, "data", "missing"),
        ({"data": b"{"}, "data", "no JSON"),
        ({"policy.pth": None}, "policy.pth", "missing"),
        ({"policy.pth": b""}, "policy.pth", "empty"),
        ({"surprise.txt": b"x"}, "surprise.txt", "belong"),
        ({"policy.optimizer.pth": b"PK\x03\x04xxxx"}, "policy.optimizer.pth", "zip"),
    ):
        path = tmp_path / "a.zip"
        path.write_bytes(make_hostile.with_members(content, changes))
        with pytest.raises(DamagedFile) as caught:
            PPOPlus.load(path)
        assert caught.value.path == path
        assert caught.value.member == member
        assert reason in caught.value.reason
    data = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("data"))
    del data["policy_class"]
    path.write_bytes(make_hostile.with_members(content, {"data": json.dumps(data).encode()}))
    with pytest.raises(DamagedFile, match="policy_class"):
        PPOPlus.load(path)


def test_the_wrong_environment_is_told_as_sb3_does(model_file: Path) -> None:
    with pytest.raises(ValueError, match="spaces do not match") as caught:
        PPOPlus.load(model_file, env=gym.make("Pendulum-v1"))
    assert not isinstance(caught.value, DamagedFile)


def test_errors_can_be_sent_to_another_process() -> None:
    for error in (DamagedFile("a.zip", "data", "x"), UntrustedFile("a.zip", "data/x", "os.mkdir", "trust it")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_missing_files_are_missing() -> None:
    with pytest.raises(FileNotFoundError):
        PPOPlus.load("there_is_no_such_file")


def hostile_yaml(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for number, (name, text) in enumerate(make_hostile.yaml_files(tmp_path / "canary").items()):
        paths[name] = tmp_path / f"{number}.yml"
        paths[name].write_text(text)
    return paths


def test_no_hostile_configuration_runs(tmp_path: Path) -> None:
    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.runs.layers import assemble
    from sb3_ppo_plus.runs.prepare import prepare_run

    opened = []
    for name, path in hostile_yaml(tmp_path).items():
        try:
            run = prepare_run(assemble("CartPole-v1", path))
        except InvalidArgument:
            pass
        else:
            run.model.env.close()
            opened.append(name)
        assert not (tmp_path / "canary").exists(), name
    assert opened == []


def test_yaml_stays_as_large_as_it_looks() -> None:
    import yaml

    from sb3_ppo_plus.runs.safe_yaml import load_yaml

    assert load_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}\n") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    for text in ("a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "[" * 99):
        with pytest.raises(yaml.YAMLError):
            load_yaml(text)


def test_the_zoo_evaluates_nothing(tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    import yaml
    from rl_zoo3 import exp_manager, utils

    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.zoo.without_code import literal, without_code

    canary = tmp_path / "canary"
    code = f"__import__('os').mkdir({str(canary)!r})"
    unsafe, load = yaml.UnsafeLoader, VecNormalize.load
    with without_code():
        for text in (code, f"dict(a={code})", "nn.Module.__init__", "[x for x in (1,)]", "(" * 500 + ")" * 500, "1+1"):
            with pytest.raises(InvalidArgument, match="--trust"):
                exp_manager.eval(text)
        assert literal("dict(net_arch=[64, 64], activation_fn=nn.ReLU, log_std_init=-2, a=(1,), b='x')") == {
            **{"net_arch": [64, 64], "activation_fn": th.nn.ReLU, "log_std_init": -2, "a": (1,), "b": "x"}
        }
        with pytest.raises(yaml.YAMLError):
            yaml.load(f"!!python/object/apply:os.mkdir [{str(canary)!r}]", Loader=yaml.UnsafeLoader)
        for key in ("env_wrapper", "vec_env_wrapper"):
            with pytest.raises(InvalidArgument, match=key):
                utils.get_wrapper_class({key: [{"os.mkdir": {"path": str(canary)}}]}, key)
        with pytest.raises(InvalidArgument, match="callback"):
            utils.get_callback_list({"callback": [{"shutil.rmtree": {"path": str(canary)}}]})
        assert utils.get_wrapper_class({"env_wrapper": "gymnasium.wrappers.TimeLimit"}) is not None
        assert utils.get_wrapper_class({"env_wrapper": "rl_zoo3.utils.flatten_dict_observations"}) is not None
    assert not canary.exists()
    assert (yaml.UnsafeLoader, VecNormalize.load) == (unsafe, load)
    assert "eval" not in vars(exp_manager)


def test_no_hostile_file_runs_in_the_zoo(tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    import os

    from sb3_ppo_plus.zoo import launch

    for name, path in hostile_yaml(tmp_path).items():
        words = [
            "--env",
            "CartPole-v1",
            "-conf",
            str(path),
            "-f",
            str(tmp_path / "logs"),
            "-n",
            "32",
            "--eval-freq",
            "-1",
        ]
        before = Path.cwd()
        os.chdir(tmp_path)
        try:
            launch("train", words)
        except (Exception, SystemExit):
            pass
        finally:
            os.chdir(before)
        assert not (tmp_path / "canary").exists(), name


def test_a_wrapper_is_a_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.runs.named import import_named

    (tmp_path / "my_wrappers.py").write_text("import json\ndef mine(env):\n    return env\nloads = json.loads\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_named("env_wrapper", "my_wrappers.mine", gym.Wrapper, functions=True)(3) == 3
    for path in (
        "my_wrappers.loads",
        "os.mkdir",
        "torch.load",
        "gymnasium.make",
        "timeit.timeit",
        "gymnasium.Env",
        "x",
    ):
        with pytest.raises(InvalidArgument, match="env_wrapper"):
            import_named("env_wrapper", path, gym.Wrapper, functions=True)


def test_onnx_files_are_whole_and_in_one_piece(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from sb3_ppo_plus.export import OnnxPolicy, export_onnx
    from sb3_ppo_plus.export.metadata import load_onnx

    model = make_model(policy_kwargs={"net_arch": [4]})
    path = tmp_path / "p.onnx"
    export_onnx(model, path, n_random=10)
    observation = np.array([[0.6, -0.8, 2.0]], np.float32)

    def act(path: Path) -> list[Any]:
        return [OnnxPolicy(path).predict(observation)[0].tolist(), load_onnx(path).SerializeToString()]

    assert outcomes(path.read_bytes(), make_damaged.KINDS, 60, act, tmp_path / "damaged.onnx") == []
    outside = onnx.load(path)
    tensor = max(outside.graph.initializer, key=lambda entry: len(entry.raw_data))
    onnx.external_data_helper.set_external_data(tensor, "../../etc/passwd")
    (tmp_path / "outside.onnx").write_bytes(outside.SerializeToString())
    for open_ in (load_onnx, OnnxPolicy):
        with pytest.raises(DamagedFile, match="another file"):
            open_(tmp_path / "outside.onnx")
