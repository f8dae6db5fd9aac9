"""Sign-in through GitHub and through any provider that speaks OpenID Connect."""

from wrenn.control.oauth.client import ProviderClient
from wrenn.control.oauth.flow import SignIn
from wrenn.control.oauth.providers import providers_of
from wrenn.control.oauth.routes import connect_router, router
from wrenn.control.oauth.settings import OAuthSettings
from wrenn.control.oauth.ticket import Tickets

ROUTERS = {"/v1/auth/oauth": (router,), "/v1/me/providers": (connect_router,)}
"""The endpoints by their prefix."""

__all__ = ["ROUTERS", "OAuthSettings", "ProviderClient", "SignIn", "Tickets", "providers_of"]
