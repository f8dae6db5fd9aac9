"""`wrenn login`, `keys`, `teams`, `admin` and `control migrate` as a user types them, and the SDK with a profile."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from wrenn.base.ids import HostId
from wrenn.control.dashboard import is_built
from wrenn.control.identity.bootstrap import FIRST_EMAIL, bootstrap
from wrenn.testing.fork_server import run_program

from .conftest import client, run_sql
from .people import PASSWORD, People, Person, log_in, make_admin, new_email

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("forget_attempts")]


@dataclass
class Cli:
    """The command of one user of one machine."""

    config: Path
    url: str
    database_url: str
    api_key: str = ""

    async def __call__(self, *arguments: str, stdin: str = "", code: int = 0, **environment: str) -> str:
        """Run it; what it prints. `code` is how it must end; the error text otherwise."""
        env = {
            "PATH": os.environ["PATH"],
            "XDG_CONFIG_HOME": str(self.config),
            "WRENN_DATA_DIR": str(self.config / "none"),
            "DATABASE_URL": self.database_url,
            **({"WRENN_API_KEY": self.api_key, "WRENN_BASE_URL": self.url} if self.api_key else {}),
            **environment,
        }
        async with asyncio.timeout(60):
            ended, out, err = await run_program(
                "wrenn.cli.main:main", arguments, environment=env, stdin=stdin.encode()
            )
        assert ended == code, err.decode()
        return out.decode() if code == 0 else err.decode()

    @property
    def file(self) -> Path:
        return self.config / "wrenn/credentials.toml"

    async def log_in(self, person: Person, *options: str) -> None:
        await self("login", "--url", self.url, "--email", person.email, *options, stdin=f"{PASSWORD}\n")


@pytest.fixture
def cli(people: People, tmp_path: Path) -> Cli:
    return Cli(tmp_path, people.url, people.database_url)


async def test_a_login_is_stored_for_the_command_and_the_sdk(people: People, cli: Cli):
    assert "wrenn login" in await cli("list", code=4)
    ada = await people.sign_up()
    await cli.log_in(ada)
    assert stat.S_IMODE(cli.file.stat().st_mode) == 0o600
    kept = tomllib.loads(cli.file.read_text())["default"]
    assert (kept["base_url"], kept["email"]) == (people.url, ada.email)
    assert ada.email in await cli("whoami")
    assert json.loads(await cli("list", "--json")) == []
    sandbox = (await cli("create")).strip()
    assert sandbox in await cli("list")
    # The environment goes before the profile.
    await cli("list", code=4, WRENN_API_KEY=f"wrn_{'0' * 32}", WRENN_BASE_URL=people.url)
    # A key is shown to its own platform only.
    await cli("list", code=4, WRENN_BASE_URL="http://127.0.0.1:1")
    assert len((await ada.get("/v1/api-keys")).json()) == 1
    await cli.log_in(ada)
    assert len((await ada.get("/v1/api-keys")).json()) == 1, "a second login replaces the machine's key"
    await cli("logout")
    assert (await ada.get("/v1/api-keys")).json() == []
    assert tomllib.loads(cli.file.read_text()) == {}
    await cli("whoami", code=4)
    await cli("logout")


async def test_a_wrong_password_stores_nothing(people: People, cli: Cli):
    ada = await people.sign_up()
    said = await cli("login", "--url", people.url, "--email", ada.email, stdin="wrong password\n", code=4)
    assert "wrong" in said
    assert not cli.file.exists()


async def test_a_login_goes_to_the_platform_of_the_profile(people: People, cli: Cli):
    ada = await people.sign_up()
    await cli.log_in(ada)
    # Nothing of the environment names the platform, and none is at the default address.
    await cli("login", "--email", ada.email, stdin=f"{PASSWORD}\n")
    assert len((await ada.get("/v1/api-keys")).json()) == 1
    elsewhere = "http://127.0.0.1:1"
    said = await cli("login", "--email", ada.email, stdin=f"{PASSWORD}\n", code=2, WRENN_BASE_URL=elsewhere)
    assert people.url in said
    assert elsewhere in said
    assert tomllib.loads(cli.file.read_text())["default"]["base_url"] == people.url
    said = await cli(
        "login", "--profile", "work", stdin=f"{ada.email}\n{PASSWORD}\n", code=5, WRENN_BASE_URL=elsewhere
    )
    assert said.startswith(f"Log in to {elsewhere}\n")


async def test_an_ended_session_names_the_profile_to_log_in_to(people: People, cli: Cli):
    ada = await people.sign_up()
    await cli.log_in(ada, "--profile", "work")
    kept = cli.file.read_text()
    await cli("logout", "--profile", "work")
    cli.file.write_text(kept)
    assert "`wrenn login --profile work`" in await cli("--profile", "work", "whoami", code=4)


async def test_profiles_stand_side_by_side(people: People, cli: Cli):
    ada, bob = await people.sign_up(), await people.sign_up()
    await cli.log_in(ada)
    await cli.log_in(bob, "--profile", "work")
    assert ada.email in await cli("whoami")
    assert bob.email in await cli("--profile", "work", "whoami")
    assert bob.email in await cli("whoami", WRENN_PROFILE="work")
    await cli("whoami", WRENN_PROFILE="no such", code=2)
    await cli("whoami", WRENN_PROFILE="nobody", code=4)
    await cli("logout", "--profile", "work")
    assert ada.email in await cli("whoami")


async def test_commands_at_once_share_a_session(people: People, cli: Cli):
    ada = await people.sign_up()
    await cli.log_in(ada)
    answers = await asyncio.gather(*(cli("whoami") for _ in range(3)))
    assert len(set(answers)) == 1
    assert ada.email in await cli("whoami")


async def test_keys_are_made_listed_and_revoked(people: People, cli: Cli):
    await cli.log_in(await people.sign_up())
    key = (await cli("keys", "create", "robot", "--scope", "read", "--days", "30")).strip()
    listed = await cli("keys", "list")
    assert "robot" in listed
    assert key not in listed
    [robot] = [k for k in json.loads(await cli("keys", "list", "--json")) if k["name"] == "robot"]
    assert (robot["scope"], "expires_at" in robot) == ("read", True)
    robots = Cli(cli.config / "robot", people.url, people.database_url, key)
    await robots("list")
    assert "scope" in await robots("create", code=4)
    await cli("keys", "revoke", robot["id"])
    await robots("list", code=4)
    await cli("keys", "revoke", "key-x", code=2)


async def test_teams_are_looked_after(people: People, cli: Cli):
    ada, bob = await people.sign_up(), await people.sign_up(name="Bob")
    await cli.log_in(ada)
    team = (await cli("teams", "create", "Lab")).strip()
    assert "Lab" in await cli("teams", "list")
    link = (await cli("teams", "invite", bob.email, "--team", team)).strip()
    assert bob.email in await cli("teams", "invitations", "--team", team)
    bobs = Cli(cli.config / "bob", people.url, people.database_url)
    await bobs.log_in(bob)
    assert (await bobs("teams", "accept", link)).strip() == team
    await bobs("teams", "accept", link, code=3)
    await cli("teams", "invite", "nobody@example.com", "--team", team)
    [waiting] = json.loads(await cli("teams", "invitations", "--team", team, "--json"))
    await cli("teams", "invitations", "--revoke", waiting["id"], "--team", team)
    assert json.loads(await cli("teams", "invitations", "--team", team, "--json")) == []
    await cli("teams", "keys-of-removed", "keep", "--team", team)
    assert "Bob" in await cli("teams", "members", "--team", team)
    assert "Bob" not in await cli("teams", "members"), "the session stays in its team"
    await cli("teams", "role", bob.email, "admin", "--team", team)
    await cli("teams", "role", bob.email, "owner", "--team", team)
    members = json.loads(await cli("teams", "members", "--team", team, "--json"))
    assert {m["email"]: m["role"] for m in members} == {ada.email: "admin", bob.email: "owner"}
    await cli("teams", "remove", bob.email, "--team", team, code=4)
    await cli("teams", "remove", "nobody@example.com", "--team", team, code=3)
    await cli("teams", "leave", team)
    assert "Lab" not in await cli("teams", "list")
    await cli("teams", "use", team, code=4)


async def test_a_forgotten_password_is_replaced_by_the_link_of_a_mail(people: People, cli: Cli):
    ada = await people.sign_up()
    where = ("--url", people.url)
    for command in ("reset-password", "verify-email"):
        assert "sends no mail" in await cli("account", command, ada.email, *where, code=1)
    tokens = {purpose: f"wr{purpose[0]}_{'0' * 63}1" for purpose in ("verify", "preset")}
    for purpose, token in tokens.items():
        digest = hashlib.sha256(token.encode()).hexdigest()
        await run_sql(
            people.database_url,
            "INSERT INTO mailed_tokens (user_id, purpose, token_hash, email, expires_at)"
            f" SELECT id, '{purpose.removeprefix('p')}', '{digest}', email, now() + interval '1 minute'"
            f" FROM users WHERE email = '{ada.email}'",
        )
    other = f"https://x.example/account/verify-email#{tokens['verify']}"
    assert "x.example" in await cli("account", "verify-email", other, *where, code=2)
    await cli("account", "verify-email", f"{people.url}/account/verify-email#{tokens['verify']}")
    assert (await ada.get("/v1/me")).json()["email_verified"] is True
    other = f"https://x.example/account/reset-password#{tokens['preset']}"
    assert "x.example" in await cli(
        "account", "reset-password", other, *where, stdin="another password\n", code=2
    )
    link = f"{people.url}/account/reset-password#{tokens['preset']}"
    await cli("account", "reset-password", link, stdin="short\n", code=2)
    await cli("account", "reset-password", tokens["preset"], *where, stdin="short\n", code=2)
    await cli(
        "account", "reset-password", link, stdin="another password\n", WRENN_BASE_URL="http://127.0.0.1:1"
    )
    assert (await log_in(people.url, ada.email, "another password")).status_code == 200
    await cli("account", "reset-password", link, *where, stdin="another password\n", code=3)


async def test_the_operator_makes_an_admin_on_the_server(people: People, cli: Cli):
    email = new_email("root")
    assert "8 to" in await cli("admin", "create", email, stdin="short\n", code=2)
    await cli("admin", "create", email, "--name", "Root", stdin=f"{PASSWORD}\n")
    said = (await log_in(people.url, email)).json()
    assert (said["is_admin"], said["name"]) == (True, "Root")
    # Forgotten password, deactivated account: the same command.
    await cli("admin", "create", email, stdin="another password\n")
    assert (await log_in(people.url, email)).status_code == 401
    assert (await log_in(people.url, email, "another password")).status_code == 200
    async with client(people.url, None) as api:
        old = await api.get("/v1/me", headers={"Authorization": f"Bearer {said['token']}"})
        assert old.status_code == 401


async def test_an_admin_sees_where_a_sandbox_would_be_placed(people: People, cli: Cli):
    root = await people.sign_up()
    await cli.log_in(root)
    assert "admin" in await cli("hosts", "explain", code=4)
    await make_admin(people.database_url, root)
    await cli.log_in(root)
    shown = await cli("hosts", "explain", "--memory", "256")
    assert "local" in shown
    assert "REMOVED BY" in shown
    assert "without the tags" in await cli("create", "--host-tag", "gpu", code=5)
    found = json.loads(await cli("hosts", "explain", "--host-tag", "gpu", "--json"))
    assert "without the tags" in found["refusal"]
    assert {host["removed_by"] for host in found["hosts"]} == {"tags"}


async def test_an_admin_creates_tags_and_deletes_a_host(people: People, cli: Cli):
    root = await people.sign_up()
    await cli.log_in(root)
    assert "admin" in await cli("hosts", "create", "--name", "rack1", code=4)
    await make_admin(people.database_url, root)
    await cli.log_in(root)
    token = (await cli("hosts", "create", "--name", "rack1", "--zone", "a")).strip()
    assert len(token) == 64
    again = json.loads(await cli("hosts", "token", "rack1", "--json"))
    assert again["registration_token"] not in ("", token)
    assert again["host"]["status"] == "pending"

    await cli("hosts", "tags", "add", "rack1", "gpu", "ssd")
    await cli("hosts", "tags", "remove", "rack1", "ssd")
    assert await cli("hosts", "tags", "list", "rack1") == "gpu\n"
    assert "tag" in await cli("hosts", "tags", "add", "rack1", "GPU", code=2)

    assert "rack1" in await cli("hosts", "list")
    await cli("hosts", "delete", again["host"]["id"])
    assert "rack1" not in await cli("hosts", "list")
    assert "no host rack1" in await cli("hosts", "tags", "list", "rack1", code=3)


async def test_an_admin_builds_a_stage_for_all_teams(people: People, cli: Cli, tmp_path: Path):
    (tmp_path / "Dockerfile").write_text(
        "FROM template://minimal AS app\nRUN echo built > /built\nFROM app\nRUN exit 1\n"
    )
    build = ("build", str(tmp_path), "-t", "shared:1", "--platform", "--target")
    root = await people.sign_up()
    await cli.log_in(root)
    assert "admin" in await cli(*build, "app", code=4)
    await make_admin(people.database_url, root)
    await cli.log_in(root)
    assert "no stage 'none'" in await cli(*build, "none", code=2)
    try:
        assert await cli(*build, "app") == "shared:1\n"
        (made,) = json.loads(await cli("builds", "list", "--platform", "--json"))
        assert (made["status"], made["current_step"]) == ("success", 1)
        assert "echo built" in await cli("builds", "show", made["id"], "--platform")
        assert "echo built" in await cli("builds", "logs", "-f", made["id"], "--platform")
        assert "ended" in await cli("builds", "cancel", made["id"], "--platform", code=1)
        # It is no build of the team of the same person, but all teams have the template.
        assert json.loads(await cli("builds", "list", "--json")) == []
        assert "no build" in await cli("builds", "show", made["id"], code=3)
        assert json.loads(await cli("templates", "show", "shared", "--json"))["platform"] is True
        await cli("templates", "rm", "shared", code=4)
    finally:
        await cli("templates", "rm", "shared", "--platform")
    assert "no template" in await cli("templates", "show", "shared", code=3)


async def test_who_is_logged_in_as_an_admin_may_name_the_host_of_a_move(people: People, cli: Cli):
    root = await people.sign_up()
    await make_admin(people.database_url, root)
    await cli.log_in(root)
    sandbox_id = (await root.post("/v1/sandboxes")).json()["id"]
    # Not forbidden, as it is for a key.
    said = await cli("move", "--to", str(HostId.new()), "--pause", sandbox_id, code=3)
    assert "no such host" in said
    assert (await root.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204


async def test_migrating_a_database_that_is_up_to_date_does_nothing(cli: Cli):
    assert await cli("control", "migrate") == "The database is up to date.\n"


async def test_open_makes_a_link_for_the_first_admin(cli: Cli, people: People):
    await bootstrap(people.database_url)
    if not is_built():
        assert "dashboard is not built" in await cli("open", code=3, WRENN_PUBLIC_URL=people.url)
        return
    link = (await cli("open", WRENN_PUBLIC_URL=people.url)).strip()
    address, _, token = link.partition("#")
    assert address == f"{people.url}/sign-in-link"
    newer = json.loads(await cli("open", "--json", WRENN_PUBLIC_URL=people.url))["url"].partition("#")[2]
    async with client(people.url, None) as api:
        assert (await api.post("/v1/auth/sign-in-link", json={"token": token})).status_code == 404
        answer = await api.post("/v1/auth/sign-in-link", json={"token": newer})
    assert (answer.json()["email"], answer.json()["is_admin"]) == (FIRST_EMAIL, True)
    assert "no account" in await cli(
        "open", "--email", "nobody@example.com", code=3, WRENN_PUBLIC_URL=people.url
    )
