"""
The local variables of SB3's rollout loop, as callbacks read them, built when they are read.

SB3 hands ``locals()`` to the callbacks at every step. In a rollout on tensors most of these variables do not exist:
a list of N dictionaries would cost more than the step. So callbacks share one mapping that makes each of them on first
access, and forgets it when the next step is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList


class LazyLocals(dict[str, Any]):
    """
    A dictionary some of whose values are made on first access; to whoever reads it, it looks like any other.

    :param plain: values that are there from the start
    """

    def __init__(self, plain: Mapping[str, Any]) -> None:
        super().__init__(plain)
        self._makers: Mapping[str, Callable[[], Any]] = {}
        # Whether one of the made names may be stored; if not, showing the next step costs nothing.
        self._touched = True

    def provide(self, plain: Mapping[str, Any], makers: Mapping[str, Callable[[], Any]]) -> None:
        """
        Take the variables of another rollout.

        :param plain: variables that stay the same in it
        :param makers: functions that make the others, by name
        """
        super().update(plain)
        self._makers, self._touched = makers, True
        self.renew()

    def renew(self) -> None:
        """Forget what was made, or written by a callback in its place: another step is shown from here on."""
        if self._touched:
            for name in self._makers:
                super().pop(name, None)
            self._touched = False

    def __missing__(self, name: str) -> Any:
        if name not in self._makers:
            raise KeyError(name)
        value = self._makers[name]()
        self[name] = value
        return value

    def _make_all(self) -> None:
        for name in self._makers:
            self[name]

    # ------------------------------------------------ reading

    def get(self, name: str, default: Any = None) -> Any:
        """
        :param name: name of a variable
        :param default: what to give when there is none
        :return: its value
        """
        return self[name] if name in self else default

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._makers

    # dict(x), {**x} and f(**x) ask for keys() as soon as a subclass has an __iter__ of its own.
    def __iter__(self) -> Iterator[str]:
        self._make_all()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._make_all()
        return super().__reversed__()

    def __len__(self) -> int:
        self._make_all()
        return super().__len__()

    def keys(self) -> Any:
        """
        :return: names of all variables
        """
        self._make_all()
        return super().keys()

    def values(self) -> Any:
        """
        :return: values of all variables
        """
        self._make_all()
        return super().values()

    def items(self) -> Any:
        """
        :return: names and values of all variables
        """
        self._make_all()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """
        :return: a plain dictionary of all variables
        """
        return dict(self)

    def __eq__(self, other: object) -> bool:
        self._make_all()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as every dictionary

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles are of this moment.
        return dict, (dict(self),)

    # ------------------------------------------------ writing

    def __setitem__(self, name: str, value: Any) -> None:
        self._touched = True
        super().__setitem__(name, value)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """
        :param name: name of a variable
        :param default: its value, if there is none
        :return: its value
        """
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """
        :param args: a mapping, or pairs; this very mapping is what SB3 updates it with at every step
        :param kwargs: names and values
        """
        if args and args[0] is self and not kwargs:
            return
        self._touched = True
        super().update(*args, **kwargs)

    def __ior__(self, other: Any) -> LazyLocals:  # type: ignore[override,misc]
        self.update(other)
        return self

    def pop(self, name: str, *default: Any) -> Any:
        """
        :param name: name of a variable; one that is made is there again at the next access
        :param default: what to give when there is none
        :return: its value
        """
        if name in self:
            self[name]
        return super().pop(name, *default)


class LazyCallbacks(CallbackList):
    """
    Stands around the callbacks of a training and gives all of them one :class:`LazyLocals`.

    :param callback: the user's callback, already initialized
    """

    def __init__(self, callback: BaseCallback) -> None:
        super().__init__([callback])
        self.model = callback.model

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """
        :param locals_: local variables of ``learn()``
        :param globals_: global variables of its module
        """
        shared = LazyLocals(locals_)
        if shared.get("callback") is self:
            shared["callback"] = self.callbacks[0]
        super().on_training_start(shared, globals_)


def with_lazy_locals(callback: BaseCallback) -> BaseCallback:
    """
    Let the callbacks of a training share local variables that are made when they are read.

    :param callback: callback as SB3 has initialized it
    :return: what takes its place in ``learn()``
    """
    return LazyCallbacks(callback)


def locals_of(callback: BaseCallback) -> LazyLocals:
    """
    Find the mapping that is shown to callbacks.

    :param callback: callback of a rollout
    :return: the one its callbacks share; a new one when :func:`with_lazy_locals` was not there, which the callback's
        ``update_locals`` then copies at every step
    """
    return callback.locals if isinstance(callback.locals, LazyLocals) else LazyLocals({})
