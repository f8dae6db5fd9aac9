"""Converts between the messages about images of `host.proto` and the agent's values."""

from __future__ import annotations

from typing import Final

from wrenn.agent.images import ContainerSource, DiskSource, ImageStatus, Source, StoredSource
from wrenn.agent.rpc.network_messages import policy_of
from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.base.units import MIB
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.sealed_objects import ObjectKey
from wrenn.storage.images import ContainerConfig

WAIT_LIMIT_MS: Final = 60_000
_KEYS_LIMIT: Final = 64
_SCOPE_LIMIT: Final = 64


def source_of(request: pb.EnsureImageRequest) -> Source:
    """Return the source that a request names.

    Raises:
        InvalidRequest: none, or not as it has to be.
    """
    source = request.source
    match source.value if source is not None else None:
        case pb.StoredImage():
            return StoredSource()
        case pb.SandboxDisk() as disk:
            return DiskSource(SandboxId.parse(disk.sandbox_id))
        case pb.ContainerImage() as image:
            return ContainerSource(
                reference=image.reference,
                disk_size_mb=image.disk_size_mb,
                policy=policy_of(image.network),
                username=image.username,
                password=Secret(image.password) if image.password else None,
                insecure_registry=image.insecure_registry,
                scope=image.scope[:_SCOPE_LIMIT],
                archive_url=Secret(image.archive_url) if image.archive_url else None,
                archive_name=image.archive_name,
                archive_keys=tuple(_object_key(key) for key in image.archive_keys[:_KEYS_LIMIT]),
            )
        case _:
            raise InvalidRequest("An image needs a source.")


def _object_key(key: pb.ObjectKey) -> ObjectKey:
    found = ObjectKey.from_json({"id": key.id, "secret": key.secret})
    assert found is not None, "it was given"
    return found


def image_message(status: ImageStatus) -> pb.Image:
    """Describe an image."""
    image_id = str(status.image_id)
    if (image := status.ready) is not None:
        facts = image.facts
        return pb.Image(
            image_id=image_id,
            state=pb.ImageState.READY,
            disk_size_mb=image.size_b // MIB,
            size_b=image.allocated_b,
            uploaded_b=facts.uploaded_b,
            config=_config(facts.config) if facts.config is not None else None,
            reference=facts.reference,
        )
    progress = status.progress
    failure = status.failure
    return pb.Image(
        image_id=image_id,
        state=pb.ImageState.PREPARING if failure is None else pb.ImageState.FAILED,
        phase=progress.phase,
        done_b=progress.done_b,
        total_b=progress.total_b,
        error_code=failure.code if failure is not None else "",
        error=failure.message if failure is not None else "",
    )


def _config(config: ContainerConfig) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        user=config.user,
        environment=list(config.environment),
        working_dir=config.working_dir,
        entrypoint=list(config.entrypoint),
        command=list(config.command),
        exposed_ports=list(config.exposed_ports),
        labels=dict(config.labels),
    )
