"""Events: what changed, as a stream that can be resumed, filtered by what the caller may see.

No feature writes them: triggers of the tables do, so that none can be forgotten.
"""

from wrenn.control.events.feed import Feed
from wrenn.control.events.retention import Retention
from wrenn.control.events.routes import router
from wrenn.control.events.service import Events
from wrenn.control.events.store import CHANNEL

routers = (router,)

__all__ = ["CHANNEL", "Events", "Feed", "Retention", "routers"]
