"""What the guides show and what installs Debian packages for it: on a platform whose sandboxes reach the mirrors."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from socket import AddressFamily, getaddrinfo

import pytest

from tests.docs_examples import Example, examples
from tests.vm.platform import running_platform
from tests.vm.test_docs_examples import NEEDS_PACKAGES, run

TIMEOUT_S = 1200
WITH_PACKAGES = [e for e in examples() if e.page in NEEDS_PACKAGES]


@pytest.mark.packages
@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("example", WITH_PACKAGES, ids=lambda e: e.name)
async def test_an_example_that_installs_packages_runs_as_written(
    data_dir: Path, images_dir: Path, example: Example, tmp_path: Path
) -> None:
    async with running_platform(data_dir, images_dir, private_networks=addresses_of_mirrors()) as platform:
        await run(platform, example, tmp_path, TIMEOUT_S)


def addresses_of_mirrors() -> str:
    """Of those hosts of Debian's packages whose addresses are not public, and thus closed to sandboxes."""
    hosts = {"deb.debian.org", "security.debian.org"}
    found = {
        ip_address(entry[4][0]) for host in hosts for entry in getaddrinfo(host, 80, AddressFamily.AF_INET)
    }
    return ",".join(str(address) for address in found if not address.is_global)
