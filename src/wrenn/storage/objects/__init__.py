"""Images as chunks: what is put into the object store and made of it again."""

from wrenn.storage.objects.chunks import DamagedChunk, SparseReader, SparseWriter, compress, decompress

__all__ = ["DamagedChunk", "SparseReader", "SparseWriter", "compress", "decompress"]
