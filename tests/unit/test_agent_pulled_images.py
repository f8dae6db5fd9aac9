"""Container images that were pulled are used again, within a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wrenn.agent.images.pulled_images import PulledImages, key_of
from wrenn.base.units import MIB
from wrenn.storage.images import ROOTFS, ContainerConfig, ImageFacts

CONFIG = ContainerConfig.of_image({"User": "7", "Env": ["A=1"]})


def draft(tmp_path: Path, name: str, size_b: int = MIB) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    if size_b:
        (folder / ROOTFS).write_bytes(os.urandom(size_b))
    return folder


def keep(pulled: PulledImages, tmp_path: Path, key: str) -> None:
    pulled.keep(key, draft(tmp_path, f"made-{key[:8]}"), ImageFacts.new(reference=key, config=CONFIG))


def is_there(pulled: PulledImages, tmp_path: Path, key: str) -> bool:
    folder = draft(tmp_path, f"taken-{os.urandom(4).hex()}", size_b=0)
    facts = pulled.take(key, folder)
    if facts is not None:
        assert (facts.reference, facts.config) == (key, CONFIG)
        assert (folder / ROOTFS).stat().st_nlink > 1
    return facts is not None


def test_a_key_says_for_whom_of_what_and_how_large() -> None:
    keys = {key_of("ada", "x@sha256:1", 64), key_of("eve", "x@sha256:1", 64)}
    keys |= {key_of("ada", "x@sha256:2", 64), key_of("ada", "x@sha256:1", 65)}
    assert len(keys) == 4


def test_those_used_last_stay(tmp_path: Path) -> None:
    pulled = PulledImages(tmp_path / "pulled", limit_b=2 * MIB + MIB // 2)
    assert not is_there(pulled, tmp_path, "one")
    for age, key in ((300, "one"), (200, "two")):
        keep(pulled, tmp_path, key)
        os.utime(tmp_path / "pulled" / key, (1e9 - age, 1e9 - age))
    assert is_there(pulled, tmp_path, "one")
    keep(pulled, tmp_path, "three")
    assert [is_there(pulled, tmp_path, key) for key in ("one", "two", "three")] == [True, False, True]


def test_with_a_limit_of_zero_none_is_stored(tmp_path: Path) -> None:
    pulled = PulledImages(tmp_path / "pulled", limit_b=0)
    keep(pulled, tmp_path, "one")
    assert not is_there(pulled, tmp_path, "one")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"reference": 1, "config": {"user": []}}'])
def test_what_a_killed_agent_left_is_not_used_and_goes(tmp_path: Path, content: str) -> None:
    pulled = PulledImages(tmp_path / "pulled", limit_b=10 * MIB)
    keep(pulled, tmp_path, "one")
    (tmp_path / "pulled" / "one" / "facts.json").write_text(content)
    left = tmp_path / "pulled" / ".draft-1"
    left.mkdir()
    assert pulled.take("one", draft(tmp_path, "next", size_b=0)) is None
    pulled.keep("one", draft(tmp_path, "again"), ImageFacts.new(reference="one", config=CONFIG))
    assert is_there(pulled, tmp_path, "one")
    assert not left.exists()
