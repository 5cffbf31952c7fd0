"""A remote store in the shape of tensorboardX's factories."""

from __future__ import annotations


class Store:
    """Each flush sends the whole file. ``error``: what sending raises. ``sent``: how often it was done."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.error: Exception | None = None
        self.checked: list[str] = []

    def directory_check(self, path: str) -> None:
        self.checked.append(path)

    def open(self, path: str) -> StoreFile:
        return StoreFile(self, path)


class StoreFile:
    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path, self.content = store, path, b""

    def write(self, data: bytes) -> None:
        self.content += data

    def flush(self) -> None:
        if self.store.error is not None:
            raise self.store.error
        self.store.files[self.path] = self.content
        self.store.sent += 1

    def close(self) -> None:
        self.flush()

    def __del__(self) -> None:
        self.close()
