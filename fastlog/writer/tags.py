"""Tags: cleaned as tensorboardX cleans them, and made into directories that stay inside the log directory."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable

from tensorboardX.summary import _clean_tag

from fastlog.common.notices import Notices

_MAX_CACHED = 65_536
_MAX_CACHED_LENGTH = 1024
_MAX_NAME_BYTES = 200  # of the 255 that file systems allow
_MAX_PATH_BYTES = 1024  # of the 4096 that Linux allows, below the log directory
# What TensorBoard shows the data of a method with; of methods whose tags are names in the main file.
_PLUGINS = {
    "add_scalar": "scalars",
    "add_histogram": "histograms",
    "add_histogram_raw": "histograms",
    "add_image": "images",
    "add_images": "images",
    "add_image_with_boxes": "images",
    "add_figure": "images",
    "add_video": "images",
    "add_audio": "audio",
    "add_pr_curve": "pr_curves",
    "add_pr_curve_raw": "pr_curves",
}
# Methods whose tags tensorboardX does not clean.
_VERBATIM = {
    "add_histogram_raw",
    "add_image_with_boxes",
    "add_audio",
    "add_text",
    "add_embedding",
    "add_pr_curve",
    "add_pr_curve_raw",
    "add_mesh",
    "add_tensor",
}
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
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
    """The text itself; lone surrogates become "?".

    Raises:
        TypeError: the tag is no string; names ``method`` and ``argument``.
    """
    check_string(tag, method, argument)
    return encodable(tag)


def check_string(tag: str, method: str, argument: str = "tag") -> None:
    """Raises TypeError, which names ``method`` and ``argument``, where the tag is no string."""
    if not isinstance(tag, str):
        raise TypeError(f"{method}: {argument} must be a string, not {type(tag).__name__}: {tag!r:.100}")


def encodable(text: str) -> str:
    """The text, with "?" for lone surrogates, which no file can hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()


CLEAN_TAGS = TagCache(_clean_tag)
"""Tags as tensorboardX writes them."""
VERBATIM_TAGS = TagCache(encodable)
"""Tags as torch.utils.tensorboard writes them."""


class TagBook:
    """The tags of one writer: how they are written, and what has been logged under the same name before.

    Args:
        rewrite: ``CLEAN_TAGS`` or ``VERBATIM_TAGS``.
        notices: gets what is said, once for each kind of trouble.
    """

    def __init__(self, rewrite: TagCache, notices: Notices) -> None:
        self._rewrite = rewrite
        self._notices = notices
        self._caches: dict[str, TagCache] = {}  # by method
        self._first: dict[str, tuple[str, str]] = {}  # method and tag, by name

    def names(self, method: str) -> TagCache:
        """The names by the tag, of one method."""
        cache = self._caches.get(method)
        if cache is None:
            cache = self._caches[method] = TagCache(functools.partial(self._enter, method))
        return cache

    def _enter(self, method: str, tag: str) -> str:
        rewrite = VERBATIM_TAGS if method in _VERBATIM else self._rewrite
        name = rewrite[encodable(tag)]
        if name != tag and _UNWRITABLE.search(tag):
            self._notices.tell(
                "rewritten tag",
                f"{method}({tag!r}): tag has characters that no file can hold (control characters, lone"
                f" surrogates). It is written as {name!r}, as other such tags may be (this"
                " warning is shown once)",
            )
        if method in _PLUGINS:
            if len(self._first) >= _MAX_CACHED:
                self._first.clear()
            self._compare(method, tag, name, *self._first.setdefault(name, (method, tag)))
        self._notices.warn()
        return name

    def _compare(self, method: str, tag: str, name: str, first_method: str, first_tag: str) -> None:
        if _PLUGINS[method] != _PLUGINS[first_method]:
            self._notices.tell(
                "two kinds",
                f"{method}({tag!r}): {first_method} has logged under the same tag. TensorBoard shows one kind"
                " of data for each tag: not the later one, and sometimes neither. Give one another tag (this"
                " warning is shown once)",
            )
        elif tag != first_tag:
            self._notices.tell(
                "one name",
                f"{method}({tag!r}): it is written as {name!r}, as is {first_method}({first_tag!r})."
                " TensorBoard shows them as one series. Give one another tag (this warning is shown once)",
            )


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
