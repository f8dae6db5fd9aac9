"""Kernel, initramfs and templates: built with the machine's apt, named by digest, published atomically.

`build.ensure_images` decides what is missing; `kernel`, `initramfs` and `template` each build one part; `manifest` has
the rules of how a part comes into place; `images.load_images` reads what is there.

Root file systems that builds and imports made are in a folder of their own: `image_folder`.
"""

from wrenn.storage.images.build import (
    abandoned_scratch,
    ensure_images,
    lock_packages,
    missing_build_packages,
    remove_abandoned_scratch,
)
from wrenn.storage.images.container_config import ContainerConfig
from wrenn.storage.images.image_folder import ROOTFS, ImageFacts, ImageFolder, LocalImage
from wrenn.storage.images.images import Images, built_templates, load_boot_files, load_images
from wrenn.storage.images.service import Service

__all__ = [
    "ROOTFS",
    "ContainerConfig",
    "ImageFacts",
    "ImageFolder",
    "Images",
    "LocalImage",
    "Service",
    "abandoned_scratch",
    "built_templates",
    "ensure_images",
    "load_boot_files",
    "load_images",
    "lock_packages",
    "missing_build_packages",
    "remove_abandoned_scratch",
]
