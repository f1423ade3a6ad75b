"""What a dataset is built from: its tiers, and the settings and sources of chance and time that decide how they are used."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.tiers.memory.reuse import Reuse, SampledReuse
from cache_sidecar.tiers.ports import L1, L2, Load
from cache_sidecar.tiers.resilience.guard import Guard


@dataclass(frozen=True, kw_only=True)
class Tiers:
    """The tiers of one dataset."""

    name: str
    "The dataset, as policy, keys, counters and logs name it."
    l1: L1
    l2: L2
    l2_guard: Guard
    "Bounds the time and the concurrency of everything that is sent to Redis."
    load: Load
    "Reads PostgreSQL."
    policy: Callable[[], DatasetPolicy]
    "Returns the policy in effect."
    clock: Clock
    loads_singly: bool = False
    "Whether each load from PostgreSQL has one id, and few run at a time: of ids that take long, each in its own way."
    reuse: Reuse = field(default_factory=SampledReuse)
    "Simulates other sizes and times to live."
    rng: Callable[[], float] = random.random
    "Draws a number from 0 to below 1: for jitter, early refreshes and sampling."
