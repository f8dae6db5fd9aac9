"""Templates and their builds as the e2b API has them, over the platform's builds and templates.

A build comes in several requests: it is announced with its name, files are uploaded, and then the steps come. `templateID` is the
template's name, which is a reference to it everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from wrenn.base.errors import Conflict, InvalidRequest, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import BuildId
from wrenn.control.auth import Caller
from wrenn.control.builds import Build, Builds, CreateBuild, LogEntry
from wrenn.control.db import Database, Transaction
from wrenn.control.e2b import announced_store
from wrenn.control.e2b.announced_store import AnnouncedBuild
from wrenn.control.e2b.bodies import own_request
from wrenn.control.e2b.builder_files import BuilderFiles
from wrenn.control.e2b.builder_steps import DEFAULT_USER, BuilderRecipe, builder_recipe
from wrenn.control.e2b.registry_logins import image_login
from wrenn.control.e2b.template_lookup import TemplateLookup
from wrenn.control.e2b.template_names import BASE_TEMPLATE, DEFAULT_TAG, client_tag, own_reference, own_tag
from wrenn.control.e2b.template_types import BuildStart, NewTemplateBuild
from wrenn.control.identity import lock_active_team
from wrenn.control.templates import Reference, Template, Templates, TemplateType
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB, DEFAULT_MEMORY_MB, DEFAULT_VCPUS

LOG_PAGE: Final = 100
_WAITING_LIMIT: Final = 100
"""Builds of a team whose steps have not come."""
_STARTED_LIMIT: Final = 200
"""Announced builds of a team that are kept once they were started: more than the platform keeps builds of a team."""
_COMMAND_LIMIT: Final = 1_000
"""Characters of a command that are kept for messages."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_BASE_IMAGE: Final = re.compile(r"(docker\.io/)?e2bdev/base(:latest)?")
"""The container image of the clients' default template: here that template itself."""


class TooManyAnnouncedBuilds(Conflict):
    """The team has announced too many builds without sending their steps."""

    code = "too_many_builds"


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """A build with a page of its log. `build` and `entries` are absent until its steps have come, and when it is not kept any more."""

    announced: AnnouncedBuild
    build: Build | None
    entries: Sequence[LogEntry]


