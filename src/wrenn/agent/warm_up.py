"""Boots the default template when the agent starts, so that the first create can restore it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from wrenn.agent.bases import Bases
from wrenn.agent.settings import WarmTemplate
from wrenn.base.errors import WrennError

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class WarmUp:
    """Makes one base in the background. A create that needs the same base waits for it.

    Attributes:
        is_running: whether it has still to end.
        failure: why there is no base, for people; empty when there is one. The next create tries again.
    """

    bases: Bases
    wanted: WarmTemplate | None
    is_running: bool = False
    failure: str = ""

    async def run(self) -> None:
        """Make the base. Errors are stored in `failure`, not raised."""
        if self.wanted is None:
            return
        self.is_running = True
        try:
            await self.bases.get(self.wanted.template, self.wanted.shape)
        except WrennError as error:
            self.failure = error.message
            _log.warning("default template is not warm", extra={"reason": error.message})
        except Exception:  # noqa: BLE001 - the agent serves without a warm template too
            self.failure = "The host could not boot the template; its log has the reason."
            _log.exception("default template is not warm")
        finally:
            self.is_running = False
