"""How built parts come into place, are checked, and survive a death at any step."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from wrenn.base.errors import InvalidState, NotFound
from wrenn.base.faults import arm_faults
from wrenn.base.units import GIB, MIB
from wrenn.storage.images import Service, built_templates, load_images
from wrenn.storage.images import recipe as recipe_module
from wrenn.storage.images.initramfs import build_initramfs, load_initramfs
from wrenn.storage.images.kernel import Kernel
from wrenn.storage.images.manifest import (
    FORMAT,
    SCRATCH_PREFIX,
    FileFacts,
    checked_file,
    publish,
    read_manifest,
    sweep,
)
from wrenn.storage.images.recipe import copy_folder, load_recipe
from wrenn.storage.images.template import load_template

_SPAWN = multiprocessing.get_context("spawn")


def _publish(folder: Path, text: str, faults: str = "") -> None:
    """Build and publish a part whose content is `text`, as a process of its own may."""
    arm_faults(faults)
    scratch = folder / f"{SCRATCH_PREFIX}test"
    (scratch / "result").mkdir(parents=True)
    (scratch / "result/file").write_text(text)
    facts = FileFacts.of(scratch / "result/file").to_json()
    asyncio.run(publish(scratch / "result", folder / "part", {"format": FORMAT, "file": facts}))


def _content(folder: Path) -> str | None:
    """What a reader finds: the content, or None when it says that the part is not built."""
    try:
        manifest = read_manifest(folder / "part/manifest.json", what="part")
    except NotFound:
        return None
    checked_file(folder / "part/file", manifest["file"], what="part")
    return (folder / "part/file").read_text()


@pytest.mark.parametrize(
    "step",
    ["images.publish.before_manifest", "images.publish.before_rename", "images.publish.between_renames"],
)
def test_a_death_while_publishing_leaves_the_old_part_or_none_and_the_next_build_succeeds(
    tmp_path: Path, step: str
) -> None:
    _publish(tmp_path, "old")
    asyncio.run(sweep(tmp_path))
    victim = _SPAWN.Process(target=_publish, args=(tmp_path, "new", f"{step}=kill"))
    victim.start()
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    assert _content(tmp_path) == (None if step == "images.publish.between_renames" else "old")

    asyncio.run(sweep(tmp_path))
    _publish(tmp_path, "new")
    asyncio.run(sweep(tmp_path))
    assert _content(tmp_path) == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def _kernel(folder: Path, content: bytes = b"module") -> Kernel:
    folder.mkdir(exist_ok=True)
    module = folder / "virtio.ko"
    module.write_bytes(content)
    return Kernel("6.1.0-test", folder / "vmlinux", "digest", (module,))


def _pack(folder: Path, envd: str, faults: str = "") -> None:
    arm_faults(faults)
    (folder / "envd").write_text(envd)
    asyncio.run(build_initramfs(folder, _kernel(folder / "kernel"), folder / "envd"))


def test_a_death_while_packing_the_initramfs_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    _pack(tmp_path, "old")
    old = load_initramfs(tmp_path)
    victim = _SPAWN.Process(target=_pack, args=(tmp_path, "new", "images.initramfs.before_pointer=kill"))
    victim.start()
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    assert load_initramfs(tmp_path) == old
    _pack(tmp_path, "new")
    assert load_initramfs(tmp_path).path != old.path
    assert old.path.exists(), "machines that run still name it"


def test_the_initramfs_lists_its_modules_by_absolute_path(tmp_path: Path) -> None:
    _pack(tmp_path, "envd")
    assert b"/modules/virtio.ko\n" in load_initramfs(tmp_path).path.read_bytes()


def test_the_initramfs_has_the_loadable_modules_where_modprobe_looks(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "kernel/net").mkdir(parents=True)
    (tree / "kernel/net/veth.ko").write_bytes(b"the module veth")
    (tree / "modules.dep").write_text("kernel/net/veth.ko:\n")
    (tmp_path / "envd").write_text("envd")
    kernel = replace(_kernel(tmp_path / "kernel"), tree=tree)
    asyncio.run(build_initramfs(tmp_path, kernel, tmp_path / "envd"))
    content = load_initramfs(tmp_path).path.read_bytes()
    for name in (b"kernel", b"kernel/net", b"kernel/net/veth.ko", b"modules.dep"):
        assert b"lib/modules/6.1.0-test/%s\0" % name in content
    assert b"the module veth" in content


async def test_an_initramfs_with_debug_symbols_is_refused(tmp_path: Path) -> None:
    envd = tmp_path / "envd"
    with envd.open("wb") as file:
        file.truncate(21 * MIB)
    with pytest.raises(InvalidState, match="stripped"):
        await build_initramfs(tmp_path, _kernel(tmp_path / "kernel"), envd)


async def test_a_missing_envd_says_how_it_is_built(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="make setup"):
        await build_initramfs(tmp_path, _kernel(tmp_path / "kernel"), tmp_path / "envd")


def test_missing_images_say_how_they_are_built(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run: sudo wrenn images build"):
        load_images(tmp_path)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "null", '{"format": 0}'])
def test_a_damaged_manifest_says_how_it_is_built_again(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(InvalidState, match="run: sudo wrenn images build"):
        read_manifest(tmp_path / "manifest.json", what="kernel")


@pytest.mark.parametrize("facts", [None, 7, {}, {"size_b": 3, "digest": 1}, {"size_b": 4, "digest": "x"}])
def test_a_file_that_its_manifest_does_not_describe_is_damaged(tmp_path: Path, facts: object) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(InvalidState, match="damaged"):
        checked_file(tmp_path / "file", facts, what="kernel")


def test_the_digest_does_not_depend_on_where_the_holes_are(tmp_path: Path) -> None:
    sparse, full = tmp_path / "sparse", tmp_path / "full"
    with sparse.open("wb") as file:
        file.truncate(5 * MIB + 100)
        os.pwrite(file.fileno(), b"data", 3 * MIB + 7)
    full.write_bytes(sparse.read_bytes())
    assert sparse.stat().st_blocks < full.stat().st_blocks
    assert FileFacts.of(sparse) == FileFacts.of(full)


@pytest.mark.parametrize(("offset", "content"), [(0, b"x"), (3 * MIB + 8, b"data"), (5 * MIB + 99, b"x")])
def test_the_digest_changes_with_every_byte(tmp_path: Path, offset: int, content: bytes) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        with path.open("wb") as file:
            file.truncate(5 * MIB + 100)
            os.pwrite(file.fileno(), b"data", 3 * MIB + 7)
    with other.open("r+b") as file:
        os.pwrite(file.fileno(), content, offset)
    assert FileFacts.of(one) != FileFacts.of(other)


def test_five_gibibytes_of_nothing_have_another_digest_than_four(tmp_path: Path) -> None:
    def facts(size_b: int) -> FileFacts:
        path = tmp_path / str(size_b)
        path.touch()
        os.truncate(path, size_b)
        return FileFacts.of(path)

    assert facts(5 * GIB).digest != facts(4 * GIB).digest


def test_the_minimal_recipe_holds_what_is_promised() -> None:
    recipe = load_recipe("minimal", "bookworm")
    assert recipe.size_gib == 5
    assert (recipe.user.name, recipe.user.uid) == ("user", 1000)
    assert {"git", "python3", "curl", "ca-certificates", "sudo", "iproute2", "procps"} <= set(recipe.packages)
    assert set(recipe.packages) <= set(recipe.pins), (
        "the lock is older than the recipe: run `wrenn images lock`"
    )


def test_a_recipe_has_what_it_extends_besides_its_own() -> None:
    minimal, base = load_recipe("minimal", "bookworm"), load_recipe("base", "bookworm")
    assert base.name == "base"
    assert set(base.packages) == {*minimal.packages, "nodejs", "npm"}
    assert (base.user, base.sources, base.files) == (minimal.user, minimal.sources, minimal.files)
    assert (base.service, base.folders) == (None, {})
    assert base.digest != minimal.digest
    for recipe in (
        base,
        *(load_recipe(name, "bookworm") for name in ("code-interpreter-v1", "code-runner-beta")),
    ):
        assert set(recipe.packages) <= set(recipe.pins), f"run `wrenn images lock {recipe.name}`"


def test_a_recipe_with_folders_changes_with_their_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = Path(__file__).parents[2] / "images"
    shutil.copytree(source, tmp_path / "images")
    monkeypatch.setattr(recipe_module, "_PLACES", (tmp_path / "images",))
    before = load_recipe("code-interpreter-v1", "bookworm")
    assert before.service is not None
    assert before.service.user == "user"
    copy_folder(before.folders["usr/local/lib/code-interpreter"], tmp_path / "copy")
    assert (tmp_path / "copy/code_interpreter/app.py").stat().st_mode & 0o777 == 0o644
    assert not list((tmp_path / "copy").rglob("__pycache__"))
    file = tmp_path / "images/code-interpreter-v1/server/code_interpreter/app.py"
    file.write_text(file.read_text() + "\n")
    assert load_recipe("code-interpreter-v1", "bookworm").digest != before.digest
    base = tmp_path / "images/base/recipe.toml"
    base.write_text(base.read_text().replace('"minimal"', '"code-interpreter-v1"'))
    with pytest.raises(InvalidState, match="too many"):
        load_recipe("base", "bookworm")


@pytest.mark.parametrize(
    "service",
    [
        [],
        {"command": [], "user": "user", "ready": ["x"]},
        {"command": ["x"], "user": 1, "ready": ["x"]},
        {"command": [1], "user": "u", "ready": ["x"]},
    ],
)
def test_a_damaged_service_of_a_manifest_is_refused(service: object) -> None:
    with pytest.raises(InvalidState, match="service"):
        Service.parse(service, what="template")


@pytest.mark.parametrize(
    "name", ["none", "../images/minimal", "minimal/", "Minimal", ".", "", "a" * 64, "minimal\n"]
)
def test_no_other_recipe_or_template_is_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        load_recipe(name, "bookworm")
    with pytest.raises(NotFound):
        load_template(tmp_path, name)


def _write_template(folder: Path, name: str, **manifest: object) -> None:
    place = folder / "templates" / name
    place.mkdir(parents=True, exist_ok=True)
    draft = place / "draft"
    draft.write_text(json.dumps({"format": FORMAT, **manifest}))
    draft.rename(place / "manifest.json")


def test_a_template_with_other_packages_has_other_content(tmp_path: Path) -> None:
    made = {"source_digest": "ab", "packages": {"bash": "1", "dash": "2"}}
    _write_template(tmp_path, "own", **made, rootfs={"size_b": 1, "digest": "one"})
    first = built_templates(tmp_path)
    assert list(first) == ["own"]
    assert len(first["own"]) == 64
    _write_template(tmp_path, "own", **made, rootfs={"size_b": 1, "digest": "another host's"})
    assert built_templates(tmp_path) == first
    seen = {first["own"]}
    for changed in ({"packages": {"bash": "1", "dash": "3"}}, {"source_digest": "cd"}):
        _write_template(tmp_path, "own", **{**made, **changed})
        seen.add(built_templates(tmp_path)["own"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    "manifest", [{}, {"source_digest": "ab"}, {"packages": {}}, {"source_digest": "ab", "packages": []}]
)
def test_a_template_whose_manifest_lacks_its_content_has_none(
    tmp_path: Path, manifest: dict[str, object]
) -> None:
    _write_template(tmp_path, "own", **manifest)
    assert built_templates(tmp_path) == {"own": ""}
    (tmp_path / "templates/own/manifest.json").write_text("{")
    assert built_templates(tmp_path) == {"own": ""}


def test_a_recipe_for_an_unknown_suite_is_not_found() -> None:
    with pytest.raises(NotFound, match="sarge"):
        load_recipe("minimal", "sarge")


def test_a_manifest_is_json_for_people_too(tmp_path: Path) -> None:
    _publish(tmp_path, "text")
    assert json.loads((tmp_path / "part/manifest.json").read_text())["format"] == FORMAT
