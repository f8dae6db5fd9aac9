"""The files of the internal CA, and of the client certificate with which this control plane calls agents.

Keys never leave their folder (mode 700, files 600).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wrenn.base.errors import InvalidRequest
from wrenn.control.hosts.authority import (
    Authority,
    certificate_builder,
    certificate_pem,
    common_name,
    key_usage,
)

_CA_LIFE: Final = timedelta(days=3650)


def ensure_pki(folder: Path, given: Authority | None = None) -> Authority:
    """Create the certificate `control` (`.pem`, `.key`) and return the CA that signs.

    It is renewed where it is missing, not signed by the CA, or a third of its life is left. Without `given` the CA
    is `ca` in the folder, made if it is missing. `trusted.pem` holds all certificates that are trusted. Safe to call again and
    from several programs at once. Programs that run keep what they loaded.

    Raises:
        InvalidRequest: the folder has a CA that cannot be used.
    """
    with locked(folder):
        authority = _ensure_ca(folder) if given is None else given
    ensure_certificate(folder, authority)
    return authority


def ensure_certificate(folder: Path, authority: Authority) -> None:
    """Create or renew the certificate `control` and `trusted.pem` as `ensure_pki` does, and touch no CA."""
    with locked(folder):
        _ensure_content(folder / "trusted.pem", authority.trusted_pem.encode())
        if not _is_good(folder, authority):
            key = ec.generate_private_key(ec.SECP256R1())
            _save(folder, "control", authority.sign_control(key.public_key()).pem.encode(), key)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Be the only program that changes the folder, which is created if it is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _give_to_owner_of(folder, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_ca(folder: Path) -> Authority:
    """Read the CA `ca` of a folder, and those that `ca.pem` has beside it.

    Raises:
        InvalidRequest: there is none that can be used.
    """
    try:
        certificates = x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())
        return Authority(certificates, load_key(folder / "ca.key"))
    except (OSError, ValueError) as error:
        # A new CA would be trusted by no host.
        raise InvalidRequest(
            f"{folder}/ca.pem and ca.key are not a CA's certificate and its key ({error}): restore them. If they"
            " are lost, remove both and run `wrenn admin accept-secrets`; then a new CA is made at the next start."
        ) from error


def _ensure_ca(folder: Path) -> Authority:
    if (folder / "ca.pem").exists():
        return read_ca(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = new_ca(key)
    _save(folder, "ca", certificate_pem(certificate).encode(), key)
    return Authority([certificate], key)


def new_ca(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Make the certificate of a CA with this key."""
    name = common_name("wrenn internal CA")
    return (
        certificate_builder(name, name, key.public_key(), _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _is_good(folder: Path, authority: Authority) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "control.pem").read_bytes())
        key = load_key(folder / "control.key")
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


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key.

    Raises:
        OSError, ValueError: there is none that can be used.
    """
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("another kind of key")
    return key


def _save(folder: Path, name: str, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the key before the certificate: a certificate without its key would be found incomplete and made anew."""
    write_private(folder / f"{name}.key", key_pem(key))
    write_private(folder / f"{name}.pem", certificate)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _ensure_content(path: Path, content: bytes) -> None:
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass  # missing
    write_private(path, content)


def _give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Let the user of a replica read what root writes into its folder."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically by one with mode 600."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _give_to_owner_of(path.parent, descriptor)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
