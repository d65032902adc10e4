"""
ML-Agents' messages with whatever protobuf is installed.

Each test has a Python of its own, since what it is about happens once in a process. Nothing here needs torch or
Stable-Baselines3, so that ``tests/suites`` can run this file beside many versions of protobuf.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("mlagents_envs", "grpc", "google.protobuf"):
    pytest.importorskip(needed)

MESSAGES = Path(__file__).resolve().parents[2] / "sb3_ppo_plus" / "envs" / "unity" / "messages.py"
# By its path, as a game's process loads it: without the rest of the package.
LOAD = f"""
import importlib, pickle, sys, types
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("unity_messages", {str(MESSAGES)!r})
messages = module_from_spec(spec)
spec.loader.exec_module(messages)
"""


def run(script: str, *options: str, cwd: Path | None = None) -> str:
    """Run a script in a fresh Python and give what it printed."""
    result = subprocess.run(
        [sys.executable, *options, "-c", LOAD + script], capture_output=True, text=True, cwd=cwd, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_every_message_imports_and_can_be_pickled() -> None:
    script = """
from pathlib import Path
messages.install()
import mlagents_envs.communicator_objects as package
names = sorted(path.stem for path in Path(package.__path__[0]).glob("*_pb2.py"))
classes = 0
for name in names:
    module = importlib.import_module(f"mlagents_envs.communicator_objects.{name}")
    assert type(module.__loader__).__name__ == "_MessageLoader", name
    for message in module.DESCRIPTOR.message_types_by_name:
        made = getattr(module, message)()
        assert type(made).__module__ == module.__name__, message
        assert pickle.loads(pickle.dumps(made)) == made
        classes += 1
print(len(names), classes)
"""
    n_modules, n_classes = map(int, run(script).split())
    assert n_modules == 21
    assert n_classes == 20  # some hold enumerations only


def test_a_filled_message_survives_pickle_and_wire() -> None:
    script = """
Message = messages.message_class("unity_message_pb2", "UnityMessageProto")
message = Message()
message.header.status = 200
info = message.unity_output.rl_output.agentInfos["Striker?team=0"].value.add()
info.id, info.reward, info.max_step_reached = 7, 0.25, True
info.action_mask.extend([True, False])
obs = info.observations.add()
obs.shape.extend([2])
obs.float_data.data.extend([1.5, -2.0])
for copy in (pickle.loads(pickle.dumps(message)), Message.FromString(message.SerializeToString())):
    assert copy == message
    [agent] = copy.unity_output.rl_output.agentInfos["Striker?team=0"].value
    assert list(agent.observations[0].float_data.data) == [1.5, -2.0]
from mlagents_envs.communicator_objects.command_pb2 import RESET, STEP
assert (STEP, RESET) == (0, 1)
assert messages.message_class("unity_message_pb2", "UnityMessageProto") is Message
"""
    run(script)


def test_low_level_api_imports_beside_onnx_and_numpy() -> None:
    pytest.importorskip("onnx")
    script = """
import onnx, numpy
messages.install()
from mlagents_envs.environment import UnityEnvironment
from google.protobuf import __version__
model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
assert onnx.ModelProto.FromString(model.SerializeToString()) == model
assert UnityEnvironment._check_communication_compatibility("1.5.0", "1.5.0", "3.0.0")
print(__version__)
"""
    assert int(run(script).partition(".")[0]) >= 4


def test_low_level_api_imports_without_distutils() -> None:
    """As in Python 3.12 and later."""
    script = """
sys.modules["distutils"] = None
messages.install()
from mlagents_envs.environment import UnityEnvironment
check = UnityEnvironment._check_communication_compatibility
assert check("1.0", "1.5.0", "2.0.1") and not check("2.0.0", "1.5.0", "9.0.0") and not check("0.15.0", "1.5.0", "0.15")
"""
    run(script)


# ------------------------------------------------ the finder


def test_finder_answers_for_nothing_else() -> None:
    script = """
