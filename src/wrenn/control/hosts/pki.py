"""The files of the internal CA and of the two certificates beside it: the agent's, which serves, and the control plane's, which calls.

Keys never leave their folder (mode 700, files 600).
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wrenn.control.hosts.authority import (
    Authority,
    SignedCertificate,
    certificate_builder,
    common_name,
    key_usage,
)

_CA_LIFE: Final = timedelta(days=3650)
_AGENT_LIFE: Final = timedelta(days=365)
_RENEW_CA_BEFORE: Final = timedelta(days=30)
_AGENT_NAMES: Final = (
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
    x509.DNSName("localhost"),
)

Sign = Callable[[ec.EllipticCurvePublicKey], SignedCertificate]


def ensure_pki(folder: Path, given: Authority | None = None) -> Authority:
    """Create the certificates `agent` and `control` (`.pem`, `.key`) and return the CA that signs.

    They are renewed where they are missing, not signed by the CA, or a third of their life is left. Without `given` the CA
    is `ca` in the folder, made if it is missing; `ca.pem` holds all certificates that are trusted. Safe to call again and
    from several programs at once. Programs that run keep what they loaded.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if given is None:
            authority = _ensure_ca(folder)
        else:
            authority = given
            _ensure_content(folder / "ca.pem", given.trusted_pem.encode())
        _ensure_leaf(
            folder,
            "agent",
            authority,
            lambda key: authority.sign_server(key, "wrenn agent", _AGENT_LIFE, _AGENT_NAMES),
        )
        _ensure_leaf(folder, "control", authority, authority.sign_control)
        return authority
    finally:
        os.close(descriptor)


def _ensure_ca(folder: Path) -> Authority:
    try:
        certificates = x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())
        known = Authority(certificates, _load_key(folder / "ca.key"))
        if known.certificate.not_valid_after_utc - datetime.now(UTC) > _RENEW_CA_BEFORE:
            return known
    except (OSError, ValueError):
        pass  # missing, or not a pair
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name("wrenn internal CA")
    certificate = (
        certificate_builder(name, name, key.public_key(), _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _save(folder, "ca", certificate.public_bytes(serialization.Encoding.PEM), key)
    return Authority([certificate], key)


def _ensure_leaf(folder: Path, name: str, authority: Authority, sign: Sign) -> None:
    if not _is_good(folder, name, authority):
        key = ec.generate_private_key(ec.SECP256R1())
        _save(folder, name, sign(key.public_key()).pem.encode(), key)


def _is_good(folder: Path, name: str, authority: Authority) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        key = _load_key(folder / f"{name}.key")
    except (OSError, ValueError):
        return False
    return (
        key.public_key() == certificate.public_key()
        and authority.has_signed(certificate)
        and datetime.now(UTC) < renewal_time(certificate)
    )


def renewal_time(certificate: x509.Certificate) -> datetime:
    """Return when a third of a certificate's life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - life / 3


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")
    return key


def _save(folder: Path, name: str, certificate_pem: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the key before the certificate: a certificate without its key would be found incomplete and made anew."""
    _write(
        folder / f"{name}.key",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    _write(folder / f"{name}.pem", certificate_pem)


def _ensure_content(path: Path, content: bytes) -> None:
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass  # missing
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
