"""Prints the table: `make bench`."""

import platform

from benchmarks import bench_calls, bench_imports, bench_messages, bench_streams
from benchmarks.measure import show


def main() -> None:
    print(f"CPython {platform.python_version()}, asyncio's own loop\n")
    print(show([*bench_calls.rows(), *bench_streams.rows(), *bench_messages.rows(), *bench_imports.rows()]))


main()
