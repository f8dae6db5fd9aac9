"""Finds the runnable examples of the documentation: code blocks that begin with ```sh test or ```python test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ("README.md", "docs/tutorial/*.md", "docs/howto/*.md")
_BLOCK: Final = re.compile(r"^```(sh|python) test\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_ANY_BLOCK: Final = re.compile(r"^```(sh|python)(?: test)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """All runnable blocks of one language on one page, as one program: blocks of a page follow one another.

    A shell program stops at its first failing line (`set -e`); what only one line needs is not set. Run it with
    `WRENN_BASE_URL`, `WRENN_API_KEY` and `WRENN_DATA_DIR` of a live platform; `/var/lib/wrenn/env` in it stands for that
    platform's `env`.
    """

    page: str
    language: Literal["sh", "python"]
    program: str

    @property
    def name(self) -> str:
        """For the ids of parametrised tests."""
        return f"{self.page}:{self.language}"


def section(page: str, heading: str) -> list[Example]:
    """Return the blocks of a page's section, each by itself and whether or not they are marked: what they need, a test has prepared."""
    text = (ROOT / page).read_text()
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading!r}"
    blocks = _ANY_BLOCK.findall(rest.partition("\n## ")[0])
    return [
        Example(
            page, cast(Literal["sh", "python"], language), ("set -eu\n" if language == "sh" else "") + code
        )
        for language, code in blocks
    ]


def examples() -> Iterator[Example]:
    """The examples of every page, in the order of the pages."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            programs: dict[str, list[str]] = {}
            for language, code in _BLOCK.findall(path.read_text()):
                programs.setdefault(language, []).append(code)
            for language, blocks in programs.items():
                head = "set -eu\n" if language == "sh" else ""
                yield Example(
                    str(path.relative_to(ROOT)),
                    cast(Literal["sh", "python"], language),
                    head + "\n".join(blocks),
                )
