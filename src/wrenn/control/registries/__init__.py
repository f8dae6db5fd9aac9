"""Credentials of container registries, with which hosts pull the images of a team's builds and imports."""

from wrenn.control.registries.routes import router
from wrenn.control.registries.sealing import Sealing
from wrenn.control.registries.service import ImageLogin, RegistryCredentials, SealedLogin
from wrenn.control.registries.types import Password, Username

__all__ = [
    "ImageLogin",
    "Password",
    "RegistryCredentials",
    "SealedLogin",
    "Sealing",
    "Username",
    "router",
]
