"""Settings of the agent."""

from __future__ import annotations

import pytest

from wrenn.agent.settings import Settings, WarmTemplate
from wrenn.base.errors import InvalidRequest
from wrenn.vm import Shape


def test_the_template_that_is_booted_at_the_start_is_the_default_one_unless_another_or_none_is_named() -> (
    None
):
    def named(text: str) -> WarmTemplate | None:
        return Settings.from_environment({"WRENN_WARM_TEMPLATE": text}).warm_template

    assert Settings.from_environment({}).warm_template == WarmTemplate("minimal", Shape(1, 512))
    assert named("tools:2:1024") == WarmTemplate("tools", Shape(2, 1024))
    assert named("") is None
    for wrong in ("tools", "tools:2", "tools:two:1024", ":::"):
        with pytest.raises(InvalidRequest, match="WRENN_WARM_TEMPLATE"):
            named(wrong)
