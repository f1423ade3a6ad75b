"""Prints the table of metrics for `README.md`."""

from cache_sidecar.metrics.table import table

if __name__ == "__main__":
    print(table(), end="")  # noqa: T201  # its purpose
