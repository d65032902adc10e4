"""``OnnxPolicy``: SB3's predict() and a robot's act(), without torch, with answers to mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_models import trained

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export import OnnxPolicy, export_onnx

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind."""
    folder, found = tmp_path_factory.mktemp("onnx"), {}
    for case in (
        "PPOPlus box",
        "PPOPlus discrete",
        "two extractors",
        "MaskablePPO discrete",
        "RecurrentPPO normalized frames",
    ):
        found[case] = folder / f"{case}.onnx"
        export_onnx(trained(case), found[case], n_random=20)
    return found


def test_it_needs_neither_torch_nor_sb3(files: dict[str, Path]) -> None:
    source = f"""
import sys, numpy as np
from sb3_ppo_plus.export.runner import OnnxPolicy
action, state = OnnxPolicy({str(files["PPOPlus box"])!r}).predict(np.zeros(5))
assert action.shape == (3,) and state is None
loaded = {{name.partition(".")[0] for name in sys.modules}}
assert not loaded & {{"torch", "stable_baselines3", "sb3_contrib", "gymnasium", "onnx"}}, loaded
"""
    subprocess.run([sys.executable, "-c", source], check=True)


def test_one_observation_or_a_batch(files: dict[str, Path]) -> None:
    policy, obs = OnnxPolicy(files["PPOPlus box"]), np.random.default_rng(0).normal(size=(4, 5))
    batch, _ = policy.predict(obs)
    assert batch.shape == (4, 3)
    rows = np.stack([policy.predict(row)[0] for row in obs])
    assert np.allclose(rows, batch, atol=1e-6)
    single, _ = OnnxPolicy(files["PPOPlus discrete"]).predict(obs[0])
    assert single.shape == () and single.dtype == np.int64


def test_act_remembers_and_reset_forgets(files: dict[str, Path]) -> None:
    policy, rng = OnnxPolicy(files["RecurrentPPO normalized frames"]), np.random.default_rng(0)
    observations = rng.normal(size=(6, 2, 5)).astype(np.float32)
    state: Any = None
    expected = []
    for obs in observations:
        action, state = policy.predict(obs, state)
        expected.append(action)
    remembered = [policy.act(obs) for obs in observations]
    assert np.array_equal(remembered, expected)
    assert policy._state is not None and all(np.abs(part).sum() > 0 for part in policy._state)
    policy.reset(rows=[1])
    for one, part in zip(policy.states, policy._state, strict=True):
        rows = np.moveaxis(part, one.batch_axis, 0)
        assert np.abs(rows[0]).sum() > 0 and np.abs(rows[1]).sum() == 0
    policy.reset()
    assert np.array_equal([policy.act(obs) for obs in observations], expected)


def test_rows_that_begin_forget_their_state(files: dict[str, Path]) -> None:
    policy, rng = OnnxPolicy(files["RecurrentPPO normalized frames"]), np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 5)).astype(np.float32)
    _, state = policy.predict(first)
    _, went_on = policy.predict(second, state)
    _, fresh = policy.predict(second)
    _, mixed = policy.predict(second, state, episode_start=np.array([False, True, False]))
    assert went_on is not None and fresh is not None and mixed is not None
    for one, a, b, m in zip(policy.states, went_on, fresh, mixed, strict=True):
        a, b, m = (np.moveaxis(part, one.batch_axis, 0) for part in (a, b, m))
        assert np.allclose(m[[0, 2]], a[[0, 2]]) and np.allclose(m[1], b[1]) and not np.allclose(a[1], b[1])


def test_masks_are_allowed_choices_and_none_allows_all(files: dict[str, Path]) -> None:
    policy, obs = OnnxPolicy(files["MaskablePPO discrete"]), np.random.default_rng(0).normal(size=(50, 5))
    free, _ = policy.predict(obs)
    assert np.array_equal(free, policy.predict(obs, action_masks=np.ones((50, 4), bool))[0])
    for allowed in range(4):
        masks = np.zeros((50, 4), bool)
        masks[:, allowed] = True
        assert (policy.predict(obs, action_masks=masks)[0] == allowed).all()


@pytest.mark.parametrize(
    ("case", "call", "message"),
    [
        ("PPOPlus box", lambda p: p.predict(np.zeros(6)), "has shape"),
        ("PPOPlus box", lambda p: p.predict(np.zeros((2, 2, 5))), "has shape"),
        ("PPOPlus box", lambda p: p.predict(np.zeros(5), deterministic=False), "--stochastic"),
        ("PPOPlus box", lambda p: p.predict(np.zeros(5), action_masks=[1]), "takes no action_masks"),
        ("two extractors", lambda p: p.predict(np.zeros(5)), "takes a mapping"),
        ("two extractors", lambda p: p.predict({"pose": np.zeros(5)}), "are missing"),
        (
            "two extractors",
            lambda p: p.predict({"pose": np.zeros((2, 5)), "camera": np.zeros((3, 36, 36, 3)), "gear": np.zeros(2)}),
            "different numbers of rows",
        ),
        ("MaskablePPO discrete", lambda p: p.predict(np.zeros(5), action_masks=[1, 0]), "action_masks has shape"),
        ("RecurrentPPO normalized frames", lambda p: p.predict(np.zeros(5), state=(np.zeros(1),)), "state has 1 parts"),
        (
            "RecurrentPPO normalized frames",
            lambda p: p.predict(np.zeros((2, 5)), state=p.predict(np.zeros(5))[1]),
            "but there are 2 rows",
        ),
    ],
)
def test_mistakes_are_named(files: dict[str, Path], case: str, call: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        call(OnnxPolicy(files[case]))


def test_files_that_are_none(tmp_path: Path, files: dict[str, Path]) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(InvalidArgument, match="cannot open"):
        OnnxPolicy(broken)
    with pytest.raises(InvalidArgument, match="there is no file"):
        OnnxPolicy(tmp_path / "nowhere.onnx")
    with pytest.raises(InvalidArgument, match="threads=0"):
        OnnxPolicy(files["PPOPlus box"], threads=0)


def test_a_file_of_someone_else_is_refused_by_its_outputs(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "tanh.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(InvalidArgument, match="none that is known as actions"):
        OnnxPolicy(path)
