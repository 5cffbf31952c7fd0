"""``make fuzz``: libFuzzer at the reader of event files. The corpus that is kept grows by what is new.

Usage: python tests/repository/native/fuzz.py [SECONDS]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import build

_LONGEST = 8192  # bytes of an input


def main(seconds: int) -> int:
    if shutil.which("clang++") is None:
        print("make fuzz needs clang++ with libFuzzer (Debian: apt install clang)", file=sys.stderr)
        return 2
    program = str(build.fuzzer())
    with tempfile.TemporaryDirectory() as folder:
        kept, found, smallest = (Path(folder, name) for name in ("kept", "found", "smallest"))
        for path in (kept, found, smallest):
            path.mkdir()
        build.unpack_corpus(kept)
        limits = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", f"-artifact_prefix={Path.cwd()}/"]
        if status := subprocess.run([program, *limits, str(found), str(kept)]).returncode:
            print("the input that failed lies in this directory", file=sys.stderr)
            return status
        subprocess.run([program, "-merge=1", str(smallest), str(kept), str(found)], check=True, stderr=-3)
        with zipfile.ZipFile(build.HERE / "fuzz_corpus.zip", "w", zipfile.ZIP_DEFLATED) as corpus:
            for number, path in enumerate(sorted(smallest.iterdir())):
                entry = zipfile.ZipInfo(f"{number:03}")  # without a date: the same inputs make the same file
                entry.compress_type = zipfile.ZIP_DEFLATED
                corpus.writestr(entry, path.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60))
