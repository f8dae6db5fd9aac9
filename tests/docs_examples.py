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
