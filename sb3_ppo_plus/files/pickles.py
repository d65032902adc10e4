"""
Pickles read as data: what they say, without doing any of it.

A pickle is a program for a small stack machine, and two of its instructions import and call whatever the file names.
:func:`read_pickle` follows that program and notes instead: the result is made of plain values, of a :class:`Name` where
the file names a class or function, and of a :class:`Call` where it would call one. What becomes of those is decided by
:mod:`sb3_ppo_plus.files.rebuild`, from a table. Only the standard library is needed here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: most instructions of one pickle; a policy of thirty layers has some thousands
MAX_INSTRUCTIONS = 2_000_000
#: most bits of a whole number; the states of NumPy's generators have 128
MAX_BITS = 4096


class BadPickle(ValueError):
    """What was read is no pickle, or one of a kind that no library here writes."""


@dataclass(frozen=True)
class Name:
    """
    A class or function that a pickle names.

    :param module: its module
    :param name: its name in there, with dots for what is inside a class
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Pairs(list):  # type: ignore[type-arg]
    """The entries of a mapping, in order, as pairs [n]."""


class Members(list):  # type: ignore[type-arg]
    """The elements of a set [n]."""


@dataclass(eq=False)
class Call:
    """
    What a pickle would call, and what it would do with the result.

    :param function: what is called
    :param args: its arguments
    :param kwargs: its named arguments
    :param state: what the result would be given as its state, one after the other
    :param items: what would be appended to it
    :param pairs: what would be set in it
    :param effects: calls with it as their first argument, whose results would be thrown away
    """

    function: Any
    args: Any
    kwargs: Any = None
    state: list[Any] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    pairs: Pairs = field(default_factory=Pairs)
    effects: list[Call] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Persistent:
    """
    Something that lies outside of the pickle.

    :param key: how the pickle refers to it
    """

    key: Any


def read_pickle(content: bytes, start: int = 0) -> tuple[Any, int]:
    """
    Read what a pickle says. Nothing is imported or called, whatever is in it.

    :param content: bytes with a pickle in them, and perhaps something behind it
    :param start: where it begins
    :return: what it describes, and where it ends
    :raises BadPickle: when it is cut off or makes no sense, is too long, or has instructions of other kinds of files
    """
    machine = _Machine()
    view = content[start:]
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(view)):
            if count >= MAX_INSTRUCTIONS:
                raise BadPickle(f"it has more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                return machine.result(), start + (position or 0) + 1
            instruction = _INSTRUCTIONS.get(opcode.name)
            if instruction is None:
                raise BadPickle(f"it has the instruction {opcode.name}, which no file of this kind has")
            instruction(machine, argument)
    except BadPickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BadPickle(
            f"it is no whole pickle ({' '.join(str(error).split())[:150] or type(error).__name__})"
        ) from error
    raise BadPickle("it is cut off")


class _Machine:
    """The stack, the marks in it, and the memory of the program that is followed."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marked:
            raise BadPickle("it does not describe one thing")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_whole(self, value: int) -> None:
        if value.bit_length() > MAX_BITS:
            raise BadPickle(f"it has a whole number of {value.bit_length()} bits")
        self.stack.append(value)

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def take(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise BadPickle("it takes more than it has")
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def drop(self) -> None:
        (dropped,) = self.take(1)
        if isinstance(dropped, Call):
            target = dropped.args[0] if isinstance(dropped.args, tuple) and dropped.args else None
            if not isinstance(target, Call):
                raise BadPickle("it calls something only for its effect")
            target.effects.append(dropped)

    def remember(self, number: int) -> None:
        self.memory[number] = self.stack[-1]

    def global_by_stack(self) -> None:
        module, name = self.take(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BadPickle("it names something by what is no text")
        self.push(Name(module, name))

    def global_by_text(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self.push(Name(module, name))

    def call(self, kwargs: Any = None) -> None:
        function, args = self.take(2)
        self.push(Call(function, args, kwargs))

    def call_with_names(self) -> None:
        (kwargs,) = self.take(1)
        self.call(kwargs)

    def give_state(self) -> None:
        (state,) = self.take(1)
        target = self.stack[-1]
        if not isinstance(target, Call):
            raise BadPickle("it gives a state to a plain value")
        target.state.append(state)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            target.items += items
        elif type(target) is list:
            target += items
        else:
            raise BadPickle("it appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = target.pairs if isinstance(target, Call) else target
        if not isinstance(pairs, Pairs) or len(items) % 2:
            raise BadPickle("it sets entries of what is no mapping")
        pairs += zip(items[::2], items[1::2], strict=True)

    def add_members(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Members):
            raise BadPickle("it adds to what is no set")
        target += items


def _pushing(value: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value())


_Instruction = Callable[[_Machine, Any], None]
_INSTRUCTIONS: dict[str, _Instruction] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),
    "NONE": _pushing(lambda: None),
    "NEWTRUE": _pushing(lambda: True),
    "NEWFALSE": _pushing(lambda: False),
    "EMPTY_LIST": _pushing(list),
    "EMPTY_TUPLE": _pushing(tuple),
    "EMPTY_DICT": _pushing(Pairs),
    "EMPTY_SET": _pushing(Members),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _Machine.push_whole),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.drop(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "APPEND": lambda machine, _: machine.append(list(machine.take(1))),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.take(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.add_members(machine.since_mark()),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memory)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, number: machine.push(machine.memory[number])),
    "GLOBAL": _Machine.global_by_text,
    "STACK_GLOBAL": lambda machine, _: machine.global_by_stack(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "NEWOBJ_EX": lambda machine, _: machine.call_with_names(),
    "BUILD": lambda machine, _: machine.give_state(),
    "BINPERSID": lambda machine, _: machine.push(Persistent(machine.take(1)[0])),
}
