"""`wrenn network`, and the network options of `wrenn create`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from wrenn.cli.output import JsonOption, print_json
from wrenn.cli.settings import use_credentials

if TYPE_CHECKING:
    from wrenn.sdk import NetworkPolicy

AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="CIDR|NAME",
        help="Always allow this network, or this server (example.com, *.example.com). Repeatable.",
    ),
]
DenyOption = Annotated[
    list[str] | None,
    typer.Option("--deny", metavar="CIDR", help="Block this network. Repeatable."),
]


def network(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", help="The sandbox.")],
    *,
    internet: Annotated[
        bool | None,
        typer.Option("--internet/--no-internet", help="Whether it may reach destinations in neither list."),
    ] = None,
    allow: AllowOption = None,
    deny: DenyOption = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Start from the default: internet access, and no lists.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Change and print the egress policy of a sandbox.

    Values without an option are not changed; a list replaces the former one. The change applies when the
    command ends, also to open connections. Allowed networks take precedence over denied ones.
    """
    from wrenn.sdk import Sandbox

    use_credentials()
    if reset:
        internet, allow, deny = (True if internet is None else internet), allow or [], deny or []
    else:
        # Typer passes an empty list for an absent option.
        allow, deny = allow or None, deny or None
    with closing(Sandbox.connect(sandbox_id, resume=False)) as sandbox:
        if (internet, allow, deny) == (None, None, None):
            info = sandbox.info()
        else:
            info = sandbox.set_network(allow_internet=internet, allow=allow, deny=deny)
    if json or info.network is None:
        print_json(info.network)
    else:
        sys.stdout.write(format_lines(info.network))


def policy_of(*, internet: bool, allow: list[str] | None, deny: list[str] | None) -> NetworkPolicy | None:
    """Return the policy from the options of `wrenn create`; None without any."""
    if internet and not allow and not deny:
        return None
    from wrenn.sdk import NetworkPolicy

    return NetworkPolicy(internet, tuple(allow or ()), tuple(deny or ()))


def summary(policy: NetworkPolicy) -> str:
    """Format the policy on one line."""
    parts = ["internet" if policy.allow_internet else "no internet"]
    parts += [
        f"{word} {', '.join(nets)}" for word, nets in (("allow", policy.allow), ("deny", policy.deny)) if nets
    ]
    return "; ".join(parts)


def format_lines(policy: NetworkPolicy) -> str:
    """Format the policy on several lines."""
    lines = [f"internet  {'yes' if policy.allow_internet else 'no'}"]
    lines += [f"allow     {network}" for network in policy.allow]
    lines += [f"deny      {network}" for network in policy.deny]
    return "".join(f"{line}\n" for line in lines)
