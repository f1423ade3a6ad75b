"""Views of the product's private attributes: the one place to change when such an attribute is renamed."""

from typing import Any

APPLY_SETTINGS = "_APPLY_SETTINGS"
BEAT = "_beat"
HANDLE = "_handle"
LOAD = "_load"
MAX_RUNNING = "_max_running"
PLAIN_INTERVAL = "_PLAIN_INTERVAL"
READ_STATE = "_read_state"
RENEW_LEASE = "_renew_lease"
REPLACE = "_replace"
SHARED_MEMORY = "_SHARED_MEMORY"
TEMPORARY = "_temporary"
WAIT_UNTIL_SUBSCRIBED = "_wait_until_subscribed"


def add_trace_of(of: Any) -> Any:
    """Returns the processor of log events that adds the ids of a trace."""
    return of._add_trace


def all_of(of: Any) -> Any:
    """Returns whether a watcher is to receive its products anew."""
    return of._all


def apply_settings_of(of: Any) -> Any:
    """Returns the statement that applies a connection's settings."""
    return of._APPLY_SETTINGS


def at(of: Any, *given: Any, **named: Any) -> Any:
    """Returns the node of a cluster that has this host and port."""
    return of._at(*given, **named)


def bar_of(of: Any) -> Any:
    """Returns the progress bar of a report."""
    return of._bar


def brands_of(of: Any) -> Any:
    """Returns the brands of the demo catalogue."""
    return of._BRANDS


def by_connection_of(of: Any) -> Any:
    """Returns how many streams there are for each role and connection."""
    return of._by_connection


def call(of: Any, *given: Any, **named: Any) -> Any:
    """Makes a request to the Kubernetes API."""
    return of._call(*given, **named)


def clock_of(of: Any) -> Any:
    """Returns the clock of an app or an L1."""
    return of._clock


def cluster_of(of: Any) -> Any:
    """Returns the Redis cluster of an L2."""
    return of._cluster


def connect(of: Any, *given: Any, **named: Any) -> Any:
    """Returns a new connection of a Redis client, as its pools make them."""
    return of._connect(*given, **named)


def connection_of(of: Any) -> Any:
    """Returns the client of Redis of an app, an L2 or a subscriber, or the connection of an import."""
    return of._connection


def dataset(app: Any, name: str) -> Any:
    """Returns the dataset of an app that has this name."""
    return app._datasets[name]


def datasets_of(of: Any) -> Any:
    """Returns the datasets of an app by name."""
    return of._datasets


def digest(of: Any, *given: Any, **named: Any) -> Any:
    """Returns the digest of a listing in a page token."""
    return of._digest(*given, **named)


def engine_host_of(of: Any) -> Any:
    """Returns the server of an app that hosts its services."""
    return of._host


def engine_of(of: Any) -> Any:
    """Returns the engine of a server."""
    return of._engine


def events_of(of: Any) -> Any:
    """Returns what writes the user events of an app."""
    return of._events


def feeds_of(of: Any) -> Any:
    """Returns a subscriber's connections, one for each primary."""
    return of._feeds


def freshness_lease_of(of: Any) -> Any:
    """Returns the freshness lease of an app or of a subscriber's connection."""
    return of._freshness_lease


def gathered_of(of: Any) -> Any:
    """Returns what a Redis node is to be sent in the next turn of the event loop."""
    return of._gathered


def health_of(of: Any) -> Any:
    """Returns the health service of a server."""
    return of._health


def held_of(of: Any) -> Any:
    """Returns the bytes that a line reader keeps until the line is complete."""
    return of._held


def holder_of(of: Any) -> Any:
    """Returns what identifies this sidecar as the holder of leases."""
    return of._holder


def idle_of(of: Any) -> Any:
    """Returns the idle connections of a pool or of a Redis node."""
    return of._idle


def ignored_of(of: Any) -> Any:
    """Returns the columns that an import of products ignores."""
    return of._IGNORED


def inside_of(of: Any) -> Any:
    """Returns the number of reservations that wait for admission."""
    return of._inside


