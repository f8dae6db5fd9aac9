"""Has a host make an image, and waits for it."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InternalError, Unavailable, error_class
from wrenn.base.ids import ImageId
from wrenn.control.hosts import HostClient, HostImage, HostImageState, ImageSource

_IMAGE_WAIT_S: Final = 20.0
_STILL_LIMIT_S: Final = 3600.0
"""Without progress. Longer than any step of a host that does not tell how far it has come, and than the usual wait for its turn."""
_RETRY_S: Final = 1.0
_RETRIES: Final = 5


async def make_image(
    host: HostClient,
    image_id: ImageId,
    source: ImageSource,
    *,
    upload: bool,
    still_limit_s: float = _STILL_LIMIT_S,
) -> HostImage:
    """Have the host make an image, and return it when it is ready; with `upload` it is in the store then.

    Raises:
        WrennError: why it could not. DeadlineExceeded: it has not come further for `still_limit_s`.
    """
    failures = 0
    reached: object = None
    try:
        async with asyncio.timeout(still_limit_s) as limit:
            while True:
                try:
                    image = await host.ensure_image(image_id, source, wait_s=_IMAGE_WAIT_S, upload=upload)
                except (Unavailable, DeadlineExceeded):
                    failures += 1
                    if failures > _RETRIES:
                        raise
                    await asyncio.sleep(_RETRY_S)
                    continue
                failures = 0
                if reached != (image.phase, image.done_b):
                    reached = (image.phase, image.done_b)
                    limit.reschedule(asyncio.get_running_loop().time() + still_limit_s)
                if image.state is HostImageState.READY:
                    return image
                if image.state is HostImageState.FAILED:
                    error = error_class(image.error_code)(image.error)
                    if isinstance(error, InternalError):
                        raise InternalError("The host could not make the image; its log has the reason.")
                    raise error
    except TimeoutError as error:
        raise DeadlineExceeded(f"The making of the image did not go on for {still_limit_s:.0f} s.") from error
