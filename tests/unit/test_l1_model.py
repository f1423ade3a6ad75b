"""L1 against a plain model: whatever happens in whatever order, nothing known to be older is held."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache_sidecar.tiers.memory import clock as module
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.ports import Record, partition_of
from tests.support.engine_params import MakeL1, native_l1, needs_native
from tests.unit.test_l1 import MIB, NOW, ids_of_one_partition, trusted_l1

IDS = st.sampled_from(["a", *ids_of_one_partition(4)])
ONE = partition_of("first")
# So few that they are forgotten now and then.
TOMBSTONES = 2


class L1Machine(RuleBasedStateMachine):
    """The store's history is 1, 2, 3, ... per id; a fill may bring any version that was current after it began."""

    make: MakeL1 = ClockL1

    @initialize()
    def start(self) -> None:
        self.real_tombstones, module.MAX_TOMBSTONES = module.MAX_TOMBSTONES, TOMBSTONES
        self.l1 = trusted_l1(self.make, max_entries=4)
        self.known: dict[str, int] = {}
        self.current: dict[str, int] = {}
        self.fills: list[tuple[str, int, int]] = []
        self.reads: list[tuple[str, int, int]] = []
        self.partition_trusted = True

    @rule(id=IDS)
    def change(self, id: str) -> None:
        """Somebody commits; the invalidation is heard later."""
        self.current[id] = self.current.get(id, 0) + 1

    @rule(id=IDS)
    def hear(self, id: str) -> None:
        version = self.current.get(id, 0)
        if version:
            self.known[id] = version
            self.l1.drop(id, version)

    @rule(id=IDS)
    def begin_fill(self, id: str) -> None:
        self.fills.append((id, self.current.get(id, 0), self.l1.generation(id)))

    @precondition(lambda self: self.fills)
    @rule(data=st.data())
    def end_fill(self, data: st.DataObject) -> None:
        id, version, generation = self.fills.pop(data.draw(st.integers(0, len(self.fills) - 1)))
        record = Record(version, NOW, b"%d" % version if version else None)
        stored = self.l1.put(id, record, generation=generation, expires_from=NOW)
        assert not (stored and version < self.known.get(id, 0))
        assert not (stored and not self.l1_partition_trusted(id))

    @rule(id=IDS)
    def begin_read(self, id: str) -> None:
        """Somebody reads PostgreSQL, after looking into memory."""
        newest = self.l1.newest(id)
        self.reads.append((id, self.current.get(id, 0), newest))

    @precondition(lambda self: self.reads)
    @rule(data=st.data())
    def end_read(self, data: st.DataObject) -> None:
        id, version, newest = self.reads.pop(data.draw(st.integers(0, len(self.reads) - 1)))
        self.l1.retract(id, version, newest=newest)

    @rule(id=IDS)
    def forge(self, id: str) -> None:
        """Another program announces what was never committed; then PostgreSQL is read."""
        newest = self.current.get(id, 0) + 1000
        self.l1.drop(id, newest)
        self.l1.retract(id, self.current.get(id, 0), newest=self.l1.newest(id))
        assert self.l1.newest(id) <= self.current.get(id, 0)

    @rule(id=IDS)
    def drop_partition(self, id: str) -> None:
        self.l1.drop_partition(partition_of(id))
        for other, version in self.current.items():
            if partition_of(other) == partition_of(id):
                self.known[other] = version
                assert self.l1.get(other) is None

    @rule(id=IDS)
    def drop_id(self, id: str) -> None:
        self.l1.drop(id, 0)
        self.known[id] = self.current.get(id, 0)
        assert self.l1.get(id) is None

    @rule(trusted=st.booleans())
    def freshness_lease(self, trusted: bool) -> None:
        if trusted and not self.partition_trusted:
            self.l1.drop_partition(ONE)
            self.known |= {id: version for id, version in self.current.items() if partition_of(id) == ONE}
        self.l1.set_trusted(ONE, trusted, now=NOW)
        self.partition_trusted = trusted

    @rule(entries=st.integers(1, 6))
    def resize(self, entries: int) -> None:
        self.l1.resize(max_bytes=MIB, max_entries=entries)

    def l1_partition_trusted(self, id: str) -> bool:
        return self.partition_trusted or partition_of(id) != ONE

    @invariant()
    def nothing_known_to_be_older_is_held(self) -> None:
        for id, known in getattr(self, "known", {}).items():
            entry = self.l1.get(id)
            assert entry is None or entry.record.version >= known

    @invariant()
    def bounds_hold(self) -> None:
        if hasattr(self, "l1"):
            assert 0 <= self.l1.stats().bytes <= MIB
            assert self.l1.stats().entries <= 6

    def teardown(self) -> None:
        if hasattr(self, "real_tombstones"):
            module.MAX_TOMBSTONES = self.real_tombstones


class NativeL1Machine(L1Machine):
    make = staticmethod(native_l1)


SETTINGS = settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True)
TestL1Machine = L1Machine.TestCase
TestL1Machine.settings = SETTINGS
TestNativeL1Machine = needs_native(NativeL1Machine.TestCase)
TestNativeL1Machine.settings = SETTINGS