def is_news(of: Any, *given: Any, **named: Any) -> Any:
    """Returns whether a watcher has to be sent a stock."""
    return of._is_news(*given, **named)


def is_ready(of: Any, *given: Any, **named: Any) -> Any:
    """Returns whether an injector is ready, and why not."""
    return of._is_ready(*given, **named)


def is_ready_of(of: Any) -> Any:
    """Returns the handler of an injector's readiness."""
    return of._is_ready


def known_of(of: Any) -> Any:
    """Returns what is known of each product's granted requests."""
    return of._known


def l1_of(of: Any) -> Any:
    """Returns a dataset's memory."""
    return of._l1


def l2_of(of: Any) -> Any:
    """Returns an app's L2."""
    return of._l2


def lagging_of(of: Any) -> Any:
    """Returns by role the members of a region that lag."""
    return of._lagging


def listener_of(of: Any) -> Any:
    """Returns the native listener of an engine."""
    return of._listener


def load_of(of: Any) -> Any:
    """Returns what a batch loads ids with."""
    return of._load


def make_versioned_entry(of: Any, *given: Any, **named: Any) -> Any:
    """Returns an entry of a cart that is complete once the version is known."""
    return of._make_versioned_entry(*given, **named)


def mark_read(of: Any, *given: Any, **named: Any) -> Any:
    """Records the last grant version of a product that was read."""
    return of._mark_read(*given, **named)


def marks_of(of: Any) -> Any:
    """Returns the marks that a relay of user events has seen and not passed."""
    return of._marks


def names_of(of: Any) -> Any:
    """Returns the names of keys in a namespace."""
    return of._names


def nanos(of: Any, *given: Any, **named: Any) -> Any:
    """Returns the nanos of an amount."""
    return of._nanos(*given, **named)


def options_of(of: Any) -> Any:
    """Returns the options of a server or of a pool's connections."""
    return of._options


def outbox_of(of: Any) -> Any:
    """Returns what reads the outbox."""
    return of._outbox


def is_away(of: Any) -> bool:
    """Returns whether a Redis node's commands are failed at once, because it does not answer."""
    return bool(of._breaker.is_open)


def owners_of(of: Any) -> Any:
    """Returns the primaries by slot range."""
    return of._owners


def pack(of: Any, *given: Any, **named: Any) -> Any:
    """Packs numbers as records do."""
    return of._pack(*given, **named)


def pass_on(of: Any, *given: Any, **named: Any) -> Any:
    """Hands a change to the watchers, as the reader of the outbox does."""
    return of._pass_on(*given, **named)


def pending_of(of: Any) -> Any:
    """Returns the stocks that a watcher has not sent yet."""
    return of._pending


def penny_of(of: Any) -> Any:
    """Returns the rounding of prices."""
    return of._PENNY


def policy_of(of: Any) -> Any:
    """Returns the live policy of an app."""
    return of._policy


def prefix_of(of: Any) -> Any:
    """Returns the prefix of private directories."""
    return of._PREFIX


def prune(of: Any, *given: Any, **named: Any) -> Any:
    """Deletes what a relay need not keep."""
    return of._prune(*given, **named)


def quarantines_of(of: Any) -> Any:
    """Returns an app's quarantines by role."""
    return of._quarantines


def queues_of(of: Any) -> Any:
    """Returns the queues of an admission by product."""
    return of._queues


def random_of(of: Any) -> Any:
    """Returns the pattern of the random part of a private directory's name."""
    return of._RANDOM


def read_state(of: Any, *given: Any, **named: Any) -> Any:
    """Reads the counters and the replication id of a primary."""
    return of._read_state(*given, **named)


def read_state_of(of: Any) -> Any:
    """Returns the method that does so, to be replaced."""
    return of._read_state


def read_state_without_script(of: Any, *given: Any, **named: Any) -> Any:
    """Reads the same from a primary without the script."""
    return of._read_state_without_script(*given, **named)


def reader_of(of: Any) -> Any:
    """Returns the task that reads the outbox, if any."""
    return of._reader


