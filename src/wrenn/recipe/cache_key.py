"""Keys of the layer cache. Two steps with equal keys leave equal disks, as far as a recipe can say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from wrenn.recipe.instructions import Copy, Env, From, Run, Start, Step, User, Workdir

_VERSION = 2
"""Part of every key: a change of what steps do must not find old layers."""


def base_key(base: From, identity: str) -> str:
    """Return the key of the base. `identity` is the template's id or the digest of the container image, never a name that can move."""
    return _digest({"base": base.kind.value, "identity": identity})


def step_key(parent: str, step: Step, *, files_digest: str | None = None) -> str:
    """Return the key of the disk after this step.

    `parent` is the key of the disk before it. `files_digest` identifies what a COPY with sources selects
    (`archive.Selection.digest`). An ENV or START changes no disk, so its key is the parent's; variables are part of the
    key of a RUN. Line numbers, the text as written, time limits, and times of files are not part of any key.
    """
    fields: dict[str, object] = {"parent": parent, "step": type(step).__name__, "user": step.state.user}
    match step:
        case Env() | Start():
            return parent
        case Run():
            fields |= {
                "argv": step.argv,
                "environment": dict(step.state.environment),
                "workdir": step.state.workdir,
            }
        case Workdir():
            fields["path"] = step.path
        case User():
            fields |= {"name": step.name, "create": step.create}
        case Copy():
            assert (files_digest is not None) == bool(step.sources), (
                "a COPY is identified by the files that it selects"
            )
            fields |= {
                "files": files_digest,
                "inline": [[file.name, file.content] for file in step.inline],
                "destination": [step.destination, step.into_directory],
                "owner": step.owner,
                "mode": step.mode,
                "extract": step.extract,
            }
    return _digest(fields)


def cacheable_steps(steps: Sequence[Step]) -> int:
    """Return how many of the first steps may be taken from the cache: not those after a START, which may need its program."""
    return next((index for index, step in enumerate(steps) if isinstance(step, Start)), len(steps))


def changes_disk(step: Step) -> bool:
    """Return whether a layer is worth keeping after this step: ENV only changes what applies to later ones."""
    return not isinstance(step, Env | Start)


def _digest(fields: Mapping[str, object]) -> str:
    text = json.dumps({"version": _VERSION, **fields}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
