"""Limits a sandbox to the lifetime of its client: the sandbox has a short lifetime, which the client extends while it runs.

A thread extends the lifetime in the asynchronous client too: the sandbox must survive code that blocks the
event loop for minutes, as in notebooks.
"""

from __future__ import annotations

import threading
from typing import Final

from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._sync.api import Api, path_of
from wrenn.sdk.errors import InvalidStateError, NotFoundError, WrennError
from wrenn.sdk.settings import ClientSettings

LIFETIME_S: Final = 600
"""How long the sandbox outlives a client that was killed."""
RENEW_EVERY_S: Final = 60.0
"""Nine renewals in a row may fail."""
_RETRY_AFTER_S: Final = 5.0
_CALL_TIMEOUT_S: Final = 10.0
_JOIN_TIMEOUT_S: Final = 2 * _CALL_TIMEOUT_S


def lease_limits() -> dict[str, object]:
    """Return the request fields that set the lifetime."""
    return {"lifetime_sec": LIFETIME_S, "on_expiry": "kill", "lift_on_pause": True}


def no_lease(on_expiry: str) -> dict[str, object]:
    """Return the request fields that remove this lifetime, and only this one."""
    return {"lifetime_sec": 0, "on_expiry": on_expiry, "lift_on_pause": True, "extend_only": True}


class Lease:
    """Extends the lifetime of one sandbox from `start()` until `stop()`. Never raises: the next attempt may succeed.

    It does nothing if the lifetime was removed or changed meanwhile: the platform removes it when the sandbox
    is paused, and a user may set another one. It starts again when the sandbox is resumed.
    """

    def __init__(
        self, settings: ClientSettings, sandbox_id: str, *, renew_every_s: float = RENEW_EVERY_S
    ) -> None:
        self._api = Api(settings)
        self._path = path_of(sandbox_id, "timeout")
        self._renew_every_s = renew_every_s
        self._woken = threading.Event()
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start. The sandbox must already have the lifetime."""
        assert self._thread is None, "started once"
        self._thread = threading.Thread(target=self._serve, name="wrenn-lease", daemon=True)
        self._thread.start()

    def renew_soon(self) -> None:
        """Renew now instead of at the next interval, because the sandbox was resumed."""
        self._woken.set()

    def stop(self) -> None:
        """Stop, after a renewal in progress. Idempotent."""
        self._is_stopped = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT_S)

    def _serve(self) -> None:
        pause_s = self._renew_every_s
        while True:
            self._woken.wait(pause_s)
            self._woken.clear()
            if self._is_stopped:
                return
            try:
                pause_s = self._renew_every_s if self._renew() else min(_RETRY_AFTER_S, self._renew_every_s)
            except (NotFoundError, InvalidStateError):
                return
            finally:
                # A connection that is idle for a minute is not worth keeping open.
                self._api.close()

    def _renew(self) -> bool:
        """Renew the lifetime; return whether the platform did. Raises NotFoundError, InvalidStateError: the sandbox has ended."""
        message = {"lifetime_sec": LIFETIME_S, "lift_on_pause": True, "extend_only": True}
        try:
            answer = self._api.call(
                "PATCH", self._path, json=message, repeatable=True, timeout_s=_CALL_TIMEOUT_S
            )
            Fields("sandbox", json_of(answer)).text("id")
        except (NotFoundError, InvalidStateError):
            raise
        except WrennError:
            return False
        return True
