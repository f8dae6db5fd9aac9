"""Dockerfiles: what Docker documents, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrenn.base.errors import InvalidRequest
from wrenn.recipe import (
    BaseConfig,
    BaseKind,
    Copy,
    InlineFile,
    Plan,
    ReadyCheck,
    Run,
    Start,
    User,
    Workdir,
    end_at_stage,
    parse_dockerfile,
)
from wrenn.recipe.instructions import Step
from wrenn.recipe.logical_lines import Lines
from wrenn.recipe.words import split_words

SH = ("/bin/sh", "-c")


def plan(text: str, base: BaseConfig | None = None, *, build_args: Mapping[str, str] | None = None) -> Plan:
    """Return the plan of a Dockerfile, without its FROM."""
    return parse_dockerfile("FROM debian\n" + text, build_args=build_args).plan(base or BaseConfig())


def step(text: str, base: BaseConfig | None = None) -> Step:
    """Return the only step."""
    (only,) = plan(text, base).steps
    return only


def argv(text: str) -> tuple[str, ...]:
    """Return the arguments of the only step, which runs or starts a program."""
    only = step(text)
    assert isinstance(only, Run | Start)
    return only.argv


def copy(text: str, base: BaseConfig | None = None) -> Copy:
    """Return the only step, which copies."""
    only = step(text, base)
    assert isinstance(only, Copy)
    return only


# Docker's reference, "Environment replacement" and "ENV".
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ENV A=b", {"A": "b"}),
        ("ENV A b c  d", {"A": "b c  d"}),
        ("ENV A=b C=d", {"A": "b", "C": "d"}),
        (
            'ENV MY_NAME="John Doe" MY_DOG=Rex\\ The\\ Dog \\\n    MY_CAT=fluffy',
            {"MY_NAME": "John Doe", "MY_DOG": "Rex The Dog", "MY_CAT": "fluffy"},
        ),
        ("ENV ONE TWO= THREE=world", {"ONE": "TWO= THREE=world"}),
        ("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc", {"abc": "bye", "def": "hello", "ghi": "bye"}),
        (
            "ENV FOO=/bar\nENV X=\\$FOO Y=\\${FOO} Z=${FOO}_z",
            {"FOO": "/bar", "X": "$FOO", "Y": "${FOO}", "Z": "/bar_z"},
        ),
        ('ENV A=\'$B\' C="$B" D="\\$B" E="\'x\'"', {"A": "$B", "C": "", "D": "$B", "E": "'x'"}),
        ('ENV A="a\\"b" B=\'a\\b\' C="a\\b" D=a\\b', {"A": 'a"b', "B": "a\\b", "C": "a\\b", "D": "ab"}),
        ("ENV A= B=\"\" C=''", {"A": "", "B": "", "C": ""}),
        ("ENV X=${UNSET:-word} Y=${UNSET-word} Z=${UNSET}", {"X": "word", "Y": "word", "Z": ""}),
        (
            "ENV E=\nENV A=${E:-w} B=${E-w} C=${E:+w} D=${E+w}",
            {"E": "", "A": "w", "B": "", "C": "", "D": "w"},
        ),
        (
            "ENV S=1\nENV A=${S:-w} C=${S:+w} D=${S+a$S} F=${N:+w}",
            {"S": "1", "A": "1", "C": "w", "D": "a1", "F": ""},
        ),
        ("ENV A=${N:-${M:-deep}}", {"A": "deep"}),
        ('ENV A=${N:-"a b"} B="${N:-a b}"', {"A": "a b", "B": "a b"}),
        ("ENV A=$$ B=$1 C=a$ D=$.", {"A": "", "B": "", "C": "a$", "D": "$."}),
        ("ENV A=a=b", {"A": "a=b"}),
        ("env a=1", {"a": "1"}),
        ("ENV A=1 \\\n# comment\n\n  B=2", {"A": "1", "B": "2"}),
    ],
)
def test_variables_are_replaced_as_in_docker(text: str, expected: Mapping[str, str]) -> None:
    assert plan(text).environment == expected


def test_variables_of_the_base_are_known() -> None:
    base = BaseConfig(environment={"PATH": "/usr/bin"}, workdir="/srv", user="app")
    result = plan("ENV PATH=/opt/bin:$PATH\nWORKDIR app\nRUN make", base)
    assert result.environment == {"PATH": "/opt/bin:/usr/bin"}
    assert (result.workdir, result.user) == ("/srv/app", "app")
    assert result.steps[-1].state.user == "app"


# Docker's reference, "ARG".
@pytest.mark.parametrize(
    ("text", "build_args", "expected"),
    [
        ("ARG A=1\nENV B=$A", {}, "1"),
        ("ARG A=1\nENV B=$A", {"A": "2"}, "2"),
        ("ARG A\nENV B=$A", {}, ""),
        ("ARG A\nENV B=${A:-v}", {"A": "x"}, "x"),
        ("ENV B=$A\nARG A=1", {}, ""),
        ("ARG A=1\nENV A=env\nENV B=$A", {"A": "2"}, "env"),
        ("ENV A=env\nARG A=1\nENV B=$A", {"A": "2"}, "env"),
        ("ARG A=1 C=$A\nENV B=$C", {}, ""),
        ('ARG A="x y"\nENV B=$A', {}, "x y"),
        ("ARG TARGETARCH\nENV B=$TARGETARCH", {}, "amd64"),
        ("ENV B=$TARGETARCH", {}, ""),
        ("ENV B=$HTTP_PROXY", {"HTTP_PROXY": "p"}, "p"),
    ],
)
def test_arguments_have_the_scope_that_docker_gives_them(
    text: str, build_args: dict[str, str], expected: str
) -> None:
    assert plan(text, build_args=build_args).environment["B"] == expected


def test_an_argument_is_in_the_environment_of_a_run_and_not_of_the_template() -> None:
    result = plan("ARG A=1\nRUN x\nCMD y")
    assert result.steps[0].state.environment == {"A": "1"}
    assert result.steps[1].state.environment == result.environment == {}


def test_arguments_before_from_are_for_from_until_they_are_declared_again() -> None:
    text = "ARG V=12\nARG IMAGE=debian:$V\nFROM $IMAGE\nENV A=$V\nARG V\nENV B=$V"
    recipe = parse_dockerfile(text)
    assert recipe.base is not None
    assert recipe.base.reference == "debian:12"
    assert recipe.plan(BaseConfig()).environment == {"A": "", "B": "12"}
    given_value = parse_dockerfile(text, build_args={"V": "13", "OTHER": ""})
    assert given_value.base is not None
    assert given_value.base.reference == "debian:13"
    assert [str(note) for note in given_value.notes] == [
        "the build argument OTHER is not used: there is no ARG OTHER"
    ]


@pytest.mark.parametrize(
    ("reference", "kind", "expected"),
    [
        ("debian", BaseKind.IMAGE, "debian"),
        ("docker://debian:12", BaseKind.IMAGE, "debian:12"),
        ("oci-archive:", BaseKind.ARCHIVE, "oci-archive"),
        ("docker-archive:", BaseKind.ARCHIVE, "docker-archive"),
        ("registry.example:5000/a/b:t", BaseKind.IMAGE, "registry.example:5000/a/b:t"),
        (f"ghcr.io/a/b@sha256:{'0' * 64}", BaseKind.IMAGE, f"ghcr.io/a/b@sha256:{'0' * 64}"),
        ("--platform=linux/amd64 debian AS build", BaseKind.IMAGE, "debian"),
        ("--platform=$TARGETPLATFORM debian", BaseKind.IMAGE, "debian"),
        ("template://python:1.0", BaseKind.TEMPLATE, "python:1.0"),
        ("template:1.0", BaseKind.IMAGE, "template:1.0"),
    ],
)
def test_a_from_is_an_image_unless_its_prefix_says_template(
    reference: str, kind: BaseKind, expected: str
) -> None:
    base = parse_dockerfile(f"FROM {reference}\nRUN x").base
    assert base is not None
    assert (base.kind, base.reference, base.line) == (kind, expected, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN echo $HOME", (*SH, "echo $HOME")),
        ("RUN  a && \\\n  b", (*SH, "a &&   b")),
        ("RUN a \\\n  # not a comment of the shell\n  b", (*SH, "a   b")),
        ("RUN a \\  \n\nb", (*SH, "a b")),
        ('RUN ["/bin/echo", "$HOME", "a b"]', ("/bin/echo", "$HOME", "a b")),
        ("RUN ['a']", (*SH, "['a']")),
        ("RUN [ -f x ]", (*SH, "[ -f x ]")),
        ("RUN echo a # b", (*SH, "echo a # b")),
        ("RUN echo 'a\\\nb'", (*SH, "echo 'ab'")),
        ("RUN <<EOF\na\n# kept\n\nb\nEOF", (*SH, "a\n# kept\n\nb\n")),
        ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF", (*SH, "a\nb\n")),
        ("RUN <<'EOF'\n$x\nEOF", (*SH, "$x\n")),
        (
            "RUN <<EOF cat >x && <<'B' cat >y\n1\nEOF\n2\nB",
            (*SH, "<<EOF cat >x && <<'B' cat >y\n1\nEOF\n2\nB"),
        ),
        ("RUN python3 - <<EOF\nprint(1)\nEOF", (*SH, "python3 - <<EOF\nprint(1)\nEOF")),
        ("RUN cat <<< word", (*SH, "cat <<< word")),
        ("RUN echo $((1<<2))", (*SH, "echo $((1<<2))")),
        (
            'SHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN a | b',
            ("/bin/bash", "-o", "pipefail", "-c", "a | b"),
        ),
        ("CMD sleep 1", (*SH, "sleep 1")),
        ('CMD ["sleep", "1"]', ("sleep", "1")),
        ('ENTRYPOINT ["a"]\nCMD ["b"]', ("a", "b")),
        ('CMD ["b"]\nENTRYPOINT ["a"]', ("a", "b")),
        ('ENTRYPOINT ["a"]\nCMD b c', ("a", *SH, "b c")),
        ("ENTRYPOINT a\nCMD b", (*SH, "a")),
        ('ENTRYPOINT []\nCMD ["b"]', ("b",)),
        ('CMD ["a"]\nCMD ["b"]', ("b",)),
    ],
)
def test_commands_have_the_arguments_that_docker_gives_them(text: str, expected: tuple[str, ...]) -> None:
    assert argv(text) == expected


def test_a_script_with_its_interpreter_is_run_from_a_file() -> None:
    script = "#!/usr/bin/env python3\nprint(1)\n"
    assert argv(f"RUN <<EOF\n{script}EOF")[3:] == ("sh", script)


def test_a_cmd_is_given_to_the_entry_point_of_the_base() -> None:
    base = BaseConfig(entrypoint=("docker-entrypoint.sh",))
    started = step('CMD ["postgres"]', base)
    assert isinstance(started, Start)
    assert started.argv == ("docker-entrypoint.sh", "postgres")
    assert plan("ENV A=b", base).steps[-1:] == plan("ENV A=b", base).steps, (
        "what only the base has is not started"
    )
    assert not [s for s in plan("ENV A=b", base).steps if isinstance(s, Start)]


def test_the_escape_directive_and_others() -> None:
    text = "# syntax=docker/dockerfile:1\n# escape=`\nFROM debian\nRUN a `\n b\nENV A=C:\\x B=`$A\n"
    result = parse_dockerfile(text).plan(BaseConfig())
    assert isinstance(result.steps[0], Run)
    assert result.steps[0].argv == (*SH, "a  b")
    assert result.environment == {"A": "C:\\x", "B": "$A"}
    assert parse_dockerfile("# comment\n# escape=`\nFROM debian\nRUN a \\\nb").plan(BaseConfig()).steps


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    result = parse_dockerfile("\ufeffFROM debian\r\nRUN a \\\r\n b\r\nRUN <<E\r\nx\r\nE\r\n").plan(
        BaseConfig()
    )
    assert [s.argv[-1] for s in result.steps if isinstance(s, Run)] == ["a  b", "x\n"]


def test_steps_have_their_line_and_text() -> None:
    result = plan("\n# comment\nRUN a \\\n  b\n\nWORKDIR /x\nRUN <<E\nscript\nE\nUSER 10:20")
    assert [(s.line, s.text) for s in result.steps] == [
        (4, "RUN a \\\n  b"),
        (7, "WORKDIR /x"),
        (8, "RUN <<E\nscript\nE"),
        (11, "USER 10:20"),
    ]
    assert isinstance(result.steps[1], Workdir)
    assert isinstance(result.steps[3], User)
    assert result.user == "10:20"


def test_working_directories_are_relative_to_the_one_before() -> None:
    assert plan("WORKDIR /a\nWORKDIR b\nWORKDIR c/../d\nENV P=e\nWORKDIR $P/").workdir == "/a/b/d/e"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COPY a b", {"sources": ("a",), "destination": "/w/b", "into_directory": False, "owner": None}),
        ("COPY a b/", {"destination": "/w/b", "into_directory": True}),
        ("COPY . .", {"sources": (".",), "destination": "/w", "into_directory": True}),
        ("COPY /a ./b c/../d /d/", {"sources": ("a", "b", "d"), "destination": "/d"}),
        ('COPY ["a b", "/c d"]', {"sources": ("a b",), "destination": "/c d"}),
        ("COPY --chown=app:1000 --chmod=755 a /b", {"owner": "app:1000", "mode": 0o755}),
        ("COPY --link a /b", {"sources": ("a",)}),
        ("COPY *.txt d?r/[a-z]* /b/", {"sources": ("*.txt", "d?r/[a-z]*")}),
        ("COPY $W/a$NOTHING /b", {"sources": ("w/a",), "destination": "/b"}),
        ("ADD a.tar.gz /x", {"extract": True, "sources": ("a.tar.gz",)}),
        ("COPY <<E /f\na $W\nE", {"inline": (InlineFile(name="E", content="a w\n"),), "destination": "/f"}),
        ("COPY <<'E' /f\na $W\nE", {"inline": (InlineFile(name="E", content="a $W\n"),)}),
        (
            "COPY <<-E /f\n\t\"a\" 'b' \\$W\n\tE",
            {"inline": (InlineFile(name="E", content="\"a\" 'b' $W\n"),)},
        ),
        (
            "COPY <<a x <<b /d/\n1\na\n2\nb",
            {
                "sources": ("x",),
                "inline": (InlineFile(name="a", content="1\n"), InlineFile(name="b", content="2\n")),
            },
        ),
    ],
)
def test_copies(text: str, expected: dict[str, object]) -> None:
    result = copy(text, BaseConfig(workdir="/w", environment={"W": "w"}))
    assert {name: getattr(result, name) for name in expected} == expected


def test_a_heredoc_may_be_longer_than_a_variable() -> None:
    assert len(copy(f"COPY <<E /a\n{'x' * 60_000}\nE").inline[0].content) == 60_001


def test_properties_of_the_template() -> None:
    result = plan(
        'LABEL a=b "c d"="e f" multi="x\\\ny"\nLABEL old style\nMAINTAINER A <a@b.example>\n'
        "ENV P=90\nEXPOSE 80 $P/udp 8000-8010/TCP 80/tcp"
    )
    assert result.labels == {
        "a": "b",
        "c d": "e f",
        "multi": "xy",
        "old": "style",
        "maintainer": "A <a@b.example>",
    }
    assert result.exposed_ports == ("80/tcp", "90/udp", "8000-8010/tcp")


def test_a_health_check_becomes_the_ready_check() -> None:
    text = "HEALTHCHECK --interval=30s --timeout=2s --start-period=5s --retries=2 CMD curl -f localhost"
    assert plan(text).ready_check == ReadyCheck(
        argv=(*SH, "curl -f localhost"),
        interval_s=3.0,
        timeout_s=2.0,
        start_period_s=5.0,
        retries=20,
        text=text,
    )
    assert plan('HEALTHCHECK --start-interval=1s CMD ["true"]\nHEALTHCHECK NONE').ready_check is None


def test_what_has_no_effect_is_noted() -> None:
    assert [str(note) for note in parse_dockerfile("FROM a\nVOLUME /data").notes] == [
        "line 2: VOLUME has no effect: the whole disk of a sandbox is kept"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The Dockerfile has no FROM."),
        ("# only a comment", "The Dockerfile has no FROM."),
        ("RUN a", "line 1: RUN before FROM"),
        ("FROM a AS B\nFROM c AS b", "line 2: there is a stage 'b' already"),
        ("FROM a AS 1b", "line 1: '1b' is not a name of a stage"),
        ("FROM a AS b\nCOPY --from=b c d", "line 2: --from='b' is not a stage before this one"),
        ("FROM a\nCOPY --from=0 c d", "line 2: --from='0' is not a stage before this one"),
        ("FROM a\nCOPY --from=99999 c d", "line 2: --from='99999' is not a stage before this one"),
        ("FROM a\nCOPY --from=b c d\nFROM a AS b", "line 2: the stage 'b' comes later"),
        ("FROM a\nCOPY --from=$b c d", "line 2: --from takes no variables"),
        ("FROM a\nCOPY --from= c d", "line 2: --from names a stage or an image"),
        ("FROM a\nCOPY --from=oci:b c d", "line 2: 'oci:b' is local"),
        ("FROM a\nCOPY --from=B/C c d", "line 2: 'B/C' is not a container image"),
        ("FROM a\nCOPY --from=b ../c d", "line 2: '../c' is outside of the stage"),
        ("FROM a\nCOPY --from=b <<E d\nx\nE", "line 2: a heredoc is in no stage"),
        ("FROM a\nADD --from=b c d", "line 2: ADD --from is not supported"),
        (
            "".join(f"FROM a AS s{n}\n" for n in range(16))
            + "FROM a\n"
            + "".join(f"COPY --from={n} a b\n" for n in range(16)),
            "line 17: there are more than 16 stages",
        ),
        ("FROM a AS scratch", "line 1: scratch is the empty image"),
        ("FROM a\nCOPY --from=scratch b c", "line 2: --from=scratch: the empty image has no files"),
        ("FROM --platform=linux/arm64 a", "line 1: the platform 'linux/arm64' is not supported"),
        ("FROM a b", "line 1: expected FROM IMAGE [AS NAME]"),
        ("FROM $NOPE", "line 1: the image '$NOPE' is empty"),
        ("FROM A/B", "line 1: 'A/B' is not a container image"),
        ("FROM oci:dir", "line 1: 'oci:dir' is local"),
        ("FROM oci:", "line 1: 'oci:' is local"),
        ("FROM docker-archive:/etc/passwd", "line 1: 'docker-archive:/etc/passwd' is local"),
        ("FROM template://-x", "line 1: '-x' is not a template"),
        ("FROM a\n\nONBUILD RUN b", "line 3: ONBUILD is not supported"),
        ("FROM a\nSTOPSIGNAL 9", "line 2: STOPSIGNAL is not supported"),
        ("FROM a\nRUM b", "line 2: there is no instruction 'RUM'"),
        ("FROM a\nRUN", "line 2: nothing follows RUN"),
        ("FROM a\nRUN --mount=type=cache,target=/x b", "line 2: RUN --mount is not supported"),
        ("FROM a\nRUN --network=none b", "line 2: RUN --network is not supported"),
        ("FROM a\nRUN --timeout=soon b", "line 2: --timeout: expected a duration"),
        ("FROM a\nRUN --timeout=0 b", "line 2: --timeout must be more than 0"),
        ("FROM a\nRUN --timeout='1 b", "line 2: '--timeout='1 b' is not a flag"),
        ("FROM a\nRUN []", "line 2: RUN without a command"),
        ("FROM a\nRUN [1]", "line 2: the JSON array must contain only strings"),
        ("FROM a\nRUN <<E\nb", "line 2: the heredoc 'E' is not ended"),
        ("FROM a\nCOPY --exclude=*.md c d", "line 2: COPY --exclude is not supported"),
        ("FROM a\nCOPY [a b/", "line 2: the pattern '[a' is not valid"),
        (
            "FROM a\nCOPY *a*a*a*a*a*a*a*a*a b/",
            "line 2: the pattern '*a*a*a*a*a*a*a*a*a' has more than 8 wildcards",
        ),
        ("FROM a\nCOPY --parents c d", "line 2: COPY --parents is not supported"),
        ("FROM a\nCOPY c", "line 2: expected COPY SOURCE… DESTINATION"),
        ("FROM a\nCOPY b c d", "line 2: with several sources the destination is a directory"),
        ("FROM a\nCOPY ../b /c", "line 2: '../b' is outside of the build context"),
        ("FROM a\nCOPY --chown=$X b /c", "line 2: --chown='' is not USER or USER:GROUP"),
        ("FROM a\nCOPY --chmod=u+x b /c", "line 2: --chmod='u+x' is not three or four octal digits"),
        ("FROM a\nADD https://a.example/b /c", "line 2: sources from the network are not supported"),
        ("FROM a\nADD git@a.example:b /c", "line 2: sources from the network are not supported"),
        ("FROM a\nADD --checksum=sha256:0 b /c", "line 2: ADD --checksum is not supported"),
        ("FROM a\nENV b", "line 2: expected ENV NAME=VALUE"),
        ("FROM a\nENV b=c d", "line 2: 'd' has no ="),
        ("FROM a\nENV 1b=c", "line 2: '1b' is not a name of a variable"),
        ('FROM a\nENV b="c', "line 2: the closing double quote is missing"),
        ("FROM a\nENV b='c", "line 2: the closing single quote is missing"),
        ("FROM a\nENV b=${c", "line 2: the closing } is missing"),
        ("FROM a\nENV b=${}", "line 2: bad substitution"),
        ("FROM a\nENV b=${c!d}", "line 2: unsupported modifier (!)"),
        ("FROM a\nENV b=${c##d}", "line 2: ${c#…} is not supported"),
        ('FROM a\nENV b="${c:?is needed}"', "line 2: c: is needed"),
        ("FROM a\nENV b=${c?}", "line 2: c: is not allowed to be unset"),
        (f"FROM a\nENV b={'x' * 33_000}", "line 2: the value of b is longer than 32768 characters"),
        ("FROM a\nARG b-c=d", "line 2: 'b-c' is not a name of an argument"),
        ("FROM a\nEXPOSE 0", "line 2: '0' is not a port"),
        ("FROM a\nEXPOSE 90-80", "line 2: '90-80' is not a port"),
        ("FROM a\nEXPOSE 80/icmp", "line 2: '80/icmp' is not a port"),
        ("FROM a\nUSER a b", "line 2: 'a b' is not a name of a user"),
        ("FROM a\nWORKDIR $X", "line 2: the path is empty"),
        ("FROM a\nSHELL bash", "line 2: expected SHELL"),
        ("FROM a\nHEALTHCHECK curl", "line 2: expected HEALTHCHECK"),
        ("FROM a\nHEALTHCHECK --interval=x CMD a", "line 2: Health check: --interval: expected a duration"),
        ("# escape=x\nFROM a", "line 1: the escape character 'x' is neither"),
        ("# escape=`\n# escape=`\nFROM a", "line 2: the directive escape is given twice"),
        ("FROM a\nRUN \0", "The Dockerfile contains a NUL character."),
        ("FROM a\nRUN \ud800", "The Dockerfile is not valid Unicode text."),
        ("FROM a\n" + "RUN b\n" * 500, "line 501: there are more than 500 instructions"),
        ("FROM a\nRUN " + "x" * 66_000, "line 2: the instruction is longer than 65536 bytes"),
        ("FROM a\n" + "#\n" * 300_000, "The Dockerfile is too long: at most 512 KiB."),
        ("FROM a\nENV b=" + "${c:-" * 20 + "}" * 20, "line 2: substitutions are nested more than 8 deep"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_dockerfile(text).plan(BaseConfig())
    assert refusal.value.message.startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "ENV A0=xxxxxxxxxxxxxxxx\n" + "\n".join(f"ENV A{n + 1}=$A{n}$A{n}" for n in range(100)),
        "ARG A0=xxxxxxxxxxxxxxxx\n" + "\n".join(f"ARG A{n + 1}=$A{n}$A{n}" for n in range(100)),
        f"ENV A={'x' * 30_000}\nLABEL " + " ".join(f"l{n}=$A" for n in range(5_000)),
        f"ENV A={'x' * 30_000}\nENV " + " ".join(f"l{n}=$A" for n in range(5_000)),
        f"ENV A={'80 ' * 10_000}\nEXPOSE " + "$A " * 10_000,
        f"ENV A={'x' * 4_000}\n" + "\n".join("COPY " + "$A " * 190 + "b/" for _ in range(400)),
        "\n".join(f"ENV A{n}=" for n in range(499)) + "\nENV " + " ".join(f"B{n}=" for n in range(200)),
    ],
)
def test_expansion_cannot_grow_without_bound(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=r"^line [0-9]+: "):
        plan(text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        "RUN --" + "=" * 60_000,
        "RUN --" + '="' * 20_000,
        "RUN " + "<<a " * 10_000 + "\n" + "a\n" * 10_000,
        "ENV A=" + "$" * 60_000,
        "ENV A=" + "${a:-" * 10_000,
        "ENV A=" + "\\" * 60_000,
        "RUN " + "[" * 60_000,
        "RUN \\\n" + "\\\n" * 100_000,
        "RUN " + " \t" * 30_000 + "\\",
        "EXPOSE " + "1" * 60_000,
        "FROM " + "a-" * 200,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    with suppress(InvalidRequest):
        plan(text)
    assert time.process_time() - began < 5


_PIECES = st.sampled_from(
    [
        *[
            "FROM",
            "RUN",
            "ENV",
            "ARG",
            "WORKDIR",
            "USER",
            "COPY",
            "ADD",
            "ENTRYPOINT",
            "CMD",
            "EXPOSE",
            "LABEL",
            "SHELL",
            "VOLUME",
            "HEALTHCHECK",
            "ONBUILD",
        ],
        *[
            "\n",
            "\n",
            " ",
            " ",
            "\\\n",
            "#",
            "=",
            "$",
            "${",
            "}",
            ":-",
            ":+",
            '"',
            "'",
            "\\",
            "`",
            "<<EOF",
            "EOF",
        ],
        *[
            "--chown=",
            "--",
            "[",
            "]",
            '["a"]',
            ",",
            "a",
            "b",
            "/",
            ".",
            "..",
            "*",
            "debian",
            "# escape=`\n",
            "\t",
            "\r",
        ],
    ]
)


@settings(max_examples=300, deadline=2_000)
@given(st.lists(_PIECES | st.text(max_size=5), max_size=60).map("".join))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for whole in (text, "FROM debian\n" + text):
        try:
            parse_dockerfile(whole, build_args={"a": "$b"}).plan(BaseConfig(environment={"b": "c"}))
        except InvalidRequest as refusal:
            message = refusal.message
        else:
            message = ""
        assert len(message) < 500


def test_lines_heredocs_and_words_are_those_of_buildkit() -> None:
    # Random texts and what BuildKit's parser says of them, recorded with the package `dockerfile` 3.4.0, which is that
    # parser: keyword, first line, heredocs, and for ENV and LABEL the words.
    recorded = json.loads((Path(__file__).parent.parent / "data" / "dockerfile_vectors.json").read_text())
    assert len(recorded) == 400
    for text, expected in recorded:
        lines = Lines(text)
        found = list(lines)
        heads = [
            [line.keyword, line.number, [[doc.name, doc.content] for doc in line.heredocs]] for line in found
        ]
        assert heads == [item[:3] for item in expected], text
        for line, (*_, words) in zip(found, expected, strict=True):
            split = split_words(line.rest, lines.escape)
            if words is not None and split and "=" in split[0]:
                assert [part for word in split for part in word.partition("=")[::2]] == words, text


def stages_of(text: str) -> list[tuple[str, str, list[str]]]:
    """Return name, base and instructions of each stage, the result last."""
    recipe = parse_dockerfile(text)
    named = [*((stage.name, stage.recipe) for stage in recipe.stages), ("", recipe)]
    return [(name, str(each.base), [step.text for step in each.statements]) for name, each in named]


def test_stages_are_those_whose_files_are_copied() -> None:
    text = """\
