"""The escape sequence that leaves a terminal: Enter, `~`, `.`, as in ssh."""

from __future__ import annotations


class Escape:
    """Detects the escape sequence in the typed bytes. `left` is set once it was typed."""

    def __init__(self) -> None:
        self._line_begins = True
        self._withheld = False
        self.left = False

    def filter(self, typed: bytes) -> bytes:
        """Return the bytes to send to the sandbox; a `~` at the start of a line is withheld until the next byte."""
        passed = bytearray()
        for key in typed:
            if self._withheld:
                self._withheld = False
                if key == ord("."):
                    self.left = True
                    break
                passed.append(ord("~"))
                if key == ord("~"):  # `~~` sends one `~`
                    self._line_begins = False
                    continue
            elif key == ord("~") and self._line_begins:
                self._withheld = True
                continue
            passed.append(key)
            self._line_begins = key in b"\r\n"
        return bytes(passed)
