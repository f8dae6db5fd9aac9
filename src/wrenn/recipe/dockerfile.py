"""Dockerfiles: the instructions that make sense for a template. Anything else is refused with its line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from wrenn.base.errors import InvalidRequest
from wrenn.recipe.healthcheck import DEFAULT_INTERVAL_S, SHELL, ReadyCheck, flag_retries, flag_seconds
from wrenn.recipe.limits import (
    DOCKERFILE_RUN_TIMEOUT_S,
    MAX_COPY_SOURCES,
    MAX_EXPANDED_B,
    MAX_PAIRS,
    MAX_TEXT_B,
    MAX_VALUE_B,
    MAX_VARIABLES,
    check_text,
    refused,
    shown,
)
from wrenn.recipe.lines import timeout_seconds
from wrenn.recipe.logical_lines import Heredoc, Lines, LogicalLine
from wrenn.recipe.recipe import PLATFORM_ARGUMENTS, PROXY_ARGUMENTS, VARIABLE_NAME, Note, Recipe
from wrenn.recipe.stages import Draft, StageDrafts
from wrenn.recipe.statements import (
    ArgStatement,
    CmdStatement,
    CopyStatement,
    EntrypointStatement,
    EnvStatement,
    ExposeStatement,
    HealthcheckStatement,
    InlineStatement,
    LabelStatement,
    RunStatement,
    UserStatement,
    WorkdirStatement,
)
from wrenn.recipe.words import Word, WordError, literal, parse_word, split_words

_PLATFORM: Final = "linux/amd64"
_DOCKER_HEALTH_S: Final = 30.0
_DOCKER_RETRIES: Final = 3

_FLAG: Final = re.compile(r"--([^\s=]*)(?:=((?:[^\s\"']|\"[^\"]*\"|'[^']*')*))?(?:\s+|$)")

_RUN_SCRIPT: Final = (
    'f=$(mktemp) && printf %s "$1" > "$f" && chmod 0755 "$f" && "$f"; s=$?; rm -f "$f"; exit $s'
)
"""Runs a heredoc that begins with `#!`, as BuildKit does: from a file that is removed afterwards."""

_REFUSED: Final = {
    "ONBUILD": "ONBUILD is not supported: write the instruction into the recipe that needs it",
    "STOPSIGNAL": "STOPSIGNAL is not supported: a sandbox is stopped as a machine",
}


def parse_dockerfile(text: str, *, build_args: Mapping[str, str] | None = None) -> Recipe:
    """Parse a Dockerfile. `build_args` are values for its ARG instructions.

    Raises:
        InvalidRequest: the message begins with `line N`.
    """
    check_text(text, MAX_TEXT_B, "The Dockerfile")
    return _Parser(_checked_arguments(build_args or {})).parse(text)


def end_at_stage(text: str, target: str, *, build_args: Mapping[str, str] | None = None) -> str:
    """Return a Dockerfile up to the end of one of its stages, which is then its result. `target`: the stage's name or its place from 0.

    What comes after that stage is checked too.

    Raises:
        InvalidRequest: there is no such stage; otherwise the message begins with `line N`.
    """
    check_text(text, MAX_TEXT_B, "The Dockerfile")
    parser = _Parser(_checked_arguments(build_args or {}))
    parser.parse(text)
    return parser.until(text, target)


def _checked_arguments(build_args: Mapping[str, str]) -> dict[str, str]:
    if len(build_args) > MAX_VARIABLES:
        raise InvalidRequest(f"There are more than {MAX_VARIABLES} build arguments.")
    for name, value in build_args.items():
        if not VARIABLE_NAME.fullmatch(name):
            raise InvalidRequest(f"{shown(name)} is not a name of a build argument.")
        check_text(value, MAX_VALUE_B, f"The build argument {name}")
    return dict(build_args)


@dataclass(frozen=True, slots=True)
class _Flags:
    line: LogicalLine
    values: dict[str, list[str]]
    rest: str

    def one(self, name: str) -> str | None:
        values = self.values.get(name, [])
        if len(values) > 1:
            raise refused(self.line.number, f"--{name} is given twice")
        return values[0] if values else None


class _Parser:
    def __init__(self, build_args: dict[str, str]) -> None:
        self._build_args = build_args
        self._escape = "\\"
        self._drafts = StageDrafts()
        self._global_args: dict[str, str | None] = {}
        self._declared: set[str] = set()
        self._pairs_read = 0
        # Of all ARGs before FROM: how often one is set, and how long their values are together.
        self._global_pairs = 0
        self._global_expanded = 0
        self._notes: list[Note] = []
        self._parsers: dict[str, Callable[[LogicalLine], None]] = {
            "ADD": self._add_or_copy,
            "ARG": self._arg,
            "CMD": self._cmd,
            "COPY": self._add_or_copy,
            "ENTRYPOINT": self._entrypoint,
            "ENV": self._env,
            "EXPOSE": self._expose,
            "FROM": self._from,
            "HEALTHCHECK": self._healthcheck,
            "LABEL": self._label,
            "MAINTAINER": self._maintainer,
            "RUN": self._run,
            "SHELL": self._set_shell,
            "USER": self._user,
            "VOLUME": self._volume,
            "WORKDIR": self._workdir,
        }

    def parse(self, text: str) -> Recipe:
        lines = Lines(text)
        for line in lines:
            self._escape = lines.escape
            parser = self._parsers.get(line.keyword)
            if parser is None:
                raise refused(
                    line.number, _REFUSED.get(line.keyword, f"there is no instruction {shown(line.keyword)}")
                )
            if not line.rest:
                raise refused(line.number, f"nothing follows {line.keyword}")
            if self._drafts.last is None and line.keyword not in ("ARG", "FROM"):
                raise refused(line.number, f"{line.keyword} before FROM")
            try:
                parser(line)
            except WordError as error:
                raise refused(line.number, str(error)) from error
        if self._drafts.last is None:
            raise InvalidRequest("The Dockerfile has no FROM.")
        for name in self._build_args:
            if name not in self._declared and name not in PROXY_ARGUMENTS:
                self._notes.append(Note(0, f"the build argument {name} is not used: there is no ARG {name}"))
        return self._drafts.recipe(self._build_args, self._global_args, self._notes)

    def until(self, text: str, target: str) -> str:
        """Return the parsed text up to the end of a stage. Raises InvalidRequest."""
        following = self._drafts.line_after(target)
        if following is None:
            return text
        lines = text.replace("\r\n", "\n").split("\n")
        return "".join(f"{line}\n" for line in lines[: following - 1])

    @property
    def _stage(self) -> Draft:
        assert self._drafts.last is not None, "`parse` refuses what comes before FROM"
        return self._drafts.last

    # Stages and their bases.

    def _from(self, line: LogicalLine) -> None:
        flags = self._flags(line, "platform")

        def lookup(name: str) -> str | None:
            return self._global_args.get(name, PLATFORM_ARGUMENTS.get(name))

        platform = flags.one("platform")
        if platform is not None:
            platform = parse_word(platform, self._escape).evaluate(lookup)
            if platform not in (_PLATFORM, "linux/amd64/v1"):
                raise refused(
                    line.number, f"the platform {shown(platform)} is not supported, only {_PLATFORM}"
                )
        words = flags.rest.split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise refused(line.number, "expected FROM IMAGE [AS NAME]")
        reference = parse_word(words[0], self._escape).evaluate(lookup)
        if not reference:
            raise refused(
                line.number, f"the image {shown(words[0])} is empty once its variables are replaced"
            )
        name = words[2] if len(words) == 3 else ""
        self._drafts.begin(reference, name, line=line.number, text=line.text)

    def _arg(self, line: LogicalLine) -> None:
        pairs: list[tuple[str, Word | None]] = []
        words = split_words(line.rest, self._escape)
        self._count_pairs(line, len(words))
        for word in words:
            name, equals, value = word.partition("=")
            if not VARIABLE_NAME.fullmatch(name):
                raise refused(line.number, f"{shown(name)} is not a name of an argument")
            pairs.append((name, parse_word(value, self._escape) if equals else None))
            self._declared.add(name)
        if len(self._declared) > MAX_VARIABLES:
            raise refused(line.number, f"there are more than {MAX_VARIABLES} arguments")
        if self._drafts.last is not None:
            self._stage.add(ArgStatement(line=line.number, text=line.text, pairs=tuple(pairs)))
            return
        for name, default in pairs:
            value = self._build_args.get(name)
            if value is None and default is not None:
                value = self._global_value(line, name, default)
            self._global_args[name] = PLATFORM_ARGUMENTS.get(name) if value is None else value

    def _global_value(self, line: LogicalLine, name: str, default: Word) -> str:
        self._global_pairs += 1
        if self._global_pairs > MAX_VARIABLES:
            raise refused(line.number, f"there are more than {MAX_VARIABLES} arguments")
        value = default.evaluate(lambda other: self._global_args.get(other, PLATFORM_ARGUMENTS.get(other)))
        if len(value) > MAX_VALUE_B:
            raise refused(line.number, f"the value of {name} is longer than {MAX_VALUE_B} characters")
        self._global_expanded += len(value)
        if self._global_expanded > MAX_EXPANDED_B:
            raise refused(
                line.number,
                f"the arguments are longer than {MAX_EXPANDED_B} characters once their variables are replaced",
            )
        return value

    # Steps.

    def _run(self, line: LogicalLine) -> None:
        flags = self._flags(line, "timeout")
        timeout = flags.one("timeout")
        timeout_s = DOCKERFILE_RUN_TIMEOUT_S if timeout is None else timeout_seconds(line.number, timeout)
        if not flags.rest:
            raise refused(line.number, "RUN without a command")
        argv = self._json(line, flags.rest)
        if argv is not None and line.heredocs:
            raise refused(line.number, "a heredoc needs the shell form of RUN")
        if argv == ():
            raise refused(line.number, "RUN without a command")
        if argv is None:
            argv = self._shell_command(flags.rest, line.heredocs)
        self._stage.add(RunStatement(line=line.number, text=line.text, argv=argv, timeout_s=timeout_s))

    def _shell_command(self, command: str, heredocs: tuple[Heredoc, ...]) -> tuple[str, ...]:
        if not heredocs:
            return (*self._stage.shell, command)
        if len(heredocs) == 1 and re.fullmatch(r"[0-9]*<<-?[^<\s]+", command):
            # Nothing but a heredoc: it is the script.
            script = heredocs[0].stripped
            if script.startswith("#!"):
                return (*SHELL, _RUN_SCRIPT, "sh", script)
            return (*self._stage.shell, script)
        # The shell reads the heredocs itself.
        return (*self._stage.shell, command + "".join(f"\n{doc.content}{doc.name}" for doc in heredocs))

    def _env(self, line: LogicalLine) -> None:
        pairs = self._pairs(line)
        self._stage.add(EnvStatement(line=line.number, text=line.text, pairs=pairs))

    def _workdir(self, line: LogicalLine) -> None:
        path = parse_word(line.rest, self._escape)
        self._stage.add(WorkdirStatement(line=line.number, text=line.text, path=path))

    def _user(self, line: LogicalLine) -> None:
        name = parse_word(line.rest, self._escape)
        self._stage.add(UserStatement(line=line.number, text=line.text, name=name, create=False))

    def _add_or_copy(self, line: LogicalLine) -> None:
        known = ("chown", "chmod", "link", "from") if line.keyword == "COPY" else ("chown", "chmod", "link")
        flags = self._flags(line, *known)
        link = flags.one("link")  # a hint for Docker's store of layers, without meaning here
        if link not in (None, "", "true", "false"):
            raise refused(line.number, "--link is true or false")
        words = self._json(line, flags.rest)
        if words is None:
            words = tuple(flags.rest.split())
        if len(words) < 2:
            raise refused(line.number, f"expected {line.keyword} SOURCE… DESTINATION")
        if len(words) > MAX_COPY_SOURCES:
            raise refused(line.number, f"{line.keyword} has more than {MAX_COPY_SOURCES} sources")
        *sources, destination = words
        inline = {doc.name: doc for doc in line.heredocs}
        if len(inline) != len(line.heredocs):
            raise refused(line.number, "two heredocs have the same name")
        paths = [word for word in sources if not self._is_heredoc(word, inline)]
        if len(paths) + len(inline) != len(sources):
            raise refused(line.number, "a heredoc is not a source")
        owner, mode, source = flags.one("chown"), flags.one("chmod"), flags.one("from")
        if source is not None and inline:
            raise refused(line.number, "a heredoc is in no stage: write it in a COPY without --from")
        if source == "":
            raise refused(line.number, "--from names a stage or an image")
        stage = None if source is None else self._drafts.source(source, line=line.number, text=line.text)
        self._stage.add(
            CopyStatement(
                line=line.number,
                text=line.text,
                sources=tuple(parse_word(path, self._escape) for path in paths),
                inline=tuple(_inline(doc) for doc in line.heredocs),
                destination=parse_word(destination, self._escape),
                owner=None if owner is None else parse_word(owner, self._escape),
                mode=None if mode is None else parse_word(mode, self._escape),
                extract=line.keyword == "ADD",
                stage=stage,
            )
        )

    @staticmethod
    def _is_heredoc(word: str, inline: Mapping[str, Heredoc]) -> bool:
        found = re.fullmatch(r"[0-9]*<<-?[\"']?([^<\"']+)[\"']?", word)
        return found is not None and found[1] in inline

    # What becomes a property of the template.

    def _label(self, line: LogicalLine) -> None:
        self._stage.add(LabelStatement(line=line.number, text=line.text, pairs=self._pairs(line)))

    def _maintainer(self, line: LogicalLine) -> None:
        pairs = ((literal("maintainer"), literal(line.rest)),)
        self._stage.add(LabelStatement(line=line.number, text=line.text, pairs=pairs))

    def _expose(self, line: LogicalLine) -> None:
        ports = tuple(parse_word(word, self._escape) for word in line.rest.split())
        self._stage.add(ExposeStatement(line=line.number, text=line.text, ports=ports))

    def _set_shell(self, line: LogicalLine) -> None:
        shell = self._json(line, line.rest)
        if not shell:
            raise refused(line.number, 'expected SHELL ["PROGRAM", "ARGUMENT"…]')
        self._stage.shell = shell

    def _volume(self, line: LogicalLine) -> None:
        self._notes.append(Note(line.number, "VOLUME has no effect: the whole disk of a sandbox is kept"))

    def _entrypoint(self, line: LogicalLine) -> None:
        argv = self._json(line, line.rest)
        self._stage.add(
            EntrypointStatement(
                line=line.number,
                text=line.text,
                argv=(*self._stage.shell, line.rest) if argv is None else argv,
                exec_form=argv is not None,
            )
        )

    def _cmd(self, line: LogicalLine) -> None:
        argv = self._json(line, line.rest)
        argv = (*self._stage.shell, line.rest) if argv is None else argv
        self._stage.add(CmdStatement(line=line.number, text=line.text, argv=argv))

    def _healthcheck(self, line: LogicalLine) -> None:
        flags = self._flags(line, "interval", "timeout", "start-period", "start-interval", "retries")
        kind, command = (*flags.rest.split(maxsplit=1), "", "")[:2]
        if kind.upper() == "NONE" and not command:
            check = None
        elif kind.upper() == "CMD" and command:
            check = self._ready_check(line, flags, command)
        else:
            raise refused(
                line.number, "expected HEALTHCHECK [--FLAG=VALUE…] CMD COMMAND, or HEALTHCHECK NONE"
            )
        self._stage.add(HealthcheckStatement(line=line.number, text=line.text, check=check))

    def _ready_check(self, line: LogicalLine, flags: _Flags, command: str) -> ReadyCheck:
        argv = self._json(line, command)
        if argv == ():
            raise refused(line.number, "HEALTHCHECK without a command")
        values = {name: flags.one(name) or "" for name in flags.values}
        try:
            interval_s = flag_seconds(values, "interval", _DOCKER_HEALTH_S)
            timeout_s = flag_seconds(values, "timeout", _DOCKER_HEALTH_S)
            start_period_s = flag_seconds(values, "start-period", 0.0)
            start_interval_s = flag_seconds(values, "start-interval", DEFAULT_INTERVAL_S)
            retries = flag_retries(values, _DOCKER_RETRIES)
        except InvalidRequest as error:
            raise refused(line.number, error.message) from error
        # Docker's interval is for a service that runs. A build waits for one that starts: it asks more often, for as long.
        pause_s = min(interval_s, start_interval_s)
        return ReadyCheck(
            argv=(*self._stage.shell, command) if argv is None else argv,
            interval_s=pause_s,
            timeout_s=timeout_s,
            start_period_s=start_period_s,
            retries=max(1, math.ceil(max(retries, 1) * interval_s / pause_s)),
            text=line.text,
        )

    # Parts of instructions.

    def _pairs(self, line: LogicalLine) -> tuple[tuple[Word, Word], ...]:
        words = split_words(line.rest, self._escape)
        if not words:
            raise refused(line.number, f"nothing follows {line.keyword}")
        if "=" not in words[0]:
            # The old form: one name, and everything after it is the value.
            name, *value = re.split(r"[\t\v\f\r ]+", line.rest, maxsplit=1)
            if not value:
                raise refused(line.number, f"expected {line.keyword} NAME=VALUE…")
            return ((parse_word(name, self._escape), parse_word(value[0], self._escape)),)
        self._count_pairs(line, len(words))
        pairs: list[tuple[Word, Word]] = []
        for word in words:
            name, equals, text = word.partition("=")
            if not equals:
                raise refused(line.number, f"{shown(word)} has no =: expected NAME=VALUE")
            if not name:
                raise refused(line.number, f"the name before {shown(word)} is missing")
            pairs.append((parse_word(name, self._escape), parse_word(text, self._escape)))
        return tuple(pairs)

    def _count_pairs(self, line: LogicalLine, count: int) -> None:
        self._pairs_read += count
        if self._pairs_read > MAX_PAIRS:
            raise refused(line.number, f"the Dockerfile has more than {MAX_PAIRS} NAME=VALUE")

    def _flags(self, line: LogicalLine, *known: str) -> _Flags:
        values: dict[str, list[str]] = {}
        rest = line.rest
        while rest.startswith("--"):
            found = _FLAG.match(rest)
            if found is None:
                raise refused(line.number, f"{shown(rest)} is not a flag: expected --NAME=VALUE")
            rest = rest[found.end() :]
            name, value = found[1], found[2] or ""
            if not name:
                break  # `--` ends the flags
            if name not in known:
                raise refused(line.number, f"{line.keyword} --{shown(name)[1:-1]} is not supported")
            values.setdefault(name, []).append(value.replace('"', "").replace("'", ""))
        return _Flags(line, values, rest)

    def _json(self, line: LogicalLine, text: str) -> tuple[str, ...] | None:
        """Return the strings of a JSON array, or None if the text is not one: then it is the shell form."""
        if not text.startswith("["):
            return None
        try:
            value = cast("object", json.loads(text))
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, list):
            return None
        items = cast("list[object]", value)
        if not all(isinstance(item, str) for item in items):
            raise refused(line.number, "the JSON array must contain only strings")
        strings = tuple(cast("list[str]", items))
        if any("\0" in item or not _is_unicode(item) for item in strings):
            raise refused(line.number, "the JSON array contains a character that no program accepts")
        return strings


def _inline(doc: Heredoc) -> InlineStatement:
    # The escape directive does not apply to heredocs, and quotes are ordinary characters.
    content = parse_word(doc.stripped, "\\", quotes=False) if doc.expand else literal(doc.stripped)
    return InlineStatement(name=doc.name, content=content)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
