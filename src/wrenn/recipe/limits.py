"""Limits of a recipe, and the error for one that is refused. Each limit is far above what real recipes have."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.base.units import KIB, MIB

MAX_TEXT_B: Final = 512 * KIB
"""Size of a Dockerfile, or of all lines of a recipe."""
MAX_INSTRUCTION_B: Final = 64 * KIB
"""Size of one instruction with its heredocs. A RUN must fit into one argument of a program, for which Linux allows 128 KiB."""
MAX_INSTRUCTIONS: Final = 500
MAX_STAGES: Final = 16
"""Stages of a Dockerfile that have to be built, with the last one."""
MAX_ALL_INSTRUCTIONS: Final = 2000
"""Instructions of all stages that have to be built, each with those of the stages below it."""
MAX_VARIABLES: Final = 500
"""Variables of the environment and arguments together."""
MAX_VALUE_B: Final = 32 * KIB
"""Size of the value of a variable."""
MAX_EXPANDED_WORD_B: Final = 128 * KIB
"""Size of one text after its variables were replaced, for example a heredoc of COPY."""
MAX_EXPANDED_B: Final = 4 * MIB
"""Size of all texts of a recipe after their variables were replaced."""
MAX_ENVIRONMENT_B: Final = 128 * KIB
"""Names and values of all variables: they share 2 MiB with the arguments of each program that is started."""
MAX_PAIRS: Final = 10_000
"""`NAME=VALUE` of all ARG, ENV and LABEL instructions."""
MAX_VARIABLE_STATES: Final = 100_000
"""Sum, over all instructions that set variables, of how many there are after each: a plan has the variables of each of its steps."""
MAX_NESTING: Final = 8
"""Depth of `${A:-${B:-...}}`."""
MAX_LABELS: Final = 500
MAX_PORTS: Final = 200
MAX_COPY_SOURCES: Final = 200
MAX_PATH_B: Final = 4096

RECIPE_RUN_TIMEOUT_S: Final = 30.0
"""How long a RUN of a line-based recipe may take, unless it has `--timeout`."""
DOCKERFILE_RUN_TIMEOUT_S: Final = 3600.0
"""How long a RUN of a Dockerfile may take, unless it has `--timeout`; Docker has no limit."""
MAX_RUN_TIMEOUT_S: Final = 6 * 3600.0

MAX_ARCHIVE_B: Final = 100 * MIB
"""Size of the compressed archive of a build context."""
MAX_CONTEXT_B: Final = 2048 * MIB
"""Bytes of the files of a build context, and of what one COPY or ADD writes."""
MAX_ENTRIES: Final = 100_000
"""Files, directories and links of a build context, and of what one COPY or ADD writes."""
MAX_NAMES_B: Final = 16 * MIB
"""Characters of all paths in a build context and of what its links point to: they are in memory as long as the build runs."""


def refused(line: int, message: str) -> InvalidRequest:
    """Return the error for an instruction that starts in this line (counted from 1)."""
    return InvalidRequest(f"line {line}: {message}", details={"line": line})


def shown(text: str, limit: int = 60) -> str:
    """Return a part of the recipe for an error message, quoted and shortened."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "'" + "".join(c if c.isprintable() else "�" for c in short) + "'"


def check_text(text: str, limit_b: int, what: str) -> None:
    """Check the size and the characters of a text that a client sent.

    Raises:
        InvalidRequest: too long, or with a NUL character or half of a surrogate pair, which no program accepts.
    """
    # The number of characters first, so that a huge text is not encoded.
    too_long = len(text) > limit_b
    if not too_long:
        try:
            too_long = len(text.encode()) > limit_b
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{what} is not valid Unicode text.") from error
    if too_long:
        raise InvalidRequest(f"{what} is too long: at most {limit_b // KIB} KiB.")
    if "\0" in text:
        raise InvalidRequest(f"{what} contains a NUL character.")
