"""Sizes in bytes. Names end in their unit: `_b`, `_mb` (MiB, as on the wire), `_s`, `_ms`."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PAGE_B: Final = 4096
"""Guest and host page size; x86-64 base pages."""