def recheck_batch_of(of: Any) -> Any:
    """Returns the batch in which a loader reads rows again of which Redis holds newer versions."""
    return of._recheck_batch


def refuse(of: Any, *given: Any, **named: Any) -> Any:
    """Raises the refusal of a reservation."""
    return of._refuse(*given, **named)


def region_of(of: Any) -> Any:
    """Returns the region of an app."""
    return of._region


def replace_of(of: Any) -> Any:
    """Returns the method by which an L2 puts leases in the places of what is no record."""
    return of._replace


def round_of(of: Any) -> Any:
    """Returns how many rows of the outbox are read at a time."""
    return of._ROUND


def run(of: Any, *given: Any, **named: Any) -> Any:
    """Runs a subscriber's connection."""
    return of._run(*given, **named)


def seeds_of(of: Any) -> Any:
    """Returns the nodes from the settings."""
    return of._seeds


def seen_of(of: Any) -> Any:
    """Returns what an import has seen so far."""
    return of._seen


def served_of(of: Any) -> Any:
    """Returns by name what an app runs for each dataset."""
    return of._served


def set_all(of: Any, value: Any) -> None:
    """Sets that."""
    of._all = value


def set_connection(of: Any, value: Any) -> None:
    """Sets the connection of an import."""
    of._connection = value


def set_options(of: Any, value: Any) -> None:
    """Sets the options with which a server starts."""
    of._options = value


def set_owners(of: Any, value: Any) -> None:
    """Sets the primaries by slot range."""
    of._owners = value


def set_ranges(of: Any, value: Any) -> None:
    """Sets the slot ranges of a cluster; None if they are unknown."""
    of._ranges = value


def set_watermarks(of: Any, value: Any) -> None:
    """Sets what a region reads the watermarks with."""
    of._watermarks = value


def settings_of(of: Any) -> Any:
    """Returns the settings of an app."""
    return of._settings


def slots_of(of: Any) -> Any:
    """Returns the semaphore of a pool."""
    return of._slots


def stack_of(of: Any) -> Any:
    """Returns the middleware of a server."""
    return of._stack


def store_of(of: Any) -> Any:
    """Returns the store of a watch."""
    return of._store


def stores_of(of: Any) -> Any:
    """Returns an app's databases by DSN."""
    return of._stores


def storefront_of(of: Any) -> Any:
    """Returns the tasks in which an app reads the parts of pages."""
    return of._storefront._tasks


def streams_of(of: Any) -> Any:
    """Returns the streams that a server has open."""
    return of._streams


def texts_of(of: Any) -> Any:
    """Returns the text fields of an import."""
    return of._TEXTS


def throttled_of(of: Any) -> Any:
    """Returns the throttled reads of an admission by product."""
    return of._throttled


def time(of: Any, *given: Any, **named: Any) -> Any:
    """Parses a cell with a time."""
    return of._time(*given, **named)


def touches_of(of: Any) -> Any:
    """Returns the uses of sessions that are not written yet."""
    return of._touches


def trim(of: Any, *given: Any, **named: Any) -> Any:
    """Closes idle connections of a Redis node."""
    return of._trim(*given, **named)


def untrusted_of(of: Any) -> Any:
    """Returns the partitions whose freshness lease has expired."""
    return of._untrusted


def uses_of(of: Any) -> Any:
    """Returns the tasks of a pool in progress."""
    return of._uses


def wait_until_subscribed_of(of: Any) -> Any:
    """Returns the method that waits for the acknowledgement of a subscription, to be replaced."""
    return of._wait_until_subscribed


def waiting_of(of: Any) -> Any:
    """Returns the callers in a queue."""
    return of._waiting


def watchers_of(of: Any) -> Any:
    """Returns the watchers that changes are handed to."""
    return of._watchers


def watermarks_of(of: Any) -> Any:
    """Returns the watermarks that a relay writes."""
    return of._watermarks


def writes_of(of: Any) -> Any:
    """Returns the tasks of a writer in progress."""
    return of._writes


def threads_of(of: Any) -> Any:
    """Returns the threads that the Python client has started and not forgotten."""
    return of._caller.channel._threads
