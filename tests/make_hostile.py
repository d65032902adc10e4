"""Files that try to run something: each would make a folder, the canary, if it had its way."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import torch as th

from sb3_ppo_plus.checkpoint.container import read_container, write_container

STOP = b"."


def _plain(*values: Any) -> bytes:
    """Instructions that leave a tuple of plain values on the stack."""
    return pickle.dumps(values, 3)[2:-1]


def _named(module: str, name: str) -> bytes:
    parts = (module.encode(), name.encode())
    return b"".join(b"X" + struct.pack("<I", len(part)) + part for part in parts) + b"\x93"


def call(module: str, name: str, *args: Any) -> bytes:
    """
    :param module: module of a function
    :param name: its name, which may have dots
    :param args: plain arguments
    :return: instructions that leave its result on the stack
    """
    return _named(module, name) + _plain(*args) + b"R"


def whole(body: bytes) -> bytes:
    """
    :param body: instructions
    :return: a pickle
    """
    return b"\x80\x04" + body + STOP


class _Reduced:
    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def _technique_bodies(canary: str) -> dict[str, bytes]:
    code = f"__import__('os').mkdir({canary!r})"
    inner = whole(call("os", "mkdir", canary))
    function = cloudpickle.dumps(eval(f"lambda *a, **k: {code}"))  # a function by value, with its code
    call_function = function[:-1] + _plain() + b"R"
    mkdir = call("os", "mkdir", canary)
    dotted = {
        "dots into save_util": ("stable_baselines3.common.save_util", "os.mkdir"),
        "dots into torch.serialization": ("torch.serialization", "os.mkdir"),
        "dots into a class": ("pathlib", "Path.mkdir"),
        "dots into builtins": ("builtins", "__import__"),
        "numpy's helper": ("numpy.testing._private.utils", "os.mkdir"),
        "the standard library's": ("shutil", "os.mkdir"),
        "py2 names": ("__builtin__", "eval"),
        "makedirs": ("os", "makedirs"),
        "posix": ("posix", "mkdir"),
        "nt or posix through os.path": ("os.path", "os.mkdir"),
        "gymnasium's registration": ("gymnasium.envs.registration", "importlib.os.mkdir"),
        "a name with a space": ("os ", "mkdir"),
        "no module": ("", "mkdir"),
        "of the package itself": ("sb3_ppo_plus.atomic", "os.mkdir"),
        "of the table's module": ("stable_baselines3.common.policies", "warnings.sys.modules"),
    }
    bodies = {name: call(module, attribute, canary) for name, (module, attribute) in dotted.items()}
    bodies["dots into builtins"] = call("builtins", "eval", code)
    bodies["py2 names"] = call("__builtin__", "eval", code)
    bodies |= {
        "os.mkdir": mkdir,
        "exec": call("builtins", "exec", code),
        "os.system": call("os", "system", f"mkdir {canary}"),
        "runpy": call("runpy", "_run_code", code, {}),
        "timeit": call("timeit", "timeit", code, "pass"),
        "pdb": call("pdb", "run", code),
        "profile": call("cProfile", "run", code),
        "numpy runstring": call("numpy.testing", "runstring", code, {}),
        "pickle in a pickle": call("pickle", "loads", inner),
        "cloudpickle in a pickle": call("cloudpickle", "loads", inner),
        "torch storage": call("torch.storage", "_load_from_bytes", inner),
        "torch load": call("torch", "load", inner),
        "subprocess as an object": _named("subprocess", "Popen") + _plain(["mkdir", canary]) + b"\x81",
        "subprocess": call("subprocess", "call", ["mkdir", canary]),
        "getattr": call("builtins", "getattr", "x", "upper") + b"0" + mkdir,
        "partial": _named("functools", "partial") + b"(" + _named("os", "mkdir") + _plain(canary)[:-1] + b"R" + b")R",
        "map": _named("builtins", "list")
        + b"("
        + _named("builtins", "map")
        + b"("
        + _named("os", "mkdir")
        + _plain([canary])[:-1]
        + b"tRtR",
        "function by value": call_function,
        "INST": b"(" + _plain(canary)[:-1] + b"ios\nmkdir\n",
        "OBJ": b"(" + _named("os", "mkdir") + _plain(canary)[:-1] + b"o",
        "GLOBAL": b"cos\nmkdir\n" + _plain(canary) + b"R",
        "NEWOBJ_EX": _named("subprocess", "Popen") + _plain(["mkdir", canary]) + b"}\x92",
        "BUILD": _named("types", "SimpleNamespace") + b")R" + _plain({"a": 1})[:-1] + b"b" + b"0" + mkdir,
        "dropped result": mkdir + b"0" + b"K\x01",
        "behind a mark": b"(" + mkdir + b"1" + b"K\x01",
        "in a tuple": b"K\x01" + mkdir + b"\x86",
        "in a list": b"](" + mkdir + b"e",
        "as a key": b"}(" + mkdir + b"K\x01u",
        "in a set": b"\x8f(" + mkdir + b"\x90",
        "in an ordered mapping": _named("collections", "OrderedDict") + b")R(X\x01\x00\x00\x00a" + mkdir + b"u",
        "in a deque": _named("collections", "deque") + b"]K\x05\x86R(" + mkdir + b"e",
        "in a space": _named("gymnasium.spaces.box", "Box") + b")\x81}(X\x03\x00\x00\x00low" + mkdir + b"ub",
        "as a dtype": _named("numpy", "dtype") + mkdir + b"K\x00K\x01\x87R",
        "in a buffer": _named("numpy._core.numeric", "_frombuffer") + b"(" + mkdir + mkdir + b")X\x01\x00\x00\x00CtR",
        "as an array's class": _named("numpy._core.multiarray", "_reconstruct")
        + _named("os", "mkdir")
        + b"K\x00\x85C\x01b\x87R",
        "an array of objects": pickle.dumps(__import__("numpy").array([_Reduced(__import__("os").mkdir, canary)]), 4)[
            2:-1
        ],
        "in a schedule": _named("stable_baselines3.common.utils", "FloatSchedule")
        + b")\x81}X\x0e\x00\x00\x00value_schedule"
        + mkdir
        + b"sb",
        "a schedule that is a function": _named("stable_baselines3.common.utils", "FloatSchedule")
        + b")\x81}X\x0e\x00\x00\x00value_schedule"
        + _named("os", "mkdir")
        + b"sb",
        "hook of a module": _named("torch.nn.modules.linear", "Identity")
        + b")\x81}("
        + b"X\x0e\x00\x00\x00_forward_hooks}K\x00"
        + _named("os", "mkdir")
        + b"sub",
        "a class with its code": cloudpickle.dumps(
            type("Evil", (), {"__reduce__": lambda self: (os.mkdir, (canary,))})()
        )[2:-1],
    }
    return bodies


def techniques(canary: Path) -> dict[str, bytes]:
    """
    :param canary: folder to make
    :return: pickles by what they try
    """
    return {name: whole(body) for name, body in _technique_bodies(str(canary)).items()}


def with_members(base: bytes, changes: dict[str, bytes | None]) -> bytes:
    """
    :param base: a zip
    :param changes: members to write instead, or to leave out
    :return: another zip
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base)) as old, zipfile.ZipFile(buffer, "w") as new:
        members = {info.filename: old.read(info) for info in old.infolist()} | changes
        for name, content in members.items():
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


