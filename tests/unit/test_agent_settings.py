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


@pytest.mark.parametrize("model", ["", "host", "Skylake-Server-v4", "EPYC-Rome-v2"])
def test_a_cpu_model_is_host_or_a_name(model: str) -> None:
    assert Settings.from_environment({"WRENN_CPU_MODEL": model}).cpu_model == (model or "host")


@pytest.mark.parametrize("model", ["host,+vmx", "a b", "-x", "max,migratable=off", "x" * 70])
def test_a_cpu_model_cannot_bring_options_of_its_own(model: str) -> None:
    with pytest.raises(InvalidRequest, match="WRENN_CPU_MODEL"):
        Settings.from_environment({"WRENN_CPU_MODEL": model})


@pytest.mark.parametrize("name", ["WRENN_KVM_PROBE_S", "WRENN_START_LIMIT_S"])
@pytest.mark.parametrize("text", ["0", "-1", "x", "inf", "nan"])
def test_a_time_limit_is_a_number_above_zero(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Settings.from_environment({name: text})
