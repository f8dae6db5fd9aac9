"""What a worker carries out: instructions in which every variable is replaced and every path is absolute.

Each has the state that applies to it, so that it can be carried out without looking at the ones before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from wrenn.recipe.healthcheck import ReadyCheck

SCRATCH: Final = "scratch"
"""Reference of the image without files, as in Docker: no registry has it."""


class BaseKind(StrEnum):
    """What the reference of a FROM names."""

    TEMPLATE = "template"
    IMAGE = "image"
    ARCHIVE = "archive"
    """A container image in the archive that is uploaded with the build."""


@dataclass(frozen=True, slots=True, kw_only=True)
class From:
    """The base of a build.

    An explicit prefix decides: `template://NAME[:TAG]` is a template, `docker://REFERENCE` a container image of a registry.
    Without a prefix it is a container image in a Dockerfile, as in Docker, and a template in a line-based recipe.
    `oci-archive:` and `docker-archive:`, with nothing behind, are the container image in the archive of the build.

    Attributes:
        kind: template, or container image of a registry or an archive.
        reference: without the prefix: `NAME[:TAG]`, or the image's reference as `docker pull` takes it; the format of an archive.
        line, text: where it was written, and how.
    """

    kind: BaseKind
    reference: str
    line: int
    text: str

    @property
    def is_empty(self) -> bool:
        """Whether it is the image without files."""
        return self.kind is BaseKind.IMAGE and self.reference == SCRATCH

    def __str__(self) -> str:
        if self.kind is BaseKind.ARCHIVE:
            return f"{self.reference}:"
        prefix = "docker" if self.kind is BaseKind.IMAGE else "template"
        return f"{prefix}://{self.reference}"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What applies to an instruction.

    Attributes:
        environment: variables for programs, including arguments of the build (ARG).
        user: user, or `user:group`; the group is only given in a Dockerfile.
        workdir: absolute path.
    """

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = "root"
    workdir: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One step of a build.

    Attributes:
        line: line in which it begins, counted from 1.
        text: as it was written, for logs.
        state: what applies to it. What an instruction sets applies to the ones after it.
    """

    line: int
    text: str
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """Runs a program and waits for it. An exit code other than 0 fails the build."""

    argv: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Instruction):
    """Starts a program in the background: later steps find it running, and so does the template."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """Sets variables, which are in the environment of the instructions after it and of the template."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """Sets the working directory. It is created if it does not exist, with its parents."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """Sets the user.

    Attributes:
        name: user, or `user:group`, by name or number.
        create: create the user if it does not exist, with a home directory and sudo without a password. Without it (in
            a Dockerfile) a user that does not exist fails the build.
    """

    name: str
    create: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineFile:
    """A file whose content is written in the recipe, as a heredoc of COPY or ADD."""

    name: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """Writes files of the build context, or files that are written in the recipe.

    Attributes:
        sources: patterns below the context's root, without leading slash; `.` is the root. `archive.ContextArchive.select` finds the files.
        inline: files that come after the sources.
        destination: absolute path.
        into_directory: the destination is a directory, whatever is there: it was written with a slash at its end, or
            there are several sources. Otherwise a single file gets this name, unless a directory has it.
        owner: `user` or `user:group` by name or number; None for root.
        mode: permissions of everything that is written; None keeps those of the context.
        extract: local tar archives among the sources are unpacked into the destination (ADD).
        stage: the files are of this stage of the recipe (`Recipe.stages`), and keep their owners unless `owner` says another one;
            the sources are patterns below its root.
    """

    sources: tuple[str, ...]
    inline: tuple[InlineFile, ...] = ()
    destination: str
    into_directory: bool
    owner: str | None
    mode: int | None = None
    extract: bool = False
    stage: int | None = None


Step = Run | Start | Env | Workdir | User | Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe on a base whose environment is known.

    Attributes:
        steps: what is carried out, in order. The start command of a Dockerfile comes last.
        environment: default variables of the template.
        user: default user of the template, None if neither the recipe nor the base sets one.
        workdir: default working directory of the template.
        labels: labels of base and recipe.
        exposed_ports: `PORT/tcp` or `FIRST-LAST/udp`, recorded only: every port of a sandbox can be reached.
        ready_check: when the template is ready to be taken; None without one.
    """

    steps: tuple[Step, ...]
    environment: Mapping[str, str]
    user: str | None
    workdir: str
    labels: Mapping[str, str]
    exposed_ports: tuple[str, ...]
    ready_check: ReadyCheck | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """What the base of a build brings along: the configuration of a container image, or the defaults of a template.

    Attributes:
        environment: variables that programs have.
        user: default user; None for root.
        workdir: default working directory; None for the root directory.
        entrypoint: program of a container image, with which a CMD of the recipe is combined.
        labels: labels.
        exposed_ports: as in `Plan`.
    """

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str | None = None
    workdir: str | None = None
    entrypoint: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    exposed_ports: tuple[str, ...] = ()
