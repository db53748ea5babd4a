"""The parts of README, CONTRIBUTING, CHANGELOG and the pages in docs: code, links, tables."""

import re
from pathlib import Path

from xfarm.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path) -> dict[str, list[str]]:
    """Return the shell commands on a page by heading; the second block under a heading is `HEADING 2`."""
    found: dict[str, list[str]] = {}
    text = page.read_text(encoding="utf-8")
    for block in _FENCED.finditer(text):
        if block[1] == "sh":
            heading = re.findall(r"^#+ (.+)$", _FENCED.sub("", text[: block.start()]), re.MULTILINE)[-1]
            number = sum(name.startswith(heading) for name in found) + 1
            found[heading if number == 1 else f"{heading} {number}"] = commands(block[2])
    return found


def commands(block: str) -> list[str]:
    """Return the commands of a block, without comments."""
    return [line.partition("  #")[0].strip() for line in block.strip().splitlines()]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from a page's headings: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Return the targets of the links and pictures on a page."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def code_spans(page: Path) -> list[str]:
    """Return the inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def table(page: Path, *headings: str) -> list[list[str]]:
    """Return the rows of the table with these headings on a page.

    Raises:
        ValueError: There is no such table.
    """
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if _cells(line) == list(headings):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise ValueError(f"{page.name} has no table with the headings {headings}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
