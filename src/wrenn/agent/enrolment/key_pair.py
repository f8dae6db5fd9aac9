"""The agent's key pair. The private key stays on this machine; the control plane gets a certificate signing request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A new private key, and the request that a certificate is made from."""

    key_pem: str = field(repr=False)
    csr_pem: str


def new_key_pair() -> KeyPair:
    """Generate an ECDSA P-256 key. The request has no name: the control plane knows whose it is."""
    # Loaded only where a certificate is requested: it takes a tenth of a second of the agent's start.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair(private.decode(), request.public_bytes(pem).decode())


def validity_of(cert_pem: str) -> tuple[float, float]:
    """Return the times from when and until when a certificate is valid.

    Raises:
        ValueError: it is no certificate.
    """
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(cert_pem.encode())
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
