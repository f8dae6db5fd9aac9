"""What both clients share for git: arguments, parsing of the status, and passing of passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from wrenn.sdk.errors import GitAuthenticationError, GitError, InvalidRequestError
from wrenn.sdk.types import CommandResult, GitStatus

ENVIRONMENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": "", "LC_ALL": "C.UTF-8"}
"""git never prompts, and its messages are in English."""
_HELPER: Final = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n"'
    ' "$WRENN_GIT_USERNAME" "$WRENN_GIT_PASSWORD"; }; f'
)
"""The arguments contain only the names of the variables, not their values."""
_HARDENED: Final = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "http.proxy=",
    "push.gpgSign=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
)
_UNAUTHORISED: Final = re.compile(
    r"authentication failed|could not read (username|password)|terminal prompts disabled|permission denied \(publickey",
    re.IGNORECASE,
)
_BRANCH: Final = re.compile(
    r"## (?:No commits yet on |Initial commit on )?(?P<branch>.+?)(?:\.\.\.(?P<upstream>\S+))?(?: \[(?P<apart>.*)\])?"
)


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials for one server: options of git and environment variables of its process.

    Programs in the sandbox write the configuration of its repositories. So git runs no hooks with them, uses no helper of theirs,
    and the credentials are given to the server alone that the caller named. What is configured for one URL or remote still
    counts, a proxy too.
    """

    options: list[str]
    envs: dict[str, str]

    @classmethod
    def of(cls, username: str | None, password: str | None, url: str) -> Login | None:
        """Create credentials for the server of `url`; None if there are none.

        Raises:
            InvalidRequestError: they would be sent unencrypted, or have several lines.
        """
        if username is None and password is None:
            return None
        parts = urlsplit(url)
        if not parts.hostname:
            raise InvalidRequestError("Credentials are for a server: give a URL such as https://github.com.")
        if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise InvalidRequestError("Credentials are sent over https only.")
        secrets = (username or "git", password or "")
        if any("\n" in secret or "\0" in secret for secret in secrets):
            raise InvalidRequestError("Credentials are single lines.")
        helper = f"credential.{origin_of(url)}.helper={_HELPER}"
        settings = ("credential.helper=", helper, "http.sslVerify=true", *_HARDENED)
        envs = {
            "WRENN_GIT_USERNAME": secrets[0],
            "WRENN_GIT_PASSWORD": secrets[1],
            # Takes precedence over all `protocol.*.allow`.
            "GIT_ALLOW_PROTOCOL": parts.scheme,
        }
        return cls([word for setting in settings for word in ("-c", setting)], envs)


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_server(server: str | None, urls: str) -> str:
    """Return `server` if all `urls` of a remote, one a line, are there. The remote is written in the sandbox.

    Raises:
        InvalidRequestError: no server was given, or a URL is of another one.
    """
    if server is None:
        raise InvalidRequestError(
            'Name the server that the credentials are for, such as server="https://github.com": '
            "programs in the sandbox can change the remote."
        )
    for url in urls.split():
        if origin_of(url) != origin_of(server):
            raise InvalidRequestError(f"The remote is at {origin_of(url)}, not at {origin_of(server)}.")
    return server


def plain_url(url: str) -> str:
    """Return `url` if it contains no password, which git would store in the repository."""
    if urlsplit(url).password is not None:
        raise InvalidRequestError(
            "Give username and password beside the URL, not in it: git would keep them."
        )
    return url


def error_of(result: CommandResult) -> GitError:
    """Return the error for a failed command."""
    kind = GitAuthenticationError if _UNAUTHORISED.search(result.stderr) else GitError
    return kind(result)


def parse_status(text: str) -> GitStatus:
    """Parse the output of `git status --porcelain --branch -z`."""
    head, *rest = text.split("\0")
    found = _BRANCH.fullmatch(head)
    branch = found["branch"] if found else ""
    counts = {
        word: int(count)
        for word, count in re.findall(r"(ahead|behind) (\d+)", (found and found["apart"]) or "")
    }
    changes: list[str] = []
    entries = iter(rest)
    for entry in entries:
        # For a rename, the former name follows.
        former = next(entries, "") if entry[:1] in ("R", "C") else ""
        if entry:
            changes.append(f"{entry} <- {former}" if former else entry)
    return GitStatus(
        branch="" if branch.startswith("HEAD (") else branch,
        upstream=(found and found["upstream"]) or "",
        ahead=counts.get("ahead", 0),
        behind=counts.get("behind", 0),
        changes=tuple(changes),
    )
