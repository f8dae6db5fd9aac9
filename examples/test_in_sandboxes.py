"""Tests that run untrusted or destructive code, each in a sandbox of its own. Run: pytest test_in_sandboxes.py"""

from __future__ import annotations

from wrenn.pytest_plugin import Sandboxes

INSTALLER = "#!/bin/sh\nset -e\nmkdir -p /opt/tool\necho 1.0 > /opt/tool/version\nrm -rf /srv\n"


def test_the_installer_writes_its_version(wrenn: Sandboxes) -> None:
    sandbox = wrenn.create()
    sandbox.files.write("/tmp/install.sh", INSTALLER)
    sandbox.commands.run("sh /tmp/install.sh", check=True)
    assert sandbox.files.read("/opt/tool/version") == "1.0\n"


def test_two_machines_do_not_share_files(wrenn: Sandboxes) -> None:
    one, other = wrenn.create(), wrenn.create()
    one.files.write("/root/a", "1")
    assert not other.files.exists("/root/a")