def with_data(base: bytes, **changes: Any) -> bytes:
    """
    :param base: zip of a model
    :param changes: attributes to write instead; bytes are written as a pickle
    :return: another zip
    """
    data = json.loads(zipfile.ZipFile(io.BytesIO(base)).read("data"))
    for name, value in changes.items():
        if isinstance(value, bytes):
            value = {":type:": "<class 'float'>", ":serialized:": base64.b64encode(value).decode()}
        data[name] = value
    return with_members(base, {"data": json.dumps(data).encode()})


def _with_program(base: bytes, member: str, body: bytes) -> bytes:
    """A zip whose weights have another ``data.pkl``."""
    inner = zipfile.ZipFile(io.BytesIO(base)).read(member)
    (name,) = (name for name in zipfile.ZipFile(io.BytesIO(inner)).namelist() if name.endswith("data.pkl"))
    return with_members(base, {member: with_members(inner, {name: body})})


def checkpoints(base: bytes, canary: Path) -> Iterator[tuple[str, bytes]]:
    """
    Tamper with the zip of a model.

    :param base: zip of a PPO or PPOPlus on CartPole
    :param canary: folder that each would make
    :return: name and content of each
    """
    found = techniques(canary)
    for name, content in found.items():
        for place in ("policy_class", "surprise", "gamma"):
            yield f"{place}: {name}", with_data(base, **{place: content})
    for name in ("os.mkdir", "function by value", "torch storage", "in a space", "GLOBAL", "pickle in a pickle"):
        for place in ("observation_space", "clip_range", "_last_obs", "ep_info_buffer", "lr_schedule", "_setup_model"):
            yield f"{place}: {name}", with_data(base, **{place: found[name]})
        for member in ("policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"):
            yield f"{member}/data.pkl: {name}", _with_program(base, member, found[name])
            yield f"{member} as a pickle: {name}", with_members(base, {member: found[name]})
            yield f"new {member}: {name}", with_members(base, {f"evil_{member}": found[name]})
    yield from _without_pickles(base, canary)


