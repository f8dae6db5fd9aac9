"""A parsed recipe, and the plan that it makes for a base."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from wrenn.recipe.healthcheck import ReadyCheck
from wrenn.recipe.instructions import (
    BaseConfig,
    Copy,
    Env,
    From,
    InlineFile,
    Plan,
    Run,
    Start,
    State,
    Step,
    User,
    Workdir,
)
from wrenn.recipe.limits import (
    MAX_ENVIRONMENT_B,
    MAX_EXPANDED_B,
    MAX_LABELS,
    MAX_PATH_B,
    MAX_PORTS,
    MAX_VALUE_B,
    MAX_VARIABLES,
    refused,
    shown,
)
from wrenn.recipe.patterns import PatternError, check_pattern
from wrenn.recipe.statements import (
    AnyStatement,
    ArgStatement,
    CmdStatement,
    CopyStatement,
    EntrypointStatement,
    EnvStatement,
    ExposeStatement,
    HealthcheckStatement,
    LabelStatement,
    RunStatement,
    StartStatement,
    Statement,
    UserStatement,
    WorkdirStatement,
)
from wrenn.recipe.words import Word, WordError

VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
USER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")

PROXY_ARGUMENTS: Final = frozenset(
    variant
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for variant in (name, name.lower())
)
"""Build arguments that need no ARG, as in Docker."""
PLATFORM_ARGUMENTS: Final = {
    f"{side}{name}": value
    for side in ("BUILD", "TARGET")
    for name, value in (("PLATFORM", "linux/amd64"), ("OS", "linux"), ("ARCH", "amd64"), ("VARIANT", ""))
}
"""Values of arguments that BuildKit defines; they need an ARG without a default."""

_OWNER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_MODE: Final = re.compile(r"[0-7]{3,4}")
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the author of a recipe should know and that does not fail the build."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe whose syntax is right.

    Attributes:
        base: None if the recipe has no FROM, which only a line-based one may lack: the caller says what the base is.
        statements: the instructions after FROM.
        build_args: values of ARGs that the caller gave.
        global_args: ARGs before FROM with their values, None without one.
        notes: for the author.
        stages: earlier stages of which files are copied, each after those that it needs itself.
    """

    base: From | None
    statements: tuple[AnyStatement, ...]
    build_args: Mapping[str, str] = field(default_factory=dict[str, str])
    global_args: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    notes: tuple[Note, ...] = ()
    stages: tuple[Stage, ...] = ()

    @property
    def needs_context(self) -> bool:
        """Whether an instruction copies files of the build context, also of an earlier stage."""
        return any(stage.recipe.needs_context for stage in self.stages) or any(
            isinstance(statement, CopyStatement) and statement.sources and statement.stage is None
            for statement in self.statements
        )

    @property
    def copied_stages(self) -> set[int]:
        """The stages of which its own instructions copy files, by their place in the `stages` of the whole recipe."""
        return {
            statement.stage
            for statement in self.statements
            if isinstance(statement, CopyStatement) and statement.stage is not None
        }

    def plan(self, base: BaseConfig) -> Plan:
        """Replace the variables, and return what is to be carried out on this base.

        Raises:
            InvalidRequest: a value is not valid once its variables are replaced; the message begins with the line.
        """
        return _Planner(self, base).plan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """An earlier stage of a Dockerfile. `recipe` makes its files; what it would start is not started.

    `name`: that of `FROM … AS`, otherwise its place from 0 or the image.
    """

    name: str
    recipe: Recipe


