"""Tags: cleaned as tensorboardX cleans them, and made into directories that stay inside the log directory."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable

from tensorboardX.summary import _clean_tag

_MAX_CACHED = 65_536
_MAX_CACHED_LENGTH = 1024
_MAX_NAME_BYTES = 200  # of the 255 that file systems allow
_MAX_PATH_BYTES = 1024  # of the 4096 that Linux allows, below the log directory
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class TagCache(dict[str, str]):
    """A bounded cache: ``cache[tag]`` is ``rewrite(tag)``."""

    def __init__(self, rewrite: Callable[[str], str]) -> None:
        self._rewrite = rewrite

    def __missing__(self, tag: str) -> str:
        name = self._rewrite(tag)
        if len(tag) <= _MAX_CACHED_LENGTH:
            if len(self) >= _MAX_CACHED:
                self.clear()
            self[tag] = name
        return name


def clean_tag(tag: str) -> str:
    """The tag as tensorboardX cleans it: what TensorFlow forbids becomes "_", leading slashes go.

    Raises:
        TypeError: the tag is no string.
    """
    return CLEAN_TAGS[checked_tag(tag, "clean_tag")]


def checked_tag(tag: str, method: str, argument: str = "tag") -> str:
    """The tag itself, for the methods whose tags tensorboardX writes verbatim; lone surrogates become "?".

    Raises:
        TypeError: the tag is no string; names ``method`` and ``argument``.
    """
    if not isinstance(tag, str):
        raise TypeError(f"{method}: {argument} must be a string, not {type(tag).__name__}: {tag!r:.100}")
    return encodable(tag)


def encodable(text: str) -> str:
    """The text, with "?" for lone surrogates, which no file can hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()


CLEAN_TAGS = TagCache(_clean_tag)
"""Tags as tensorboardX writes them."""
VERBATIM_TAGS = TagCache(encodable)
"""Tags as torch.utils.tensorboard writes them."""


@functools.lru_cache(_MAX_CACHED)
def subdirectory(root: str, *tags: str) -> str:
    """``os.path.join(root, *tags)``, but never outside ``root``, whatever the tags hold.

    Slashes make nested directories. Where a part is ``..``, has control characters or is too long, it is
    changed and marked with a digest of the original, so that different tags keep different directories.
    """
    parts = [part for tag in tags for part in re.split(r"[/\\]" if os.sep == "\\" else "/", tag)]
    path = "/".join(_safe_name(part) for part in parts if part not in ("", "."))
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        path = _cut(path.replace("/", "_")) + "~" + _digest(path)
    return os.path.join(root, path) if path else root


def _safe_name(name: str) -> str:
    safe = _cut(_UNSAFE.sub("_", name))
    if safe == ".." or (os.sep == "\\" and ":" in safe):
        safe = safe.replace(".", "_").replace(":", "_")
    return safe if safe == name else f"{safe}~{_digest(name)}"


def _cut(name: str) -> str:
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()
