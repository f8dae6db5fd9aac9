"""Keys of builds: equal where what builds do is equal, and different where anything differs."""

from __future__ import annotations

import asyncio
import io
import tarfile
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wrenn.control.builds.keys import BuildKeys, Shape, keys_of, steps_to_keep
from wrenn.control.builds.recipes import BuildPlan, parse, plan
from wrenn.control.builds.records import BuildRequest
from wrenn.recipe import BaseConfig
from wrenn.recipe.archive import ContextArchive

_SHAPE = Shape(1, 512, 5120)
_LINES = (
    "RUN a", "RUN b", "ENV A=1", "ENV A=2", "ENV B=1", "WORKDIR /x", "WORKDIR /y", "USER ada", "USER bob", "COPY one /x",
    "COPY two /x", "COPY one /y",
)  # fmt: skip


def _archive(contents: dict[str, bytes]) -> ContextArchive:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return ContextArchive.open(io.BytesIO(data.getvalue()))


_CONTENTS = {"one": b"1", "two": b"2"}
_REQUEST = BuildRequest(
    recipe=(),
    dockerfile="",
    build_args={},
    base_template="minimal",
    healthcheck="",
    skip_pre_post=True,
    use_cache=True,
)


def _planned(
    lines: list[str] | tuple[str, ...],
    *,
    healthcheck: str = "",
    environment: dict[str, str] | None = None,
    skip_pre_post: bool = True,
) -> BuildPlan:
    request = replace(_REQUEST, recipe=tuple(lines), healthcheck=healthcheck, skip_pre_post=skip_pre_post)
    return plan(request, parse(request), BaseConfig(environment=environment or {"PATH": "/bin"}))


def _keys(
    lines: list[str] | tuple[str, ...],
    *,
    healthcheck: str = "",
    base_key: str = "base",
    shape: Shape = _SHAPE,
    contents: dict[str, bytes] = _CONTENTS,
    environment: dict[str, str] | None = None,
) -> BuildKeys:
    planned = _planned(lines, healthcheck=healthcheck, environment=environment)
    with closing(_archive(contents)) as context:
        return asyncio.run(keys_of(base_key, shape, planned, context))


_RECIPES = st.lists(st.sampled_from(_LINES), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(_RECIPES, _RECIPES)
def test_recipes_share_the_keys_of_their_common_beginning_and_no_others(
    one: list[str], two: list[str]
) -> None:
    same = next(
        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    first, second = _keys(one).layers, _keys(two).layers
    assert first[:same] == second[:same]
    after_one, after_two = set(first[same:]) - set(first[:same]), set(second[same:]) - set(second[:same])
    # The effect of two variables may be the same although the steps that set them differ in order.
    assume(not any(line.startswith("ENV") for line in one + two))
    assert not after_one & after_two


@settings(max_examples=25, deadline=None)
@given(_RECIPES)
def test_another_base_gives_other_keys_to_everything(recipe: list[str]) -> None:
    one, two = _keys(recipe), _keys(recipe, base_key="other")
    assert not set(one.layers) & set(two.layers)
    assert one.template != two.template


def test_files_and_variables_of_the_base_count() -> None:
    recipe = ("RUN a", "COPY one /x", "RUN b")
    was = _keys(recipe)
    changed = _keys(recipe, contents={"one": b"changed"})
    assert changed.layers[0] == was.layers[0]
    assert not set(changed.layers[1:]) & set(was.layers[1:])
    assert not set(_keys(recipe, environment={"PATH": "/sbin"}).layers) & set(was.layers)
    # A file that no step copies does not.
    assert _keys(recipe, contents={"one": b"1", "three": b"3"}) == was


def test_a_file_that_is_not_there_ends_the_keys() -> None:
    found = _keys(("RUN a", "COPY missing /x", "RUN b"))
    assert len(found.layers) == 1
    assert found.template is None


@pytest.mark.parametrize(
    ("lines", "healthcheck", "shape"),
    [
        (("RUN a", "START serve now"), "true", _SHAPE),
        (("RUN a", "START serve"), "false", _SHAPE),
        (("RUN a", "START serve"), "", _SHAPE),
        (("RUN a", "START serve", "RUN b"), "true", _SHAPE),
        (("START serve", "RUN a"), "true", _SHAPE),
        (("RUN a", "ENV A=1", "START serve"), "true", _SHAPE),
        (("RUN a", "START serve", "ENV A=1"), "true", _SHAPE),
        (("RUN a", "START serve"), "true", Shape(2, 512, 5120)),
        (("RUN a", "START serve"), "true", Shape(1, 256, 5120)),
    ],
)
def test_everything_is_part_of_the_key_of_a_template_with_memory(
    lines: tuple[str, ...], healthcheck: str, shape: Shape
) -> None:
    was = _keys(("RUN a", "START serve"), healthcheck="true")
    assert len(was.layers) == 1, "steps from the first START on are not cached"
    assert _keys(lines, healthcheck=healthcheck, shape=shape).template != was.template


def test_the_key_of_an_image_is_that_of_its_disk_and_size() -> None:
    was = _keys(("RUN a",))
    assert _keys(("RUN a", "ENV A=1")).template == was.template
    assert _keys(("RUN a",), shape=Shape(2, 512, 5120)).template != was.template
    assert _keys(("RUN a",), shape=Shape(1, 1024, 5120)).template != was.template
    assert _keys(("RUN a",), shape=Shape(1, 512, 6000)).template != was.template


@pytest.mark.parametrize(
    ("lines", "skip_pre_post", "expected"),
    [
        # Step 1 is `apt-get update`; the last three clean up.
        (("RUN a", "RUN b"), False, [2, 3, 4, 5, 6]),
        # With ENV the disk is still that after step 1.
        (("ENV A=1", "RUN a"), False, [3, 4, 5, 6]),
        (("START serve",), False, []),
        (("ENV A=1", "RUN a", "START serve"), True, [1, 2]),
    ],
)
def test_steps_before_the_recipe_alone_make_no_layer(
    lines: tuple[str, ...], skip_pre_post: bool, expected: list[int]
) -> None:
    planned = _planned(lines, skip_pre_post=skip_pre_post)
    with closing(ContextArchive.empty()) as context:
        keys = asyncio.run(keys_of("base", _SHAPE, planned, context))
    assert steps_to_keep(planned, keys) == expected


def test_files_of_a_stage_are_identified_by_its_disk() -> None:
    request = replace(_REQUEST, dockerfile="FROM a AS b\nRUN c\nFROM d\nRUN e\nCOPY --from=b /f /g\nRUN h\n")
    planned = plan(request, parse(request), BaseConfig(environment={"PATH": "/bin"}))

    def keys(*disks: str | None) -> BuildKeys:
        with closing(_archive({})) as context:
            return asyncio.run(keys_of("base", _SHAPE, planned, context, disks))

    one, two, unknown = keys("one"), keys("two"), keys(None)
    assert one == keys("one")
    assert one.layers[0] == two.layers[0]
    assert not set(one.layers[1:]) & set(two.layers[1:])
    assert one.disk == one.layers[-1]
    assert unknown == BuildKeys(one.layers[:1])
