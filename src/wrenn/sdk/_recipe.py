"""What a template is built from: the part of the builder that both clients share, without any call."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, cast

from wrenn.base.errors import InvalidRequest
from wrenn.sdk._image_archive import packed_image
from wrenn.sdk.errors import InvalidRequestError

if TYPE_CHECKING:
    from wrenn.recipe import Recipe

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A build as it is sent: the fields of the call, and the folder of the files that it copies, or the file or folder of its base, if any."""

    config: dict[str, object]
    folder: Path | None
    dockerfile: Path | None
    notes: tuple[str, ...]
    image: Path | None = None

    @property
    def has_archive(self) -> bool:
        """Whether files are sent with it."""
        return self.folder is not None or self.image is not None

    def pack(self) -> BinaryIO:
        """Return a temporary file with the build context or the base, at its beginning.

        Raises:
            InvalidRequestError: the files exceed a limit, or `.dockerignore` is not valid.
            OSError: a file cannot be read.
        """
        from wrenn.recipe.context import pack_context, read_ignore_rules  # noqa: PLC0415 - slow, and only for builds

        if self.image is not None:
            return packed_image(self.image)
        assert self.folder is not None, "asked for without a folder"
        out = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
        try:
            pack_context(self.folder, out, read_ignore_rules(self.folder, self.dockerfile))
        except InvalidRequest as error:
            out.close()
            raise InvalidRequestError(error.message) from error
        except BaseException:
            out.close()
            raise
        out.seek(0)
        return out