def _without_pickles(base: bytes, canary: Path) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    module = th.jit.script(th.nn.Linear(1, 1))
    th.jit.save(module, buffer)
    yield "TorchScript as weights", with_members(base, {"policy.pth": buffer.getvalue()})
    yield "an environment by name", with_data(base, env="evil_module:Evil-v0")
    yield "a policy by name", with_data(base, policy_class="os.system")
    yield (
        "a reference policy by path",
        with_data(base, reference_policy=str(canary / "evil.zip"), reference_kl_coef=1.0),
    )
    yield "a method as an attribute", with_data(base, _setup_model=3)
    yield "a class as an attribute", with_data(base, __class__=3)
    yield "members outside of the folder", with_members(base, {f"../../{canary.name}": b"x", str(canary): b"x"})
    yield "a huge network", with_data(base, policy_kwargs={"net_arch": [10**9, 10**9]})
    yield "many layers", with_data(base, policy_kwargs={"net_arch": [512] * 10**6})
    yield "a bomb", _bomb(base)
    yield "lists in lists", with_data(base, surprise=_lists_in_lists())
    yield "a deep pickle", with_data(base, surprise=b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + STOP)
    yield "a deep description", with_members(base, {"data": b'{"a":' * 100_000 + b"1" + b"}" * 100_000})


def _lists_in_lists() -> bytes:
    """Forty lists, each of which holds the one before twice: a million million elements when written out."""
    body = b"]"
    for number in range(40):
        body += b"q" + bytes([number]) + b"0" + b"](" + b"h" + bytes([number]) + b"h" + bytes([number]) + b"e"
    return b"\x80\x04" + body + STOP


