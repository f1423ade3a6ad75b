"""The guards against the coherence contract's 25 races and against concurrent calls, and a program that shows each is needed:

    .venv/bin/python -m tests.guards [RACE|pairs ...]

removes them one by one, in a copy of the code, and expects the test to fail. All of them take minutes. `unit/test_guards.py`
checks that this list matches the code and the guide.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("cache_sidecar", "tests", "protos", "k8s", "pyproject.toml", "README.md")
# Seconds that a test may take to fail: it polls for a minute for what no longer happens.
PATIENCE = 120


class Guard(NamedTuple):
    """The code that makes one race harmless."""

    race: int
    "0 for guards of concurrent calls in PostgreSQL."
    says: str
    file: str
    "Below cache_sidecar."
    text: str
    "The text of the guard, unique in its file, and what replaces it."
    without: str
    test: str
    "Below tests/integration."

    def row(self) -> str:
        """Returns its line in the guide's table."""
        module, _, name = self.test.partition("::")
        return (
            f"| {self.race} | {self.says} (`{self.file}`) | `{module}`: `{name.removeprefix(f'test_race_{self.race:02}_')}` |"
        )


GUARDS = (
    Guard(
        1,
        "a fill is refused where a newer version is held",
        "tiers/redis/scripts.lua",
        "elseif version_of(head) > version then",
        "elseif false then",
        "test_dataset_races.py::test_race_01_a_late_fill_from_the_store_replaces_nothing",
    ),
    Guard(
        2,
        "a fill into nothing is refused: the lease under which it was read has to be there",
        "tiers/redis/scripts.lua",
        "if type(head) == 'table' or head == '' then",
        "if type(head) == 'table' then",
        "test_dataset_races.py::test_race_02_a_late_fill_is_refused_when_also_what_refused_it_is_gone",
    ),
    Guard(
        2,
        "and it has to be that very lease",
        "tiers/redis/scripts.lua",
        "if head ~= args[3] then",
        "if false then",
        "test_dataset_races.py::test_race_02_a_fill_from_before_is_not_taken_for_a_later_one_of_the_same_sidecar",
    ),
    Guard(
        3,
        "L1 refuses what is older than the tombstone of an invalidation",
        "tiers/memory/clock.py",
        "if record.version < partition.tombstones.get(id, 0):",
        "if False:",
        "test_dataset_races.py::test_race_03_the_invalidation_overtakes_the_reply_of_redis",
    ),
    Guard(
        4,
        "L1 refuses a fill from before the partition's generation moved",
        "tiers/memory/clock.py",
        "or partition.generation != generation or",
        "or",
        "test_dataset_races.py::test_race_04_a_fill_that_began_before_a_drop_is_not_stored",
    ),
    Guard(
        5,
        "an invalidation detaches later callers from the load under way",
        "tiers/path/loader.py",
        "self.store_batch.forget_in_flight(id)",
        "pass",
        "test_dataset_races.py::test_race_05_whoever_comes_after_an_invalidation_does_not_join_the_load",
    ),
    Guard(
        6,
        "a change is stored only where an older version is held",
        "tiers/redis/scripts.lua",
        "local is_news = stored < version",
        "local is_news = true",
        "test_dataset_races.py::test_race_06_two_writers_reach_redis_in_the_wrong_order",
    ),
    Guard(
        7,
        "a deletion leaves its version, which refuses older fills",
        "tiers/redis/scripts.lua",
        "elseif version_of(head) > version then",
        "elseif false then",
        "test_dataset_races.py::test_race_07_a_late_fill_does_not_bring_back_what_was_deleted",
    ),
    Guard(
        7,
        "a late deletion is older than what was inserted since",
        "tiers/redis/scripts.lua",
        "local is_news = stored < version",
        "local is_news = true",
        "test_dataset_races.py::test_race_07_a_late_deletion_does_not_hide_what_was_inserted_again",
    ),
    Guard(
        8,
        "`there is none` has version 0, older than any insertion",
        "tiers/redis/scripts.lua",
        "elseif version_of(head) > version then",
        "elseif false then",
        "test_dataset_races.py::test_race_08_not_found_filled_after_the_insert",
    ),
    Guard(
        9,
        "the relay tells what stands in the outbox, whoever wrote it",
        "relay/outbox.py",
        "await self._l2.invalidate_many(dataset, versions, ttl=self._policy[dataset].l2_ttl)",
        "await self._l2.invalidate_many(dataset, {}, ttl=self._policy[dataset].l2_ttl)",
        "test_relay.py::test_race_09_what_a_writer_committed_and_died_is_told",
    ),
    Guard(
        10,
        "the outbox is read by position, given after the commit, not by version",
        "store/outbox.py",
        "WHERE position > %s AND (dataset = %s OR %s = '') ORDER BY position LIMIT",
        "WHERE version > %s AND (dataset = %s OR %s = '') ORDER BY version LIMIT",
        "test_outbox.py::test_race_10_a_lower_version_that_commits_later_is_not_lost",
    ),
    Guard(
        11,
        "what is told twice replaces nothing",
        "tiers/redis/scripts.lua",
        "if stored < version then",
        "if true then",
        "test_relay.py::test_race_11_a_relay_that_dies_before_it_remembers_tells_again",
    ),
    Guard(
        12,
        "a partition is dropped when it is listened to anew",
        "tiers/coherence/subscriber.py",
        "for partition in self._counters:\n                self._reset_partition(partition)",
        "pass",
        "test_coherence.py::test_race_12_what_is_changed_while_the_subscription_is_broken_is_dropped",
    ),
    Guard(
        12,
        "a broken subscription is an error, not to be mended by the library",
        "tiers/coherence/subscriber.py",
        "self._connection.to(address, retry=_AT_ONCE)",
        "self._connection.to(address)",
        "test_coherence.py::test_race_12_a_broken_subscription_is_not_mended_in_silence",
    ),
    Guard(
        13,
        "the heartbeat has to be answered in time",
        "tiers/coherence/subscriber.py",
        ", loop.create_task(self._beat(began))]",
        "]",
        "test_coherence.py::test_race_13_a_server_that_hangs_ends_the_trust",
    ),
    Guard(
        13,
        "the freshness lease expires when no good heartbeat began lately, whoever hangs",
        "tiers/coherence/freshness_lease.py",
        "if now < self.until:",
        "if True:",
        "test_coherence.py::test_race_13_trust_ends_in_time_though_nobody_notices_that_a_heartbeat_hangs",
    ),
    Guard(
        13,
        "a reading that another sidecar had made renews the lease only from when it was made",
        "tiers/coherence/subscriber.py",
        "began, before, earlier = began - state.age, earlier, before",
        "before, earlier = earlier, before",
        "test_coherence.py::test_race_13_the_lease_begins_when_a_shared_reading_was_made",
    ),
    Guard(
        13,
        "a load that began before the lease expired is not joined",
        "tiers/path/dataset.py",
        "if not trusted:",
        "if False:",
        "test_coherence.py::test_race_13_nor_does_it_join_a_load_from_before",
    ),
    Guard(
        14,
        "a counter that stays ahead of what was heard drops the partition",
        "tiers/coherence/subscriber.py",
        "if count > self._received[partition]:",
        "if False:",
        "test_coherence.py::test_race_14_a_heartbeat_finds_a_lost_message_that_nothing_follows",
    ),
    Guard(
        15,
        "a subscription that the server ends ends the freshness lease",
        "tiers/coherence/subscriber.py",
        'if message["type"] == "sunsubscribe":',
        "if False:",
        "test_coherence_failover.py::test_race_15_the_server_s_word_that_a_subscription_ended_is_enough",
    ),
    Guard(
        15,
        "so does another owner in the slot map",
        "tiers/coherence/subscriber.py",
        "if owners.get(address) != feed.partitions:",
        "if False:",
        "test_coherence.py::test_race_15_a_partition_whose_owner_is_another_is_listened_to_anew",
    ),
    Guard(
        16,
        "a replication id that is another ends the freshness lease, whatever the numbers say",
        "tiers/coherence/subscriber.py",
        "if state.history != self._history:",
        "if False:",
        "test_coherence.py::test_race_16_numbers_of_another_history_are_no_comfort",
    ),
    Guard(
        16,
        "a partition is dropped when it is listened to anew",
        "tiers/coherence/subscriber.py",
        "for partition in self._counters:\n                self._reset_partition(partition)",
        "pass",
        "test_coherence_failover.py::test_race_16_after_the_death_of_a_primary_changes_are_heard",
    ),
    Guard(
        17,
        "the relay tells the last minutes again when a primary's replication id is another",
        "relay/outbox.py",
        "if primary.history not in (None, histories.get(primary.address)):",
        "if False:",
        "test_relay.py::test_race_17_a_redis_that_lost_its_last_writes_is_told_again",
    ),
    Guard(
        17,
        "a sidecar remembers what it wrote, also when Redis acknowledged it",
        "tiers/path/own_writes.py",
        "return record.version < self._versions.get(id, 0)",
        "return False",
        "test_dataset_races.py::test_race_17_a_sidecar_s_own_write_is_not_answered_with_less_after_redis_lost_it",
    ),
    Guard(
        18,
        "the relay tells the last minutes again when a primary's replication id is another",
        "relay/outbox.py",
        "if primary.history not in (None, histories.get(primary.address)):",
        "if False:",
        "test_relay.py::test_race_18_what_the_old_primary_still_acknowledged_is_told_to_the_new_one",
    ),
    Guard(
        19,
        "a read is a script that may write, which replicas refuse",
        "tiers/redis/scripts.py",
        '"read": "allow-cross-slot-keys"',
        '"read": "no-writes,allow-cross-slot-keys"',
        "test_dataset_races.py::test_race_19_a_replica_is_not_read",
    ),
    Guard(
        20,
        "what was cached is dropped before the freshness lease is given",
        "tiers/coherence/subscriber.py",
        "for partition in self._counters:\n                self._reset_partition(partition)",
        "pass",
        "test_coherence.py::test_race_20_a_partition_is_dropped_before_it_is_trusted",
    ),
    Guard(
        20,
        "the counters are read when the subscription is acknowledged",
        "tiers/coherence/subscriber.py",
        "await self._wait_until_subscribed(pubsub)",
        "pass",
        "test_coherence.py::test_race_20_nothing_is_counted_or_trusted_before_the_subscription_is_acknowledged",
    ),
    Guard(
        21,
        "a change of a version that is held is no news",
        "tiers/redis/scripts.lua",
        "local is_news = stored < version",
        "local is_news = stored <= version",
        "test_l2.py::test_race_21_a_change_that_is_sent_twice_changes_nothing_more",
    ),
    Guard(
        21,
        "a request that is in the ledger is not done again",
        "store/requests.py",
        "if row is None:",
        "if True:",
        "test_requests.py::test_race_21_a_repeat_whose_work_would_succeed_changes_nothing",
    ),
    Guard(
        22,
        "a partition is dropped when it is listened to anew",
        "tiers/coherence/subscriber.py",
        "for partition in self._counters:\n                self._reset_partition(partition)",
        "pass",
        "test_coherence.py::test_race_22_a_subscriber_that_was_too_slow_drops_what_it_missed",
    ),
    Guard(
        23,
        "L1 refuses what is older than the tombstone of an invalidation",
        "tiers/memory/clock.py",
        "if record.version < partition.tombstones.get(id, 0):",
        "if False:",
        "test_dataset_races.py::test_race_23_a_refresh_that_ends_after_an_invalidation_brings_nothing_back",
    ),
    Guard(
        24,
        "a counter that went back drops the partition",
        "tiers/coherence/subscriber.py",
        "if count < before[partition]:",
        "if False:",
        "test_coherence.py::test_race_24_a_counter_that_is_lost_is_noticed",
    ),
    Guard(
        24,
        "so does a message that does not follow the last one",
        "tiers/coherence/subscriber.py",
        "if message.number != self._received[partition] + 1:",
        "if False:",
        "test_coherence.py::test_race_24_also_when_it_counts_again_before_anybody_looks",
    ),
    Guard(
        25,
        "what is older than what this sidecar wrote is not taken from Redis",
        "tiers/path/own_writes.py",
        "return record.version < self._versions.get(id, 0)",
        "return False",
        "test_dataset_races.py::test_race_25_a_question_to_redis_from_before_the_change_is_joined_in_vain",
    ),
    Guard(
        25,
        "a sidecar remembers what it wrote, also when Redis did not hear of it",
        "tiers/path/dataset.py",
        "self.loader.own_writes.remember(id, version)",
        "pass",
        "test_dataset_races.py::test_race_25_nor_does_an_entry_that_is_older_come_back_meanwhile",
    ),
)

