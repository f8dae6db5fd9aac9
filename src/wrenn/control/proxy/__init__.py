"""The ports of sandboxes to the outside: `{port}-{sandbox}.{domain}`, or any host with the headers that name both.

`visits.py` says what a request is for and what passes; `access.py` who may; `locations.py` where the sandbox is; `links.py` signs links;
`app.py` puts them together and passes on. Rules in docs/design/ports.md.
"""

from wrenn.control.proxy import routes
from wrenn.control.proxy.access import PortAccess
from wrenn.control.proxy.app import PortProxy
from wrenn.control.proxy.links import Links, LinkSigner
from wrenn.control.proxy.locations import SandboxLocations
from wrenn.control.proxy.recent import RecentLookups
from wrenn.control.proxy.store import link_secret

routers = (routes.router,)

__all__ = [
    "LinkSigner",
    "Links",
    "PortAccess",
    "PortProxy",
    "RecentLookups",
    "SandboxLocations",
    "link_secret",
    "routers",
]
