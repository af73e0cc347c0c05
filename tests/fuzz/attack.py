"""Run as a script: read many texts, print one JSON line of what went wrong and the memory used.

Usage: python tests/fuzz/attack.py NUMBER SEED
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cascade
from cascade.diagnostics import CascadeError
from cascade.ir.cascade import Cascade
from tests.fuzz.texts import texts

SECONDS = 20.0  # far above what any text takes, for one that does not end
STATUS = Path("/proc/self/status")


def attempt(text: str) -> str | None:
    """What is wrong with reading a text; None where it gives a cascade or a proper error."""
    start = time.perf_counter()
    try:
        spec = cascade.parse(text)
        if not isinstance(spec, Cascade) or cascade.parse(str(spec)) != spec:
            return "does not read back"
    except CascadeError as error:
        str(error)
        json.dumps([d.to_dict() for d in error.diagnostics])
    except BaseException:
        return traceback.format_exc(limit=-4)
    seconds = time.perf_counter() - start
    return f"took {seconds:.1f} s" if seconds > SECONDS else None


def peak_memory() -> int:
    """Bytes. On Linux `ru_maxrss` starts at the size of the process that forked this one."""
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def main(number: int, seed: int) -> None:
    failures, read = [], 0
    for text in texts(number, seed):
        read += 1
        problem = attempt(text)
        if problem is not None:
            failures.append({"text": text, "problem": problem})
    print(json.dumps({"read": read, "memory": peak_memory(), "failures": failures}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
