"""The caller's own account: name, password, linked providers, deletion."""

from wrenn.control.profile.routes import router
from wrenn.control.profile.service import Profiles

__all__ = ["Profiles", "router"]
