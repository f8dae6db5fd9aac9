"""The steps of e2b's template builder as a recipe of the platform.

Each step becomes one or more lines. `numbers` tells for each line which step it is of, counted from 1; 0: none, it prepares the base.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.control.e2b.template_types import BuilderStep

DEFAULT_USER: Final = "user"
_HOME: Final = "/home/user"
_RUN_TIMEOUT: Final = "--timeout=1h"
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODE: Final = re.compile(r"[0-7]{3,4}")
_READY_CHECK: Final = "--interval=2s --timeout=30s --retries=300"
"""Every 2 s for 10 min."""
_UNCHECKED_START: Final = "--interval=20s true"
"""A start command without a check gets so long to be up."""


@dataclass
class BuilderRecipe:
    """Lines of a recipe, and the steps that they are of."""

    lines: list[str] = field(default_factory=list[str])
    numbers: list[int] = field(default_factory=list[int])
    healthcheck: str | None = None

    def add(self, number: int, *lines: str) -> None:
        """Append lines that carry out a step."""
        self.lines += lines
        self.numbers += [number] * len(lines)


def builder_recipe(
    base: str,
    steps: Sequence[BuilderStep],
    folders: Mapping[str, str],
    *,
    user: str,
    sets_user: bool,
    start: str,
    ready: str,
) -> BuilderRecipe:
    """Return the recipe that carries out these steps.

    Args:
        base: what stands behind FROM.
        steps: as the client sent them.
        folders: where the archive of the build has the files with this hash.
        user: whose processes the steps are at the beginning; empty: not known.
        sets_user: the steps are those of `user`, who is made if need be, whatever the base says.
        start: command of a program that runs in the template; empty: none.
        ready: command of a check; empty: none.

    Raises:
        InvalidRequest: a step is not one; the message begins with `step N`.
    """
    recipe = BuilderRecipe()
    recipe.add(0, f"FROM {base}")
    if sets_user:
        recipe.add(0, f"USER {user}", f"WORKDIR {_HOME if user == DEFAULT_USER else '/'}")
    for number, step in enumerate(steps, start=1):
        recipe.add(number, *_lines_of(number, step, folders, user))
        if step.type == "USER":
            user = step.args[0]
    end = len(steps) + 1
    if start:
        recipe.add(end, f"START exec /bin/bash -l -c {shlex.quote(start)}")
    if ready:
        recipe.healthcheck = f"{_READY_CHECK} exec /bin/bash -l -c {shlex.quote(ready)}"
    elif start:
        recipe.healthcheck = _UNCHECKED_START
    return recipe


def _lines_of(number: int, step: BuilderStep, folders: Mapping[str, str], user: str) -> list[str]:
    arguments = step.args
    match step.type:
        case "RUN":
            command = _required(number, step, 0)
            as_user = arguments[1] if len(arguments) > 1 else ""
            return [_run(command, _checked_user(number, as_user) if as_user else "")]
        case "ENV":
            if len(arguments) % 2 or not arguments:
                raise _refused(number, "ENV needs pairs of a name and a value")
            for name in arguments[::2]:
                if not _VARIABLE.fullmatch(name):
                    raise _refused(number, f"{name[:40]!r} is not a name of a variable")
            pairs = zip(arguments[::2], arguments[1::2], strict=True)
            return [f"ENV {name}={value}" for name, value in pairs]
        case "USER":
            return [f"USER {_checked_user(number, _required(number, step, 0))}"]
        case "WORKDIR":
            path = _one_line(number, _required(number, step, 0))
            return _workdir(path, user)
        case "COPY":
            return [_copy(number, step, folders)]
        case _:
            raise _refused(number, f"there is no step {step.type[:40]!r}")


def _run(command: str, user: str) -> str:
    options = f"{_RUN_TIMEOUT} --user={user}" if user else _RUN_TIMEOUT
    return f"RUN {options} exec /bin/bash -c {shlex.quote(command)}"


def _workdir(path: str, user: str) -> list[str]:
    lines = [f"WORKDIR {path}"]
    if user and user != "root":
        # A new one belongs to the user of the steps. Not to be made again by WORKDIR, it is made first.
        word = _shell_word(path)
        lines.insert(0, _run(f"[ -e {word} ] || install -d -o {user} -g $(id -g {user}) {word}", "root"))
    return lines


def _shell_word(path: str) -> str:
    """Return the path as a word of a shell that replaces the same variables as WORKDIR does, and nothing else."""
    parts = re.split(r"(\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\})", path)
    return "".join(
        f'"{part}"' if index % 2 else shlex.quote(part) for index, part in enumerate(parts) if part
    )


def _copy(number: int, step: BuilderStep, folders: Mapping[str, str]) -> str:
    source, destination = _required(number, step, 0), _required(number, step, 1)
    owner, mode = (*step.args[2:4], "", "")[:2]
    if not step.files_hash:
        raise _refused(number, "COPY needs filesHash")
    if step.files_hash not in folders:
        raise _refused(number, "the files of this COPY were not uploaded")
    if ".." in source.split("/") or "\0" in source + destination:
        raise _refused(number, f"{source[:80]!r} must be a path inside the build context, without ..")
    if mode and not _MODE.fullmatch(mode):
        raise _refused(number, f"{mode[:20]!r} is not three or four octal digits")
    inside = posixpath.normpath(source.lstrip("/") or ".")
    options = [f"--chown={owner}"] if owner else []
    options += [f"--chmod={mode}"] if mode else []
    paths = json.dumps([posixpath.join(folders[step.files_hash], inside), destination])
    return " ".join(["COPY", *options, paths])


def _required(number: int, step: BuilderStep, index: int) -> str:
    if len(step.args) <= index or not step.args[index].strip():
        raise _refused(number, f"{step.type} has too few arguments")
    return step.args[index]


def _one_line(number: int, text: str) -> str:
    if not text.strip() or "\n" in text or "\r" in text:
        raise _refused(number, "the value is empty or has several lines")
    return text


def _checked_user(number: int, name: str) -> str:
    if not _USER.fullmatch(name):
        raise _refused(number, f"{name[:40]!r} is not a name of a user")
    return name


def _refused(number: int, message: str) -> InvalidRequest:
    return InvalidRequest(f"step {number}: {message}")
