"""`sandbox.git`: runs the sandbox's own git."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Final

from wrenn.sdk import _git
from wrenn.sdk._async.commands import AsyncCommands
from wrenn.sdk._git import Login
from wrenn.sdk.errors import CommandExitError, InvalidRequestError
from wrenn.sdk.types import CommandResult, GitStatus

TRANSFER_TIMEOUT_S: Final = 300.0
"""For commands that contact a server."""


class AsyncGit:
    """`sandbox.git`. Paths are folders of work trees in the sandbox; relative ones start at the user's home.

    git never prompts. A `username` and `password` (or token) are passed in the environment of the one
    command, for the one server that you name; they appear neither in its arguments nor in the sandbox's files.
    Programs that run as the same user, or as root, can read them while that command runs: use tokens that
    expire soon and are for one repository.

    Every call raises `GitError` if git fails, with the last lines of its output.
    """

    def __init__(self, commands: AsyncCommands) -> None:
        self._commands = commands

    async def clone(
        self,
        url: str,
        path: str | None = None,
        *,
        branch: str | None = None,
        depth: int | None = None,
        username: str | None = None,
        password: str | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Clone a repository into `path`, by default into a folder with its name.

        Raises:
            GitAuthenticationError: the server requires credentials, or rejected them.
        """
        argv = ["clone"]
        argv += ["--branch", branch] if branch is not None else []
        argv += ["--depth", str(depth)] if depth is not None else []
        argv += ["--", _git.plain_url(url), *([path] if path is not None else [])]
        login = Login.of(username, password, url)
        await self._git(argv, cwd=cwd, user=user, login=login, timeout_s=timeout_s)

    async def init(
        self, path: str, *, branch: str = "main", user: str | None = None, timeout_s: float = 30
    ) -> None:
        """Create an empty repository."""
        await self._git(["init", "-b", branch, "--", path], user=user, timeout_s=timeout_s)

    async def status(self, path: str, *, user: str | None = None, timeout_s: float = 30) -> GitStatus:
        """Return the checked-out branch and the changes of the work tree."""
        argv = ["status", "--porcelain", "--branch", "-z"]
        return _git.parse_status((await self._git(argv, path=path, user=user, timeout_s=timeout_s)).stdout)

    async def add(
        self,
        path: str,
        files: Sequence[str] = (),
        *,
        user: str | None = None,
        timeout_s: float = 30,
    ) -> None:
        """Stage `files`, by default all changes."""
        chosen = ["--", *files] if files else ["--all"]
        await self._git(["add", *chosen], path=path, user=user, timeout_s=timeout_s)

    async def commit(
        self,
        path: str,
        message: str,
        *,
        author_name: str | None = None,
        author_email: str | None = None,
        allow_empty: bool = False,
        user: str | None = None,
        timeout_s: float = 30,
    ) -> str:
        """Commit what is staged, and return the commit's id. The default author is git's configured one."""
        identity: dict[str, str] = {}
        for who in ("AUTHOR", "COMMITTER"):
            identity |= {f"GIT_{who}_NAME": author_name} if author_name is not None else {}
            identity |= {f"GIT_{who}_EMAIL": author_email} if author_email is not None else {}
        argv = ["commit", "--quiet", "-m", message, *(["--allow-empty"] if allow_empty else [])]
        await self._git(argv, path=path, envs=identity, user=user, timeout_s=timeout_s)
        found = await self._git(["rev-parse", "HEAD"], path=path, user=user, timeout_s=timeout_s)
        return found.stdout.strip()

    async def branches(
        self, path: str, *, user: str | None = None, timeout_s: float = 30
    ) -> builtins.list[str]:
        """Return the names of the local branches."""
        argv = ["for-each-ref", "--format=%(refname:short)", "refs/heads"]
        return (await self._git(argv, path=path, user=user, timeout_s=timeout_s)).stdout.splitlines()

    async def create_branch(
        self, path: str, name: str, *, user: str | None = None, timeout_s: float = 30
    ) -> None:
        """Create a branch and check it out."""
        await self._git(["checkout", "--quiet", "-b", name, "--"], path=path, user=user, timeout_s=timeout_s)

    async def delete_branch(
        self,
        path: str,
        name: str,
        *,
        force: bool = False,
        user: str | None = None,
        timeout_s: float = 30,
    ) -> None:
        """Delete a branch; `force` is required if it is not merged."""
        argv = ["branch", "-D" if force else "-d", "--", name]
        await self._git(argv, path=path, user=user, timeout_s=timeout_s)

    async def checkout(self, path: str, ref: str, *, user: str | None = None, timeout_s: float = 30) -> None:
        """Check out a branch, tag or commit."""
        if ref.startswith("-"):
            raise InvalidRequestError(f"{ref!r} is no branch, tag or commit.")
        await self._git(["checkout", "--quiet", ref, "--"], path=path, user=user, timeout_s=timeout_s)

    async def pull(
        self,
        path: str,
        remote: str = "origin",
        branch: str | None = None,
        *,
        server: str | None = None,
        username: str | None = None,
        password: str | None = None,
        user: str | None = None,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Fast-forward to the remote branch; fails if a merge is needed.

        With credentials `server` says where they may be sent, for example `https://github.com`.

        Raises:
            InvalidRequestError: the remote is at another server.
        """
        source = ["--", remote, *([branch] if branch is not None else [])]
        login = await self._login(
            path, remote, server=server, username=username, password=password, user=user
        )
        if login is None:
            argv = ["pull", "--quiet", "--ff-only", *source]
            await self._git(argv, path=path, user=user, timeout_s=timeout_s)
            return
        await self._git(["fetch", "--quiet", *source], path=path, user=user, login=login, timeout_s=timeout_s)
        # Without the credentials: files are checked out by filters that the repository's configuration names.
        argv = ["merge", "--quiet", "--ff-only", "FETCH_HEAD"]
        await self._git(argv, path=path, user=user, timeout_s=timeout_s)

    async def push(
        self,
        path: str,
        remote: str = "origin",
        branch: str | None = None,
        *,
        set_upstream: bool = True,
        server: str | None = None,
        username: str | None = None,
        password: str | None = None,
        user: str | None = None,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Push a branch to the remote, by default the checked-out one.

        With credentials `server` says where they may be sent, for example `https://github.com`; the hooks of the
        repository do not run then.

        Raises:
            InvalidRequestError: the remote is at another server.
        """
        argv = ["push", "--quiet", *(["--set-upstream"] if set_upstream else []), "--", remote]
        argv.append("HEAD" if branch is None else branch)
        login = await self._login(
            path, remote, server=server, username=username, password=password, user=user, to_push=True
        )
        await self._git(argv, path=path, user=user, login=login, timeout_s=timeout_s)

    async def get_config(
        self, key: str, *, path: str | None = None, user: str | None = None, timeout_s: float = 30
    ) -> str | None:
        """Return a setting of the repository at `path`, by default of the user; None if it is not set."""
        scope = ["--global"] if path is None else []
        try:
            argv = ["config", *scope, "--get", key]
            found = await self._git(argv, path=path, user=user, timeout_s=timeout_s)
        except CommandExitError as error:
            if error.result.exit_code == 1:
                return None
            raise
        return found.stdout.removesuffix("\n")

    async def set_config(
        self,
        key: str,
        value: str,
        *,
        path: str | None = None,
        user: str | None = None,
        timeout_s: float = 30,
    ) -> None:
        """Change a setting of the repository at `path`, by default of the user."""
        scope = ["--global"] if path is None else []
        await self._git(["config", *scope, key, value], path=path, user=user, timeout_s=timeout_s)

    async def _login(
        self,
        path: str,
        remote: str,
        *,
        server: str | None,
        username: str | None,
        password: str | None,
        user: str | None,
        to_push: bool = False,
    ) -> Login | None:
        if username is None and password is None:
            return None
        argv = ["remote", "get-url", "--all", *(["--push"] if to_push else []), "--", remote]
        found = await self._git(argv, path=path, user=user, timeout_s=30)
        return Login.of(username, password, _git.check_server(server, found.stdout))

    async def _git(
        self,
        argv: Sequence[str],
        *,
        path: str | None = None,
        envs: dict[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        login: Login | None = None,
        timeout_s: float,
    ) -> CommandResult:
        words = ["git", *(login.options if login else []), *(["-C", path] if path is not None else []), *argv]
        environment = {**_git.ENVIRONMENT, **(envs or {}), **(login.envs if login else {})}
        result = await self._commands.run(words, envs=environment, cwd=cwd, user=user, timeout_s=timeout_s)
        if result.exit_code != 0:
            raise _git.error_of(result)
        return result
