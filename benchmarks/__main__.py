"""Prints the table: `make bench`."""

import platform

from benchmarks import (
    bench_cache,
    bench_calls,
    bench_checkpoints,
    bench_graphs,
    bench_imports,
    bench_messages,
    bench_models,
    bench_streams,
    bench_workflows,
)
from benchmarks.measure import show


def main() -> None:
    print(f"CPython {platform.python_version()}, asyncio's own loop\n")
    rows = [*bench_calls.rows(), *bench_streams.rows(), *bench_messages.rows(), *bench_imports.rows()]
    rows += [*bench_models.rows(), *bench_cache.rows(), *bench_checkpoints.rows(), *bench_graphs.rows()]
    print(show([*rows, *bench_workflows.rows()]))


main()
