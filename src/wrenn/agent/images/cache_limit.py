"""Decides which images leave a host whose images take more room than its limit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wrenn.base.ids import ImageId


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image of the host.

    Attributes:
        allocated_b: what it takes on the disk.
        used_at: when a sandbox was last created from it, or when it was made. Unix time.
        may_leave: the store has it, and nothing on this host needs its file.
    """

    image_id: ImageId
    allocated_b: int
    used_at: float
    may_leave: bool


def images_beyond(images: Sequence[CachedImage], limit_b: int) -> list[ImageId]:
    """Return the images to remove, least recently used first, until the others take at most `limit_b`.

    What must stay counts too: if it takes more than the limit alone, all others leave.
    """
    excess_b = sum(image.allocated_b for image in images) - limit_b
    leaving: list[ImageId] = []
    for image in sorted(images, key=lambda image: image.used_at):
        if excess_b <= 0:
            break
        if image.may_leave:
            leaving.append(image.image_id)
            excess_b -= image.allocated_b
    return leaving