ARG TAG=12
FROM debian:$TAG AS Build
RUN make
FROM debian AS unused
RUN other
FROM busybox
COPY --from=build /out /app
COPY --from=0 /out/a /b
COPY --from=registry.example/tools:1 /bin/tool /bin/
COPY --from=template://own:v1 /etc/x /etc/
COPY c /c
"""
    assert stages_of(text) == [
        ("registry.example/tools:1", "docker://registry.example/tools:1", []),
        ("template://own:v1", "template://own:v1", []),
        ("build", "docker://debian:12", ["RUN make"]),
        (
            "",
            "docker://busybox",
            [line for line in text.splitlines() if line.startswith("COPY")],
        ),
    ]
    recipe = parse_dockerfile(text)
    copies = [each for each in recipe.plan(BaseConfig()).steps if isinstance(each, Copy)]
    assert [(each.stage, each.sources) for each in copies] == [
        (2, ("out",)), (2, ("out/a",)), (0, ("bin/tool",)), (1, ("etc/x",)), (None, ("c",)),
    ]  # fmt: skip
    assert [str(note) for note in recipe.notes] == ["line 4: the stage unused is not needed and not built"]
    assert recipe.needs_context
    assert recipe.copied_stages == {0, 1, 2}


THREE_STAGES = "ARG IMAGE\nFROM $IMAGE AS build\nRUN <<FROM\nFROM x\nFROM\n\nFROM scratch AS app\nCOPY --from=build /a /\n\nFROM app\nRUN test\n"


@pytest.mark.parametrize(
    ("target", "end"),
    [("app", 8), ("APP", 8), ("1", 8), ("build", 6), ("0", 6), ("2", 11)],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_dockerfile_ends_with_the_stage_that_is_the_target(target: str, end: int, newline: str) -> None:
    text = THREE_STAGES.replace("\n", newline)
    cut = end_at_stage(text, target, build_args={"IMAGE": "a"})
    lines = THREE_STAGES.split("\n")[:end]
    assert cut.replace("\r\n", "\n").rstrip("\n").split("\n") == "\n".join(lines).rstrip("\n").split("\n")
    recipe = parse_dockerfile(cut, build_args={"IMAGE": "a"})
    assert [stage.name for stage in recipe.stages] == ([] if end == 6 else ["build"])


@pytest.mark.parametrize("target", ["none", "", "3", "-1", "1000", "٢", "bui"])
def test_a_target_that_is_no_stage_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match="the Dockerfile has no stage"):
        end_at_stage(THREE_STAGES, target, build_args={"IMAGE": "a"})


def test_what_follows_the_target_is_checked_too() -> None:
    with pytest.raises(InvalidRequest, match="line 3: there is no instruction"):
        end_at_stage("FROM a AS b\nFROM b\nRUM c\n", "b")


def test_the_empty_image_is_a_base() -> None:
    recipe = parse_dockerfile("FROM scratch\nCOPY a /\n")
    assert recipe.base is not None
    assert recipe.base.is_empty
    assert str(recipe.base) == "docker://scratch"


def test_a_stage_on_another_one_has_its_instructions() -> None:
    text = """\
