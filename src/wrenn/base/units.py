"""Sizes in bytes. Names end in their unit: `_b`, `_mb` (MiB, as on the wire), `_s`, `_ms`."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PAGE_B: Final = 4096
"""Size of memory pages in guest and host: base pages of x86-64."""
