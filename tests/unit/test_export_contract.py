"""The checks of a file: each rule is shown to notice a file that breaks only it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_models import trained

from sb3_ppo_plus.export import export_onnx, verify_onnx
from sb3_ppo_plus.export.metadata import load_onnx, to_json
from sb3_ppo_plus.export.structure import check_structure

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Good files."""
    folder, found = tmp_path_factory.mktemp("unity"), {}
    for name, case, target in (
        ("continuous", "PPOPlus box", "mlagents"),
        ("discrete", "MaskablePPO multidiscrete", "mlagents"),
        ("hybrid", "PPOPlus masked hybrid", "mlagents"),
        ("memory", "RecurrentPPO", "mlagents"),
        ("generic", "PPOPlus box", "generic"),
    ):
        export_onnx(trained(case), folder / f"{name}.onnx", target, n_random=20)
        found[name] = load_onnx(folder / f"{name}.onnx")
    return found


def output(model: Any, name: str) -> Any:
    return next(value for value in model.graph.output if value.name == name)


def constant(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def rename(model: Any, old: str, new: str) -> None:
    """Rename an input or output with all its uses."""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        if value.name == old:
            value.name = new
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def set_constant(model: Any, name: str, array: np.ndarray) -> None:
    constant(model, name).CopyFrom(onnx.numpy_helper.from_array(array, name))
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    output(model, name).CopyFrom(onnx.helper.make_tensor_value_info(name, kind, array.shape))


def drop_output(model: Any, name: str) -> None:
    model.graph.output.remove(output(model, name))


def fix_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def reverse_nodes(model: Any) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


BREAKS: list[tuple[str, str, Callable[[Any], None]]] = [
    ("continuous", "constant output version_number", lambda m: drop_output(m, "version_number")),
    ("continuous", "constant output memory_size", lambda m: drop_output(m, "memory_size")),
    ("continuous", "version_number is 3", lambda m: set_constant(m, "version_number", np.array([2], np.float32))),
    ("continuous", "version_number is float32", lambda m: set_constant(m, "version_number", np.array([3], np.int64))),
    (
        "continuous",
        "continuous_action_output_shape fits",
        lambda m: set_constant(m, "continuous_action_output_shape", np.array([4], np.float32)),
    ),
    (
        "discrete",
        "discrete_action_output_shape fits",
        lambda m: set_constant(m, "discrete_action_output_shape", np.array([[3, 2]], np.float32)),
    ),
    ("continuous", "actions", lambda m: (drop_output(m, "continuous_actions"), None)[1]),
    ("continuous", "obs_0, obs_1, ...", lambda m: rename(m, "obs_0", "obs_1")),
    ("continuous", "no unknown input", lambda m: rename(m, "obs_0", "vector")),
    ("discrete", "action_masks for discrete actions alone", lambda m: rename(m, "action_masks", "epsilon")),
    ("continuous", "obs_0 has a free batch first", fix_batch),
    (
        "continuous",
        "deterministic_continuous_actions",
        lambda m: drop_output(m, "deterministic_continuous_actions"),
    ),
    (
        "continuous",
        "no name that contains another",
        lambda m: rename(m, "deterministic_continuous_actions", "my_continuous_actions"),
    ),
    ("memory", "recurrent_in and recurrent_out together", lambda m: drop_output(m, "recurrent_out")),
    ("continuous", "opset 9", lambda m: setattr(m.opset_import[0], "version", 13)),
    ("continuous", "opset 9 to 15", lambda m: setattr(m.opset_import[0], "version", 18)),
    ("continuous", "nodes in the order of the data", reverse_nodes),
    ("continuous", "operators of Barracuda", lambda m: setattr(m.graph.node[-1], "op_type", "Erf")),
    ("generic", "an output named actions", lambda m: rename(m, "actions", "commands")),
    ("generic", "obs has a free batch", fix_batch),
    ("generic", "opset 17 as asked", lambda m: setattr(m.opset_import[0], "version", 18)),
    ("generic", "onnx.checker", lambda m: setattr(m.graph.node[0], "op_type", "NoSuchOperator")),
    ("generic", "one file", lambda m: m.graph.initializer[0].external_data.add(key="location", value="beside.data")),
]


def test_good_files_keep_every_rule(models: dict[str, Any]) -> None:
    for name, model in models.items():
        broken = [finding for finding in check_structure(model) if not finding.kept]
        assert not broken, (name, broken)
        assert len(check_structure(model)) >= (8 if name == "generic" else 25)


@pytest.mark.parametrize(("name", "rule", "damage"), BREAKS, ids=[f"{name}: {rule}" for name, rule, _ in BREAKS])
def test_a_broken_rule_is_noticed_with_its_consequence(
    models: dict[str, Any], name: str, rule: str, damage: Callable[[Any], None]
) -> None:
    model = copy.deepcopy(models[name])
    damage(model)
    broken = {finding.rule: finding.consequence for finding in check_structure(model) if not finding.kept}
    assert rule in broken, broken
    assert len(broken[rule]) > 10


def test_what_the_game_does_is_played(models: dict[str, Any]) -> None:
    """Unity's probe has every action forbidden; the game any number of agents."""
    rules = {finding.rule for finding in check_structure(models["discrete"])}
    assert {"runs with 1 rows of zeros", "runs with 7 rows of zeros"} <= rules


def test_a_file_that_cannot_run_is_told_in_json(tmp_path: Path, models: dict[str, Any]) -> None:
    model = copy.deepcopy(models["generic"])
    rename(model, "actions", "commands")
    onnx.save(model, tmp_path / "p.onnx")
    found = verify_onnx(tmp_path / "p.onnx", trained("PPOPlus box"))
    assert not found.passed
    assert json.loads(to_json(found.summary()))["random_max_difference"] is None


def test_a_file_with_one_weight_moved_fails(tmp_path: Path) -> None:
    model, path = trained("PPOPlus box"), tmp_path / "p.onnx"
    export_onnx(model, path)
    assert verify_onnx(path, model).passed
    file = load_onnx(path)
    weights = max(file.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    array = onnx.numpy_helper.to_array(weights).copy()
    array.flat[0] += 1e-3
    weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    onnx.save(file, path)
    found = verify_onnx(path, model)
    assert not found.passed and found.random_difference > 1e-6
    assert "DIFFERS" in found.text()


def test_a_file_without_its_normalizer_fails(tmp_path: Path) -> None:
    from sb3_ppo_plus.export.api import export_onnx as export

    model, path = trained("normalized"), tmp_path / "p.onnx"
    export(model, path)
    normalizer = model.get_vec_normalize_env()
    assert normalizer is not None
    normalizer.obs_rms.mean = normalizer.obs_rms.mean + 0.01
    assert not verify_onnx(path, model).passed
