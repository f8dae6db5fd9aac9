"""Images: the root file systems that templates are made of, in the store and on hosts."""

from wrenn.control.images.tables import images

__all__ = ["images"]
