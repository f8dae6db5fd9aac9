"""The internal CA: made once or given by settings, certificates renewed in time, keys readable by root alone."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from wrenn.base.errors import InvalidRequest, InvalidState
from wrenn.control.hosts import Authority, authority, pki
from wrenn.control.hosts.pki import ensure_pki, renewal_time
from wrenn.control.hosts.rotation import CaRotation
from wrenn.control.settings import Settings


def test_keys_are_private_and_a_second_call_changes_nothing(tmp_path: Path):
    folder = tmp_path / "pki"
    ensure_pki(folder)
    names = {f"{name}.{kind}" for name in ("ca", "control") for kind in ("pem", "key")}
    before = {name: (folder / name).read_bytes() for name in names}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for name in names)
    ensure_pki(folder)
    assert before == {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("torn", ["control.key", "control.pem"])
def test_a_torn_pair_is_made_anew_under_the_same_ca(tmp_path: Path, torn: str):
    ensure_pki(tmp_path)
    ca = (tmp_path / "ca.pem").read_bytes()
    (tmp_path / torn).write_text("torn")
    ensure_pki(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(tmp_path / "control.pem", tmp_path / "control.key")


def test_a_new_ca_signs_anew(tmp_path: Path):
    ensure_pki(tmp_path)
    (tmp_path / "ca.pem").unlink()
    ensure_pki(tmp_path)
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    leaf = x509.load_pem_x509_certificate((tmp_path / "control.pem").read_bytes())
    leaf.verify_directly_issued_by(ca)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("damage", ["missing", "another", "torn"])
def test_a_ca_without_its_key_is_not_replaced_by_one_that_no_host_trusts(tmp_path: Path, damage: str):
    ensure_pki(tmp_path)
    before = (tmp_path / "ca.pem").read_bytes()
    match damage:
        case "missing":
            (tmp_path / "ca.key").unlink()
        case "another":
            (tmp_path / "ca.key").write_bytes((tmp_path / "control.key").read_bytes())
        case _:
            (tmp_path / "ca.key").write_text("torn")
    with pytest.raises(InvalidRequest, match="restore them"):
        ensure_pki(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == before


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _ca(tmp_path: Path, name: str) -> tuple[str, str]:
    """The certificate and the key of another CA, in PEM."""
    ensure_pki(tmp_path / name)
    return (tmp_path / name / "ca.pem").read_text(), (tmp_path / name / "ca.key").read_text()


def test_the_control_planes_certificate_is_for_a_day_and_renewed_when_a_third_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ensure_pki(tmp_path)
    first = _loaded(tmp_path / "control.pem")
    assert abs((first.not_valid_after_utc - _in(86_400)).total_seconds()) < 60
    assert first.subject.rfc4514_string() == "CN=wrenn control"
    # It is valid from an hour before it is issued, for clocks that are late: a third of 25 hours.
    assert abs((renewal_time(first) - _in(86_400 - 25 * 3600 // 3)).total_seconds()) < 300
    ensure_pki(tmp_path)
    assert _loaded(tmp_path / "control.pem") == first
    # One that was signed long ago.
    monkeypatch.setattr(authority, "CONTROL_LIFE", timedelta(seconds=60))
    (tmp_path / "control.pem").unlink()
    ensure_pki(tmp_path)
    short = _loaded(tmp_path / "control.pem")
    monkeypatch.undo()
    ensure_pki(tmp_path)
    renewed = _loaded(tmp_path / "control.pem")
    assert renewal_time(short) < _in(0) < renewal_time(renewed)


def test_a_given_ca_signs_and_all_given_are_trusted(tmp_path: Path):
    old, new = _ca(tmp_path, "old"), _ca(tmp_path, "new")
    both = old[0] + new[0]
    (tmp_path / "both.pem").write_text(both)
    (tmp_path / "new.key").write_text(new[1])
    for certificates, key in ((both, new[1]), (str(tmp_path / "both.pem"), str(tmp_path / "new.key"))):
        given = Authority.from_settings(certificates, key)
        assert given is not None
        assert given.trusted_pem == both
        ensure_pki(tmp_path / "pki", given)
        assert (tmp_path / "pki" / "trusted.pem").read_text() == both
        _loaded(tmp_path / "pki" / "control.pem").verify_directly_issued_by(
            _loaded(tmp_path / "new" / "ca.pem")
        )
    assert Authority.from_settings("", "") is None


@pytest.mark.parametrize(
    ("certificates", "key", "says"),
    [
        ("{old}", "", "WRENN_CA_KEY is missing"),
        ("", "{old_key}", "WRENN_CA_CERT is missing"),
        ("{old}", "{new_key}", "WRENN_CA_KEY does not belong"),
        ("/nowhere/ca.pem", "{old_key}", "WRENN_CA_CERT must be PEM text, or the path"),
        (
            "{old}",
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
            "WRENN_CA_KEY must be",
        ),
        ("{old}", "{rsa_key}", "WRENN_CA_KEY must be an ECDSA key"),
        ("{leaf}", "{old_key}", "is not that of a CA"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "{old_key}",
            "WRENN_CA_CERT must hold",
        ),
    ],
)
def test_a_ca_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, certificates: str, key: str, says: str
):
    old, new = _ca(tmp_path, "old"), _ca(tmp_path, "new")
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    texts = {
        "old": old[0],
        "old_key": old[1],
        "new_key": new[1],
        "rsa_key": rsa_key.decode(),
        "leaf": (tmp_path / "old" / "control.pem").read_text(),
    }
    with pytest.raises(InvalidRequest, match=says) as refusal:
        Settings.from_environment(
            {"WRENN_CA_CERT": certificates.format(**texts), "WRENN_CA_KEY": key.format(**texts)}
        )
    assert "BEGIN" not in refusal.value.message


def test_an_expired_ca_beside_the_one_that_signs_is_not_trusted_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = _ca(tmp_path, "own")
    monkeypatch.setattr(pki, "_CA_LIFE", timedelta(minutes=-1))
    old = _ca(tmp_path, "old")
    monkeypatch.undo()
    given = Authority.from_settings(own[0] + old[0], own[1])
    assert given is not None
    assert given.trusted_pem == own[0]
    assert len(given.expired) == 1
    with pytest.raises(InvalidRequest, match="has expired"):
        Authority.from_settings(own[0] + old[0], old[1])


async def test_the_end_of_a_rotation_deletes_no_file_that_a_setting_names(tmp_path: Path):
    certificate, key = _ca(tmp_path, "former")
    folder = tmp_path / "pki/rotation"

    def rotation() -> CaRotation:
        given = Authority.from_settings(certificate, key)
        return CaRotation(tmp_path / "pki", given, settings=(certificate, key))

    await rotation().begin()
    certificate = str(folder / "ca.pem")
    await rotation().switch()
    # A path that leads there in another way.
    (tmp_path / "link").symlink_to(tmp_path / "pki")
    key = str(tmp_path / "link/rotation/ca.key")
    await rotation().finish()
    certificate = (folder / "ca.pem").read_text()
    before = sorted(folder.iterdir())
    with pytest.raises(InvalidState, match="copy them elsewhere first"):
        rotation().forget()
    assert sorted(folder.iterdir()) == before
    key = (folder / "ca.key").read_text()
    rotation().forget()
    assert not folder.exists()
