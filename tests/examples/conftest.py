"""The examples run as programs with packages of their own, against a real platform in this process."""

from __future__ import annotations

from tests.integration import conftest as integration

data_dir = integration.data_dir
pki = integration.pki
template_url = integration.template_url
lease_of_module_s = integration.lease_of_module_s
platform_of_module = integration.platform_of_module