class RecipeBuilder:
    """Collects the instructions of a template. Each method adds one and returns the builder.

    `context` is the local folder of the files that `copy` copies; its `.dockerignore` is respected.
    """

    def __init__(self, *, context: PathLike | None = None) -> None:
        self._context = None if context is None else Path(context)
        self._from: str | None = None
        self._lines: list[str] = []
        self._ready: str | None = None
        self._dockerfile: Path | None = None
        self._image: Path | None = None
        self._build_args: dict[str, str] = {}
        self._target: str | None = None

    @classmethod
    def from_dockerfile(
        cls,
        path: PathLike,
        *,
        context: PathLike | None = None,
        build_args: Mapping[str, str] | None = None,
        target: str | None = None,
    ) -> Self:
        """Return a builder for a Dockerfile, or for the `Dockerfile` of a folder. No instructions can be added to it.

        `context` is the folder of the files that it copies, by default its own. `target` is the stage that becomes the template, by
        name or number; by default the last one.
        """
        file = Path(path)
        if file.is_dir():
            file /= "Dockerfile"
        builder = cls(context=file.parent if context is None else context)
        builder._dockerfile = file
        builder._build_args = dict(build_args or {})
        builder._target = target
        return builder

    def from_image(self, reference: str) -> Self:
        """Begin with a container image of a registry: `debian:12`, `ghcr.io/owner/image@sha256:…`."""
        return self._begin(f"docker://{reference.removeprefix('docker://')}")

    def from_archive(self, path: PathLike, *, kind: Literal["oci", "docker"]) -> Self:
        """Begin with a container image in a local file: of `docker save`, or an OCI layout, as a folder or a tar file. At most 100 MiB.

        Such a template copies no files.
        """
        self._image = Path(path)
        return self._begin(f"{kind}-archive:")

    def from_template(self, name: str) -> Self:
        """Begin with a template, `NAME` or `NAME:TAG`. Without any `from_…` it is `minimal`."""
        return self._begin(f"template://{name}")

    def run(self, command: str, *, timeout_s: float | None = None) -> Self:
        """Run a shell command; an exit code other than 0 fails the build. The default for `timeout_s` is 30 s."""
        return self._add("RUN", command if timeout_s is None else f"--timeout={timeout_s:f}s {command}")

    def env(self, values: Mapping[str, str]) -> Self:
        """Set environment variables for later steps and for the template's sandboxes. Values are taken as they are.

        Raises:
            InvalidRequestError: a value ends with white space, which the platform would remove.
        """
        for name, value in values.items():
            if value != value.rstrip():
                raise InvalidRequestError(f"The value of {name} ends with white space.")
            self._add("ENV", f"{name}={value.replace('$', '$$')}", strip=False)
        return self

    def workdir(self, path: str) -> Self:
        """Set the working directory for later steps and for the template's sandboxes. It is created if missing."""
        return self._add("WORKDIR", path.replace("$", "$$"))

    def user(self, name: str) -> Self:
        """Set the user for later steps and for the template's sandboxes. It is created if missing."""
        return self._add("USER", name)

    def copy(self, *sources: str, to: str) -> Self:
        """Copy files or folders of the context, which may be patterns, to a path in the template. They belong to the current user.

        The content of a folder is copied. With several sources, `to` is a folder.

        Raises:
            InvalidRequestError: no source, or a path with white space.
        """
        if not sources or any(not path or path.split() != [path] for path in (*sources, to)):
            raise InvalidRequestError("copy() needs a source, and paths without white space.")
        return self._add("COPY", " ".join((*sources, to)))

    def start(self, command: str) -> Self:
        """Start a shell command in the background at the end of the build. The template's sandboxes have it running."""
        return self._add("START", command)

    def ready(
        self,
        command: str,
        *,
        interval_s: float = 3.0,
        timeout_s: float = 10.0,
        start_period_s: float = 0.0,
        retries: int = 0,
    ) -> Self:
        """Finish the build when this shell command exits with 0. With `retries` above 0 the build fails after so many failures."""
        return self.ready_check(
            f"--interval={interval_s:f}s --timeout={timeout_s:f}s --start-period={start_period_s:f}s "
            f"--retries={retries} {command}"
        )

    def ready_check(self, text: str) -> Self:
        """Finish the build when a check passes, in the form `[--interval=3s] [--retries=0] … COMMAND`; see `ready`."""
        self._ready = text
        return self

    def notes(self) -> tuple[str, ...]:
        """Return what the author should know and what does not fail the build, such as an instruction without effect.

        Raises:
            InvalidRequestError: the recipe is not valid.
        """
        return self._request("notes").notes

    def _begin(self, reference: str) -> Self:
        self._check_open()
        if self._from is not None:
            raise InvalidRequestError("A template has one base: call from_image() or from_template() once.")
        self._from = reference
        return self

    def _add(self, keyword: str, rest: str, *, strip: bool = True) -> Self:
        self._check_open()
        self._lines.append(f"{keyword} {rest.strip() if strip else rest}")
        return self

    def _check_open(self) -> None:
        if self._dockerfile is not None:
            raise InvalidRequestError("A template of a Dockerfile has its instructions in the Dockerfile.")

    def _request(self, name: str, **options: object) -> BuildRequest:
        """Check everything that can be checked without the platform, and return what is sent.

        Raises:
            InvalidRequestError: with the number of the line, or of the instruction.
        """
        from wrenn.recipe import end_at_stage, parse_dockerfile, parse_lines, parse_ready_check  # noqa: PLC0415 - as above

        config: dict[str, object] = {"name": name}
        try:
            if self._dockerfile is None:
                lines = [f"FROM {self._from}", *self._lines] if self._from is not None else self._lines
                recipe: Recipe = parse_lines(lines)
                config["recipe"] = lines
            else:
                text = self._dockerfile.read_bytes().decode(errors="replace")
                config |= {"dockerfile": text, "build_args": self._build_args}
                if self._target is not None:
                    config["target"] = self._target
                    text = end_at_stage(text, self._target, build_args=self._build_args)
                recipe = parse_dockerfile(text, build_args=self._build_args)
            if self._ready is not None:
                parse_ready_check(self._ready)
                config["healthcheck"] = self._ready
        except InvalidRequest as error:
            raise InvalidRequestError(error.message) from error
        config |= {key: value for key, value in options.items() if value is not None}
        folder = self._context
        if recipe.needs_context and self._image is not None:
            raise InvalidRequestError("A template from an archive copies no files.")
        if recipe.needs_context and folder is None:
            raise InvalidRequestError("The template copies files: pass context=FOLDER.")
        return BuildRequest(
            config,
            folder if recipe.needs_context else None,
            self._dockerfile,
            tuple(str(note) for note in recipe.notes),
            self._image,
        )
