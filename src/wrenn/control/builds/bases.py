"""The base of a build: a template, or an image that a host makes of a container image."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Final

from wrenn.base.errors import NotFound, WrennError
from wrenn.base.ids import HostId, ImageId
from wrenn.control.builds import login_store
from wrenn.control.builds.keys import Shape
from wrenn.control.builds.layer_store import Layer
from wrenn.control.builds.make_image import make_image
from wrenn.control.builds.records import Build
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import (
    ContainerSource,
    HostClient,
    HostContainerConfig,
    HostImage,
    HostNetworkPolicy,
)
from wrenn.control.images import URL_LIFE_S, Images, owner_name
from wrenn.control.objects import ObjectStore, name_of
from wrenn.control.registries import ImageLogin, RegistryCredentials
from wrenn.control.sandboxes import InternalSandboxes
from wrenn.control.templates import (
    Defaults,
    Reference,
    Template,
    TemplateType,
    built_content,
    find_template,
)
from wrenn.protocol.vm_platform import UNKNOWN_PLATFORM
from wrenn.recipe import BaseConfig, BaseKind, From
from wrenn.recipe.cache_key import base_key

_VERSION = version("wrenn")
_REPORT_TIMEOUT_S: Final = 5.0
_EVERYWHERE = HostNetworkPolicy(allow_internet=True, allow=(), deny=(), revision=1)
"""As far as hosts permit it: neither private networks nor the host itself."""


@dataclass(frozen=True, slots=True)
class ImportedImage:
    """An image that a host has made of a container image, and that is not in the store. `made_by`: what it made it of."""

    image_id: ImageId
    host_id: HostId
    host: HostClient
    made_by: ContainerSource


@dataclass(frozen=True, slots=True)
class HostBuilt:
    """A template that hosts built themselves, as hosts with this release of the product and this content have it."""

    image: str
    release: str
    content: str

    async def is_on(self, host: HostClient) -> bool:
        """Whether the host has it so now; one that does not say so has not."""
        try:
            report = await host.report(timeout_s=_REPORT_TIMEOUT_S)
        except WrennError:
            return False
        return (
            report.agent_version == self.release
            and report.template_contents.get(self.image, "") == self.content
        )


@dataclass(frozen=True, slots=True)
class Base:
    """What a build begins with. `key`: identifies its disk, for the layer cache."""

    key: str
    template: Template
    config: BaseConfig
    release: Callable[[], Awaitable[None]]
    """Call it once a sandbox of the template runs. May be repeated."""
    built_by_hosts: HostBuilt | None = None
    """Whose disk the key identifies, if hosts built it themselves; None: it is the same on all."""
    imported: ImportedImage | None = None
    """None: it is a template."""

    def of_layer(self, layer: Layer, shape: Shape) -> Template:
        """Return the base as sandboxes are made from it that have some steps behind them already."""
        return replace(
            self.template,
            template_id=layer.snapshot_id.value,
            type=TemplateType.SNAPSHOT,
            image=layer.image,
            image_id=ImageId.find(layer.image),
            host_id=layer.host_id,
            vcpus=shape.vcpus,
            memory_mb=shape.memory_mb,
            disk_size_mb=shape.disk_size_mb,
            vm_platform=layer.vm_platform,
            stored_image_id=None,
            copies=frozenset(),
            is_layer=True,
        )


@dataclass(frozen=True, slots=True)
class BuildBases:
    """Finds or makes the bases of builds.

    `insecure_registries`: `HOST` or `HOST:PORT` of those that are reached by plain HTTP.
    """

    database: Database
    sandboxes: InternalSandboxes
    images: Images
    objects: ObjectStore
    insecure_registries: frozenset[str]
    credentials: RegistryCredentials

    @asynccontextmanager
    async def opened(self, build: Build, base: From) -> AsyncGenerator[Base]:
        """Provide the base for as long as the context lasts.

        Raises:
            NotFound: no such template, or no such container image. InvalidRequest.
        """
        if base.kind is BaseKind.TEMPLATE:
            yield await self._template(build, base)
            return
        host_id, host = await self.sandboxes.choose_host(
            build.team_id, vcpus=build.vcpus, memory_mb=build.memory_mb, disk_size_mb=build.disk_size_mb
        )
        image_id = await self.database.transaction(
            lambda tx: self.images.begin(tx, build.owner, host_id, is_uploaded=False)
        )
        with self.images.renewing_lease(image_id):
            try:
                source = await self._source(build, base)
                made = await make_image(host, image_id, source, upload=False)
                release = partial(self.images.give_up, image_id)
                # Without a digest nothing says that the next one is the same. Nothing is always the same.
                digest = base.reference if base.is_empty else made.reference.partition("@")[2]
                key = base_key(base, digest or str(image_id))
                imported = ImportedImage(image_id, host_id, host, source)
                template = _unnamed(build, image_id, host_id, made)
                yield Base(key, template, _config(made), release, imported=imported)
            finally:
                # Unless it was published, the result of the build is an image of its own.
                await asyncio.shield(self.images.give_up(image_id))

    async def _source(self, build: Build, base: From) -> ContainerSource:
        scope = owner_name(build.owner)
        if base.kind is BaseKind.ARCHIVE:
            assert build.archive_key is not None, "the service looked"
            (url,) = await self.objects.sign("GET", [build.archive_key], expires_s=URL_LIFE_S)
            return ContainerSource(
                base.reference,
                build.disk_size_mb,
                _EVERYWHERE,
                scope,
                archive_url=url,
                archive_name=name_of(build.archive_key),
                archive_keys=self.objects.keys.all_of(scope),
            )
        if base.is_empty:
            return ContainerSource(base.reference, build.disk_size_mb, _EVERYWHERE, scope)
        login = await self._login(build, base)
        username, password = ("", "") if login is None else (login.username, login.password.reveal())
        return ContainerSource(
            base.reference,
            build.disk_size_mb,
            _EVERYWHERE,
            scope,
            username,
            password,
            is_insecure=base.reference.partition("/")[0] in self.insecure_registries,
        )

    async def _login(self, build: Build, base: From) -> ImageLogin | None:
        sealed = await login_store.of_build(self.database, build.build_id)
        if sealed is not None:
            login = self.credentials.open_for_build(sealed, build.team_id, build.build_id, base.reference)
            if login is not None:
                return login
        return await self.credentials.for_image(build.team_id, base.reference)

    async def _template(self, build: Build, base: From) -> Base:
        where = f"line {base.line}: " if base.line else ""
        reference = Reference.parse(base.reference, field=f"{where}base")

        async def read(tx: Transaction) -> tuple[Template | None, str]:
            found = await find_template(tx, build.team_id, reference)
            if found is None or found.image_id is not None:
                return found, ""
            return found, await built_content(tx, build.team_id, found.image)

        template, content = await self.database.transaction(read)
        if template is None:
            raise NotFound(f"{where}there is no template named {reference}.")
        defaults = template.defaults
        config = BaseConfig(
            environment=dict(defaults.env),
            user=defaults.user or None,
            workdir=defaults.working_dir or None,
            labels=dict(template.labels),
        )
        built = None if template.image_id else HostBuilt(template.image, _VERSION, content)
        return Base(base_key(base, _identity(template, built)), template, config, _nothing, built)


def _identity(template: Template, built: HostBuilt | None) -> str:
    """Return what identifies the disk of a template and the variables of programs in its sandboxes."""
    if built is not None:
        # Hosts build it anew for each release of the product, and with newer packages when they are told to, under the same id.
        return " ".join(filter(None, (str(template.template_id), built.release, built.content)))
    if template.type is TemplateType.SNAPSHOT:
        return str(template.template_id)
    # A build that finds all its steps makes another version of the same image.
    return f"{template.image_id} {json.dumps(asdict(template.defaults), sort_keys=True)}"


async def _nothing() -> None:
    """Release a template, which stays."""


def _unnamed(build: Build, image_id: ImageId, host_id: HostId, made: HostImage) -> Template:
    """Return a template without a name for an image that only this host has."""
    return Template(
        template_id=image_id.value,
        team_id=build.team_id,
        name=build.name,
        type=TemplateType.BASE,
        tags=(),
        image=str(image_id),
        image_id=image_id,
        host_id=host_id,
        vcpus=build.vcpus,
        memory_mb=build.memory_mb,
        disk_size_mb=made.disk_size_mb,
        vm_platform=UNKNOWN_PLATFORM,
        size_bytes=made.size_b,
        defaults=Defaults(),
        labels={},
        build_id=build.build_id,
        created_by=None,
        created_at=datetime.now(UTC),
    )


def _config(made: HostImage) -> BaseConfig:
    said = made.config or HostContainerConfig()
    pairs = (variable.partition("=") for variable in said.environment)
    return BaseConfig(
        environment={name: value for name, _, value in pairs if name},
        user=said.user or None,
        workdir=said.working_dir or None,
        entrypoint=tuple(said.entrypoint),
        labels=dict(said.labels),
        exposed_ports=tuple(said.exposed_ports),
    )
