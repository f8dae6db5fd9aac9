"""Who may use what, where import-linter cannot say it (the layers themselves are contracts in pyproject.toml)."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch

import pytest

from tests.repo.source import ROOT, modules

# What is guarded -> where it may be imported. Patterns are relative to src/wrenn/; `*` also crosses folders.
_ONLY_IN = {
    # The control plane may not reach `linux`; the PostgreSQL that it brings along is the one program it runs.
    "subprocess": ["linux/*", "cli/up/*", "control/db/embedded.py", "testing/fork_server.py"],
    "ctypes": ["linux/*"],
    "pyroute2": ["linux/*"],
    "sqlalchemy": ["control/db/*", "control/*/*store.py", "control/*/tables.py"],
    "asyncpg": ["control/db/*"],
    "alembic": ["control/db/*"],
    "fastapi": [
        "control/http/*",
        "control/*/*routes.py",
        "control/auth/dependency.py",
        # An application of its own, with another format of errors.
        "control/e2b/app.py",
        "control/e2b/domain.py",
        "control/e2b/errors.py",
        "control/wiring/application.py",
    ],
    "prometheus_client": ["telemetry/*", "agent/host_metrics.py", "control/platform_metrics.py"],
    "starlette": ["control/http/*", "control/*/*routes.py", "telemetry/*", "testing/*"],
    "httpx2": ["sdk/*", "control/oauth/client.py"],
    "websockets": ["sdk/*"],
    "aiosmtplib": ["control/mail/smtp.py"],
    "aiohttp": [
        "agent/enrolment/control_client.py",
        "agent/images/transfer.py",
        "agent/local_client.py",
        "guest/*",
        "relay/*",
        "vm/firecracker/api.py",
        "agent/rpc/ports.py",
        "control/hosts/client.py",
        "control/hosts/execs.py",
        "control/hosts/resolver.py",
        "control/hosts/rpc.py",
        "control/hosts/streams.py",
        "control/hosts/transfers.py",
        "control/hosts/transport.py",
        "control/proxy/*",
        "testing/simulation/guest.py",
    ],
    "obstore": ["control/objects/store.py"],
    "zstandard": ["protocol/chunk_frames.py"],
    "pyqwest": [],
    "typer": ["cli/*"],
    "rich": ["cli/*"],
}


@pytest.mark.parametrize("library", _ONLY_IN)
def test_a_library_is_imported_only_where_its_work_is_done(library: str) -> None:
    offenders = [
        module.path
        for module in modules("src/wrenn")
        if any(name == library or name.startswith(f"{library}.") for name in module.imported)
        and not any(fnmatch(module.path, f"src/wrenn/{place}") for place in _ONLY_IN[library])
    ]
    assert offenders == []


def _uses(node: ast.AST, owner: str, names: set[str]) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id=left), attr=right):
            return left == owner and right in names
        case ast.ImportFrom(module=module, names=aliases):
            return module == owner and any(alias.name in names for alias in aliases)
        case _:
            return False


def _users(owner: str, names: set[str]) -> set[str]:
    return {m.path for m in modules("src/wrenn") if any(_uses(node, owner, names) for node in m.nodes)}


def test_the_environment_is_read_only_in_settings() -> None:
    offenders = {
        path
        for path in _users("os", {"environ", "getenv", "putenv", "environb"})
        if not path.endswith("/settings.py") and not path.startswith(("src/wrenn/cli/", "src/wrenn/testing/"))
    }
    assert offenders == set()


def test_processes_are_started_only_in_linux_and_by_the_cli() -> None:
    started = _users("asyncio", {"create_subprocess_exec", "create_subprocess_shell"})
    started |= _users(
        "os", {"system", "popen", "fork", "forkpty", "posix_spawn", "execv", "execve", "execvp"}
    )
    # docs/decisions/0005-commands-outside-linux.md says why these two; `testing` is no part of a platform.
    allowed = (
        "src/wrenn/linux/",
        "src/wrenn/cli/up/",
        "src/wrenn/control/db/embedded.py",
        "src/wrenn/testing/",
    )
    assert {path for path in started if not path.startswith(allowed)} == set()


def test_tasks_have_owners() -> None:
    """`create_task` is for those who keep and await what they start (style rule 9); a bare call loses its task."""
    offenders: set[str] = set()
    for module in modules("src/wrenn"):
        for node in module.nodes:
            match node:
                case ast.Expr(
                    value=ast.Call(
                        func=ast.Attribute(value=ast.Name(id="asyncio"), attr="create_task" | "ensure_future")
                    )
                ):
                    offenders.add(f"{module.path}:{node.lineno}")
                case _:
                    pass
    assert offenders == set()


def test_programs_are_built_only_by_their_main() -> None:
    importers = {m.path for m in modules("src/wrenn") if any(name.endswith(".wiring") for name in m.imported)}
    assert {
        path
        for path in importers
        if not path.endswith(("/main.py", "/wiring.py")) and "/cli/" not in path and "/testing/" not in path
    } == set()


def test_sql_reads_the_time_from_two_functions_only() -> None:
    """`now()` and `clock_timestamp()` are what the simulation replaces (docs/design/drivers.md, "PostgreSQL in virtual time")."""
    others = re.compile(
        r"\b(current_timestamp|localtimestamp|statement_timestamp|transaction_timestamp|timeofday|current_date"
        r"|localtime|current_time|pg_catalog\.now)\b",
        re.IGNORECASE,
    )
    assert {
        m.path for m in modules("src/wrenn/control") if others.search((ROOT / m.path).read_text())
    } == set()
