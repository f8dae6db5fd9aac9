"""How long a build waits for its image: as long as that goes on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from wrenn.base.errors import DeadlineExceeded
from wrenn.base.ids import ImageId, SandboxId
from wrenn.control.builds.make_image import make_image
from wrenn.control.hosts import HostClient, HostImage, HostImageState


@dataclass
class Host:
    """A host that is asked once in 0.1 s how far it has come."""

    answers: list[HostImage]
    asked: list[ImageId] = field(default_factory=list[ImageId])

    async def ensure_image(self, image_id: ImageId, *_: Any, **__: Any) -> HostImage:
        self.asked.append(image_id)
        await asyncio.sleep(0.1)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def _uploading(done_b: int) -> HostImage:
    return HostImage(ImageId.new(), HostImageState.PREPARING, phase="upload", done_b=done_b)


async def test_an_upload_may_take_as_long_as_it_goes_on() -> None:
    ready = HostImage(ImageId.new(), HostImageState.READY)
    host = Host([*(_uploading(done_b) for done_b in range(8)), ready])
    made = await make_image(
        cast("HostClient", host), ImageId.new(), SandboxId.new(), upload=True, still_limit_s=0.4
    )
    assert made is ready
    assert len(host.asked) == 9


async def test_one_that_does_not_go_on_is_given_up() -> None:
    host = Host([_uploading(7)])
    with pytest.raises(DeadlineExceeded, match="did not go on"):
        await make_image(
            cast("HostClient", host), ImageId.new(), SandboxId.new(), upload=True, still_limit_s=0.4
        )
    assert len(host.asked) < 8
