"""Writes whose caller leaves: one that was begun goes on, one that stands in line is not begun."""

import asyncio
import gc
from typing import Any

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core.errors import DeadlineExceeded, Failure, Tier, TierFailed
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.store.writes import RowChange, WriteResult
from tests.support import inside
from tests.support.gates import Gate

BOUND = Bound(1 << 20)


class Line:
    """A database in which every write waits before it begins, and before it is committed."""

    def __init__(self) -> None:
        self.before, self.after = Gate(), Gate()
        self.outcome: BaseException | WriteResult | None = None

    async def write(self, key: object, work: Any, *, optimistic: bool = False) -> WriteResult[None]:
        await self.before.passed()
        try:
            self.outcome = await work(None)
        except DeadlineExceeded as error:
            self.outcome = error
            raise
        await self.after.passed()
        return self.outcome


class Told:
    """What the caches were told."""

    def __init__(self) -> None:
        self.of: list[WriteResult] = []

    async def __call__(self, written: WriteResult[None]) -> bool:
        self.of.append(written)
        return True


async def work(_: object) -> WriteResult:
    return WriteResult(b"reply", [RowChange("a", 1)])


async def leave(writing: "asyncio.Task[WriteResult]") -> None:
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_a_write_that_stands_in_line_is_not_begun_when_its_caller_leaves() -> None:
    line, told = Line(), Told()
    writer = Writer(line, bound=BOUND)  # type: ignore[arg-type]
    line.before.close()
    writing = asyncio.create_task(writer.run(None, work, told))
    await line.before.reached()
    await leave(writing)
    line.before.open()
    await writer.close()
    assert isinstance(line.outcome, DeadlineExceeded)
    assert not told.of


async def test_a_write_that_was_begun_is_told_when_its_caller_leaves() -> None:
    line, told = Line(), Told()
    writer = Writer(line, bound=BOUND)  # type: ignore[arg-type]
    line.after.close()
    writing = asyncio.create_task(writer.run(None, work, told))
    await line.after.reached()
    await leave(writing)
    line.after.open()
    await writer.close()
    assert told.of == [WriteResult(b"reply", [RowChange("a", 1)])]


@pytest.mark.parametrize(("error", "is_logged"), [(TierFailed(Tier.STORE, Failure.TIMEOUT), False), (KeyError("x"), True)])
async def test_what_becomes_of_a_write_whose_caller_left_is_heard(error: Exception, is_logged: bool) -> None:
    gate = Gate()

    class Failing:
        async def write(self, key: object, work: Any, *, optimistic: bool = False) -> WriteResult[None]:
            await gate.passed()
            raise error

    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    try:
        writer = Writer(Failing(), bound=BOUND)  # type: ignore[arg-type]
        gate.close()
        writing = asyncio.create_task(writer.run(None, work, Told()))
        await gate.reached()
        await leave(writing)
        with capture_logs() as log:
            gate.open()
            while inside.writes_of(writer).running:
                await asyncio.sleep(0)
            gc.collect()  # says of a task whose exception nobody looked at that it is so
        assert [line["event"] for line in log] == (["background work failed"] if is_logged else [])
        assert unheard == []
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
