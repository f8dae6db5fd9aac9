"""Has a host make an image, and waits for it."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InternalError, Unavailable, error_class
from wrenn.base.ids import ImageId
from wrenn.control.hosts import HostClient, HostImage, HostImageState, ImageSource

_IMAGE_WAIT_S: Final = 20.0
_IMAGE_LIMIT_S: Final = 1800.0
_RETRY_S: Final = 1.0
_RETRIES: Final = 5


async def make_image(host: HostClient, image_id: ImageId, source: ImageSource, *, upload: bool) -> HostImage:
    """Have the host make an image, and return it when it is ready; with `upload` it is in the store then.

    Raises:
        WrennError: why it could not. DeadlineExceeded: it takes too long.
    """
    failures = 0
    try:
        async with asyncio.timeout(_IMAGE_LIMIT_S):
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
                if image.state is HostImageState.READY:
                    return image
                if image.state is HostImageState.FAILED:
                    error = error_class(image.error_code)(image.error)
                    if isinstance(error, InternalError):
                        raise InternalError("The host could not make the image; its log has the reason.")
                    raise error
    except TimeoutError as error:
        raise DeadlineExceeded(f"The image was not made within {_IMAGE_LIMIT_S:.0f} s.") from error
