"""One job, done once by one peer: `python -m tests.benchmarks.peers JOB/PEER IN_FOLDER OUT_FOLDER`.

Prints one line of JSON, `{"seconds": ..., "imports": ...}`: from the first look at the input to the last output safe on
the disk, imports not in it; and the peak memory in MB that the imports came to. One peer's module alone is imported, so
that a process holds no library that is not at work.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib import import_module
from pathlib import Path

from tests.benchmarks.measure import in_megabytes


def synced(folder: Path) -> None:
    """Farol has its outputs on the disk before it says that it is done; so everyone has."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def main() -> None:
    name, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    library = name.partition("/")[2].partition("-")[0]
    do = import_module(f"tests.benchmarks.by_{library}").PEERS[name]
    out.mkdir(parents=True)  # a fresh one: what lies there already could be skipped
    imports = in_megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    start = time.perf_counter()
    do(source, out)
    synced(out)
    print(json.dumps({"seconds": time.perf_counter() - start, "imports": imports}))


if __name__ == "__main__":
    main()