import mlagents_envs.communicator_objects as package
messages.install()
messages.install()
[finder] = [finder for finder in sys.meta_path if type(finder).__name__ == "_MessageFinder"]
strangers = ["mlagents_envs", "mlagents_envs.environment", "mlagents_envs.communicator_objects"]
strangers += ["google.protobuf.any_pb2", "google.protobuf.descriptor_pb2"]
strangers += [f"mlagents_envs.communicator_objects.{name}" for name in ("unity_to_external_pb2_grpc", "absent_pb2")]
strangers += ["header_pb2", "other.communicator_objects.header_pb2", "mlagents_envs.rpc_utils_pb2"]
for name in strangers:
    assert finder.find_spec(name, package.__path__) is None, name
assert finder.find_spec("mlagents_envs.communicator_objects.header_pb2", package.__path__) is not None
"""
    run(script)


def test_many_threads_may_install_and_import() -> None:
    script = """
from concurrent.futures import ThreadPoolExecutor
names = ["unity_message_pb2", "agent_info_pb2", "unity_rl_output_pb2", "unity_message_pb2"] * 4
def make(name):
    messages.install()
    return importlib.import_module(f"mlagents_envs.communicator_objects.{name}").DESCRIPTOR.name
with ThreadPoolExecutor(8) as pool:
    assert [name.split("/")[-1][:-6] + "_pb2" for name in pool.map(make, names)] == names
assert sum(type(finder).__name__ == "_MessageFinder" for finder in sys.meta_path) == 1
"""
    run(script)


SPELLINGS = {
    "old": "_b=lambda x:x.encode('latin1')\nD = FileDescriptor(serialized_options=_b('no'), serialized_pb=_b({}))",
    "middle": "D = FileDescriptor(name='x', serialized_options=b'no', serialized_pb=b{})",
    "new": "D = _descriptor_pool.Default().AddSerializedFile(b{})",
}


def make_package(folder: Path, **sources: str) -> None:
    """Write something that looks like mlagents_envs, with these message modules."""
    modules = folder / "mlagents_envs" / "communicator_objects"
    modules.mkdir(parents=True)
    for package in (modules, modules.parent):
        (package / "__init__.py").touch()
    for name, source in sources.items():
        (modules / f"{name}.py").write_text(source)


@pytest.mark.parametrize("order", [("old", "middle", "new"), ("new", "old", "middle"), ("middle", "new", "old")])
def test_three_spellings(order: tuple[str, str, str], tmp_path: Path) -> None:
    """Generated files of three generations that depend on one another; to run one would fail."""
    from google.protobuf import descriptor_pb2

    sources = {}
    for index, spelling in enumerate(order):
        file = descriptor_pb2.FileDescriptorProto(name=f"mlagents_envs/communicator_objects/f{index}.proto")
        file.package, file.syntax = "spelled", "proto3"
        file.options.java_package = "ü'\"\n"  # bytes beyond ASCII, and what has to be escaped
        message = file.message_type.add(name=f"M{index}")
        message.field.add(name="number", number=200, type=1, label=1)
        if index:
            file.dependency.append(f"mlagents_envs/communicator_objects/f{index - 1}.proto")
            message.field.add(name="inner", number=2, type=11, label=1, type_name=f".spelled.M{index - 1}")
        literal = repr(file.SerializeToString())[1:]
        text = SPELLINGS[spelling].format(literal)
        sources[f"f{index}_pb2"] = f"raise SystemError('was run')\n{text}\n"
    make_package(tmp_path, **sources)
    script = f"""
sys.path.insert(0, {str(tmp_path)!r})
M2 = messages.message_class("f2_pb2", "M2")
made = M2(number=0.5)
made.inner.inner.number = 2.0
assert pickle.loads(pickle.dumps(made)).inner.inner.number == 2.0
assert M2.DESCRIPTOR.file.GetOptions().java_package == "ü'\\"\\n"
"""
    run(script)


def test_file_without_description(tmp_path: Path) -> None:
    make_package(tmp_path, header_pb2="x = 1\n")
    script = f"""
sys.path.insert(0, {str(tmp_path)!r})
try:
    messages.message_class("header_pb2", "HeaderProto")
except messages.MissingUnity as error:
    print(error)
"""
    text = run(script)
    assert "header_pb2" in text
    assert "mlagents-envs==0.28.0" in text


# ------------------------------------------------ what may be wrong


@pytest.mark.parametrize("hidden", ["mlagents_envs", "grpc"])
def test_missing_extra_is_named(hidden: str) -> None:
    script = f"""
