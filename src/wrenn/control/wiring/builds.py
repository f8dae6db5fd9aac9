"""Builds the builds of templates."""

from __future__ import annotations

from wrenn.base.units import MIB
from wrenn.control.builds import (
    AbandonedArchives,
    ArchiveUploads,
    BuildBases,
    BuildCleanup,
    BuildResults,
    BuildRunner,
    Builds,
    BuildWorker,
    LayerCache,
    ScratchSpace,
)
from wrenn.control.registries import RegistryCredentials

from .auth import AuthParts
from .base import Base, size_limits
from .images import ImageParts
from .sandboxes import SandboxParts


def build_builds(
    base: Base,
    auth: AuthParts,
    sandboxes: SandboxParts,
    images: ImageParts,
    *,
    registry_credentials: RegistryCredentials,
    scratch: ScratchSpace,
) -> tuple[Builds, BuildWorker, BuildCleanup]:
    """Return the service of builds, the worker that runs them, and what cleans up after them."""
    settings, database = base.settings, base.database
    results = BuildResults(
        database=database,
        sandboxes=sandboxes.internal,
        snapshots=sandboxes.snapshot_lifecycle,
        images=images.images,
        owner=base.owner,
        limits=settings.quotas,
    )
    runner = BuildRunner(
        database=database,
        objects=images.objects,
        sandboxes=sandboxes.internal,
        bases=BuildBases(
            database=database,
            sandboxes=sandboxes.internal,
            images=images.images,
            objects=images.objects,
            insecure_registries=settings.insecure_registries,
            credentials=registry_credentials,
        ),
        results=results,
        layers=LayerCache(
            database=database,
            sandboxes=sandboxes.internal,
            snapshots=sandboxes.snapshot_lifecycle,
            limit_b=settings.build_cache_mb * MIB,
        ),
        scratch=scratch,
        owner=base.owner,
    )
    cleanup = BuildCleanup(
        database=database,
        objects=images.objects,
        sandboxes=sandboxes.internal,
        abandoned=AbandonedArchives(database=database, objects=images.objects, clock=base.clock),
        lease_s=settings.lease_s,
    )
    worker = BuildWorker(
        database=database,
        runner=runner,
        wake_cleanup=cleanup.loop.wake,
        lease_s=settings.lease_s,
    )
    builds = Builds(
        database=database,
        objects=images.objects,
        uploads=ArchiveUploads(images.objects, scratch),
        credentials=registry_credentials,
        limits=size_limits(settings),
        open_calls=auth.open_calls,
        wake=worker.loop.wake,
    )
    return builds, worker, cleanup
