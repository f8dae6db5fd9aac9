"""The internal CA: made once, renewed in time, readable by root alone."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from wrenn.control.hosts.pki import ensure_pki


def test_keys_are_private_and_a_second_call_changes_nothing(tmp_path: Path):
    folder = tmp_path / "pki"
    ensure_pki(folder)
    names = {f"{name}.{kind}" for name in ("ca", "agent", "control") for kind in ("pem", "key")}
    before = {name: (folder / name).read_bytes() for name in names}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for name in names)
    ensure_pki(folder)
    assert before == {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("torn", ["agent.key", "agent.pem"])
def test_a_torn_pair_is_made_anew_under_the_same_ca(tmp_path: Path, torn: str):
    ensure_pki(tmp_path)
    ca = (tmp_path / "ca.pem").read_bytes()
    (tmp_path / torn).write_text("torn")
    ensure_pki(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "agent.pem", tmp_path / "agent.key")


def test_a_new_ca_signs_all_anew(tmp_path: Path):
    ensure_pki(tmp_path)
    (tmp_path / "ca.key").unlink()
    ensure_pki(tmp_path)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    for name, purpose in (
        ("agent", ExtendedKeyUsageOID.SERVER_AUTH), ("control", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):  # fmt: skip
        leaf = x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes())
        leaf.verify_directly_issued_by(ca)
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
