"""Steps of e2b's template builder as lines of a recipe, and what clients are told of a build."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import BuildId
from wrenn.control.e2b.announced_store import AnnouncedBuild
from wrenn.control.e2b.builder_steps import BuilderRecipe, builder_recipe
from wrenn.control.e2b.template_types import BuilderStep
from wrenn.recipe import BaseConfig, Copy, Run, Workdir, parse_lines, parse_ready_check

HASH = "ab" * 32


def steps(*given: tuple[str, ...], files_hash: str | None = None) -> list[BuilderStep]:
    return [BuilderStep(type=kind, args=list(args), files_hash=files_hash) for kind, *args in given]


def made(
    *given: tuple[str, ...], user: str = "user", sets_user: bool = True, start: str = "", ready: str = ""
) -> BuilderRecipe:
    return builder_recipe(
        "template://minimal",
        steps(*given, files_hash=HASH),
        {HASH: "0"},
        user=user,
        sets_user=sets_user,
        start=start,
        ready=ready,
    )


def test_commands_are_run_as_they_were_written() -> None:
    command = "echo 'it''s' \"$HOME\" && cat <<E\n$(date)\nE\n"
    recipe = made(("RUN", command))
    assert recipe.numbers == [0, 0, 0, 1]
    run = parse_lines(recipe.lines).plan(BaseConfig()).steps[-1]
    assert isinstance(run, Run)
    assert (run.state.user, run.state.workdir, run.timeout_s) == ("user", "/home/user", 3600.0)
    ran = subprocess.run(
        [*run.argv[:2], run.argv[2].replace("/bin/bash -c", "printf %s")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == command


def test_a_step_may_be_of_several_lines() -> None:
    recipe = made(
        ("ENV", "A", "1", "B", "$A x"),
        ("WORKDIR", "/srv/$A"),
        ("RUN", "id", "root"),
        ("USER", "other"),
        ("RUN", "id"),
    )
    assert recipe.numbers == [0, 0, 0, 1, 1, 2, 2, 3, 4, 5]
    plan = parse_lines(recipe.lines).plan(BaseConfig())
    assert plan.environment == {"A": "1", "B": "1 x"}
    made_first, workdir, as_root, _, as_other = plan.steps[4:]
    assert isinstance(made_first, Run)
    assert made_first.state.user == "root"
    assert isinstance(workdir, Workdir)
    assert workdir.path == "/srv/1"
    assert (as_root.state.user, as_other.state.user) == ("root", "other")


@pytest.mark.parametrize(
    "path", ["/srv/a b", "/srv/$(touch x)", "/srv/`id`", "/srv/\"a'", "$HOME/x", "${HOME}/$", "a;b"]
)
def test_a_work_directory_is_no_code(path: str, tmp_path: Path) -> None:
    # In place of the program that makes it.
    install = tmp_path / "install"
    install.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    install.chmod(0o755)
    run = parse_lines(made(("WORKDIR", path)).lines).plan(BaseConfig()).steps[2]
    assert isinstance(run, Run)
    argv = [each.replace("$(id -g user)", "7") for each in run.argv]
    environment = {"HOME": "/h", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    ran = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    expected = path.replace("${HOME}", "/h").replace("$HOME", "/h")
    assert ran.stdout == f"<-d><-o><user><-g><7><{expected}>"


def test_files_are_below_the_folder_of_their_hash() -> None:
    recipe = made(("COPY", "src dir/*", "dst/", "", ""), ("COPY", "./a", "/b", "root", "600"))
    first, second = parse_lines(recipe.lines).plan(BaseConfig()).steps[2:]
    assert isinstance(first, Copy)
    assert (first.sources, first.destination, first.into_directory) == (
        ("0/src dir/*",),
        "/home/user/dst",
        True,
    )
    assert (first.owner, first.mode) == ("user", None)
    assert isinstance(second, Copy)
    assert (second.sources, second.owner, second.mode) == (("0/a",), "root", 0o600)


def test_start_and_ready_commands() -> None:
    both = made(start="serve 'x'", ready="curl y")
    assert both.lines[-1].startswith("START exec /bin/bash")
    assert both.numbers[-1] == 1
    check = parse_ready_check(both.healthcheck or "")
    assert (check.interval_s, check.limit_s) == (2.0, 602.0)
    assert parse_ready_check(made(start="serve").healthcheck or "").interval_s == 20.0
    assert made(("RUN", "true")).healthcheck is None
    assert made(("RUN", "true"), user="app", sets_user=False).lines[1].startswith("RUN")


@pytest.mark.parametrize("source", ["../a", "a/../../b", "/../x"])
def test_files_outside_of_the_context_are_refused(source: str) -> None:
    with pytest.raises(InvalidRequest, match="step 1"):
        made(("COPY", source, "/x"))


def test_a_line_of_a_build_has_the_number_of_the_step() -> None:
    from wrenn.control.e2b.template_views import _step_of  # pyright: ignore[reportPrivateUsage]

    build = AnnouncedBuild(BuildId.new(), "x", (), 1, 1, 1, (0, 0, 1, 2, 2, 3), ("a", ""), datetime.now(UTC))
    assert [_step_of(step, build) for step in range(1, 6)] == ["base", "1", "2", "2", "finalize"]
