"""Runs an import, from the file to the table."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.importer.ids import Ids
from cache_sidecar.importer.parsers import Rejection, Row, RowRejected
from cache_sidecar.importer.progress import Progress
from cache_sidecar.importer.record_reader import CSV, RecordReader
from cache_sidecar.importer.rejects import Rejects, default_path
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.importer.source import Source
from cache_sidecar.importer.spec import ImportSpec, Parts, TableRow
from cache_sidecar.store.bulk import Bulk, RowsRefused

# Rows in one transaction: what an import loses when it is killed, and what writers of the same rows wait for.
BATCH_ROWS = 5000
# The part of a file that may be rejected where its rows take the place of all those before.
MAX_REJECTED = 0.01

T = TypeVar("T")


class ImportOptions(NamedTuple):
    """What a run does differently."""

    names: Mapping[str, str] = MappingProxyType({})
    "Columns of the file, or fields of its objects, with the names that the import knows."
    currency: str = ""
    "The currency of all rows, if the file has none."
    is_dry_run: bool = False
    "Whether rows are only checked."
    deletes_missing: bool = False
    "Whether rows of the table that the file does not have are deleted."
    max_deleted: float = 0.1
    "The part of the table that may be deleted."


NO_OPTIONS = ImportOptions()


def parse_names(text: str, spec: ImportSpec) -> dict[str, str]:
    """Returns the names in a text such as `id=product_id,name=title`. Raises InputError."""
    names: dict[str, str] = {}
    known = list(spec.headers[CSV].names)
    for pair in filter(None, text.split(",")):
        theirs, equals, ours = (part.strip() for part in pair.rpartition("="))
        if not equals or not theirs:
            raise InputError(f"--map: {pair.strip()!r} must be THEIRS=OURS, such as sku=product_id")
        if ours not in known:
            raise InputError(f"--map: there is no column {ours!r}; the columns are {', '.join(known)}")
        if ours in names.values() or theirs in names:
            raise InputError(f"--map: {pair.strip()!r} is the second for its column")
        names[theirs] = ours
    return names


async def import_rows(  # the arguments are those of the command line
    spec: ImportSpec,
    parts: Parts,
    *,
    source: str,
    dsn: str,
    format: str | None,
    rejects: Path | None,
    progress: Progress | None,
    batch_id: str = "",
    options: ImportOptions = NO_OPTIONS,
) -> ImportReport:
    """Imports a file, or standard input for `-`; commits every 5,000 rows.

    `format` is one of the spec's, or None to detect it. `batch_id` names rows that count as a whole, by default after the
    file: of a batch that was interrupted, the rest is imported. A row that cannot be imported is written to `rejects` (by
    default the file's name with `.rejected.csv`, in the current folder) and counted in the report. Raises InputError for a file
    that cannot be imported, ServerUnreachable, and SettingsError when the database is not migrated.
    """
    began = time.monotonic()
    if format is not None and format not in spec.formats:
        raise InputError(f"there is no format {format!r} for {spec.name}: use {', '.join(spec.formats)}")
    with Source(source) as opened:
        ids = Ids(keeps_all=options.deletes_missing)
        report, problem = ImportReport(source=opened.name, name=spec.name, ids=ids, is_dry_run=options.is_dry_run), ""
        path = rejects or default_path(source)
        if opened.is_file(path):
            raise InputError(f"the rejected rows would overwrite {source}: name another file for --rejects")
        reader = RecordReader(
            opened,
            spec.headers,
            format=format,
            wrappers=spec.wrappers,
            names=options.names,
            constants={"currency_code": options.currency} if options.currency else {},
        )
        report.format = await reader.start()
        with Rejects(path) as kept:
            async with AsyncExitStack() as stack:
                bulk = spec.bulk(dsn, batch_id=batch_id or opened.identity)
                if not options.is_dry_run or options.deletes_missing:
                    await stack.enter_async_context(bulk)
                start = await bulk.now() if options.deletes_missing else None
                with _show(progress, opened), _resumable(report):
                    records = _read(reader, opened, report, progress)
                    await _import(records, spec, parts, _Target(bulk, kept, report, spec))
                    if bulk.is_whole and (problem := _incompleteness(report)):
                        if not options.is_dry_run:
                            await bulk.discard()
                    elif not options.is_dry_run:
                        await bulk.finish()
                    if start is not None:
                        await _delete_missing(bulk, report, options, start)
        report.rejects = path if kept.has_rows else None
        if problem:
            where = f"; {report.rejects} has the rows with the reasons" if report.rejects else ""
            raise InputError(f"{problem}: the {spec.name} that were there before stay{where}")
    report.seconds = time.monotonic() - began
    return report


async def _delete_missing(bulk: Bulk, report: ImportReport, options: ImportOptions, start: datetime) -> None:
    """Deletes the rows of the table that the file does not have, unless they may be in it, or there are too many."""
    if report.rejected:
        report.problem = f"{report.rejected.total():,} rows were rejected, which may have the missing ids"
        return
    total, missing = await bulk.find_missing(report.ids.__contains__, before=start)
    share = len(missing) / total if total else 0.0
    if share > options.max_deleted:
        report.problem = (
            f"{len(missing):,} of {total:,} {report.name} are not in {report.source}, which is {share:.1%}; "
            f"--max-deleted is {options.max_deleted:.1%}"
        )
        return
    report.deleted = len(missing) if options.is_dry_run else await bulk.delete(missing, before=start)


def _incompleteness(report: ImportReport) -> str:
    """Returns why what was imported is not the whole of a file; an empty string if it is, but for a few rows."""
    if report.rejected["incomplete"]:
        return f"{report.source} is truncated or damaged"
    rejected = report.rejected.total()
    if rejected > MAX_REJECTED * report.rows_read:
        return f"{rejected:,} of {report.rows_read:,} rows of {report.source} are rejected, more than {MAX_REJECTED:.0%}"
    return ""


class _Target:
    """Collects rows in batches, and writes batches to the table."""

    def __init__(self, bulk: Bulk, rejects: Rejects, report: ImportReport, spec: ImportSpec) -> None:
        self._is_secret = spec.is_secret
        self._has_whole_rows = spec.has_whole_rows
        self._bulk = bulk
        self._rejects = rejects
        self.report = report
        self._batch: dict[str, TableRow] = {}
        self._records: dict[str, Row] = {}
        "The input of each row of the batch, by key; not of aggregated rows."

    def reject(self, rejection: Rejection) -> None:
        """Counts and keeps a row that is not imported."""
        self.report.count(rejection)
        self._rejects.add(rejection._replace(message="", raw=b"") if self._is_secret else rejection)

    async def add(self, row: TableRow, record: Row | None = None) -> None:
        """Adds a row; of several with one id the last one wins, column by column."""
        key = row[self._bulk.key]
        if self._has_whole_rows:
            self.report.ids.add(key)
        earlier = self._batch.get(key)
        # A batch ends only before another id, so that adjacent rows of one id are in the same transaction.
        if earlier is None and len(self._batch) >= BATCH_ROWS:
            await self.flush()
        self._batch[key] = earlier | row if earlier else row
        if record is not None:
            self._records[key] = record

    async def flush(self) -> None:
        """Writes the batch."""
        groups: defaultdict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for row in self._batch.values():
            groups[tuple(row)].append(tuple(row.values()))
        for columns, rows in groups.items():
            await self._write(columns, rows)
        self._batch, self._records = {}, {}

    async def _write(self, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        if self.report.is_dry_run:
            self.report.written += len(rows)
            return
        try:
            written = await self._bulk.upsert(columns, rows)
        except RowsRefused as error:
            if len(rows) == 1:
                self._reject_refused(rows[0][columns.index(self._bulk.key)], error)
                return
            # Bisect: the refused row must not cost the others.
            half = len(rows) // 2
            await self._write(columns, rows[:half])
            await self._write(columns, rows[half:])
            return
        self.report.written += written
        self.report.unchanged += len(rows) - written

    def _reject_refused(self, key: str, error: RowsRefused) -> None:
        record = self._records.get(key)
        number, raw = (record.number, record.raw) if record is not None else (0, str(key).encode())
        self.reject(Rejection(number, "refused", str(error), raw))


async def _read(
    reader: RecordReader, source: Source, report: ImportReport, progress: Progress | None
) -> AsyncIterator[Row | Rejection]:
    """Yields all records, and counts them."""
    async for records in reader.batches():
        for record in records:
            report.rows_read += 1
            yield record
        if progress:
            progress.advance(bytes_read=source.bytes_read, rows_read=report.rows_read)


@contextmanager
def _show(progress: Progress | None, source: Source) -> Iterator[None]:
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
            f"{error} ({report.written:,} {report.name} were written before; run the import again for the rest)"
        ) from None


async def _import(records: AsyncIterator[Row | Rejection], spec: ImportSpec, parts: Parts, target: _Target) -> None:
    format = target.report.format
    if format in spec.aggregators:
        aggregator = spec.aggregators[format]()
        async for _ in _apply(aggregator.add, records, target):
            pass
        for found in aggregator.rows():
            if isinstance(found, Rejection):
                target.reject(found)
            else:
                await target.add(found)
    else:
        parse = spec.parsers(parts)[format]
        async for record, row in _apply(lambda record: parse(record.values), records, target):
            await target.add(row, record)
    await target.flush()


async def _apply(
    work: Callable[[Row], T], records: AsyncIterator[Row | Rejection], target: _Target
) -> AsyncIterator[tuple[Row, T]]:
    """Yields each row with the result of `work`; rejects the others."""
    async for record in records:
        if isinstance(record, Rejection):
            target.reject(record)
            continue
        try:
            result = work(record)
        except RowRejected as error:
            target.reject(error.rejection(record.number, record.raw))
        else:
            yield record, result
