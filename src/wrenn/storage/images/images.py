"""The built images of a data folder and their digests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.ids import ImageId
from wrenn.storage.images.image_folder import ImageFolder
from wrenn.storage.images.initramfs import load_initramfs
from wrenn.storage.images.kernel import load_kernel
from wrenn.storage.images.service import Service
from wrenn.storage.images.template import Template, content_of, load_template

KERNELS: Final = "kernels"
INITRAMFS: Final = "initramfs"
TEMPLATES: Final = "templates"
"""Folders below the data folder; each may be a symbolic link to another installation's."""


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a VM boots from besides its disk, see `Images`."""

    kernel: Path
    initramfs: Path


@dataclass(frozen=True, slots=True)
class Images:
    """Everything that a VM boots from. The digests decide whether a base is still current.

    Attributes:
        kernel: unpacked ELF kernel.
        initramfs: archive with envd and the modules of this very kernel.
        rootfs: sparse ext4 image; never written after it was built.
        template_digest: of the content of `rootfs`; of an image that was built or imported, what identifies its content.
        recipe_digest: of the recipe and lock that the template was made from; empty for such an image.
        service: what runs in the template's sandboxes from the beginning, if anything does.
    """

    kernel: Path
    kernel_version: str
    kernel_digest: str
    initramfs: Path
    initramfs_digest: str
    envd_digest: str
    template: str
    rootfs: Path
    template_digest: str
    recipe_digest: str
    service: Service | None = None


def load_boot_files(data_dir: Path) -> BootFiles:
    """Return the kernel and initramfs in `data_dir`. Raises as `load_images`."""
    initramfs = load_initramfs(data_dir / INITRAMFS)
    kernel = load_kernel(data_dir / KERNELS, initramfs.kernel_version)
    return BootFiles(kernel.vmlinux, initramfs.path)


def built_templates(data_dir: Path) -> dict[str, str]:
    """Return the names of the templates in `data_dir`, sorted, each with the digest that `template.content_of` returns."""
    folder = data_dir / TEMPLATES
    names = sorted(manifest.parent.name for manifest in folder.glob("*/manifest.json"))
    return {name: content_of(folder, name) for name in names}


def load_images(data_dir: Path, template: str = "minimal", *, images: ImageFolder | None = None) -> Images:
    """Return the images in `data_dir` after checking the size of each file. If `template` is an image's id, it is one of `images`.

    Raises:
        NotFound: something is not built; the message says how to build it.
        InvalidState: something is damaged or of another version; the message says how to build it.
    """
    initramfs = load_initramfs(data_dir / INITRAMFS)
    kernel = load_kernel(data_dir / KERNELS, initramfs.kernel_version)
    image_id = ImageId.find(template)
    if images is not None and image_id is not None:
        image = images.find(image_id)
        # Never made of a recipe of this host, so it has no recipe's digest.
        built = Template(template, image.rootfs, image.facts.content, "")
    else:
        built = load_template(data_dir / TEMPLATES, template)
    return Images(
        kernel=kernel.vmlinux,
        kernel_version=kernel.version,
        kernel_digest=kernel.digest,
        initramfs=initramfs.path,
        initramfs_digest=initramfs.digest,
        envd_digest=initramfs.envd_digest,
        template=built.name,
        rootfs=built.rootfs,
        template_digest=built.digest,
        recipe_digest=built.source_digest,
        service=built.service,
    )