_PAIR = "test_pairs.py::test_two_calls_at_once_are_one_after_the_other"
_LOG_OUT = "test_session_log_out.py::test_a_session_that_is_added_while_all_are_ended_comes_after_that"
PAIRS = (
    Guard(
        0,
        "a stock is locked by its bucket 0, and read in a second statement",
        "store/inventory.py",
        'f"SELECT {_COLUMNS} FROM cache_sidecar.lock_stock(%s)", [product_id]',
        'f"SELECT {_COLUMNS} FROM cache_sidecar.inventory WHERE product_id = %s ORDER BY bucket FOR UPDATE", [product_id]',
        f"{_PAIR}[stock-in_two_buckets-set_to_5_buckets-add]",
    ),
    Guard(
        0,
        "a cart is saved only if it still has the version that was read",
        "store/cart.py",
        "WHERE user_id = %s AND version = %s",
        "WHERE user_id = %s AND version >= %s",
        "test_cart_races.py::test_a_change_that_waited_for_another_is_made_to_what_that_left",
    ),
    Guard(
        0,
        "ending all sessions of a user waits for rotations",
        "store/session.py",
        "await tx.execute(_LOCK_USER, [user_id, True])",
        "pass",
        f"{_PAIR}[session-used-rotate-log_out_everywhere]",
    ),
    Guard(
        0,
        "and for repeats of a creation",
        "store/session.py",
        "await tx.execute(_LOCK_USER, [user_id, True])",
        "pass",
        f"{_PAIR}[session-used-repeat_creation-log_out_everywhere]",
    ),
    Guard(
        0,
        "a rotation locks the user before the session",
        "store/session.py",
        "SELECT user_id, cache_sidecar.lock_user_sessions(user_id, exclusive => false)",
        "SELECT user_id, NULL",
        f"{_PAIR}[session-used-rotate-log_out_everywhere]",
    ),
    Guard(
        0,
        "and begins again when the session became another user's",
        "store/session.py",
        "if current.user_id != owner:",
        "if False:",
        "test_session_log_out.py::test_a_rotation_of_a_session_that_becomes_another_users_waits_for_that_user",
    ),
    Guard(
        0,
        "whoever inserts a session waits for the end of all of the user's",
        "store/migrations/user/0005_ending_all_sessions.sql",
        "FOR EACH ROW WHEN (NEW.user_id <> '')\n",
        "FOR EACH ROW WHEN (false)\n",
        f"{_LOG_OUT}[import]",
    ),
    Guard(
        0,
        "and so does whoever gives a session to the user",
        "store/migrations/user/0005_ending_all_sessions.sql",
        "WHEN (NEW.user_id <> '' AND NEW.user_id <> OLD.user_id)",
        "WHEN (false)",
        f"{_LOG_OUT}[SQL update]",
    ),
)


def fails_without(guard: Guard, copy: Path) -> bool:
    """Removes a guard from a copy of the code, runs its test there, and returns whether it failed."""
    file = copy / "cache_sidecar" / guard.file
    whole = file.read_text()
    file.write_text(whole.replace(guard.text, guard.without))
    command = [sys.executable, "-m", "pytest", "-q", "-x", f"tests/integration/{guard.test}"]
    try:
        done = subprocess.run(command, cwd=copy, timeout=PATIENCE, capture_output=True, check=False)
        # "1 failed in 3.2s", not "1 error", which says nothing about the guard.
        return done.returncode == 1 and b" failed" in done.stdout and b" error" not in done.stdout.splitlines()[-1]
    finally:
        file.write_text(whole)


def main(wanted: Sequence[str]) -> int:
    """Tries the guards of some races, or of all, and prints the results; returns the exit code."""
    needless = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for guard in (*GUARDS, *PAIRS):
            name = str(guard.race or "pairs")
            if not wanted or name in wanted:
                is_needed = fails_without(guard, copy)
                needless += not is_needed
                print(f"{name:>5} {'fails' if is_needed else 'PASSES'} without: {guard.says}", flush=True)
    return 1 if needless else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