sys.modules[{hidden!r}] = None
try:
    messages.install()
except ImportError as error:
    print(error)
assert not any(type(finder).__name__ == "_MessageFinder" for finder in sys.meta_path)
"""
    assert 'pip install "sb3-ppo-plus[unity]"' in run(script)


def test_missing_extra_is_named_where_nothing_is_installed() -> None:
    script = """
try:
    messages.message_class("header_pb2", "HeaderProto")
except messages.MissingUnity as error:
    print(error)
"""
    # -S: without site-packages.
    assert 'pip install "sb3-ppo-plus[unity]"' in run(script, "-S")


def test_low_level_api_that_failed_to_import_can_be_imported_later() -> None:
    script = """
try:
    import mlagents_envs.environment
except TypeError as error:
    assert "Descriptors" in str(error)
messages.install()
import mlagents_envs.environment
"""
    run(script)


def test_broken_leftovers_are_refused() -> None:
    script = """
name = "mlagents_envs.communicator_objects.header_pb2"
sys.modules[name] = types.ModuleType(name)
try:
    messages.install()
except messages.MissingUnity as error:
    print(error)
"""
    text = run(script)
    assert "header_pb2" in text
    assert "start Python anew" in text


# ------------------------------------------------ images

DECODE = """
import io
import numpy as np
from PIL import Image
messages.install()
Observation = messages.message_class("observation_pb2", "ObservationProto")
from mlagents_envs import rpc_utils

def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

def observation(pixels, first, compressed, mapping=()):
    '''Pixels [H, W, C] as a game sends them.'''
    obs = Observation()
    shown = pixels.transpose(2, 0, 1) if first else pixels
    obs.shape.extend(shown.shape)
    obs.dimension_properties.extend((1, 2, 2) if first else (2, 2, 1))
    if compressed:
        obs.compression_type = 1
        planes = [pixels[..., i : i + 3] for i in range(0, pixels.shape[2], 3)]
        planes = [np.repeat(p, 3, axis=2) if p.shape[2] == 1 else p for p in planes]
        obs.compressed_data = b"".join(png(plane) for plane in planes)
        obs.compressed_channel_mapping.extend(mapping)
    else:
        obs.float_data.data.extend((shown / 255.0).ravel().tolist())
    return obs, (shown / 255.0).astype(np.float32)

rng = np.random.default_rng(0)
"""


def test_both_layouts_decode() -> None:
    script = """
for channels, mapping in ((3, (0, 1, 2)), (3, ()), (1, ()), (1, (0, 0, 0)), (6, range(6))):
    pixels = rng.integers(0, 256, (4, 5, channels), dtype=np.uint8)
    for first in (False, True):
        for compressed in (False, True):
            obs, wanted = observation(pixels, first, compressed, mapping)
            found = rpc_utils._observation_to_np_array(obs, wanted.shape)
            assert found.shape == wanted.shape, (channels, first, compressed)
            np.testing.assert_allclose(found, wanted, atol=1e-6)
"""
    run(DECODE + script)


def test_patch_may_be_asked_for_again_and_keeps_the_checks() -> None:
    script = """
patched = rpc_utils._observation_to_np_array
messages.patch_visual_layout()
assert rpc_utils._observation_to_np_array is patched
pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
obs, wanted = observation(pixels, True, True)
before = obs.SerializeToString()
assert patched(obs).shape == (3, 4, 5)
assert obs.SerializeToString() == before
from mlagents_envs.exception import UnityObservationException
obs.shape[:] = (3, 5, 4)  # another size than that of the picture
for expected in (None, (3, 4, 5)):
    try:
        patched(obs, expected)
    except UnityObservationException:
        continue
    raise AssertionError(expected)
"""
    run(DECODE + script)


def test_messages_need_nothing_of_the_package() -> None:
    script = """
messages.install()
assert not [name for name in sys.modules if name.split(".")[0] in ("sb3_ppo_plus", "torch", "stable_baselines3")]
"""
    run(script)
    assert importlib.util.find_spec("mlagents_envs") is not None
