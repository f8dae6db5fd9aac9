"""The link with which the first admin signs in to the dashboard: works once, for ten minutes, and needs no password."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import NotFound
from wrenn.cli.settings import public_url, read_env
from wrenn.cli.up import database
from wrenn.cli.up.layout import Layout

LIFE_S: Final = 600.0
PAGE: Final = "/sign-in-link"
"""The page of the dashboard that posts the token. A browser sends what follows `#` to nobody."""


async def make_sign_in_link(layout: Layout, *, email: str | None = None) -> str:
    """Return a new link for this user; default: the admin that `wrenn up` made. Earlier links of the user become void.

    Raises:
        NotFound: the platform was not set up here, the dashboard is not built, or there is no such user.
        Forbidden: the user was deactivated.
    """
    from wrenn.control.administration import create_sign_in_link
    from wrenn.control.dashboard import is_built
    from wrenn.control.identity.bootstrap import FIRST_EMAIL

    url = public_url() or read_env(layout.env).get("WRENN_BASE_URL")
    if url is None:
        raise NotFound(f"There is no platform in {layout.data_dir}: `wrenn up` sets one up.")
    if not is_built():
        raise NotFound(
            "The dashboard is not built: install Node.js 20.19 or newer, and run `make setup` in the checkout."
        )
    token = await create_sign_in_link(
        await database.ensure(layout.data_dir), email=email or FIRST_EMAIL, life_s=LIFE_S
    )
    return f"{url.rstrip('/')}{PAGE}#{token.reveal()}"
