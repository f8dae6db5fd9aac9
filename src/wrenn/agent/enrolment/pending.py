"""A registration that the agent makes at its start: `wrenn up` and `wrenn agent join` leave the one-time token in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from wrenn.base.errors import InternalError
from wrenn.linux.files import write_json

_FILE: Final = "registration.json"


@dataclass(frozen=True, slots=True)
class PendingRegistration:
    """With which token to register where. `token` is valid once, for an hour."""

    control_url: str
    token: str = field(repr=False)

    @classmethod
    def load(cls, data_dir: Path) -> Self | None:
        """Read the file; None: there is none.

        Raises:
            InternalError: the file cannot be understood.
        """
        path = data_dir / _FILE
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise InternalError(f"{path} cannot be read: remove it and register this host again.") from error

    def save(self, data_dir: Path) -> None:
        """Write the file, which only its owner can read."""
        write_json(data_dir / _FILE, asdict(self), durable=True)

    @staticmethod
    def remove(data_dir: Path) -> None:
        """Remove the file; does nothing if there is none."""
        (data_dir / _FILE).unlink(missing_ok=True)
