"""The object store, which only the control plane has credentials of (docs/design/store.md)."""

from wrenn.control.objects.signing import UrlSigner
from wrenn.control.objects.store import (
    Method,
    ObjectMissing,
    ObjectStore,
    StoredObject,
    StoreSettings,
)

__all__ = ["Method", "ObjectMissing", "ObjectStore", "StoreSettings", "StoredObject", "UrlSigner"]
