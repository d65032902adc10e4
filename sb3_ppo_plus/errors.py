"""The exceptions that this package raises for what its user gave it."""

from __future__ import annotations

from typing import Any


class InvalidArgument(ValueError, AssertionError):
    """
    An argument has a value that cannot work; the message names the argument, the value and the remedy.

    It is a ``ValueError``, which is what it means, and an ``AssertionError`` as well: Stable-Baselines3 checks the same
    mistakes (``batch_size=1`` with normalized advantages, a negative ``clip_range_vf``) with ``assert``, so code
    written for its PPO catches ``AssertionError`` and keeps working. Unlike an ``assert`` it also survives
    ``python -O``.
    """


class DamagedFile(InvalidArgument):
    """
    A file that is not, or no longer, what its name says.

    :param path: the file
    :param member: part of the file that is wrong, empty for the file as a whole
    :param reason: what is wrong with it
    """

    def __init__(self, path: object, member: str, reason: str) -> None:
        super().__init__(f"{path} is damaged{f' in {member!r}' if member else ''}: {reason}")
        self.path, self.member, self.reason = path, member, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.member, self.reason)


class NonFinite(ValueError):
    """
    A number of a training is NaN or infinite.

    :param place: ``observation``, ``final observation``, ``reward``, ``action``, ``loss``, ``gradient`` or
        ``parameter``
    :param env: environment that it comes from, None where it comes from the update
    :param step: timestep of the training
    :param key: where in it, such as ``['camera'][0, 3]`` or the name of a parameter; may be empty
    :param value: the number
    :param advice: what to do
    """

    def __init__(self, place: str, env: int | None, step: int, key: str, value: float, advice: str) -> None:
        whose = "" if env is None else f" of environment {env}"
        where = key if not key or key.startswith("[") else f" {key}"
        super().__init__(f"{place}{where}{whose} is {value} at timestep {step:,}: {advice}")
        self.place, self.env, self.step, self.key, self.value, self.advice = place, env, step, key, value, advice

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.place, self.env, self.step, self.key, self.value, self.advice)


class UntrustedFile(DamagedFile):
    """
    A file that asks for a class or function which only running the file's own code could give; nothing was run.

    :param path: the file
    :param member: part of the file that asks
    :param wanted: class or function that it names
    :param remedy: what to do instead
    """

    def __init__(self, path: object, member: str, wanted: str, remedy: str) -> None:
        super().__init__(path, member, f"it asks for {wanted}")
        self.wanted, self.remedy = wanted, remedy
        self.args = (
            f"{path} asks{f' in {member!r}' if member else ''} for {wanted}, which is nothing that is known here, and "
            f"nothing in a file is run unless you say so: {remedy}",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.member, self.wanted, self.remedy)
