"""Which kernels and versions `wrenn doctor` warns of, and what makes it fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrenn.agent.doctor import Check, Report, Severity, advisories
from wrenn.agent.doctor.advisories import check_kernel, is_nested, kernel_version

FIXES = {fix.cve: fix for fix in advisories.FIXES}
NESTED_ESCAPE, LATER_ESCAPE, FRAGMENTS = "CVE-2026-53359", "CVE-2026-64561", "CVE-2026-80590"


def test_a_warning_leaves_the_machine_in_order_and_an_error_does_not() -> None:
    good = Check("a", ok=True, detail="")
    warning = Check("b", ok=False, detail="", severity=Severity.WARNING)
    assert Report([good, warning], [], []).healthy
    assert not Report([good, warning, Check("c", ok=False, detail="")], [], []).healthy


@pytest.mark.parametrize(
    ("release", "build", "signature", "version"),
    [
        ("6.18.44-fc-v782", "#1 SMP PREEMPT_DYNAMIC @0", "", (6, 18, 44)),
        ("7.2.0", "", "", (7, 2, 0)),
        ("7.2-rc1", "", "", (7, 2, 0)),
        ("6.1.0-35-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.137-1 (2025-05-07)", "", (6, 1, 137)),
        ("6.8.0-60-generic", "#63-Ubuntu SMP", "Ubuntu 6.8.0-60.63-generic 6.8.12\n", (6, 8, 12)),
        ("5.14.0-427.13.1.el9_4.x86_64", "#1 SMP", "", None),
    ],
)
def test_the_upstream_version_of_a_kernel(
    release: str, build: str, signature: str, version: tuple[int, int, int] | None
) -> None:
    assert kernel_version(release, build, signature) == version


@pytest.mark.parametrize(
    ("cve", "version", "ok"),
    [
        (NESTED_ESCAPE, (6, 18, 37), False),
        (NESTED_ESCAPE, (6, 18, 38), True),
        (NESTED_ESCAPE, (6, 12, 94), False),
        (NESTED_ESCAPE, (6, 1, 177), True),
        (NESTED_ESCAPE, (5, 15, 300), False),
        (NESTED_ESCAPE, (7, 0, 9), False),
        (NESTED_ESCAPE, (7, 2, 0), True),
        (LATER_ESCAPE, (7, 1, 5), False),
        (LATER_ESCAPE, (6, 18, 42), True),
        (LATER_ESCAPE, (6, 12, 999), False),
        (FRAGMENTS, (6, 18, 47), False),
        (FRAGMENTS, (6, 18, 48), True),
    ],
)
def test_a_kernel_has_the_fix_from_its_lines_release_on(
    cve: str, version: tuple[int, int, int], ok: bool
) -> None:
    check = check_kernel(FIXES[cve], version, nested=True)
    assert check.ok is ok
    assert check.failed is (not ok and cve != FRAGMENTS), "fragments are a warning"


def test_escapes_through_nested_virtualisation_matter_only_where_it_is_on() -> None:
    assert check_kernel(FIXES[NESTED_ESCAPE], (6, 1, 1), nested=False).ok
    assert not check_kernel(FIXES[FRAGMENTS], (6, 18, 1), nested=False).ok


@pytest.mark.parametrize("version", [None, (6, 6, 200)])
def test_an_unknown_version_is_a_warning(version: tuple[int, int, int] | None) -> None:
    check = check_kernel(FIXES[FRAGMENTS], version, nested=False)
    assert not check.ok
    assert not check.failed
    assert "cannot be told" in check.detail


def test_an_unknown_kernel_with_nested_virtualisation_is_a_warning() -> None:
    check = check_kernel(FIXES[NESTED_ESCAPE], None, nested=True)
    assert (check.ok, check.failed) == (False, False)


def test_nested_virtualisation_is_read_from_the_module(tmp_path: Path) -> None:
    assert not is_nested(tmp_path)
    setting = tmp_path / "kvm_amd" / "parameters" / "nested"
    setting.parent.mkdir(parents=True)
    setting.write_text("1\n")
    assert is_nested(tmp_path)
    setting.write_text("0\n")
    assert not is_nested(tmp_path)
