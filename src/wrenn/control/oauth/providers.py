"""The interface of sign-in providers, and the registry of those that are configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wrenn.base.clock import Clock
from wrenn.base.errors import NotFound
from wrenn.control.oauth.client import ProviderClient
from wrenn.control.oauth.github import Github
from wrenn.control.oauth.identity import Identity, Start
from wrenn.control.oauth.oidc import OpenIdConnect
from wrenn.control.oauth.settings import GITHUB, OAuthSettings


class Provider(Protocol):
    """The interface of a sign-in provider."""

    async def authorize_url(self, start: Start) -> str:
        """Return the URL at which the browser begins. Raises ProviderFailed."""
        ...

    async def identify(self, start: Start, code: str) -> Identity:
        """Exchange the code that the browser came back with for the identity of the user. Raises ProviderFailed."""
        ...


class ProviderNotFound(NotFound):
    """No provider of this name is configured."""

    code = "provider_not_found"


@dataclass(frozen=True, slots=True)
class Providers:
    """The configured providers, by name."""

    by_name: Mapping[str, Provider]

    @property
    def names(self) -> Sequence[str]:
        """The names of all providers."""
        return sorted(self.by_name)

    def get(self, name: str) -> Provider:
        """Return the provider of this name.

        Raises:
            ProviderNotFound.
        """
        provider = self.by_name.get(name)
        if provider is None:
            raise ProviderNotFound("There is no sign-in provider of this name.")
        return provider


def providers_of(settings: OAuthSettings, client: ProviderClient, clock: Clock) -> Providers:
    """Build the providers that the settings configure."""
    by_name: dict[str, Provider] = {each.name: OpenIdConnect(each, client, clock) for each in settings.oidc}
    if settings.github is not None:
        by_name[GITHUB] = Github(settings.github, client)
    return Providers(by_name)
