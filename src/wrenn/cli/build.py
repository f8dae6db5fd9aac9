"""`wrenn build` and `wrenn builds`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from wrenn.cli.build_display import BuildDisplay
from wrenn.cli.exits import Exit
from wrenn.cli.output import JsonOption, age, print_json, print_table, printable
from wrenn.cli.sandboxes import variables
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.cli.credentials import ProfileSession
    from wrenn.sdk.types import Build

app = typer.Typer(help="Builds of templates.", no_args_is_help=True, rich_markup_mode=None)

BuildIdArgument = Annotated[str, typer.Argument(metavar="BUILD", help="Id of the build.")]

PlatformOption = Annotated[
    bool,
    typer.Option(
        "--platform",
        help="Of the platform instead of the team: for its admins, with the session of `wrenn login`.",
    ),
]

_LOCAL_IMAGES: Final = ("oci", "oci-archive", "docker-archive")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")


def build(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder with a Dockerfile, or a Dockerfile.", exists=True)
    ],
    *,
    name: Annotated[
        str | None,
        typer.Option(
            "--tag", "-t", metavar="NAME[:TAG]", help="Name of the template. [default: the folder's]"
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="The Dockerfile; PATH is then the folder of the files that it copies.",
            exists=True,
        ),
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option("--build-arg", metavar="NAME=VALUE", help="A value for an ARG. Repeatable."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Build this stage of the Dockerfile. [default: the last one]"),
    ] = None,
    vcpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs of the build, and of a template with memory.")
    ] = None,
    memory_mb: Annotated[int | None, typer.Option(min=1, help="Memory in MB, likewise.")] = None,
    disk_size_mb: Annotated[int | None, typer.Option(min=1, help="Size of the disk in MB.")] = None,
    ready: Annotated[
        str | None,
        typer.Option(
            metavar="CHECK",
            help="Finish when this command exits with 0: [--interval=3s] [--retries=0] COMMAND.",
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step again.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the build's id and do not wait.")
    ] = False,
    platform: PlatformOption = False,
    json: JsonOption = False,
) -> None:
    """Build a template from a Dockerfile.

    The Dockerfile is checked first, and an error names its line. Progress goes to standard error; the template's name is
    printed at the end. Ctrl-C cancels the build. `wrenn create --template NAME` starts from the result.
    """
    from wrenn.sdk import InvalidRequestError, Template

    admin = _admin(platform=platform)
    template_name, tag = _name_and_tag(name, path)
    builder = Template.from_dockerfile(
        file or path,
        context=path if path.is_dir() else path.parent,
        build_args=variables(build_arg, option="--build-arg"),
        target=target,
    )
    if ready is not None:
        builder.ready_check(ready)
    try:
        started = builder.start_build(
            template_name,
            tag=tag,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_size_mb=disk_size_mb,
            no_cache=no_cache,
            admin=admin,
        )
    except FileNotFoundError as error:
        raise InvalidRequestError(f"There is no {error.filename}.") from error
    if detach:
        if json:
            print_json(started)
        else:
            sys.stdout.write(f"{started.id}\n")
        return
    ended = _follow(started.id, admin, notes=builder.notes())
    _report(ended, json=json)


def import_image(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="Of a registry: NAME:TAG, NAME@sha256:…, or with docker:// before. Local: oci:DIR, oci-archive:FILE, docker-archive:FILE.",
        ),
    ],
    *,
    name: Annotated[str, typer.Option("--tag", "-t", metavar="NAME[:TAG]", help="Name of the template.")],
    disk_size_mb: Annotated[int | None, typer.Option(min=1, help="Size of the disk in MB.")] = None,
    platform: PlatformOption = False,
    json: JsonOption = False,
) -> None:
    """Make a template of a container image.

    The image's environment, user and working directory are those of the template; its program is not started. A
    registry must be reachable from the host; a local image, such as one of `docker save`, is uploaded, and may have 100 MiB. Progress goes to standard error; the template's name is printed at the end.
    """
    from wrenn.sdk import Template

    admin = _admin(platform=platform)
    template_name, tag = _parse_name(name)
    prefix, colon, path = image.partition(":")
    if colon and prefix in _LOCAL_IMAGES:
        if not Path(path).exists():
            raise typer.BadParameter(f"{path} does not exist.", param_hint="IMAGE")
        builder = Template().from_archive(path, kind="docker" if prefix == "docker-archive" else "oci")
    else:
        builder = Template().from_image(image.removeprefix("docker://"))
    started = builder.start_build(template_name, tag=tag, disk_size_mb=disk_size_mb, admin=admin)
    _report(_follow(started.id, admin, notes=builder.notes()), json=json)


@app.command("list")
def list_(*, platform: PlatformOption = False, json: JsonOption = False) -> None:
    """List the builds, newest first."""
    from wrenn.sdk import Template

    found = Template.builds(admin=_admin(platform=platform))
    if json:
        print_json(found)
        return
    rows = [
        (
            one.id,
            one.template,
            one.status,
            f"{one.current_step}/{one.total_steps}",
            age(one.created_at),
            _took(one),
        )
        for one in found
    ]
    print_table(("BUILD", "TEMPLATE", "STATUS", "STEP", "AGE", "TIME"), rows)


@app.command("show")
def show(build_id: BuildIdArgument, *, platform: PlatformOption = False, json: JsonOption = False) -> None:
    """Show a build and how long its steps took."""
    from wrenn.sdk import Template

    admin = _admin(platform=platform)
    found = Template.get_build(build_id, admin=admin)
    steps = Template.build_log(build_id, admin=admin)
    if json:
        print_json({"build": found, "steps": steps})
        return
    facts = {
        "build": found.id,
        "template": found.template,
        "status": found.status,
        "step": f"{found.current_step}/{found.total_steps}",
        "created": found.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "time": _took(found),
        "error": printable(found.error or ""),
    }
    for label, value in facts.items():
        if value:
            sys.stdout.write(f"{label:<9} {value}\n")
    if steps:
        sys.stdout.write("\n")
        rows = [
            (
                str(step.step),
                printable(step.command.strip().partition("\n")[0]),
                "cached" if step.cached else f"{step.elapsed_ms / 1000:.1f} s",
                "" if step.ok else f"exit code {step.exit_code}" if step.exit_code is not None else "failed",
            )
            for step in steps
        ]
        print_table(("STEP", "COMMAND", "TIME", ""), rows)


@app.command("logs")
def logs(
    build_id: BuildIdArgument,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Also print what comes, until the build has ended.")
    ] = False,
    platform: PlatformOption = False,
    json: JsonOption = False,
) -> None:
    """Print the output of a build.

    With --follow the exit code says whether the build succeeded.
    """
    from wrenn.sdk import Template

    admin = _admin(platform=platform)
    if follow:
        with BuildDisplay(sys.stdout, live=False) as display:
            for event in Template.follow_build(build_id, admin=admin):
                display(event)
        _report(Template.get_build(build_id, admin=admin), json=False)
        return
    steps = Template.build_log(build_id, admin=admin)
    if json:
        print_json(steps)
        return
    for step in steps:
        sys.stdout.write(f"#{step.step} {printable(step.command.strip().partition(chr(10))[0])}\n")
        for text in (step.stdout, step.stderr):
            for line in text.splitlines():
                sys.stdout.write(f"#{step.step} {printable(line)}\n")


@app.command("cancel")
def cancel(
    build_ids: Annotated[list[str], typer.Argument(metavar="BUILD...", help="Builds to cancel.")],
    *,
    platform: PlatformOption = False,
    json: JsonOption = False,
) -> None:
    """Cancel builds.

    Continues after a failure; the exit code is that of the last failure.
    """
    from wrenn.cli.each import do_each
    from wrenn.sdk import Template

    admin = _admin(platform=platform)
    do_each(
        build_ids, lambda build_id: Template.cancel_build(build_id, admin=admin), done="cancelled", json=json
    )


def _admin(*, platform: bool) -> ProfileSession | None:
    """Return the session of an admin of the platform, or make the team's API key known to the SDK."""
    if not platform:
        use_credentials()
        return None
    from wrenn.cli.credentials import ProfileSession

    return ProfileSession()


