"""The images of this host: at most one job prepares, fetches or uploads each of them, and few jobs run at a time.

A job is a task of its own: a caller that disconnects does not stop it, a removal does. A job that has failed stays listed
until its failure was returned once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

from wrenn.agent.images.cache_limit import CachedImage, images_beyond
from wrenn.agent.images.job import (
    ContainerSource,
    Failure,
    ImageStatus,
    Phase,
    Progress,
    Source,
    StoredSource,
)
from wrenn.agent.layout import IMAGE_JOB_SLOTS, IMPORT_SLOTS
from wrenn.base.errors import (
    InternalError,
    InvalidState,
    NoCapacity,
    NotFound,
    StorageFull,
    WrennError,
    error_class,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.linux.disk_space import free_b
from wrenn.linux.trees import REMOVE_TIMEOUT_S, remove_any_tree
from wrenn.storage.images import ImageFacts, ImageFolder, LocalImage

_log = logging.getLogger(__name__)

_JOB_LIMIT: Final = 64
"""Jobs that run, wait, or have failed and were not asked for since: fetches, and all others."""
_FETCHES: Final = 4
"""Images that are fetched from the store at the same time."""
_IN_USE_S: Final = 60.0
"""An image that was used just now stays: the create that needs it may not have begun with it."""
_STOPPED: Final = "The preparation of the image was cut off: the sandbox was removed, or the agent stopped."


class Prepare(Protocol):
    """Writes an image into its draft."""

    def __call__(
        self, source: Source, image_id: ImageId, draft: Path, progress: Progress, *, job_slot: int
    ) -> Awaitable[ImageFacts]:
        """Do it, and return what is known of the image."""
        ...


Upload = Callable[[LocalImage, Progress], Awaitable[int]]
"""Uploads an image to the store, and returns how many bytes it sent."""


@dataclass(frozen=True, slots=True)
class Cache:
    """How much room images may take on this host.

    Attributes:
        limit_b: 0: no limit.
        templates_in_use: names of templates whose images must stay; None: it is not known.
        on_removed: called after images were removed, because bases that were made from them are not needed any more.
    """

    limit_b: int
    templates_in_use: Callable[[], set[str] | None]
    on_removed: Callable[[], None]


@dataclass(slots=True, eq=False)
class _Job:
    source: Source
    upload: bool
    progress: Progress = field(default_factory=Progress)
    failure: Failure | None = None
    removing: bool = False
    task: asyncio.Task[None] | None = None


class Images:
    """The images of this host, ready or in preparation."""

    def __init__(
        self,
        *,
        folder: ImageFolder,
        data_dir: Path,
        reserve_b: int,
        prepare: Prepare,
        upload: Upload,
        cache: Cache,
    ) -> None:
        self._folder = folder
        self._cache = cache
        self._data_dir = data_dir
        self._reserve_b = reserve_b
        self._prepare = prepare
        self._upload = upload
        self._jobs: dict[ImageId, _Job] = {}
        # Fetches wait for no other work, so that what one team prepares does not hold up the creates of others.
        self._fetches = asyncio.Semaphore(_FETCHES)
        self._limiting = asyncio.Lock()
        self._slots = _queue_of(IMAGE_JOB_SLOTS)
        # Nor do imports, for which a registry may take as long as it likes: one at a time for each owner.
        self._imports = _queue_of(IMPORT_SLOTS)
        self._importing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def sweep(self) -> None:
        """Remove what a killed agent left. Call it before the first job."""
        await self._folder.sweep()

    def ids(self) -> list[str]:
        """Return the ids of the ready images, sorted."""
        return [str(image_id) for image_id in self._folder.ids()]

    def list(self) -> list[ImageStatus]:
        """Return all images: ready, in preparation, and failed ones whose failure was not returned yet. Blocking."""
        jobs = [_status(image_id, job) for image_id, job in self._jobs.items()]
        ready = [
            ImageStatus(image.image_id, ready=image)
            for image in self._ready()
            if image.image_id not in self._jobs
        ]
        return [*ready, *jobs]

    async def ensure(
        self, image_id: ImageId, source: Source, *, upload: bool = False, wait_s: float | None = 0.0
    ) -> ImageStatus:
        """Begin to prepare an image, or join the preparation, and return its state after at most `wait_s` (None: at its end).

        A failure is returned once; the next call begins again. With `upload` it is ready when the store has it too.

        Raises:
            NoCapacity: too many images are being prepared. StorageFull: the disk is below its reserve.
        """
        job = self._jobs.get(image_id)
        if job is None:
            ready = self._find(image_id)
            if ready is not None and (ready.facts.uploaded or not upload):
                return ImageStatus(image_id, ready=ready)
            job = self._begin(image_id, source, upload=upload)
        elif upload:
            job.upload = True
        assert job.task is not None, "a job has its task from the start"
        await asyncio.wait({job.task}, timeout=wait_s)
        if job.removing:
            raise InvalidState(f"Image {image_id} was removed while it was prepared.")
        if job.failure is not None:
            if self._jobs.get(image_id) is job:
                del self._jobs[image_id]
            return _status(image_id, job)
        if not job.task.done():
            return _status(image_id, job)
        return ImageStatus(image_id, ready=self._folder.find(image_id))

    async def require(self, image_id: ImageId) -> None:
        """Return when the image is on this host; fetch it from the store if it is not. A job for it that runs is joined.

        Raises:
            WrennError: it could not be prepared or fetched.
        """
        known = self._jobs.get(image_id)
        if known is not None and known.failure is not None:
            # Of a caller that did not wait for it; what it says may be long over.
            del self._jobs[image_id]
        self._folder.mark_used(image_id)
        status = await self.ensure(image_id, StoredSource(), wait_s=None)
        if status.failure is not None:
            raise error_class(status.failure.code)(status.failure.message)

    async def remove(self, image_id: ImageId) -> None:
        """Remove an image, also one that is being prepared. A missing one is ignored.

        Bases and sandboxes that were made from it continue to have their copy.
        """
        while (job := self._jobs.get(image_id)) is not None:
            job.removing = True
            await self._cancel({image_id: job})
        await self._folder.remove(image_id)

    async def close(self) -> None:
        """Cancel all jobs and wait for their end."""
        await self._cancel(dict(self._jobs))

    async def _cancel(self, jobs: dict[ImageId, _Job]) -> None:
        tasks = {job.task for job in jobs.values() if job.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for image_id, job in jobs.items():
            if self._jobs.get(image_id) is job:
                del self._jobs[image_id]

    def _find(self, image_id: ImageId) -> LocalImage | None:
        try:
            return self._folder.find(image_id)
        except NotFound:
            return None
        except InvalidState as error:
            _log.warning("image is damaged and prepared again", extra=error.context)
            return None

    def _begin(self, image_id: ImageId, source: Source, *, upload: bool) -> _Job:
        is_fetch = isinstance(source, StoredSource)
        same_kind = sum(isinstance(job.source, StoredSource) is is_fetch for job in self._jobs.values())
        if same_kind >= _JOB_LIMIT:
            failed = next((known for known, job in self._jobs.items() if job.failure is not None), None)
            if failed is None:
                raise NoCapacity("Too many images are being prepared on this host. Try again later.")
            del self._jobs[failed]
        self._require_free_disk()
        job = self._jobs[image_id] = _Job(source, upload)
        job.task = asyncio.create_task(self._run(image_id, job), name=f"prepare {image_id}")
        return job

    def _require_free_disk(self) -> None:
        if free_b(self._data_dir) < self._reserve_b:
            raise StorageFull("The disk of the host is full: no image can be prepared until space is freed.")

    async def _run(self, image_id: ImageId, job: _Job) -> None:
        """Run a job. It always ends normally, with its failure if there is one."""
        try:
            await self._work(image_id, job)
        except asyncio.CancelledError:
            # By a removal or the agent's end, or because the sandbox whose disk was read has been removed.
            job.failure = Failure(InvalidState.code, _STOPPED)
        except WrennError as error:
            job.failure = Failure(error.code, error.message)
            _log.warning(
                "image not prepared",
                extra={"image_id": str(image_id), "reason": error.message, **error.context},
            )
        except Exception:  # noqa: BLE001 - the caller gets an error without details
            job.failure = Failure(InternalError.code, "The image could not be prepared.")
            _log.exception("image not prepared", extra={"image_id": str(image_id)})
        else:
            del self._jobs[image_id]
            await self._keep_limit()

    async def _keep_limit(self) -> None:
        """Remove images that were not used for longest, if all take more than the limit. They are fetched again when needed."""
        if not self._cache.limit_b:
            return
        try:
            # One at a time: two would remove more than is needed.
            async with self._limiting:
                await self._remove_beyond_limit()
        except (OSError, WrennError) as error:
            _log.warning("limit of images not kept", extra={"cause": str(error)})

    async def _remove_beyond_limit(self) -> None:
        cached = await asyncio.to_thread(self._ready)
        if sum(image.allocated_b for image in cached) <= self._cache.limit_b:
            return
        in_use = self._cache.templates_in_use()
        images = [
            CachedImage(
                image.image_id,
                image.allocated_b,
                image.used_at,
                may_leave=self._may_leave(image, in_use),
            )
            for image in cached
        ]
        for image_id in images_beyond(images, self._cache.limit_b):
            # It may have been used since. From here to the renaming of its folder nothing else runs.
            image = self._find(image_id)
            if image is not None and self._may_leave(image, self._cache.templates_in_use()):
                await self._folder.remove(image_id)
                _log.info("image removed: the limit of images is reached", extra={"image_id": str(image_id)})
                self._cache.on_removed()

    def _may_leave(self, image: LocalImage, in_use: set[str] | None) -> bool:
        return (
            in_use is not None
            and str(image.image_id) not in in_use
            and image.facts.uploaded
            and image.image_id not in self._jobs
            and image.used_at < time.time() - _IN_USE_S
        )

    def _ready(self) -> list[LocalImage]:
        """Return the ready images. Blocking."""
        ready: list[LocalImage] = []
        for image_id in self._folder.ids():
            with suppress(NotFound, InvalidState):
                ready.append(self._folder.find(image_id))
        return ready

    async def _work(self, image_id: ImageId, job: _Job) -> None:
        if isinstance(job.source, StoredSource):
            async with self._fetches:
                await self._find_or_make(image_id, job, IMAGE_JOB_SLOTS[0])
            return
        async with self._slot(image_id, job.source) as slot:
            image = await self._find_or_make(image_id, job, slot)
            if job.upload and not image.facts.uploaded:
                job.progress.begin(Phase.UPLOAD)
                await fault_point("agent.image.before_upload")
                sent_b = await self._upload(image, job.progress)
                await fault_point("agent.image.after_upload")
                self._folder.set_uploaded(image, uploaded_b=sent_b)

    @asynccontextmanager
    async def _slot(self, image_id: ImageId, source: Source) -> AsyncGenerator[int]:
        """Wait until a job of this kind may run, and hold its slot."""
        async with AsyncExitStack() as stack:
            slots = self._slots
            if isinstance(source, ContainerSource):
                owner = source.scope or str(image_id)
                await stack.enter_async_context(self._importing.setdefault(owner, asyncio.Lock()))
                slots = self._imports
            slot = await slots.get()
            stack.callback(slots.put_nowait, slot)
            yield slot

    async def _find_or_make(self, image_id: ImageId, job: _Job, slot: int) -> LocalImage:
        self._require_free_disk()
        return self._find(image_id) or await self._make(image_id, job, slot)

    async def _make(self, image_id: ImageId, job: _Job, slot: int) -> LocalImage:
        async with Undo() as undo:
            draft = await self._folder.new_draft(image_id)
            undo.push("remove draft", partial(remove_any_tree, draft), timeout_s=REMOVE_TIMEOUT_S)
            facts = await self._prepare(job.source, image_id, draft, job.progress, job_slot=slot)
            # The undo step runs on success too: the draft has been renamed by then.
            return await self._folder.publish(draft, image_id, facts)


def _queue_of(slots: Sequence[int]) -> asyncio.Queue[int]:
    queue: asyncio.Queue[int] = asyncio.Queue()
    for slot in slots:
        queue.put_nowait(slot)
    return queue


def _status(image_id: ImageId, job: _Job) -> ImageStatus:
    return ImageStatus(image_id, failure=job.failure, progress=job.progress)
