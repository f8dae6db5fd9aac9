"""The object store, which only the control plane has credentials of (docs/design/store.md)."""

from wrenn.control.objects.keys import StoreKeyMissing, StoreKeys, name_of
from wrenn.control.objects.signing import UrlSigner
from wrenn.control.objects.store import (
    Method,
    ObjectMissing,
    ObjectStore,
    StoredObject,
    StoreSettings,
)

__all__ = [
    "Method",
    "ObjectMissing",
    "ObjectStore",
    "StoreKeyMissing",
    "StoreKeys",
    "StoreSettings",
    "StoredObject",
    "UrlSigner",
    "name_of",
]