class _Planner:
    def __init__(self, recipe: Recipe, base: BaseConfig) -> None:
        self._recipe = recipe
        self._environment = dict(base.environment)
        self._arguments = {
            name: value for name, value in recipe.build_args.items() if name in PROXY_ARGUMENTS
        }
        self._user = base.user
        self._workdir = base.workdir or "/"
        self._labels = dict(base.labels)
        self._ports = dict.fromkeys(base.exposed_ports)
        self._entrypoint = base.entrypoint
        self._takes_arguments = True
        self._entrypoint_statement: EntrypointStatement | None = None
        self._cmd_statement: CmdStatement | None = None
        self._ready_check: ReadyCheck | None = None
        self._steps: list[Step] = []
        self._state: State | None = None
        self._expanded = 0

    def plan(self) -> Plan:
        for statement in self._recipe.statements:
            self._add(statement)
        self._add_start_command()
        return Plan(
            steps=tuple(self._steps),
            environment=self._environment,
            user=self._user,
            workdir=self._workdir,
            labels=self._labels,
            exposed_ports=tuple(self._ports),
            ready_check=self._ready_check,
        )

    def _add(self, statement: AnyStatement) -> None:
        line, text = statement.line, statement.text
        match statement:
            case RunStatement():
                state = self._now()
                self._steps.append(
                    Run(
                        line=line,
                        text=text,
                        state=state if statement.user is None else replace(state, user=statement.user),
                        argv=statement.argv,
                        timeout_s=statement.timeout_s,
                    )
                )
            case EnvStatement():
                self._add_env(statement)
            case ArgStatement():
                self._add_arguments(statement)
            case WorkdirStatement():
                path = self._path(statement, self._evaluate(statement, statement.path))
                self._steps.append(Workdir(line=line, text=text, state=self._now(), path=path))
                self._workdir, self._state = path, None
            case UserStatement():
                self._add_user(statement)
            case CopyStatement():
                self._steps.append(self._copy(statement))
            case LabelStatement():
                for name, value in statement.pairs:
                    self._labels[self._evaluate(statement, name)] = self._evaluate(statement, value)
                if len(self._labels) > MAX_LABELS:
                    raise refused(line, f"there are more than {MAX_LABELS} labels")
            case ExposeStatement():
                self._expose(statement)
            case StartStatement():
                self._steps.append(Start(line=line, text=text, state=self._now(), argv=statement.argv))
            case EntrypointStatement():
                self._entrypoint, self._takes_arguments = statement.argv, statement.exec_form
                self._entrypoint_statement = statement
            case CmdStatement():
                self._cmd_statement = statement
            case HealthcheckStatement():
                self._ready_check = statement.check

    def _add_start_command(self) -> None:
        # The last of ENTRYPOINT and CMD count, wherever they are. What only the base has is not started.
        cmd, source = self._cmd_statement, self._entrypoint_statement or self._cmd_statement
        argv = self._entrypoint
        if cmd is not None and (self._takes_arguments or not argv):
            argv = (*argv, *cmd.argv)
        if source is not None and argv:
            state = replace(self._now(), environment=dict(self._environment))
            # When everything is in place, with what applies at the end of the Dockerfile.
            self._steps.append(Start(line=source.line, text=source.text, state=state, argv=argv))

    def _now(self) -> State:
        if self._state is None:
            self._state = State(
                environment={**self._arguments, **self._environment},
                user=self._user or "root",
                workdir=self._workdir,
            )
        return self._state

    def _lookup(self, name: str) -> str | None:
        value = self._environment.get(name)
        return self._arguments.get(name) if value is None else value

    def _evaluate(self, statement: Statement, word: Word) -> str:
        try:
            text = word.evaluate(self._lookup)
        except WordError as error:
            raise refused(statement.line, str(error)) from error
        self._expanded += len(text)
        if self._expanded > MAX_EXPANDED_B:
            raise refused(
                statement.line,
                f"the recipe is longer than {MAX_EXPANDED_B} characters once its variables are replaced",
            )
        return text

    def _add_env(self, statement: EnvStatement) -> None:
        # All values see the variables from before this instruction.
        pairs = tuple(
            (self._evaluate(statement, name), self._evaluate(statement, value))
            for name, value in statement.pairs
        )
        for name, _ in pairs:
            if not VARIABLE_NAME.fullmatch(name):
                raise refused(statement.line, f"{shown(name)} is not a name of a variable")
        self._steps.append(Env(line=statement.line, text=statement.text, state=self._now(), pairs=pairs))
        self._environment.update(pairs)
        self._variables_changed(statement)

    def _add_arguments(self, statement: ArgStatement) -> None:
        # All defaults see the variables from before this instruction.
        values: dict[str, str] = {}
        for name, default in statement.pairs:
            value = self._recipe.build_args.get(name)
            if value is None and default is not None:
                value = self._evaluate(statement, default)
            if value is None:
                value = self._recipe.global_args.get(name, PLATFORM_ARGUMENTS.get(name))
            if value is not None:
                values[name] = value
        self._arguments |= values
        self._variables_changed(statement)

    def _variables_changed(self, statement: Statement) -> None:
        self._state = None
        variables = {**self._arguments, **self._environment}
        for name, value in variables.items():
            if len(value) > MAX_VALUE_B:
                raise refused(statement.line, f"the value of {name} is longer than {MAX_VALUE_B} characters")
        if len(variables) > MAX_VARIABLES:
            raise refused(statement.line, f"there are more than {MAX_VARIABLES} variables")
        if sum(len(name) + len(value) for name, value in variables.items()) > MAX_ENVIRONMENT_B:
            raise refused(
                statement.line, f"the variables are longer than {MAX_ENVIRONMENT_B} characters together"
            )

    def _add_user(self, statement: UserStatement) -> None:
        name = self._evaluate(statement, statement.name).strip()
        pattern = USER_NAME if statement.create else _OWNER
        if not pattern.fullmatch(name):
            raise refused(statement.line, f"{shown(name)} is not a name of a user")
        self._steps.append(
            User(
                line=statement.line,
                text=statement.text,
                state=self._now(),
                name=name,
                create=statement.create,
            )
        )
        self._user, self._state = name, None

    def _path(self, statement: Statement, path: str) -> str:
        if not path.strip():
            raise refused(statement.line, "the path is empty")
        if len(path) > MAX_PATH_B or "\0" in path:
            raise refused(statement.line, f"the path is longer than {MAX_PATH_B} characters")
        # POSIX leaves two leading slashes to the system, on Linux they are one.
        return "/" + posixpath.normpath(posixpath.join(self._workdir, path)).lstrip("/")

    def _copy(self, statement: CopyStatement) -> Copy:
        destination = self._evaluate(statement, statement.destination)
        owner = None if statement.owner is None else self._evaluate(statement, statement.owner)
        if owner is not None and not _OWNER.fullmatch(owner):
            raise refused(statement.line, f"--chown={shown(owner)} is not USER or USER:GROUP")
        mode = None if statement.mode is None else self._evaluate(statement, statement.mode)
        if mode is not None and not _MODE.fullmatch(mode):
            raise refused(statement.line, f"--chmod={shown(mode)} is not three or four octal digits")
        several = len(statement.sources) + len(statement.inline) > 1
        as_directory = destination.endswith(("/", "/.", "/..")) or destination in (".", "..")
        if several and not as_directory:
            raise refused(
                statement.line, "with several sources the destination is a directory and must end with /"
            )
        return Copy(
            line=statement.line,
            text=statement.text,
            state=self._now(),
            sources=tuple(
                self._source(statement, self._evaluate(statement, source)) for source in statement.sources
            ),
            inline=tuple(
                InlineFile(name=file.name, content=self._evaluate(statement, file.content))
                for file in statement.inline
            ),
            destination=self._path(statement, destination),
            into_directory=as_directory,
            owner=owner if owner is not None or not statement.owned_by_user else self._user,
            mode=None if mode is None else int(mode, 8),
            extract=statement.extract,
            stage=statement.stage,
        )

    def _source(self, statement: CopyStatement, source: str) -> str:
        if not source or len(source) > MAX_PATH_B:
            raise refused(statement.line, f"a source is empty or longer than {MAX_PATH_B} characters")
        if re.match(r"(https?|ftp)://|git@", source):
            raise refused(statement.line, "sources from the network are not supported: fetch them in a RUN")
        path = posixpath.normpath(source.lstrip("/") or ".")
        if path == ".." or path.startswith("../"):
            where = "build context" if statement.stage is None else "stage"
            raise refused(statement.line, f"{shown(source)} is outside of the {where}")
        try:
            check_pattern(path)
        except PatternError as error:
            raise refused(statement.line, str(error)) from error
        return path

    def _expose(self, statement: ExposeStatement) -> None:
        for word in statement.ports:
            ports = self._evaluate(statement, word).split()
            if len(self._ports) + len(ports) > MAX_PORTS:
                raise refused(statement.line, f"there are more than {MAX_PORTS} ports")
            self._ports |= dict.fromkeys(_port(statement, port) for port in ports)


def _port(statement: Statement, text: str) -> str:
    found = _PORT.fullmatch(text)
    first = int(found[1]) if found else 0
    last = int(found[2] or first) if found else 0
    if found is None or not 1 <= first <= last <= _MAX_PORT:
        raise refused(statement.line, f"{shown(text)} is not a port, such as 80, 80/udp or 8000-8010")
    numbers = f"{first}-{last}" if last > first else f"{first}"
    return f"{numbers}/{(found[3] or 'tcp').lower()}"
