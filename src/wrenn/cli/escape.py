"""The way out of a terminal that does not answer: Enter, `~`, `.`, as in ssh."""

from __future__ import annotations


class Escape:
    """Watches what is typed. `left` is set once the sequence was typed."""

    def __init__(self) -> None:
        self._line_begins = True
        self._held = False
        self.left = False

    def pass_on(self, typed: bytes) -> bytes:
        """What of it is for the other side; a `~` at the begin of a line waits for what follows."""
        passed = bytearray()
        for key in typed:
            if self._held:
                self._held = False
                if key == ord("."):
                    self.left = True
                    break
                passed.append(ord("~"))
                if key == ord("~"):  # twice means once
                    self._line_begins = False
                    continue
            elif key == ord("~") and self._line_begins:
                self._held = True
                continue
            passed.append(key)
            self._line_begins = key in b"\r\n"
        return bytes(passed)
