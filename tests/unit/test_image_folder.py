"""The folder of images that builds and imports made, and what is accepted of a container image's configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wrenn.base.errors import InvalidRequest, InvalidState, NotFound
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import ImageId
from wrenn.storage.images import ROOTFS, ContainerConfig, ImageFacts, ImageFolder


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    return ImageFolder(tmp_path / "images")


async def made(folder: ImageFolder, facts: ImageFacts | None = None, content: bytes = b"data") -> ImageId:
    image_id = ImageId.new()
    draft = await folder.new_draft(image_id)
    (draft / ROOTFS).write_bytes(content)
    (draft / "log").write_text("of a program")
    (draft / "layers").mkdir()
    await folder.publish(draft, image_id, facts or ImageFacts.new())
    return image_id


async def test_an_image_is_found_with_its_facts_and_without_what_else_was_in_its_draft(
    folder: ImageFolder,
) -> None:
    config = ContainerConfig(user="app", environment=("A=1",), command=("run",), labels={"a": "b"})
    facts = ImageFacts.new(reference="registry/name@sha256:1", config=config)
    image_id = await made(folder, facts)
    found = folder.find(image_id)
    assert (found.facts, found.size_b) == (facts, 4)
    assert sorted(path.name for path in found.rootfs.parent.iterdir()) == ["manifest.json", ROOTFS]
    assert found.rootfs.stat().st_mode & 0o777 == 0o400
    assert folder.ids() == [image_id]
    assert folder.set_uploaded(found, uploaded_b=3).facts == folder.find(image_id).facts
    await folder.remove(image_id)
    await folder.remove(image_id)
    assert folder.ids() == []
    assert folder.drafts() == []
    with pytest.raises(NotFound):
        folder.find(image_id)


@pytest.mark.parametrize("point", ["before_manifest", "before_rename"])
async def test_an_image_that_was_not_published_to_the_end_is_none(folder: ImageFolder, point: str) -> None:
    arm_faults(f"images.image.{point}=error")
    try:
        with pytest.raises(FaultInjected):
            await made(folder)
    finally:
        arm_faults("")
    assert folder.ids() == []
    assert len(folder.drafts()) == 1
    await folder.sweep()
    assert folder.drafts() == []


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{}", b'{"format": 2}', json.dumps({"format": 1, "size_b": "4"}).encode()]
)
async def test_a_damaged_image_is_reported(folder: ImageFolder, manifest: bytes) -> None:
    image_id = await made(folder)
    (folder.find(image_id).rootfs.parent / "manifest.json").write_bytes(manifest)
    with pytest.raises(InvalidState, match="damaged"):
        folder.find(image_id)


async def test_an_image_of_another_size_is_damaged(folder: ImageFolder) -> None:
    image_id = await made(folder)
    rootfs = folder.find(image_id).rootfs
    rootfs.chmod(0o600)
    rootfs.write_bytes(b"more than before")
    with pytest.raises(InvalidState, match="damaged"):
        folder.find(image_id)


def test_names_of_templates_are_no_ids_of_images() -> None:
    image_id = ImageId.new()
    assert ImageId.find(str(image_id)) == image_id
    assert [ImageId.find(name) for name in ("minimal", "img-tools", "")] == [None, None, None]


def test_a_configuration_is_read_as_the_specification_says() -> None:
    config = ContainerConfig.of_image(
        {
            "User": "1000:1000",
            "Env": ["PATH=/bin", "EMPTY="],
            "WorkingDir": "/srv",
            "Entrypoint": ["/entry"],
            "Cmd": None,
            "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
            "Labels": {"k": "v"},
            "Volumes": {"/data": {}},
        }
    )
    assert config == ContainerConfig(
        "1000:1000", ("PATH=/bin", "EMPTY="), "/srv", ("/entry",), (), ("53/udp", "8080/tcp"), {"k": "v"}
    )
    assert ContainerConfig.of_json(json.loads(json.dumps(config.to_json()))) == config
    assert ContainerConfig.of_image(None) == ContainerConfig()


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"User": 1},
        {"Env": "A=1"},
        {"Env": [1]},
        {"Labels": {"a": 1}},
        {"ExposedPorts": ["80"]},
        {"Env": ["x"] * 257},
        {"Cmd": ["x" * 32_769]},
        {"Env": ["x" * 32_000] * 9},
        {"User": "a\nb"},
        {"WorkingDir": "/a\0b"},
        {"Env": ["A=\ud800"]},
    ],
)
def test_a_configuration_of_other_types_or_too_large_is_refused(config: object) -> None:
    with pytest.raises(InvalidRequest):
        ContainerConfig.of_image(config)
