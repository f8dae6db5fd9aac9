"""`wrenn control` and `wrenn supervise`: the server programs, in the foreground."""

from __future__ import annotations

import asyncio

import typer

from wrenn.cli.env_file import EnvFileOption, load_env_file
from wrenn.cli.images import DataDirOption
from wrenn.cli.settings import data_dir
from wrenn.cli.up.options import ListenOption

control_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@control_app.callback()
def control(context: typer.Context, env_file: EnvFileOption = None) -> None:
    """Run the control plane in the foreground.

    Its settings come from the environment.
    """
    load_env_file(env_file)
    if context.invoked_subcommand is None:
        from wrenn.control.main import main

        main()


@control_app.command("migrate")
def migrate() -> None:
    """Upgrade the database schema, and print the changes.

    For an upgrade with several control planes: run it once before the first of them starts. A control plane
    also does it at its start. Idempotent, also from several machines at once. DATABASE_URL as for the control
    plane.
    """
    from wrenn.control.main import migrate_only

    for revision in migrate_only():
        typer.echo(f"applied {revision}")
    typer.echo("The database is up to date.")


def supervise(data_dir_: DataDirOption = None, listen: ListenOption = None) -> None:
    """Keep control plane, agent and embedded PostgreSQL running; started by `wrenn up`."""
    from wrenn.base.logging import configure_logging
    from wrenn.cli.up.layout import Layout
    from wrenn.cli.up.options import parse_listen
    from wrenn.cli.up.supervisor import supervise as run

    configure_logging()
    raise typer.Exit(asyncio.run(run(Layout(data_dir(data_dir_)), parse_listen(listen))))
