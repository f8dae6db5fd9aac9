"""The ports of sandboxes to the outside: `{port}-{sandbox}.{domain}`, or any host with the headers that name both.

`app.py` tells visits from calls of the API; `visits.py` serves a visit: `port_target.py` and `request_head.py` read the head of the request,
`access.py` decides who may, `locations.py` finds the host. `links.py` signs links, `access_tokens.py` derives the tokens of e2b's clients. Rules in docs/design/ports.md.
"""

from wrenn.control.proxy import routes
from wrenn.control.proxy.access import PortAccess
from wrenn.control.proxy.access_tokens import AccessTokens, TrafficTokens
from wrenn.control.proxy.app import PortProxy
from wrenn.control.proxy.links import Links, LinkSigner
from wrenn.control.proxy.locations import SandboxLocations
from wrenn.control.proxy.lookup_cache import LookupCache
from wrenn.control.proxy.open_visits import OpenVisits
from wrenn.control.proxy.public_visits import PublicVisits
from wrenn.control.proxy.signed_files import SignedFiles
from wrenn.control.proxy.store import link_secret
from wrenn.control.proxy.visits import Visits

routers = (routes.router,)

__all__ = [
    "AccessTokens",
    "LinkSigner",
    "Links",
    "LookupCache",
    "OpenVisits",
    "PortAccess",
    "PortProxy",
    "PublicVisits",
    "SandboxLocations",
    "SignedFiles",
    "TrafficTokens",
    "Visits",
    "link_secret",
    "routers",
]
