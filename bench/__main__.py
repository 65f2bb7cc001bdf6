"""Runs the benchmarks: every module in this package whose name begins with ``bench_`` has a ``main()``.

python -m bench [NAME ...]        NAME as in bench_NAME.py; none: all
"""

import importlib
import os
import pkgutil
import platform
import sys
import time

import bench

PREFIX = "bench_"


def main(names: list[str]) -> int:
    """Run the benchmarks named, or all of them, one after the other."""
    known = sorted(
        module.name.removeprefix(PREFIX)
        for module in pkgutil.iter_modules(bench.__path__)
        if module.name.startswith(PREFIX)
    )
    if unknown := [name for name in names if name not in known]:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return os.EX_USAGE
    print(f"# {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    for name in names or known:
        started = time.monotonic()
        importlib.import_module(f"bench.{PREFIX}{name}").main()
        print(f"\n({name}: {time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
