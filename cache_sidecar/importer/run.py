"""The import of a noun, from the file to the table."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.importer import online_retail, products
from cache_sidecar.importer.parsers import Rejection, Row, RowRejected
from cache_sidecar.importer.progress import Progress
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Dialects, RecordReader
from cache_sidecar.importer.rejects import Rejects, default_path
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.importer.source import Source
from cache_sidecar.store.bulk import Bulk, BulkProducts, RowsRefused

# Rows in one transaction. What is lost when an import is killed, and what others wait for when they write the same rows.
BATCH_ROWS = 5000

T = TypeVar("T")
Columns = dict[str, Any]
Rule = Callable[[Mapping[str, Any]], Columns]


class Aggregator(Protocol):
    """A format whose rows are not what is imported, but what it is deduced from."""

    def add(self, row: Row) -> None:
        """Takes a row. Raises RowRejected."""
        ...

    def rows(self) -> Iterator[Columns | Rejection]:
        """Yields what all of them together say."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImportSpec:
    """What an import is of: everything that is not the same for all of them."""

    name: str
    "In the plural, as in `cache-sidecar import NAME`."
    bulk: type[Bulk]
    dialects: Dialects
    "The headers of its CSV formats."
    rules: Mapping[str, Rule]
    "By format: turns the values of a row into columns. Raises RowRejected."
    gatherings: Mapping[str, Callable[[], Aggregator]] = field(default_factory=dict)
    "By format, for those that have no rule."
    is_secret: bool = False
    "Whether nothing of a row may be kept but its line's number, and the code of the reason."


PRODUCTS = ImportSpec(
    name="products",
    bulk=BulkProducts,
    dialects={CSV: products.CSV_COLUMNS, online_retail.FORMAT: online_retail.COLUMNS},
    rules={CSV: products.from_csv, JSON_LINES: products.from_json},
    gatherings={online_retail.FORMAT: online_retail.OrderLines},
)


async def import_products(
    *, source: str, dsn: str, format: str | None, rejects: Path | None, progress: Progress | None
) -> ImportReport:
    """Imports products; see `import_rows`."""
    return await import_rows(PRODUCTS, source=source, dsn=dsn, format=format, rejects=rejects, progress=progress)


async def import_rows(  # what the command line takes
    noun: ImportSpec, *, source: str, dsn: str, format: str | None, rejects: Path | None, progress: Progress | None
) -> ImportReport:
    """Imports from a file, or from standard input for `-`; commits every 5,000 rows.

    `format` is one of the noun's, or None to find out.
    A row that cannot be imported is written to `rejects` (by default the file's name with `.rejected.csv`, in the
    current folder) and counted in the report. Raises InputError for a file that is no such input, ServerUnreachable, and
    SettingsError when the database is not migrated.
    """
    began = time.monotonic()
    formats = [*noun.rules, *noun.gatherings]
    if format is not None and format not in formats:
        raise InputError(f"there is no format {format!r} for {noun.name}: use {', '.join(formats)}")
    with Source(source) as opened:
        report = ImportReport(source=opened.name, noun=noun.name)
        path = rejects or default_path(source)
        if opened.is_file(path):
            raise InputError(f"the rejected rows would overwrite {source}: name another file for --rejects")
        reading = RecordReader(opened, noun.dialects, format=format)
        report.format = await reading.start()
        with Rejects(path) as kept:
            async with noun.bulk(dsn) as bulk:
                with _shown(progress, opened), _resumable(report):
                    records = _counted(reading, opened, report, progress)
                    await _import(records, noun, _Target(bulk, kept, report, is_secret=noun.is_secret))
        report.rejects = path if kept.written else None
    report.seconds = time.monotonic() - began
    return report


