"""The Dockerfiles that builds are tested with: each is parsed, with what its README says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.recipe import BaseConfig, Copy, Plan, Run, Start, parse_dockerfile
from wrenn.recipe.archive import ContextArchive
from wrenn.recipe.context import pack_context, read_ignore_rules

FOLDERS = Path(__file__).parent.parent / "data" / "dockerfiles"
BASE = BaseConfig(environment={"PATH": "/usr/local/bin:/usr/bin:/bin"})


def text(name: str) -> str:
    """Return a Dockerfile."""
    return (FOLDERS / name / "Dockerfile").read_text()


def plan(name: str) -> Plan:
    """Return the plan of a Dockerfile."""
    return parse_dockerfile(text(name)).plan(BASE)


def test_all_are_known() -> None:
    folders = sorted(path.name for path in FOLDERS.iterdir() if path.is_dir())
    assert len(folders) == 10
    readme = (FOLDERS / "README.md").read_text()
    assert [name for name in folders if f"| `{name}` |" not in readme] == []


@pytest.mark.parametrize("name", sorted({path.parent.name for path in FOLDERS.glob("*/Dockerfile")}))
def test_they_are_parsed_and_find_their_files(name: str, tmp_path: Path) -> None:
    folder = FOLDERS / name
    recipe = parse_dockerfile(text(name))
    starts = [step for step in plan(name).steps if isinstance(step, Start)]
    assert len(starts) == 1
    with (tmp_path / "context").open("w+b") as packed:
        pack_context(folder, packed, read_ignore_rules(folder, folder / "Dockerfile"))
        packed.seek(0)
        with ContextArchive.open(packed) as archive:
            for step in (
                step
                for each in (recipe, *(stage.recipe for stage in recipe.stages))
                for step in each.plan(BASE).steps
            ):
                if (
                    isinstance(step, Copy) and step.stage is None and step.sources != ("server",)
                ):  # made by the test that builds it
                    assert archive.select(step).digest


def test_some_details() -> None:
    python = plan("python-pip")
    assert python.ready_check is not None
    assert (python.user, python.workdir, python.exposed_ports) == ("app", "/app", ("8000/tcp",))
    assert python.environment["PATH"] == "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"

    postgresql = plan("postgresql")
    assert postgresql.environment["PATH"].endswith("/bin:/usr/lib/postgresql/15/bin")
    (script,) = [step for step in postgresql.steps if isinstance(step, Copy)]
    assert script.inline[0].content.startswith(
        '#!/bin/sh\nset -e\nif [ ! -s "$PGDATA/PG_VERSION" ]; then\n    initdb'
    )
    (server,) = [step for step in postgresql.steps if isinstance(step, Start)]
    assert server.argv == ("docker-entrypoint.sh", "postgres", "-c", "listen_addresses=*")

    chromium = plan("chromium")
    install = chromium.steps[0]
    assert isinstance(install, Run)
    assert "xvfb     && rm" in install.argv[-1]
    assert chromium.user == "browser:browser"

    notebook = plan("notebook")
    assert notebook.environment["OMP_NUM_THREADS"] == "1"
    assert notebook.environment["JUPYTER_OPTS"] == "--ip=0.0.0.0 --no-browser "
    assert notebook.workdir == "/home/user/work"

    assert plan("java").labels["maintainer"] == "Somebody <somebody@example.org>"
    alpine = parse_dockerfile(text("alpine")).base
    assert alpine is not None
    assert "@sha256:" in alpine.reference
