"""Tables of the page as markup."""

from __future__ import annotations

from html import escape

# What it holds, and its class in the page's style or nothing.
Cell = tuple[str, str]


def text_table(heads: list[str], rows: list[tuple[list[Cell], str]], numeric: int) -> str:
    """Rows of plain text, each with its class or nothing; the heads of the first `numeric` columns stand right."""
    lines = [table_row([(escape(text), kind) for text, kind in cells], name) for cells, name in rows]
    return table_frame(heads, lines, set(range(numeric)))


def table_row(cells: list[Cell], name: str) -> str:
    """One row of cells that are markup already."""
    inner = "".join(f'<td class="{kind}">{markup}</td>' if kind else f"<td>{markup}</td>" for markup, kind in cells)
    return f'<tr class="{name}">{inner}</tr>' if name else f"<tr>{inner}</tr>"


def table_frame(heads: list[str], lines: list[str], numeric: set[int]) -> str:
    """Rows under their heads; those of the columns `numeric` stand right."""
    head = "".join(f'<th scope="col"{" class=n" if i in numeric else ""}>{text}</th>' for i, text in enumerate(heads))
    return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table></div>')


def capitalised(head: str) -> str:
    """A heading with a capital letter in front, but for names such as mAP, which are written as they are."""
    return head[:1].upper() + head[1:] if head[1:2].islower() else head
