"""LazyLocals looks like the dictionary that SB3's callbacks expect, and makes only what is read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EventCallback

from sb3_ppo_plus.callback_locals import LazyLocals, locals_of, with_lazy_locals


class Step:
    """Two variables of a step, and how often each was made."""

    def __init__(self) -> None:
        self.number = 0
        self.made: list[str] = []

    def dones(self) -> list[int]:
        self.made.append("dones")
        return [self.number]

    def infos(self) -> str:
        self.made.append("infos")
        return f"infos of {self.number}"

    def shown(self) -> LazyLocals:
        shown = LazyLocals({"total_timesteps": 100})
        shown.provide({"n_rollout_steps": 5}, {"dones": self.dones, "infos": self.infos})
        return shown


FULL = {"total_timesteps": 100, "n_rollout_steps": 5, "dones": [0], "infos": "infos of 0"}


def everything(**variables: Any) -> dict[str, Any]:
    return variables


READERS: dict[str, Callable[[LazyLocals], Any]] = {
    "dict": dict,
    "unpacked": lambda shown: {**shown},
    "as arguments": lambda shown: everything(**shown),
    "copy": lambda shown: shown.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda shown: pickle.loads(pickle.dumps(shown)),
    "items": lambda shown: dict(shown.items()),
    "keys and values": lambda shown: dict(zip(shown.keys(), shown.values(), strict=True)),
    "iteration": lambda shown: {name: shown[name] for name in shown},
    "reversed": lambda shown: {name: shown[name] for name in reversed(shown)},
    "update of another": lambda shown: (into := {}, into.update(shown))[0],
    "or": lambda shown: shown | {},
    "or from the right": lambda shown: {} | shown,
    "update of a LazyLocals": lambda shown: (into := LazyLocals({}), into.update(shown), dict(into))[-1],
}


@pytest.mark.parametrize("name", READERS)
def test_who_reads_everything_gets_everything(name: str) -> None:
    found = READERS[name](Step().shown())
    assert found == FULL
    assert type(found) is dict


def test_it_equals_a_dictionary_and_is_as_long_and_printed_like_one() -> None:
    assert Step().shown() == FULL
    assert FULL == Step().shown()
    assert Step().shown() != {**FULL, "dones": [1]}
    assert len(Step().shown()) == 4
    assert repr(Step().shown()) == repr(dict(Step().shown()))


def test_only_what_is_read_is_made_and_once_a_step() -> None:
    step = Step()
    shown = step.shown()
    assert "infos" in shown and "other" not in shown
    assert shown["total_timesteps"] == 100
    assert shown.get("other", 3) == 3
    assert step.made == []
    assert shown["infos"] == shown["infos"] == shown.get("infos") == "infos of 0"
    assert step.made == ["infos"]
    with pytest.raises(KeyError, match="other"):
        shown["other"]


def test_the_next_step_is_made_anew() -> None:
    step = Step()
    shown = step.shown()
    for step.number in range(3):
        shown.renew()
        assert shown["dones"] == [step.number]
    assert step.made == ["dones"] * 3
    # A variable that was read long ago is not the old one.
    assert shown["infos"] == "infos of 2"


def test_what_a_callback_writes_holds_until_sb3_would_overwrite_it() -> None:
    shown = Step().shown()
    shown["infos"] = "mine"
    shown["note"] = 1
    shown.update(dones="mine as well")
    assert (shown["infos"], shown["dones"]) == ("mine", "mine as well")
    shown.renew()
    assert (shown["infos"], shown["dones"], shown["note"]) == ("infos of 0", [0], 1)
    shown |= {"infos": "again"}
    assert shown["infos"] == "again"
    assert shown.setdefault("dones", None) == [0]
    assert shown.setdefault("more", 2) == 2
    assert shown.pop("infos") == "again"
    shown.renew()
    assert shown.pop("infos") == "infos of 0"
    assert shown.pop("nothing", 7) == 7
    with pytest.raises(KeyError):
        shown.pop("nothing")


def test_updating_it_with_itself_makes_nothing() -> None:
    step = Step()
    shown = step.shown()
    shown.update(shown)
    assert step.made == []


def test_the_variables_of_a_new_rollout_replace_the_old() -> None:
    old, new = Step(), Step()
    new.number = 9
    shown = old.shown()
    assert shown["dones"] == [0]
    shown.provide({"n_rollout_steps": 6}, {"dones": new.dones, "infos": new.infos})
    assert (shown["dones"], shown["n_rollout_steps"], shown["total_timesteps"]) == ([9], 6, 100)


# ------------------------------------------------ callbacks


class Counting(EventCallback):
    def __init__(self, callback: BaseCallback | None = None) -> None:
        super().__init__(callback)
        self.calls: list[str] = []

    def _on_training_start(self) -> None:
        self.calls.append("training_start")
        super()._on_training_start()

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout_start")

    def _on_step(self) -> bool:
        self.calls.append("step")
        return self._on_event()

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout_end")

    def _on_training_end(self) -> None:
        self.calls.append("training_end")


class Model:
    """All that callbacks ask of a model here."""

    num_timesteps = 12


def initialized(callback: BaseCallback) -> BaseCallback:
    callback.init_callback(Model())  # type: ignore[arg-type]
    return with_lazy_locals(callback)


def test_all_callbacks_share_one_mapping_and_are_called_once() -> None:
    inner, sibling = Counting(), ConvertCallback(None)
    outer = Counting(inner)
    wrapped = initialized(CallbackList([outer, CallbackList([sibling])]))
    wrapped.on_training_start({"total_timesteps": 100, "callback": wrapped}, {"name": "learn"})
    shown = locals_of(wrapped)
    assert all(callback.locals is shown for callback in (outer, inner, sibling, wrapped))
    assert inner.globals == {"name": "learn"}
    assert shown["callback"] is wrapped.callbacks[0]
    step = Step()
    shown.provide({}, {"infos": step.infos})
    wrapped.on_rollout_start()
    shown.renew()
    wrapped.update_locals(shown)
    assert wrapped.on_step()
    wrapped.on_rollout_end()
    wrapped.on_training_end()
    assert outer.calls == ["training_start", "rollout_start", "step", "rollout_end", "training_end"]
    assert (outer.n_calls, inner.n_calls, sibling.n_calls, inner.num_timesteps) == (1, 1, 1, 12)
    assert step.made == []
    assert inner.locals["infos"] == "infos of 0"


def test_false_of_any_callback_ends_the_training() -> None:
    wrapped = initialized(CallbackList([ConvertCallback(None), ConvertCallback(lambda _locals, _globals: False)]))
    assert wrapped.on_step() is False


def test_a_child_with_a_dictionary_of_its_own_is_told_as_in_sb3() -> None:
    class Forgetful(Counting):
        def _on_training_start(self) -> None:
            """Without telling its child, which SB3 then updates step by step."""

    child = Counting()
    wrapped = initialized(Forgetful(child))
    wrapped.on_training_start({}, {})
    shown = locals_of(wrapped)
    step = Step()
    shown.provide({"n_rollout_steps": 5}, {"dones": step.dones})
    for step.number in range(3):
        shown.renew()
        wrapped.update_locals(shown)
        assert child.locals == {"n_rollout_steps": 5, "dones": [step.number]}


def test_without_the_wrapper_there_is_a_mapping_as_well() -> None:
    plain = Counting()
    shown = locals_of(plain)
    assert isinstance(shown, LazyLocals)
    shown.provide({"n_rollout_steps": 5}, {"dones": Step().dones})
    plain.update_locals(shown)
    assert plain.locals == {"n_rollout_steps": 5, "dones": [0]}