class E2bTemplates:
    """Builds, finds, tags and deletes templates for clients of the e2b API."""

    def __init__(
        self, *, database: Database, builds: Builds, templates: Templates, files: BuilderFiles
    ) -> None:
        self._database = database
        self._builds = builds
        self._templates = templates
        self._lookup = TemplateLookup(templates)
        self.files = files

    async def announce(self, caller: Caller, body: NewTemplateBuild) -> AnnouncedBuild:
        """Begin a build, whose steps are to follow.

        Raises:
            InvalidRequest: a name, tag or size is not valid. TooManyAnnouncedBuilds.
        """
        text = body.name or body.alias or ""
        name, colon, tag = text.partition(":")
        if _NAME.fullmatch(name) is None:
            raise InvalidRequest(
                "name: must be 1 to 64 lower-case letters, digits, '-' or '_', and begin with a letter or digit. "
                "Names of templates have no namespace here."
            )
        tags = [*([tag] if colon else []), *body.tags] or [DEFAULT_TAG]
        own_tags = list(dict.fromkeys(own_tag(each) for each in tags))
        vcpus, memory_mb = body.cpu_count or DEFAULT_VCPUS, body.memory_mb or DEFAULT_MEMORY_MB
        disk_size_mb = max(DEFAULT_DISK_SIZE_MB, body.min_free_disk_mb or 0)
        self._builds.check_size(vcpus=vcpus, memory_mb=memory_mb, disk_size_mb=disk_size_mb)

        async def insert(tx: Transaction) -> AnnouncedBuild:
            await lock_active_team(tx, caller.team_id)
            await announced_store.lock_team(tx, caller.team_id)
            await announced_store.delete_surplus(tx, caller.team_id, most=_STARTED_LIMIT)
            if await announced_store.count_waiting(tx, caller.team_id) >= _WAITING_LIMIT:
                raise TooManyAnnouncedBuilds(
                    f"The team has {_WAITING_LIMIT} builds whose steps have not come. They are forgotten after a day."
                )
            return await announced_store.insert_announced(
                tx,
                caller.team_id,
                name=name,
                tags=own_tags,
                vcpus=vcpus,
                memory_mb=memory_mb,
                disk_size_mb=disk_size_mb,
            )

        return await self._database.transaction(insert)

    async def start(self, caller: Caller, build_id: UUID, body: BuildStart) -> None:
        """Queue an announced build with its steps.

        Raises:
            NotFound: it was not announced. Conflict: its steps have come before. InvalidRequest: of a step, with its number.
            NotSupported: it needs what this platform does not have. Else as `Builds.create`.
        """
        announced = await self._announced(caller, build_id)
        if announced.step_numbers is not None:
            raise Conflict("The steps of this build have come before.")
        login = None if body.from_image_registry is None else image_login(body.from_image_registry)
        folders = await self._folders(caller, body)
        recipe = await self._recipe(caller, body, folders)
        request = own_request(
            CreateBuild,
            name=announced.name,
            recipe=recipe.lines,
            healthcheck=recipe.healthcheck,
            vcpus=announced.vcpus,
            memory_mb=announced.memory_mb,
            disk_size_mb=announced.disk_size_mb,
            skip_pre_post=True,
            no_cache=body.force or any(step.force for step in body.steps),
        )
        commands = [
            step.args[0][:_COMMAND_LIMIT] if step.type == "RUN" and step.args else "" for step in body.steps
        ]
        async with self.files.together(caller.team_id, folders) as archive:
            await fault_point("control.e2b.files_packed")
            await self._builds.create(
                caller,
                request,
                archive,
                build_id=announced.build_id,
                tags=announced.tags,
                login=login,
                # With the build or not at all: if this ends before, the client may send the steps again.
                also=lambda tx: announced_store.set_steps(tx, announced.build_id, recipe.numbers, commands),
            )

    async def progress(self, caller: Caller, build_id: UUID, *, offset: int) -> BuildProgress:
        """Return a build, and its log from an entry on. Raises NotFound."""
        announced = await self._announced(caller, build_id)
        if announced.step_numbers is None:
            return BuildProgress(announced, None, ())
        try:
            build, entries = await self._builds.log_page(
                caller, str(announced.build_id), offset=offset, limit=LOG_PAGE
            )
        except NotFound:
            # It ended long ago: the platform keeps a limited number of builds.
            return BuildProgress(announced, None, ())
        return BuildProgress(announced, build, entries)

    async def find_by_name(self, caller: Caller, text: str) -> str:
        """Return the id of the template that a name means. Raises NotFound."""
        name = own_reference(text)
        if await self._templates.is_built_by_hosts(caller, name):
            return name
        return (await self._templates.get(caller, name)).name

    async def assign_tags(self, caller: Caller, target: str, tags: Sequence[str]) -> UUID:
        """Let tags refer to a version, all or none; returns its id. Raises NotFound, InvalidRequest, Forbidden."""
        own_tags = list(dict.fromkeys(own_tag(tag) for tag in tags))
        template = await self._templates.get(caller, own_reference(target))
        await self._templates.set_tags(caller, str(template.template_id), own_tags)
        return version_id(template)

    async def remove_tags(self, caller: Caller, name: str, tags: Sequence[str]) -> None:
        """Remove tags from a template; a version without any is removed. Raises NotFound, InvalidRequest, Forbidden."""
        plain = own_reference(name)
        if ":" in plain:
            raise InvalidRequest("name: must be without a tag.")
        references = [f"{plain}:{own_tag(tag)}" for tag in tags]
        for reference in references:
            await self._templates.get(caller, reference)
        for reference in references:
            await self._templates.delete(caller, reference)

    async def tags(self, caller: Caller, text: str) -> list[tuple[str, Template]]:
        """Return the tags of a template with the versions that they refer to. Raises NotFound."""
        reference = Reference.parse(own_reference(text), field="template")
        name = reference.name
        if reference.template_id is not None:
            name = (await self._templates.get(caller, str(reference))).name
        found = [
            (client_tag(tag), version)
            for version in await self._templates.versions(caller, name)
            for tag in version.tags
        ]
        if not found:
            raise NotFound(f"There is no template named {name}.")
        return found

    async def list_built(self, caller: Caller) -> list[list[Template]]:
        """Return the versions of each template that the team has built, newest first, and the templates in the order of their newest versions."""
        found: dict[str, list[Template]] = {}
        for template in await self._templates.list(caller, "base"):
            if isinstance(template, Template) and not template.is_platform:
                found.setdefault(template.name, []).append(template)
        return list(found.values())

    async def built(self, caller: Caller, text: str) -> list[Template]:
        """Return the versions of one of them, newest first. Raises NotFound."""
        reference = Reference.parse(own_reference(text), field="template")
        name = reference.name
        if reference.template_id is not None:
            name = (await self._templates.get(caller, str(reference))).name
        versions = [
            version
            for version in await self._templates.versions(caller, name)
            if version.type is TemplateType.BASE and not version.is_platform
        ]
        if not versions:
            raise NotFound(f"The team has built no template named {name}.")
        return versions

    async def delete(self, caller: Caller, text: str) -> None:
        """Delete a template with all versions, or the version that `name:tag` or an id means. Raises NotFound, Forbidden."""
        await self._templates.delete(caller, own_reference(text))

    async def _announced(self, caller: Caller, build_id: UUID) -> AnnouncedBuild:
        found = await announced_store.get(self._database, caller.team_id, BuildId(build_id))
        if found is None:
            raise NotFound(f"There is no build {build_id}.")
        return found

    async def _folders(self, caller: Caller, body: BuildStart) -> dict[str, str]:
        """Return the folder in the build's archive for each hash of its COPY steps whose files are here."""
        hashes = dict.fromkeys(
            step.files_hash for step in body.steps if step.type == "COPY" and step.files_hash is not None
        )
        present = [each for each in hashes if await self.files.use(caller.team_id, each)]
        return {files_hash: str(number) for number, files_hash in enumerate(present)}

    async def _recipe(self, caller: Caller, body: BuildStart, folders: dict[str, str]) -> BuilderRecipe:
        base, user, sets_user = await self._base(caller, body)
        return builder_recipe(
            base,
            body.steps,
            folders,
            user=user,
            sets_user=sets_user,
            start=body.start_cmd or "",
            ready=body.ready_cmd or "",
        )

    async def _base(self, caller: Caller, body: BuildStart) -> tuple[str, str, bool]:
        """Return the reference of the base, the user of the first steps, and whether that user is to be set."""
        if bool(body.from_image) == bool(body.from_template):
            raise InvalidRequest("Give either fromImage or fromTemplate.")
        if body.from_image and _BASE_IMAGE.fullmatch(body.from_image) is None:
            return f"docker://{body.from_image}", DEFAULT_USER, True
        reference = await self._lookup.reference(caller, body.from_template or BASE_TEMPLATE)
        name = reference.partition(":")[0]
        if await self._templates.is_built_by_hosts(caller, name):
            return f"template://{name}", DEFAULT_USER, True
        found = await self._templates.get(caller, reference)
        user = found.defaults.user
        return f"template://{reference}", user or DEFAULT_USER, not user


def version_id(template: Template) -> UUID:
    """Return what clients know a version by: the build that made it, if one did."""
    return template.build_id.value if template.build_id else template.template_id
