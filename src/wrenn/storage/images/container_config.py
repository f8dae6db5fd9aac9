"""What a container image says about how it is run: user, environment, working directory, start command, ports, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Self, cast

from wrenn.base.errors import InvalidRequest

_ENTRY_LIMIT: Final = 256
_TEXT_LIMIT: Final = 32 * 1024
"""Of one text, in characters."""
_TOTAL_LIMIT: Final = 256 * 1024
"""Of all texts together. It is sent with each answer that describes the image."""


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """The configuration of a container image. All texts are its author's.

    Attributes:
        environment: `KEY=value`.
        exposed_ports: such as `8080/tcp`.
    """

    user: str = ""
    environment: tuple[str, ...] = ()
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of_image(cls, config: object) -> Self:
        """Read the object `config` of an OCI image's configuration. What is missing or `null` is empty.

        Raises:
            InvalidRequest: it has other types than the specification says, or is too large.
        """
        if config is None:
            return cls()
        given = _mapping(config, "config")
        return cls._checked(
            user=_text(given.get("User"), "User"),
            environment=_texts(given.get("Env"), "Env"),
            working_dir=_text(given.get("WorkingDir"), "WorkingDir"),
            entrypoint=_texts(given.get("Entrypoint"), "Entrypoint"),
            command=_texts(given.get("Cmd"), "Cmd"),
            exposed_ports=tuple(sorted(_mapping(given.get("ExposedPorts") or {}, "ExposedPorts"))),
            labels=_labels(given.get("Labels")),
        )

    @classmethod
    def of_json(cls, content: object) -> Self:
        """Read what `to_json` returned.

        Raises:
            InvalidRequest: it is something else.
        """
        given = _mapping(content, "config")
        return cls._checked(
            user=_text(given.get("user"), "user"),
            environment=_texts(given.get("environment"), "environment"),
            working_dir=_text(given.get("working_dir"), "working_dir"),
            entrypoint=_texts(given.get("entrypoint"), "entrypoint"),
            command=_texts(given.get("command"), "command"),
            exposed_ports=_texts(given.get("exposed_ports"), "exposed_ports"),
            labels=_labels(given.get("labels")),
        )

    @classmethod
    def _checked(
        cls,
        *,
        user: str,
        environment: tuple[str, ...],
        working_dir: str,
        entrypoint: tuple[str, ...],
        command: tuple[str, ...],
        exposed_ports: tuple[str, ...],
        labels: Mapping[str, str],
    ) -> Self:
        lists = (environment, entrypoint, command, exposed_ports, tuple(labels))
        texts = [user, working_dir, *(one for each in lists for one in each), *labels.values()]
        if any(len(each) > _ENTRY_LIMIT for each in lists):
            raise InvalidRequest(f"A list of the image's configuration has more than {_ENTRY_LIMIT} entries.")
        if max(map(len, texts)) > _TEXT_LIMIT or sum(map(len, texts)) > _TOTAL_LIMIT:
            raise InvalidRequest("The image's configuration is too large.")
        if any("\0" in one or not one.isprintable() for one in (user, working_dir)):
            raise InvalidRequest("The user or working directory of the image has unprintable characters.")
        for one in texts:
            try:
                one.encode()
            except UnicodeEncodeError as error:  # JSON may contain halves of surrogate pairs
                raise InvalidRequest("The image's configuration is no valid Unicode.") from error
        return cls(user, environment, working_dir, entrypoint, command, exposed_ports, labels)

    def to_json(self) -> dict[str, object]:
        """Return the manifest's form."""
        return asdict(self)


def _mapping(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} of the image's configuration is no object.")
    return cast("dict[str, object]", value)


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} of the image's configuration is no text.")
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"{name} of the image's configuration is no list.")
    return tuple(_text(one, name) for one in cast("list[object]", value))


def _labels(value: object) -> dict[str, str]:
    return {key: _text(one, "Labels") for key, one in _mapping(value or {}, "Labels").items()}
