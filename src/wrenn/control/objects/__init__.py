"""The object store, which only the control plane has credentials of (docs/design/store.md)."""

from wrenn.control.objects.signing import UrlSigner
from wrenn.control.objects.store import (
    ObjectMissing,
    ObjectStore,
    StoredObject,
    StoreSettings,
)

__all__ = ["ObjectMissing", "ObjectStore", "StoreSettings", "StoredObject", "UrlSigner"]
