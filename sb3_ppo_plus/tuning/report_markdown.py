"""The blocks that a report is made of, and how they look in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paragraph:
    """
    Plain text.

    :param text: the words, without markup
    :param kind: ``good``, ``open`` or ``bad`` for the verdict at the top, empty for ordinary text
    """

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Code:
    """
    Text that is copied as it is.

    :param text: its lines
    :param language: name for highlighting
    """

    text: str
    language: str = ""


@dataclass(frozen=True)
class Table:
    """
    Rows of cells.

    :param header: name of each column [C]
    :param rows: cells [R, C]; numbers are set to the right
    :param marked: index of the row that stands out, None for none
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None


@dataclass(frozen=True)
class Picture:
    """
    A drawn figure.

    :param name: name of the file without ending
    :param png: its content
    :param caption: what it shows
    """

    name: str
    png: bytes
    caption: str


Block = Paragraph | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    """
    A heading and what is below it.

    :param title: heading
    :param blocks: in order
    """

    title: str
    blocks: tuple[Block, ...]


def markdown(title: str, sections: Sequence[Section], images: str) -> str:
    """
    Write a report as Markdown (GitHub's flavor, for the tables).

    :param title: heading of the whole
    :param sections: what follows; the first one has no heading of its own
    :param images: folder of the pictures, relative to the file
    :return: the text
    """
    parts = [f"# {_escaped(title)}"]
    for index, section in enumerate(sections):
        if index:
            parts.append(f"## {_escaped(section.title)}")
        parts += [_block(block, images) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def pictures(sections: Sequence[Section]) -> list[Picture]:
    """
    :param sections: of a report
    :return: their pictures, in order
    """
    return [block for section in sections for block in section.blocks if isinstance(block, Picture)]


def is_number(cell: str) -> bool:
    """
    :param cell: text of a cell
    :return: whether it is read as a number, or as that there is none
    """
    return re.fullmatch(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?|-", cell) is not None


def _block(block: Block, images: str) -> str:
    if isinstance(block, Paragraph):
        return f"**{_escaped(block.text)}**" if block.kind else _escaped(block.text)
    if isinstance(block, Code):
        # The fence has to be longer than any run of backticks inside.
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", block.text))])
        return f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
    if isinstance(block, Picture):
        return f"![{_escaped(block.caption)}]({images}/{block.name}.png)\n\n*{_escaped(block.caption)}*"
    columns = list(zip(*block.rows, strict=True)) if block.rows else [()] * len(block.header)
    lines = [
        _row(block.header),
        "|" + "|".join("---:" if column and all(map(is_number, column)) else "---" for column in columns) + "|",
    ]
    lines += [_row(row, bold=index == block.marked) for index, row in enumerate(block.rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str], bold: bool = False) -> str:
    mark = "**" if bold else ""
    return "| " + " | ".join(f"{mark}{_escaped(cell)}{mark}" if cell else "" for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Keep text from being read as markup: a bar would end a cell, a line break the table, ``<`` would begin a tag."""
    return re.sub(r"([\\`*|<>\[\]&~$])", r"\\\1", " ".join(text.split()))
