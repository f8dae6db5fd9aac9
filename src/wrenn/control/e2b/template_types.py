"""Messages about templates and their builds, in the names of the e2b API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt
from pydantic.alias_generators import to_camel

from wrenn.control.e2b.bodies import E2bBody
from wrenn.control.http import nul_free_text
from wrenn.control.registries import Password, Username

STEPS_LIMIT: Final = 300
TAGS_LIMIT: Final = 32
_ARGUMENTS_LIMIT: Final = 256
_TEXT_LIMIT: Final = 48 * 1024
_NAME_LIMIT: Final = 200

_Text = Annotated[str, Field(max_length=_TEXT_LIMIT), AfterValidator(nul_free_text)]
_Name = Annotated[str, Field(max_length=_NAME_LIMIT), AfterValidator(nul_free_text)]
_Tags = Annotated[list[_Name], Field(max_length=TAGS_LIMIT)]


class NewTemplateBuild(E2bBody):
    """What to build: only names and size. Files and steps follow in requests of their own."""

    name: _Name | None = Field(default=None, description="`name` or `name:tag`")
    alias: _Name | None = Field(default=None, description="Former name of `name`")
    tags: _Tags = Field(
        default_factory=list[str],
        description="All tags that the version gets; none: that of `name`, or `default`",
    )
    cpu_count: StrictInt | None = None
    memory_mb: StrictInt | None = Field(default=None, alias="memoryMB")
    min_free_disk_mb: StrictInt | None = Field(default=None, alias="minFreeDiskMb")


class BuilderStep(E2bBody):
    """A step of a build."""

    type: str = Field(max_length=_NAME_LIMIT, description="`COPY`, `RUN`, `ENV`, `WORKDIR` or `USER`")
    args: list[_Text] = Field(default_factory=list[str], max_length=_ARGUMENTS_LIMIT)
    files_hash: str | None = Field(
        default=None, max_length=_NAME_LIMIT, description="Of COPY: what was uploaded"
    )
    force: StrictBool = False


class RegistryLogin(E2bBody):
    """How the registry of `fromImage` is logged in to, for this build alone. The password is kept encrypted until the build ends."""

    type: str = Field(max_length=_NAME_LIMIT, description="`registry` or `gcp`; `aws` is not supported")
    username: Username | None = None
    password: Password | None = None
    service_account_json: Password | None = Field(
        default=None, description="Of `gcp`: the key of a service account"
    )


class BuildStart(E2bBody):
    """The steps of a build."""

    from_image: _Text | None = Field(default=None, description="Reference of a container image")
    from_template: _Text | None = Field(default=None, description="Name of a template")
    from_image_registry: RegistryLogin | None = None
    force: StrictBool = Field(default=False, description="Run every step, whatever is kept of earlier builds")
    steps: list[BuilderStep] = Field(default_factory=list[BuilderStep], max_length=STEPS_LIMIT)
    start_cmd: _Text | None = Field(
        default=None, description="Runs in the template's sandboxes from the beginning"
    )
    ready_cmd: _Text | None = Field(default=None, description="When it exits with 0, the template is ready")


class TagsToAssign(E2bBody):
    """Tags that a version gets."""

    target: _Name = Field(description="`name:tag`: the version")
    tags: Annotated[list[_Name], Field(min_length=1, max_length=TAGS_LIMIT)]


class TagsToRemove(E2bBody):
    """Tags that a template loses."""

    name: _Name
    tags: Annotated[list[_Name], Field(min_length=1, max_length=TAGS_LIMIT)]


class _View(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class TemplateBuildView(_View):
    """A build that was announced."""

    template_id: str = Field(alias="templateID")
    build_id: UUID = Field(alias="buildID")
    public: bool
    names: list[str]
    tags: list[str]
    aliases: list[str]


class FileUploadView(_View):
    """Whether the files of a COPY are here, and where they go."""

    present: bool
    url: str | None = Field(default=None, description="For one PUT of a tar archive; needs no key")


class BuildLogEntryView(_View):
    """A part of a build's log."""

    timestamp: datetime
    message: str
    level: Literal["debug", "info", "warn", "error"]
    step: str | None = None


class BuildReasonView(_View):
    """Why a build failed."""

    message: str
    step: str | None = Field(
        default=None, description="Number of the step, counted from 1; `base` or `finalize`"
    )
    log_entries: list[BuildLogEntryView] = Field(default_factory=list[BuildLogEntryView])


class BuildStatusView(_View):
    """A build, and a page of its log."""

    template_id: str = Field(alias="templateID")
    build_id: UUID = Field(alias="buildID")
    status: Literal["waiting", "building", "ready", "error"]
    logs: list[str] = Field(description="The messages of `logEntries`")
    log_entries: list[BuildLogEntryView]
    reason: BuildReasonView | None = None


class TemplateChange(E2bBody):
    """What to change of a template."""

    public: StrictBool | None = Field(default=None, description="Only false is supported")


class TemplateNamesView(_View):
    """The names of a template."""

    names: list[str]


class TemplateVersionView(_View):
    """A version of a template, as a build of it."""

    build_id: UUID = Field(alias="buildID")
    status: Literal["waiting", "building", "ready", "error"]
    created_at: datetime
    updated_at: datetime
    finished_at: datetime
    cpu_count: int
    memory_mb: int = Field(alias="memoryMB")
    disk_size_mb: int = Field(alias="diskSizeMB")
    envd_version: str


class TemplateView(_View):
    """A template that the team has built. Uses of it are not counted."""

    template_id: str = Field(alias="templateID")
    build_id: UUID = Field(alias="buildID")
    cpu_count: int
    memory_mb: int = Field(alias="memoryMB")
    disk_size_mb: int = Field(alias="diskSizeMB")
    public: bool
    aliases: list[str]
    names: list[str]
    created_at: datetime
    updated_at: datetime
    created_by: dict[str, str] | None
    last_spawned_at: datetime | None
    spawn_count: int
    build_count: int
    envd_version: str
    build_status: Literal["waiting", "building", "ready", "error"]


class TemplateWithBuildsView(TemplateView):
    """The same with its versions."""

    builds: list[TemplateVersionView]


class AliasView(_View):
    """A template that has this name."""

    template_id: str = Field(alias="templateID")
    public: bool


class AssignedTagsView(_View):
    """Tags that a version got."""

    tags: list[str]
    build_id: UUID = Field(alias="buildID")


class TagView(_View):
    """A tag of a template."""

    tag: str
    build_id: UUID = Field(alias="buildID")
    created_at: datetime
