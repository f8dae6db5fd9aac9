"""Line-based recipes, health checks, durations and keys of the layer cache."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrenn.base.errors import InvalidRequest
from wrenn.recipe import (
    BaseConfig,
    BaseKind,
    Copy,
    ReadyCheck,
    Run,
    Start,
    User,
    parse_lines,
    parse_ready_check,
)
from wrenn.recipe.cache_key import base_key, cacheable_steps, step_key
from wrenn.recipe.dockerfile import parse_dockerfile
from wrenn.recipe.durations import parse_duration

SH = ("/bin/sh", "-c")


def test_a_recipe_and_its_plan() -> None:
    recipe = parse_lines(
        [
            "FROM docker://debian:12",
            "run apt update",
            "RUN --timeout=1m30s  make all",
            'ENV GREETING=hello  $NAME, ${NAME} costs 5$$ "quoted" $',
            "WORKDIR /srv/$NAME",
            "USER wrenn-user",
            "COPY a b* dst",
            "START ./server --port 80",
        ]
    )
    assert recipe.base is not None
    assert (recipe.base.kind, recipe.base.reference) == (BaseKind.IMAGE, "debian:12")
    assert recipe.needs_context
    result = recipe.plan(BaseConfig(environment={"NAME": "x"}))
    apt, make, _, workdir, user, copied, start = result.steps
    assert isinstance(apt, Run)
    assert (apt.argv, apt.timeout_s, apt.line) == ((*SH, "apt update"), 30.0, 2)
    assert isinstance(make, Run)
    assert (make.argv, make.timeout_s) == ((*SH, "make all"), 90.0)
    assert result.environment["GREETING"] == 'hello  x, x costs 5$ "quoted" $'
    assert (workdir.state.workdir, user.state.workdir) == ("/", "/srv/x")
    assert isinstance(user, User)
    assert user.create
    assert isinstance(copied, Copy)
    assert (copied.destination, copied.into_directory, copied.owner) == ("/srv/x/dst", True, "wrenn-user")
    assert isinstance(start, Start)
    assert start.argv == (*SH, "./server --port 80")
    assert start.state.user == result.user == "wrenn-user"


def test_a_reference_without_prefix_is_a_template() -> None:
    base = parse_lines(["FROM python:3", "RUN x"]).base
    assert base is not None
    assert (base.kind, base.reference) == (BaseKind.TEMPLATE, "python:3")
    assert parse_lines(["RUN x"]).base is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "The recipe is empty."),
        (["FROM a"], "The recipe has no instruction after FROM."),
        (["RUN a", ""], "line 2: the line is empty"),
        (["RUN a", "# x"], "line 2: there is no instruction '#'"),
        (["RUN"], "line 1: nothing follows 'RUN'"),
        (["RUN --timeout=1x a"], "line 1: --timeout: expected a duration"),
        (["RUN --timeout=7h a"], "line 1: --timeout must be more than 0 and at most 6 hours"),
        (["RUN --timeout=1s"], "line 1: RUN without a command"),
        (["RUN a", "FROM b"], "line 2: FROM must be the first instruction"),
        (["ENV a"], "line 1: expected ENV NAME=VALUE"),
        (["ENV a-b=c"], "line 1: expected ENV NAME=VALUE"),
        (["USER 1a"], "line 1: '1a' is not a name of a user"),
        (["USER $X"], "line 1: '$X' is not a name of a user"),
        (["COPY a"], "line 1: expected COPY SOURCE… DESTINATION"),
        (["COPY ../a b"], "line 1: '../a' must be a path inside the build context"),
        (["COPY /a b"], "line 1: '/a' must be a path inside the build context"),
        (["COPY a/../b b"], "line 1: 'a/../b' must be a path inside the build context"),
        (["CMD a"], "line 1: there is no instruction 'CMD'"),
        (["RUN a"] * 501, "The recipe has more than 500 instructions."),
        (["RUN " + "x" * 66_000], "line 1: the instruction is too long"),
        (["RUN a\0"], "line 1: the instruction contains a NUL character."),
    ],
)
def test_what_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_lines(lines).plan(BaseConfig())
    assert refusal.value.message.startswith(message)


@settings(max_examples=200, deadline=2_000)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["RUN", "ENV", "COPY", "USER", "WORKDIR", "START", "FROM", ""]),
            st.text(max_size=20),
        ).map(" ".join),
        max_size=5,
    )
)
def test_any_lines_are_parsed_or_refused(lines: list[str]) -> None:
    try:
        parse_lines(lines).plan(BaseConfig())
    except InvalidRequest as refusal:
        message = refusal.message
    else:
        message = ""
    assert len(message) < 500


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("+5s", 5),
        ("1h2m3s", 3723),
        ("1.5s", 1.5),
        (".5m", 30),
        ("1.s", 1),
        ("300ms", 0.3),
        ("2us", 2e-6),
        ("3µs", 3e-6),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "-1s", "s", ".s", "1 s", "1d", "1s ", "1e3s", "9" * 100 + "s", "٣s", "inf"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


def test_ready_checks() -> None:
    assert parse_ready_check(" curl -f localhost ") == ReadyCheck(
        argv=(*SH, "curl -f localhost"), text="curl -f localhost"
    )
    full = parse_ready_check("--interval=1s --timeout=2s --start-period=1m --retries=4 test -e --x=y")
    assert (full.interval_s, full.timeout_s, full.start_period_s, full.retries) == (1, 2, 60, 4)
    assert full.argv == (*SH, "test -e --x=y")
    assert full.limit_s == 65
    assert parse_ready_check("a").limit_s is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the command is missing"),
        ("--interval=1s", "the command is missing"),
        ("--interval 1s a", "expected --interval=VALUE"),
        ("--interval= a", "expected --interval=VALUE"),
        ("--speed=1 a", "there is no flag '--speed'"),
        ("--retries=1 --retries=1 a", "--retries is given twice"),
        ("--retries=-1 a", "--retries must be a number from 0 to 10000"),
        ("--retries=10001 a", "--retries must be a number from 0 to 10000"),
        ("--interval=1ms a", "--interval must be from 0.1 to 3600 seconds"),
        ("--timeout=2h a", "--timeout must be from 0.1 to 3600 seconds"),
        ("--start-period=soon a", "--start-period: expected a duration"),
    ],
)
def test_ready_checks_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_ready_check(text)


@settings(max_examples=100, deadline=2_000)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["--interval=", "--retries=", "1s", " ", "a", "--"])).map("".join)
)
def test_any_ready_check_is_parsed_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        assert parse_ready_check(text).argv[-1]


def keys(text: str, *, files: str = "f", identity: str = "sha256:1") -> list[str]:
    """Return the keys of the steps of a Dockerfile, without those that change no disk."""
    recipe = parse_dockerfile("FROM debian\n" + text)
    assert recipe.base is not None
    key = base_key(recipe.base, identity)
    found: list[str] = []
    for step in recipe.plan(BaseConfig()).steps:
        digest = files if isinstance(step, Copy) and step.sources else None
        after = step_key(key, step, files_digest=digest)
        if after != key:
            found.append(after)
        key = after
    return found


def test_a_key_depends_on_what_a_step_does_and_on_nothing_else() -> None:
    text = "RUN a\nENV X=1\nCOPY a /a\nRUN b"
    first = keys(text)
    assert len(set(first)) == 3
    assert keys("\n# comment\n" + text.replace("RUN a", "RUN --timeout=5s a")) == first
    assert keys(text, identity="sha256:2")[0] != first[0]
    assert keys(text, files="g")[:1] == first[:1]
    assert keys(text, files="g")[1] != first[1]
    other_value = keys(text.replace("X=1", "X=2"))
    assert other_value[:2] == first[:2], "a variable that a COPY does not use does not matter to it"
    assert other_value[2] != first[2]
    assert keys("USER 5\n" + text)[1] != first[0]
    assert keys("WORKDIR /x\n" + text)[1] != first[0]
    for change in ("--chown=1 ", "--chmod=700 "):
        assert keys(text.replace("COPY ", "COPY " + change))[1] != first[1]
    assert keys(text.replace("COPY", "ADD"))[1] != first[1]
    assert keys("COPY <<E /a\n1\nE") != keys("COPY <<E /a\n2\nE")


def test_steps_after_a_start_find_it_running_and_are_not_taken_from_the_cache() -> None:
    steps = parse_lines(["RUN a", "START server", "RUN client"]).plan(BaseConfig()).steps
    assert [type(step) for step in steps] == [Run, Start, Run]
    assert cacheable_steps(steps) == 1
    assert cacheable_steps(steps[:1]) == 1


def test_a_run_may_have_a_user_of_its_own_and_a_copy_paths_with_spaces() -> None:
    recipe = parse_lines(
        [
            "USER someone",
            "RUN --user=root --timeout=1m id",
            "RUN --timeout=1m --user=root id",
            "RUN id",
            'COPY --chown=root:root --chmod=750 ["a b", "c/*", "d e/"]',
            "COPY --chmod=0640 a b",
        ]
    )
    _, first, second, third, several, single = recipe.plan(BaseConfig()).steps
    assert [step.state.user for step in (first, second, third)] == ["root", "root", "someone"]
    assert isinstance(first, Run)
    assert (first.argv, first.timeout_s) == ((*SH, "id"), 60.0)
    assert first == replace(second, line=2, text=first.text)
    assert isinstance(several, Copy)
    assert (several.sources, several.destination) == (("a b", "c/*"), "/d e")
    assert (several.owner, several.mode) == ("root:root", 0o750)
    assert isinstance(single, Copy)
    assert (single.owner, single.mode) == ("someone", 0o640)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN --user= id", "name of a user"),
        ("RUN --user=a;b id", "name of a user"),
        ("RUN --user=root", "nothing follows|without a command"),
        ('COPY ["a"]', "expected COPY"),
        ('COPY ["a", 1]', "expected COPY"),
        ('COPY ["a", ""]', "expected COPY"),
        ('COPY ["a"', "cannot be read"),
        ('COPY ["../a", "b"]', "inside the build context"),
        ("COPY --chmod=9 a b", "octal"),
        ("COPY --chown=a:b:c a b", "USER"),
        ("COPY --from=x a b", "inside the build context"),
    ],
)
def test_options_of_run_and_copy_are_checked(line: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_lines([line]).plan(BaseConfig())