FROM debian AS base
ARG WHO=you
SHELL ["/bin/bash", "-c"]
ENV A=1
CMD ["base"]
FROM base AS built
RUN echo $WHO > /out
FROM BASE
COPY --from=built /out /
RUN last
ENTRYPOINT ["/run"]
"""
    recipe = parse_dockerfile(text)
    (built,) = recipe.stages
    (run,) = [each for each in built.recipe.plan(BaseConfig()).steps if isinstance(each, Run)]
    assert run.argv == ("/bin/bash", "-c", "echo $WHO > /out")
    assert run.state.environment == {"A": "1", "WHO": "you"}
    final = recipe.plan(BaseConfig())
    assert final.environment == {"A": "1"}
    # The CMD was for what the stage below would have started.
    assert [each.argv for each in final.steps if isinstance(each, Start)] == [("/run",)]
    assert [each.argv for each in final.steps if isinstance(each, Run)] == [("/bin/bash", "-c", "last")]


def test_stages_on_one_another_cannot_grow_without_bound() -> None:
    text = "FROM a AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" + "RUN b\n" * 12 for n in range(34))
    began = time.process_time()
    assert len(parse_dockerfile(text).statements) == 408
    assert time.process_time() - began < 5
    text = "FROM a AS s\n" + "RUN b\n" * 240 + "FROM s AS t\n" + "RUN b\n" * 240 + "FROM t\nRUN b\n"
    assert len(parse_dockerfile(text).statements) == 481


_VARIABLES = "ENV " + " ".join(f"V{n}=1" for n in range(490)) + "\n"
_SIXTEEN_STAGES = (
    "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(15))
    + "FROM s15\n"
    + "".join(f"COPY --from=s{n} /a /a\n" for n in range(15))
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            f"ARG B=😀{'b' * 60_000}\nARG C=$B$B\n" + ("ARG " + "A=x$C " * 9000 + "\n") * 7 + "FROM a\n",
            "line 1: the value of B is longer",
            id="long values of arguments before FROM",
        ),
        pytest.param(
            f"ARG B={'b' * 30_000}\n" + "ARG A=$B\n" * 200 + "FROM a\n",
            "line 140: the arguments are longer than",
            id="long arguments together",
        ),
        pytest.param(
            "ARG " + "A=x " * 501 + "\nFROM a\n", "line 1: there are more than 500 arguments", id="many arguments"
        ),
        pytest.param(
            "FROM a\n" + ("LABEL " + "a=$A " * 9000 + "\n") * 7, "line 3: the Dockerfile has more than", id="many labels"
        ),
        pytest.param(
            "FROM a AS s0\n" + _VARIABLES + "ENV V1=2\n" * 210 + "FROM s0\n",
            "line 213: there are too many ENV and ARG instructions",
            id="a plan with all variables at each step",
        ),
        pytest.param(
            "FROM a AS s0\n" + "RUN x\n" * 400 + _SIXTEEN_STAGES,
            "the stages have more than 2000 instructions together",
            id="the same instructions in each stage",
        ),
    ],
)  # fmt: skip
def test_what_would_be_much_work_is_refused(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest, match=message):
        parse_dockerfile(text)
    assert time.process_time() - began < 1
