"""``fastlog.load``: a log directory as runs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from fastlog.runs.event_file import find_event_files, is_url
from fastlog.runs.run import Run


def load(
    path: str | os.PathLike[str], *, strict: bool = True, purge: bool = True, follow: bool = False
) -> Run | dict[str, Run]:
    """Reads event files of any writer (fastlog, tensorboardX, torch, TensorFlow) back as NumPy arrays.

    Only an index of the values is kept in memory; payloads (histograms, images, texts) are read when they are
    asked for.

    Args:
        path: an event file, the directory of a run, or a log directory with many runs; a URL where fsspec
            knows the store.
        strict: raise at a corrupt record. False: skip it and count, see ``Run.skipped_bytes``. A record that
            is cut off at the end of a file is no error: what is whole is read, see ``Run.torn_bytes``.
        purge: leave out what a restart with ``purge_step`` has replaced, as TensorBoard does.
        follow: look for new values in the files at each access.

    Returns:
        A ``Run`` where ``path`` is a file, or where all event files lie in the directory itself; else runs by
        their directory relative to ``path``, "." for ``path`` itself.

    Raises:
        FileNotFoundError: ``path`` is not there, or holds no event file.
        ValueError: a record is corrupt (``strict``); says the file and the offset.
        OSError: a file cannot be read.
    """
    path = os.fspath(path)
    if not is_url(path) and not os.path.exists(path):
        raise FileNotFoundError(f"load: {path!r} does not exist")
    if os.path.isfile(path) or (is_url(path) and "tfevents" in path.rpartition("/")[2]):
        return Run(os.path.basename(path), lambda: [path], strict, purge, follow)
    found = find_event_files(path)
    if not found:
        raise FileNotFoundError(f"load: no event file (*tfevents*) in {path!r} or below")
    with ThreadPoolExecutor(min(len(found), os.cpu_count() or 1)) as pool:
        made = pool.map(
            lambda name: Run(name, lambda: find_event_files(path).get(name, []), strict, purge, follow), found
        )
        runs = dict(zip(found, made, strict=True))
    return runs["."] if list(runs) == ["."] else runs
