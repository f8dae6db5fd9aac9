"""The entry point of `wrenn`: registers the commands and handles errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from wrenn.base.gc_tuning import collect_rarely
from wrenn.cli import (
    account,
    admin,
    audit,
    build,
    completion,
    cp,
    doctor,
    hosts,
    images,
    inspect_sandbox,
    keys,
    lifecycle,
    login,
    logs,
    mcp,
    metrics,
    network,
    open_dashboard,
    port,
    programs,
    registries,
    run,
    sandboxes,
    shell,
    status,
    storage,
    teams,
    templates,
    top,
)
from wrenn.cli.exec import CommandLine, FileLine, exec_
from wrenn.cli.exits import Exit, exit_code, print_error
from wrenn.cli.join import command as join_command
from wrenn.cli.settings import use_profile
from wrenn.cli.up import commands as up

app = typer.Typer(
    name="wrenn",
    help="Sandboxes for AI agents: small virtual machines on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    # Rich help pages would cost 0.3 s of imports.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("up")(up.up)
app.command("down")(up.down)
app.command("open")(open_dashboard.open_)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("storage")(storage.storage)
app.command("create")(sandboxes.create)
app.command("list")(sandboxes.list_)
app.command("ls")(inspect_sandbox.ls)
app.command("info")(inspect_sandbox.info)
app.command("ps")(inspect_sandbox.ps)
app.command("ports")(inspect_sandbox.ports)
app.command("console")(inspect_sandbox.console)
app.command("download-link")(inspect_sandbox.download_link)
app.command("exec", cls=CommandLine)(exec_)
app.command("run", cls=FileLine)(run.run)
app.command("shell", cls=CommandLine)(shell.shell)
app.command("logs")(logs.logs)
app.command("cp")(cp.cp)
app.command("port")(port.port)
app.command("link")(port.link)
app.command("top")(top.top)
app.command("metrics")(metrics.metrics)
app.command("pause")(lifecycle.pause)
app.command("resume")(lifecycle.resume)
app.command("move")(lifecycle.move)
app.command("recover")(lifecycle.recover)
app.command("fork")(lifecycle.fork)
app.command("set")(sandboxes.set_)
app.command("timeout")(lifecycle.timeout)
app.command("disk")(lifecycle.disk)
app.command("network")(network.network)
app.command("snapshot")(templates.snapshot)
app.add_typer(templates.app, name="templates")
app.command("build")(build.build)
app.add_typer(build.app, name="builds")
app.command("audit")(audit.audit)
app.command("mcp")(mcp.mcp)
app.command("rm")(sandboxes.rm)
app.add_typer(images.app, name="images")
app.command("completion")(completion.completion)
app.command("login")(login.login)
app.command("logout")(login.logout)
app.command("whoami")(login.whoami)
app.add_typer(account.app, name="account")
app.add_typer(keys.app, name="keys")
app.add_typer(registries.app, name="registries")
app.add_typer(teams.app, name="teams")
app.add_typer(hosts.app, name="hosts")
app.add_typer(admin.app, name="admin")
app.add_typer(programs.control_app, name="control")
app.add_typer(join_command.app, name="agent")
app.command("supervise", hidden=True)(programs.supervise)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        from importlib.metadata import version

        typer.echo(f"wrenn {version('wrenn')}")
        raise typer.Exit


@app.callback()
def wrenn(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="Use the credentials that `wrenn login` stored under this name, whatever the environment has.",
        ),
    ] = None,
) -> None:
    """Sandboxes for AI agents: small virtual machines on your own machine."""
    if profile is not None:
        use_profile(profile, may_be_new=context.invoked_subcommand == "login")


def main() -> None:
    """Run the command line. Expected errors are printed without a stack trace."""
    # Before what the commands import.
    collect_rarely()
    from wrenn.base.errors import WrennError as PlatformError
    from wrenn.sdk.errors import WrennError

    completion.init()
    for stream in (sys.stdin, sys.stdout):
        # File names need not be UTF-8: print their bytes unchanged.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    try:
        app()
    except UnicodeEncodeError:
        sys.stderr.write("wrenn: An argument has characters that are not valid UTF-8.\n")
        sys.exit(Exit.USAGE)
    except (WrennError, PlatformError) as error:
        print_error(error)
        sys.exit(exit_code(error))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "wrenn":
            raise
        sys.stderr.write(
            f"wrenn: This command needs the server parts ({error.name}): pip install 'wrenn[server]'\n"
        )
        sys.exit(Exit.ERROR)
    except BrokenPipeError:
        # The reader has exited (`wrenn list | head -1`): print no error now or when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.ERROR)
    except OSError as error:
        # For example a full disk or a missing permission: the error names the file.
        print_error(error)
        sys.exit(Exit.ERROR)


if __name__ == "__main__":
    main()
