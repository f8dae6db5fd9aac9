"""Which images leave a host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wrenn.agent.images.cache_limit import CachedImage, images_beyond
from wrenn.base.ids import ImageId

IMAGES = st.lists(
    st.builds(
        CachedImage,
        image_id=st.builds(ImageId.new),
        allocated_b=st.integers(0, 100),
        used_at=st.floats(0, 1000),
        may_leave=st.booleans(),
    ),
    max_size=8,
)


def test_the_one_that_was_not_used_for_longest_leaves_first() -> None:
    old, new = (CachedImage(ImageId.new(), 10, used_at, may_leave=True) for used_at in (1.0, 2.0))
    assert images_beyond([new, old], 20) == []
    assert images_beyond([new, old], 19) == [old.image_id]
    assert images_beyond([new, old], 9) == [old.image_id, new.image_id]


@given(IMAGES, st.integers(0, 400))
def test_only_what_may_leave_does_and_no_more_than_is_needed(images: list[CachedImage], limit_b: int) -> None:
    leaving = images_beyond(images, limit_b)
    left_b = sum(image.allocated_b for image in images if image.image_id not in leaving)
    movable = [image for image in images if image.may_leave]
    assert set(leaving) <= {image.image_id for image in movable}
    assert left_b <= limit_b or len(leaving) == len(movable)
    if leaving:
        last = next(image for image in images if image.image_id == leaving[-1])
        assert left_b + last.allocated_b > limit_b
        stayed = [image.used_at for image in movable if image.image_id not in leaving]
        assert all(last.used_at <= used_at for used_at in stayed)