class _Target:
    """Takes rows into batches, and batches into the table."""

    def __init__(self, bulk: Bulk, rejects: Rejects, report: ImportReport, *, is_secret: bool) -> None:
        self._is_secret = is_secret
        self._bulk = bulk
        self._rejects = rejects
        self.report = report
        self._batch: dict[str, Columns] = {}
        self._records: dict[str, Row] = {}
        "Where the rows of the batch are in the input; not of those that were deduced from several."

    def reject(self, rejection: Rejection) -> None:
        """Counts and keeps a row that is not imported."""
        self.report.count(rejection)
        self._rejects.add(rejection._replace(message="", raw=b"") if self._is_secret else rejection)

    async def add(self, row: Columns, record: Row | None = None) -> None:
        """Takes a row; of several with one id the last one counts, in what it says."""
        key = row[self._bulk.key]
        earlier = self._batch.get(key)
        # A batch ends before another id comes, so that all adjacent rows of one are in the same.
        if earlier is None and len(self._batch) >= BATCH_ROWS:
            await self.flush()
        self._batch[key] = earlier | row if earlier else row
        if record is not None:
            self._records[key] = record

    async def flush(self) -> None:
        """Writes what was taken."""
        groups: defaultdict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for row in self._batch.values():
            groups[tuple(row)].append(tuple(row.values()))
        for columns, rows in groups.items():
            await self._write(columns, rows)
        self._batch, self._records = {}, {}

    async def _write(self, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            written = await self._bulk.upsert(columns, rows)
        except RowsRefused as error:
            if len(rows) == 1:
                self._refused(rows[0][columns.index(self._bulk.key)], error)
                return
            # One of them costs none of the others: it is looked for by halves.
            half = len(rows) // 2
            await self._write(columns, rows[:half])
            await self._write(columns, rows[half:])
            return
        self.report.written += written
        self.report.unchanged += len(rows) - written

    def _refused(self, key: str, error: RowsRefused) -> None:
        record = self._records.get(key)
        number, raw = (record.number, record.raw) if record is not None else (0, str(key).encode())
        self.reject(Rejection(number, "refused", str(error), raw))


async def _counted(
    reading: RecordReader, source: Source, report: ImportReport, progress: Progress | None
) -> AsyncIterator[Row | Rejection]:
    async for records in reading.batches():
        for record in records:
            report.rows_read += 1
            yield record
        if progress:
            progress.advance(bytes_read=source.taken, rows_read=report.rows_read)


@contextmanager
def _shown(progress: Progress | None, source: Source) -> Iterator[None]:
    if not progress:
        yield
        return
    progress.start(Path(source.name).name, source.size)
    try:
        yield
    finally:
        progress.stop()


@contextmanager
def _resumable(report: ImportReport) -> Iterator[None]:
    try:
        yield
    except ServerUnreachable as error:
        raise ServerUnreachable(
            f"{error} ({report.written:,} {report.noun} were written before; run the import again for the rest)"
        ) from None


async def _import(records: AsyncIterator[Row | Rejection], noun: ImportSpec, target: _Target) -> None:
    format = target.report.format
    if format in noun.rules:
        rule = noun.rules[format]
        async for record, columns in _accepted(records, lambda row: rule(row.values), target):
            await target.add(columns, record)
    else:
        gathering = noun.gatherings[format]()
        async for _ in _accepted(records, gathering.add, target):
            pass
        for found in gathering.rows():
            if isinstance(found, Rejection):
                target.reject(found)
            else:
                await target.add(found)
    await target.flush()


async def _accepted(
    records: AsyncIterator[Row | Rejection], work: Callable[[Row], T], target: _Target
) -> AsyncIterator[tuple[Row, T]]:
    """Yields each row with what `work` makes of it; what it refuses, and what was no row, goes to the rejects."""
    async for record in records:
        if isinstance(record, Rejection):
            target.reject(record)
            continue
        try:
            done = work(record)
        except RowRejected as refused:
            target.reject(refused.rejection(record.number, record.raw))
        else:
            yield record, done
