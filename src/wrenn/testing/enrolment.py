"""Credentials for an agent of tests that have no control plane."""

from __future__ import annotations

from pathlib import Path

from wrenn.agent.enrolment.credentials import Credentials, CredentialsFile
from wrenn.agent.enrolment.key_pair import new_key_pair, validity_of
from wrenn.base.addresses import host_and_port
from wrenn.base.ids import HostId
from wrenn.control.hosts import HostEndpoint
from wrenn.control.hosts.pki import ensure_pki

_NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there: heartbeats fail, which disturbs nothing."""


def issue_credentials(data_dir: Path, pki: Path, address: str, *, cert_epoch: int = 0) -> HostEndpoint:
    """Write credentials that the CA in `pki` has signed, as if the agent at `address` had registered.

    Returns where a control plane with that CA reaches it.
    """
    authority = ensure_pki(pki)
    pair, host_id, place = new_key_pair(), HostId.new(), host_and_port(address)
    assert place is not None, "an address is HOST:PORT"
    cert_pem = authority.sign_agent(pair.csr_pem, host_id, place[0], cert_epoch=cert_epoch).pem
    issued_at_unix, expires_at_unix = validity_of(cert_pem)
    CredentialsFile(data_dir).save(
        Credentials(
            control_url=_NOWHERE,
            host_id=str(host_id),
            address=address,
            token="none",  # noqa: S106 - nobody is asked to accept it
            refresh_token="none",  # noqa: S106
            key_pem=pair.key_pem,
            cert_pem=cert_pem,
            ca_cert_pem=authority.trusted_pem,
            issued_at_unix=issued_at_unix,
            expires_at_unix=expires_at_unix,
        )
    )
    return HostEndpoint(host_id, f"https://{address}", cert_epoch)
