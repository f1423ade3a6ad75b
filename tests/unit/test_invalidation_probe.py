"""Probe messages: how long the slowest one of the last minute took, or has been under way."""

from cache_sidecar.tiers.coherence.probe import EVERY, WINDOW, Probe
from tests.support.clocks import ManualClock


def test_the_longest_delay_is_kept_for_a_minute() -> None:
    clock = ManualClock()
    probe = Probe("inv:{}".format, clock.now)
    assert probe.longest() is None
    for delay in (1.5, 2.0, 1.25):
        message = b"%d" % probe.send()
        clock.advance(delay)
        probe.receive(message)
    assert probe.longest() == 2.0
    for second in range(int(WINDOW) + 2):
        if second < WINDOW - 2:
            assert probe.longest() == 2.0
        message = b"%d" % probe.send()
        probe.receive(message)
        clock.advance(EVERY)
    assert probe.longest() == 0.0


def test_a_message_that_cannot_be_sent_counts_from_when_it_was_due() -> None:
    clock = ManualClock()
    probe = Probe("inv:{}".format, clock.now)
    probe.receive(b"%d" % probe.send())
    clock.advance(2 * EVERY)
    assert probe.longest() == 0.0, "it may be sent with the next heartbeat"
    clock.advance(8 * EVERY)
    assert probe.longest() == 9 * EVERY
    message = b"%d" % probe.send()
    clock.advance(0.5)
    probe.receive(message)
    assert probe.longest() == 9.5 * EVERY


def test_a_message_is_due_every_second() -> None:
    clock = ManualClock()
    probe = Probe("inv:{}".format, clock.now)
    assert probe.send() == 1
    clock.advance(EVERY - 0.25)
    assert probe.send() is None
    clock.advance(0.25)
    assert probe.send() == 2


def test_a_message_under_way_counts_from_when_it_was_sent() -> None:
    clock = ManualClock()
    probe = Probe("inv:{}".format, clock.now)
    for _ in range(10):
        last = probe.send()
        clock.advance(1.0)
    assert probe.longest() == 10.0
    probe.receive(b"%d" % last)
    assert probe.longest() == 10.0, "those before it were lost, or came"
    clock.advance(WINDOW + 1)
    assert probe.longest() == WINDOW + 1, "none could be sent meanwhile"


def test_a_message_that_comes_twice_or_was_never_sent_changes_nothing() -> None:
    clock = ManualClock()
    probe = Probe("inv:{}".format, clock.now)
    message = b"%d" % probe.send()
    clock.advance(1.0)
    probe.receive(message)
    clock.advance(1.0)
    probe.receive(message)
    assert probe.longest() == 1.0


def test_each_probe_has_a_channel_of_its_own() -> None:
    assert Probe("inv:{}".format, ManualClock().now).channel != Probe("inv:{}".format, ManualClock().now).channel
