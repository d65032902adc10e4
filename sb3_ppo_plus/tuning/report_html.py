"""A report as one HTML page that needs nothing else: no network, no files beside it, no scripts."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from sb3_ppo_plus.tuning.report_markdown import Block, Code, Paragraph, Picture, Section, Table, is_number

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #57606a; --page: #ffffff; --panel: #f6f8fa; --line: #d0d7de;
  --blue: #1f6feb; --orange: #f0883e; --good: #1a7f37; --bad: #cf222e; --mark: #fff4e8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --page: #0d1117; --panel: #161b22;
  --line: #30363d; --blue: #58a6ff; --good: #3fb950; --bad: #f85149; --mark: #33241a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 20px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 48px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
p { margin: 10px 0; max-width: 78ch; overflow-wrap: anywhere; }
.verdict { max-width: none; padding: 14px 18px; border-left: 4px solid var(--soft); border-radius: 4px;
  background: var(--panel); font-size: 1.08rem; }
.good { border-color: var(--good); } .open { border-color: var(--orange); } .bad { border-color: var(--bad); }
nav { margin: 24px 0 0; font-size: 0.9rem; } nav a { color: var(--blue); text-decoration: none; margin-right: 16px;
  white-space: nowrap; } nav a:hover { text-decoration: underline; }
.scroll { overflow: auto; max-height: 640px; border: 1px solid var(--line); border-radius: 6px; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--panel); color: var(--soft); font-weight: 600; white-space: nowrap; }
td { max-width: 460px; overflow-wrap: break-word; } tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
tr.marked td { background: var(--mark); font-weight: 600; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 14px 16px; overflow: auto;
  font: 0.86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
figure { margin: 16px 0; } figcaption { color: var(--soft); font-size: 0.88rem; margin-top: 6px; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 6px; padding: 8px; }
"""
# Even a text that slipped through the escaping could load and run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, sections: Sequence[Section]) -> str:
    """
    Write a report as a page.

    :param title: heading of the whole
    :param sections: what follows; the first one has no heading of its own
    :return: the source of the page
    """
    body = [f"<h1>{escape(title)}</h1>"]
    for index, section in enumerate(sections):
        if index:
            body.append(f'<h2 id="{_anchor(section)}">{escape(section.title)}</h2>')
        body += [_block(block) for block in section.blocks]
        if not index:
            links = (f'<a href="#{_anchor(other)}">{escape(other.title)}</a>' for other in sections[1:])
            body.append(f"<nav>{' '.join(links)}</nav>")
    return document(title, "\n".join(body))


def document(title: str, body: str) -> str:
    """
    Put a page around its content.

    :param title: name of the page
    :param body: HTML of the content
    :return: the source of the page
    """
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _anchor(section: Section) -> str:
    return "".join(character if character.isalnum() else "-" for character in section.title.lower())


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        kind = f' class="verdict {block.kind}"' if block.kind else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre><code>{escape(block.text.rstrip())}</code></pre>"
    if isinstance(block, Picture):
        source = f"data:image/png;base64,{b64encode(block.png).decode()}"
        caption = escape(block.caption)
        return f'<figure>\n<img alt="{caption}" src="{source}">\n<figcaption>{caption}</figcaption>\n</figure>'
    return _table(block)


def _table(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.header)
    kinds = [' class="number"' if column and all(map(is_number, column)) else "" for column in columns]
    lines = [
        '<div class="scroll"><table>',
        "<thead><tr>" + _cells("th", table.header, kinds) + "</tr></thead>",
        "<tbody>",
    ]
    for index, row in enumerate(table.rows):
        mark = ' class="marked"' if index == table.marked else ""
        lines.append(f"<tr{mark}>{_cells('td', row, kinds)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _cells(tag: str, texts: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for text, kind in zip(texts, kinds, strict=True))
