"""Builds the object store and the images in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.base.units import MIB
from wrenn.control.images import HostImages, Images, ImageSweep
from wrenn.control.objects import ObjectStore, UrlSigner
from wrenn.control.sandboxes import images_in_use as sandboxes_of_images
from wrenn.control.templates import images_in_use as templates_of_images
from wrenn.control.templates import snapshot_mb_left

from .auth import AuthParts
from .base import Base

_LARGEST_FACTOR: Final = 4


@dataclass(frozen=True, slots=True)
class ImageParts:
    """The object store and the images in it."""

    objects: ObjectStore
    url_signer: UrlSigner
    images: Images
    host_images: HostImages
    sweep: ImageSweep


def build_images(base: Base, auth: AuthParts) -> ImageParts:
    """Build the object store, what hosts fetch from it, and its collection of garbage."""
    settings, database = base.settings, base.database
    url_signer = UrlSigner(auth.secret, base.clock)
    objects = ObjectStore(settings.store, url_signer)
    return ImageParts(
        objects=objects,
        url_signer=url_signer,
        images=Images(
            database=database,
            owner=base.owner,
            lease_s=settings.lease_s,
            key_id=settings.store.keys.current,
        ),
        host_images=HostImages(
            database=database,
            objects=objects,
            tokens=auth.tokens,
            clock=base.clock,
            # A saved state has layers, the memory and the base; a chunk that is sent again counts twice.
            granted_limit_b=_LARGEST_FACTOR * (settings.max_disk_mb + settings.max_memory_mb) * MIB,
            left_mb=lambda team_id: database.transaction(
                lambda tx: snapshot_mb_left(tx, team_id, settings.quotas)
            ),
        ),
        sweep=ImageSweep(
            database=base.loops_database,
            clients=base.clients,
            objects=objects,
            clock=base.clock,
            find_users=(templates_of_images, sandboxes_of_images),
            interval_s=settings.host_interval_s,
            unknown_grace_s=settings.unknown_grace_s,
        ),
    )
