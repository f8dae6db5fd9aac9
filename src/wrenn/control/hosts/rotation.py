"""The files of a CA rotation: which step it has reached, and the change of files that takes it to the next.

A rotation has three steps: both CAs are trusted and the former signs; both are trusted and the new one signs; only the new one is trusted.
The step is read from the CA itself, there is no other record of it. Each change is one rename, so that a program which is killed
at any point leaves the former step or the next one, and it can be repeated.

| file | content |
|---|---|
| `ca-next.key`, `ca-next.pem` | the new CA |
| `ca.pem`, `ca.key` | without settings: what the replicas read. With settings: what the operator is to set |
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from wrenn.base.errors import InvalidState
from wrenn.base.faults import fault_point
from wrenn.control.hosts.authority import Authority, certificate_pem, fingerprint
from wrenn.control.hosts.pki import key_pem, load_key, locked, new_ca, read_ca, write_private

_NEXT: Final = "ca-next"


class Step(StrEnum):
    """How far a rotation has come.

    NONE: one CA. BOTH_TRUSTED: the former one signs, the next one is trusted as well. NEW_SIGNS: the former one is still trusted.
    """

    NONE = "none"
    BOTH_TRUSTED = "both trusted"
    NEW_SIGNS = "new signs"


class CaRotation:
    """The rotation of one CA.

    Args:
        pki: the folder of the CA in files.
        given: the CA of the settings, if there is one; then files are written for the operator to set.
        settings: the values from which `given` was loaded, which may be paths of files.
        keep_in: where the folder for those files is made; None: in `pki`.
    """

    def __init__(
        self,
        pki: Path,
        given: Authority | None,
        *,
        settings: Sequence[str] = (),
        keep_in: Path | None = None,
    ) -> None:
        self._pki = pki
        self._given = given
        self._settings = settings
        self.folder = pki if given is None else (keep_in or pki) / "rotation"

    @property
    def changes_settings(self) -> bool:
        """Whether the operator must set what a step has written."""
        return self._given is not None

    def authority(self) -> Authority:
        """Read the CA as replicas do.

        Raises:
            InvalidRequest: there is none that can be used.
        """
        return read_ca(self._pki) if self._given is None else self._given

    def step(self) -> Step:
        """Return how far the rotation has come.

        Raises:
            InvalidState: another CA is trusted that this program did not make and that is not a former one.
        """
        authority = self.authority()
        if not authority.others:
            return Step.NONE
        key = self._next_key()
        if key is not None and any(each.public_key() == key.public_key() for each in authority.others):
            return Step.BOTH_TRUSTED
        for other in authority.others:
            if other.not_valid_before_utc > authority.certificate.not_valid_before_utc:
                raise InvalidState(
                    f"The CA {fingerprint(other)[:16]} is trusted and newer than the one that signs, but its key is not in"
                    f" {self.folder}/{_NEXT}.key: run this command where the rotation was begun, or go on by hand."
                )
        return Step.NEW_SIGNS

    async def begin(self) -> None:
        """Make the new CA, and have it trusted beside the one that signs."""
        authority = self.authority()
        with locked(self.folder):
            certificate = self._ensure_next(authority)
            await fault_point("rotation.begin.after_key")
            trusted = [authority.certificate, *authority.others, certificate]
            self._write_trusted(trusted)
            await fault_point("rotation.begin.after_trusted")

    async def switch(self) -> None:
        """Have the new CA sign. Both are trusted."""
        with locked(self.folder):
            key = self._next_key()
            assert key is not None, "the step is BOTH_TRUSTED"
            # The rename is the whole change: `ca.pem` has both certificates.
            write_private(self.folder / "ca.key", key_pem(key))
            await fault_point("rotation.switch.after_key")

    async def finish(self) -> None:
        """Trust only the CA that signs."""
        authority = self.authority()
        with locked(self.folder):
            self._write_trusted([authority.certificate])
            await fault_point("rotation.finish.after_trusted")
            if self._given is None:
                self.forget()

    def forget(self) -> None:
        """Remove the files of a rotation that has ended. The key that signs is elsewhere by now.

        Raises:
            InvalidState: it is not: a setting is the path of one of these files. Nothing was removed.
        """
        if self._given is not None and any(self._is_inside(value) for value in self._settings):
            raise InvalidState(
                f"The rotation has ended, but the settings name files in {self.folder}, which is to be deleted: copy them elsewhere"
                " first, set WRENN_CA_CERT and WRENN_CA_KEY to the copies, restart the replicas, and run this command again."
            )
        for name in (f"{_NEXT}.key", f"{_NEXT}.pem"):
            (self.folder / name).unlink(missing_ok=True)
        if self._given is not None and self.folder.is_dir():
            for name in ("ca.pem", "ca.key", "lock"):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()

    def has_left_files(self) -> bool:
        """Whether the new CA, which signs by now, is still in the folder."""
        key = self._next_key()
        return key is not None and key.public_key() == self.authority().public_key

    def _is_inside(self, setting: str) -> bool:
        # Otherwise it is PEM text.
        return "-----BEGIN" not in setting and Path(setting).resolve().is_relative_to(self.folder.resolve())

    def _write_trusted(self, certificates: list[x509.Certificate]) -> None:
        write_private(
            self.folder / "ca.pem", "".join(certificate_pem(each) for each in certificates).encode()
        )

    def _next_key(self) -> ec.EllipticCurvePrivateKey | None:
        try:
            return load_key(self.folder / f"{_NEXT}.key")
        except (OSError, ValueError):
            return None

    def _ensure_next(self, authority: Authority) -> x509.Certificate:
        key = self._next_key()
        if key is None or key.public_key() == authority.public_key:
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self.folder / f"{_NEXT}.key", key_pem(key))
        try:
            certificate = x509.load_pem_x509_certificate((self.folder / f"{_NEXT}.pem").read_bytes())
        except (OSError, ValueError):
            certificate = None
        if certificate is None or certificate.public_key() != key.public_key():
            certificate = new_ca(key)
            write_private(self.folder / f"{_NEXT}.pem", certificate_pem(certificate).encode())
        return certificate
