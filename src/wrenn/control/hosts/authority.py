"""The internal certificate authority: what it signs, and how it is loaded from settings or files.

ECDSA P-256 throughout. Of a certificate signing request only the public key is taken; what the certificate says is decided
here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import HostId
from wrenn.control.hosts.addresses import check_no_host_id
from wrenn.control.hosts.types import certified_name

CSR_LIMIT_B: Final = 16 * 1024
AGENT_LIFE: Final = timedelta(days=7)
CONTROL_LIFE: Final = timedelta(hours=24)
CONTROL_NAME: Final = "wrenn control"
CLOCK_SKEW: Final = timedelta(hours=1)
_FILE_LIMIT_B: Final = 256 * 1024
_PEM: Final = "-----BEGIN "
_CERT_SETTING: Final = "WRENN_CA_CERT"
_KEY_SETTING: Final = "WRENN_CA_KEY"


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """A certificate that the authority has signed.

    Attributes:
        fingerprint: SHA-256 of the DER form, in hex.
    """

    pem: str
    fingerprint: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CaIdentity:
    """Which CA signs, and which are trusted: fingerprints, nothing secret."""

    signer: str
    trusted: frozenset[str]

    def agrees_with(self, other: CaIdentity) -> bool:
        """Whether what one of both signs is trusted by the other, as during each step of a rotation."""
        return self.signer in other.trusted and other.signer in self.trusted


class Authority:
    """Signs the certificates of agents and of the control plane with one CA; others may be trusted beside it.

    Attributes:
        certificate: of the CA that signs.
        others: those of other CAs that are trusted.
        expired: those of other CAs that have expired, and so are not trusted.
        trusted_pem: all that are trusted.
    """

    def __init__(self, certificates: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> None:
        """Take the CA whose certificate among `certificates` belongs to `key`; all of them are trusted.

        Raises:
            ValueError: none belongs to it.
        """
        own = [each for each in certificates if each.public_key() == key.public_key()]
        if not own:
            raise ValueError("does not belong to any of the certificates")
        # Of several with one key, the one that is valid for the longest time.
        self.certificate = max(own, key=lambda each: each.not_valid_after_utc)
        self._key = key
        now = datetime.now(UTC)
        self.others = [each for each in certificates if each not in own and each.not_valid_after_utc > now]
        self.expired = [each for each in certificates if each not in own and each.not_valid_after_utc <= now]
        trusted = [each for each in certificates if each not in self.expired]
        self.trusted_pem = "".join(certificate_pem(each) for each in trusted)
        self.identity = CaIdentity(
            fingerprint(self.certificate), frozenset(fingerprint(each) for each in trusted)
        )

    @classmethod
    def from_settings(cls, certificates: str, key: str) -> Authority | None:
        """Load the CA from the values of WRENN_CA_CERT and WRENN_CA_KEY: PEM text, or the path of a file that holds it.

        None: neither is set.

        Raises:
            InvalidRequest: they cannot be used; the message names the setting and never holds its value.
        """
        if not certificates and not key:
            return None
        for name, value in ((_CERT_SETTING, certificates), (_KEY_SETTING, key)):
            if not value:
                raise InvalidRequest(
                    f"{name} is missing: set both {_CERT_SETTING} and {_KEY_SETTING}, or neither."
                )
        loaded = _certificates(_text_of(_CERT_SETTING, certificates))
        private = _private_key(_text_of(_KEY_SETTING, key))
        try:
            authority = cls(loaded, private)
        except ValueError as error:
            raise InvalidRequest(
                f"{_KEY_SETTING} does not belong to any certificate in {_CERT_SETTING}."
            ) from error
        if authority.certificate.not_valid_after_utc <= datetime.now(UTC):
            subject = _subject(authority.certificate)
            raise InvalidRequest(f"{_CERT_SETTING}: the certificate {subject}, whose key signs, has expired.")
        return authority

    def sign_agent(
        self, csr_pem: str, host_id: HostId, address: str, *, cert_epoch: int
    ) -> SignedCertificate:
        """Sign the server certificate of a host's agent, for the key of its request, its id and its IP address or name.

        `cert_epoch`: as of `HostEndpoint`. The bare id is always in it, as replicas of the release before ask for that.

        Raises:
            InvalidRequest: no request in PEM with a valid signature by an ECDSA P-256 key, or a larger one than `CSR_LIMIT_B`; the
                name could be another host's id.
        """
        certified = dict.fromkeys([str(host_id), certified_name(host_id, cert_epoch)])
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in certified]
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            check_no_host_id(address)
            names.append(x509.DNSName(address))
        return self._sign(
            public_key_of(csr_pem), str(host_id), AGENT_LIFE, ExtendedKeyUsageOID.SERVER_AUTH, names
        )

    def sign_control(self, public_key: ec.EllipticCurvePublicKey) -> SignedCertificate:
        """Sign a client certificate of the control plane for this key."""
        names = [x509.DNSName("control")]
        return self._sign(public_key, CONTROL_NAME, CONTROL_LIFE, ExtendedKeyUsageOID.CLIENT_AUTH, names)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key that belongs to the CA which signs."""
        return self._key.public_key()

    def has_signed(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate was signed with this CA's key."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        life: timedelta,
        purpose: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
    ) -> SignedCertificate:
        certificate = (
            certificate_builder(common_name(name), self.certificate.subject, public_key, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            # An agent's certificate cannot call and the control plane's cannot serve.
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return SignedCertificate(
            certificate_pem(certificate), fingerprint(certificate), certificate.not_valid_after_utc
        )


def public_key_of(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate signing request, which its signature shows to be the sender's.

    Raises:
        InvalidRequest: as `Authority.sign_agent`.
    """
    if len(csr_pem) > CSR_LIMIT_B or not csr_pem.isascii():
        raise InvalidRequest(f"csr_pem: must be PEM of at most {CSR_LIMIT_B // 1024} KiB.")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        is_valid = isinstance(key, ec.EllipticCurvePublicKey) and request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequest("csr_pem: must be a certificate signing request in PEM.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequest("csr_pem: its key must be an ECDSA key on the curve P-256.")
    if not is_valid:
        raise InvalidRequest("csr_pem: its signature is not valid.")
    return key


def common_name(name: str) -> x509.Name:
    """Return the name of a certificate's subject."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    """Begin a certificate that is valid from some minutes ago, as clocks differ."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what a CA's key is for, or that of a program."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER form, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def certificate_pem(certificate: x509.Certificate) -> str:
    """Return a certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _text_of(name: str, value: str) -> str:
    if _PEM in value:
        return value
    try:
        with Path(value).open("rb") as file:
            content = file.read(_FILE_LIMIT_B + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name} must be PEM text, or the path of a readable file with it.") from error
    if len(content) > _FILE_LIMIT_B:
        raise InvalidRequest(f"{name}: the file has more than {_FILE_LIMIT_B // 1024} KiB.")
    return text


def _certificates(text: str) -> list[x509.Certificate]:
    try:
        loaded = x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise InvalidRequest(f"{_CERT_SETTING} must hold certificates in PEM.") from error
    for each in loaded:
        if not _is_ca(each):
            raise InvalidRequest(f"{_CERT_SETTING}: the certificate {_subject(each)} is not that of a CA.")
    return loaded


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:200]


def _private_key(text: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: what a library says of a key is not for the log.
        raise InvalidRequest(f"{_KEY_SETTING} must be an unencrypted private key in PEM.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequest(f"{_KEY_SETTING} must be an ECDSA key on the curve P-256.")
    return key
