"""Loads the compiled core, and says how to get it where it is missing."""

from __future__ import annotations

import sys

try:
    import fastlog._core as core
except ImportError as error:
    why = (
        f"fastlog's compiled core is missing or does not load ({error}). It is built from source by "
        "`pip install .` in fastlog's checkout, which needs a C++17 compiler (on Debian: apt install g++). "
        "In the checkout itself Python takes the package that lies there: change the directory, or build "
        "with `pip install -e .`"
    )
    if sys.argv[:1] == ["-m"] and "fastlog" in sys.orig_argv:  # python -m fastlog: nobody needs a traceback
        sys.exit(why)
    raise ImportError(why) from error

__all__ = ["core"]
