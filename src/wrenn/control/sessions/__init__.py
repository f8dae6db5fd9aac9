"""Sign-up, login and sessions."""

from wrenn.control.sessions import session_store
from wrenn.control.sessions.link_login import LinkLogin
from wrenn.control.sessions.password_login import PasswordLogin
from wrenn.control.sessions.routes import CookiesOf, router
from wrenn.control.sessions.service import Sessions, SignedIn
from wrenn.control.sessions.types import AuthResponse, SignUp
from wrenn.control.sessions.views import signed_in_json

__all__ = [
    "AuthResponse",
    "CookiesOf",
    "LinkLogin",
    "PasswordLogin",
    "Sessions",
    "SignUp",
    "SignedIn",
    "router",
    "session_store",
    "signed_in_json",
]
