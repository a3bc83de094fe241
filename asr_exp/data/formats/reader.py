"""What the readers of this folder share: a place of their own in what they read."""

import io


class SeekableReader(io.RawIOBase):
    """A reader of so many bytes, at a place that `seek` sets and the `readinto` of its subclasses moves."""

    def __init__(self, size: int):
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at