def _follow(build_id: str, admin: ProfileSession | None, *, notes: tuple[str, ...]) -> Build:
    from wrenn.sdk import Template

    with BuildDisplay() as display:
        for note in notes:
            display.note(note)
        try:
            for event in Template.follow_build(build_id, admin=admin):
                display(event)
        except KeyboardInterrupt:
            Template.cancel_build(build_id, admin=admin)
            display.note(f"the build {build_id} is cancelled")
            raise typer.Exit(Exit.INTERRUPTED) from None
    return Template.get_build(build_id, admin=admin)


def _report(ended: Build, *, json: bool) -> None:
    from wrenn.sdk import BuildFailedError

    if json:
        print_json(ended)
    if ended.status != "success":
        raise BuildFailedError(ended)
    if not json:
        sys.stdout.write(f"{ended.template}\n")


def _name_and_tag(given: str | None, path: Path) -> tuple[str, str | None]:
    from wrenn.sdk import InvalidRequestError

    if given is None:
        folder = path.resolve() if path.is_dir() else path.resolve().parent
        if not _NAME.fullmatch(folder.name):
            raise InvalidRequestError(
                f"The folder's name {folder.name!r} is not one of a template: pass --tag NAME."
            )
        return folder.name, None
    return _parse_name(given)


def _parse_name(given: str) -> tuple[str, str | None]:
    from wrenn.sdk import InvalidRequestError

    name, colon, tag = given.partition(":")
    if not _NAME.fullmatch(name) or (colon and not _NAME.fullmatch(tag)):
        raise InvalidRequestError(
            "--tag must be NAME or NAME:TAG, of letters, digits, '.', '_' and '-', at most 64 characters each."
        )
    return name, tag or None


def _took(one: Build) -> str:
    if one.started_at is None or one.completed_at is None:
        return ""
    return f"{(one.completed_at - one.started_at).total_seconds():.1f} s"