def _bomb(base: bytes) -> bytes:
    """A small file whose description has 256 MiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(base)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, b" " * 2**28 if name == "data" else old.read(name))
    return buffer.getvalue()


def resumable(path: Path, canary: Path) -> Iterator[tuple[str, bytes]]:
    """
    Tamper with a checkpoint, and write the digests anew.

    :param path: a checkpoint
    :param canary: folder that each would make
    :return: name and content of each
    """
    content, tree, manifest = read_container(path)
    plain = with_members(content, {name: None for name in _names(content) if name.startswith("ppo_plus/")})
    notes = {name: manifest[name] for name in manifest if name not in ("format", "digests")}
    found = techniques(canary)
    for name in ("os.mkdir", "function by value", "dots into save_util", "GLOBAL", "torch storage"):
        for place in ("policy_class", "surprise"):
            other = path.with_name("hostile.zip")
            write_container(other, with_data(plain, **{place: found[name]}), tree, notes)
            yield f"resume, {place}: {name}", other.read_bytes()
        for member in ("ppo_plus/state.json", "ppo_plus/state.bin", "ppo_plus/manifest.json"):
            yield f"resume, {member}: {name}", with_members(content, {member: found[name]})


def _names(content: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(content)).namelist()


def normalizers(base: bytes, canary: Path) -> Iterator[tuple[str, bytes]]:
    """
    :param base: pickle of a VecNormalize
    :param canary: folder that each would make
    :return: name and content of each
    """
    for name, content in techniques(canary).items():
        yield f"instead: {name}", content
    hidden = {"os.mkdir": call("os", "mkdir", str(canary)), "eval": call("builtins", "eval", "1")}
    for name, body in hidden.items():
        yield f"before: {name}", base[:2] + body + b"0" + base[2:]
        yield f"behind: {name}", base[:-1] + body + b"0" + STOP


def yaml_files(canary: Path) -> dict[str, str]:
    """
    :param canary: folder that each would make
    :return: texts of configurations by what they try
    """
    code = f"__import__('os').mkdir({str(canary)!r})"
    quoted = json.dumps(code)
    block = "CartPole-v1:\n  n_timesteps: 64\n  policy: MlpPolicy\n  n_steps: 32\n  batch_size: 32\n"
    return {
        "apply": f"CartPole-v1: !!python/object/apply:os.mkdir [{str(canary)!r}]\n",
        "apply eval": f"CartPole-v1: !!python/object/apply:eval [{quoted}]\n",
        "new": f"CartPole-v1: !!python/object/new:os.mkdir [{str(canary)!r}]\n",
        "new with state": "CartPole-v1: !!python/object/new:type\n"
        f"  args: [x, !!python/tuple [], {{extend: !!python/name:exec }}]\n  listitems: {quoted}\n",
        "name": "CartPole-v1: !!python/name:os.system\n",
        "module": "CartPole-v1: !!python/module:antigravity\n",
        "ordered mapping": "!!python/object/apply:collections.OrderedDict\n- - - CartPole-v1\n"
        f"    - !!python/object/apply:os.mkdir [{str(canary)!r}]\n",
        "policy_kwargs": block + f"  policy_kwargs: {quoted}\n",
        "policy_kwargs in dict": block + f'  policy_kwargs: "dict(net_arch=[{code}])"\n',
        "normalize": block + f"  normalize: {quoted}\n",
        "normalize in dict": block + f'  normalize: "dict(gamma={code})"\n',
        "env_kwargs": block + f"  env_kwargs: {quoted}\n",
        "rollout_buffer_kwargs": block + f"  rollout_buffer_kwargs: {quoted}\n",
        "monitor_kwargs": block + f"  monitor_kwargs: {quoted}\n",
        "learning_rate": block + f"  learning_rate: {quoted}\n",
        "policy": block.replace("MlpPolicy", "os.system"),
        "env_wrapper": block + f"  env_wrapper:\n    - os.mkdir:\n        path: {str(canary)!r}\n",
        "wrapper that is no class": block + "  env_wrapper: os.system\n",
        "vec_env_wrapper": block + f"  vec_env_wrapper:\n    - os.mkdir:\n        path: {str(canary)!r}\n",
        "callback": block + f"  callback:\n    - os.mkdir:\n        path: {str(canary)!r}\n",
        "aliases": "a0: &a0 [1, 1]\n"
        + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
        + "CartPole-v1: {policy_kwargs: *a39}\n",
        "deep": "CartPole-v1: " + "[" * 20_000 + "]" * 20_000 + "\n",
    }
