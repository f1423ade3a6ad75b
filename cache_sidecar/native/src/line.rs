//! Calls that wait for Python: which is taken next, and which is refused. Time is an argument.
//!
//! Each method has a line (a queue), with a lane for each connection. Methods of a higher priority are served first, those of the
//! same priority round-robin, and so are the connections of a method: a client with a thousand calls delays another's call by one.
//! While a line is standing (`overload.rs`), lanes whose oldest call has waited long are served newest first, and when the line is
//! full the oldest call of the longest lane is refused. `early.rs` asks how many more calls a connection may add, and refuses the
//! others before they get here.

use crate::overload::{Delay, LONGEST_WAIT, Limit, TARGET};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The number of priorities; 0 is the highest.
pub const PRIORITIES: usize = 4;

#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Refusal {
    /// Too many calls are waiting.
    Overloaded,
    /// The deadline has passed, or will pass before the call can be answered.
    Deadline,
}

/// The limits on the calls in progress of one service.
pub struct Service {
    pub priority: usize,
    /// Maximum number of its calls in progress.
    pub most: usize,
    /// Number of calls of all services in progress from which on none of its calls is taken.
    pub most_of_all: usize,
    in_progress: usize,
}

impl Service {
    pub fn new(priority: usize, most: usize, most_of_all: usize) -> Self {
        assert!(priority < PRIORITIES);
        Service { priority, most, most_of_all, in_progress: 0 }
    }
}

struct Waiting<T> {
    since: Instant,
    deadline: Option<Instant>,
    bytes: usize,
    call: T,
}

struct Method<T> {
    /// None for a method without a limit, such as health checks.
    service: Option<usize>,
    lanes: HashMap<u64, VecDeque<Waiting<T>>>,
    /// Connections with a waiting call; the first one is served next.
    turns: VecDeque<u64>,
    waiting: usize,
    in_progress: usize,
    /// Number of calls just taken.
    taken: usize,
    delay: Delay,
    limit: Limit,
}

pub struct Line<T> {
    services: Vec<Service>,
    methods: Vec<Method<T>>,
    /// By priority, methods with a waiting call; the first one is served next.
    turns: [VecDeque<usize>; PRIORITIES],
    waiting: usize,
    bytes: usize,
    in_progress: usize,
    most_waiting: usize,
    most_bytes: usize,
    refused: Vec<(T, Refusal)>,
}

impl<T> Line<T> {
    /// `methods` has the index of the service of each method.
    pub fn new(services: Vec<Service>, methods: &[Option<usize>], most_waiting: usize, most_bytes: usize) -> Self {
        let method = |service: &Option<usize>| Method {
            service: *service,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            in_progress: 0,
            taken: 0,
            delay: Delay::default(),
            limit: Limit::new(service.map_or(usize::MAX, |service| services[service].most)),
        };
        let methods = methods.iter().map(method).collect();
        let turns = Default::default();
        Line { services, methods, turns, waiting: 0, bytes: 0, in_progress: 0, most_waiting, most_bytes, refused: Vec::new() }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn in_progress(&self) -> usize {
        self.in_progress
    }

    /// Whether calls of any method are being refused, or were a moment ago.
    pub fn is_refusing(&self, now: Instant) -> bool {
        self.methods.iter().any(|method| method.delay.is_refusing(now))
    }

    /// Returns how many more calls of a method a connection may add: as many as there is room for, and if another lane is longer, as
    /// many as make them equal.
    pub fn allowance(&self, now: Instant, number: usize, connection: u64) -> usize {
        let method = &self.methods[number];
        if method.service.is_none() {
            return usize::MAX;
        }
        let room = method.delay.room(now).saturating_sub(method.waiting);
        if room > 0 {
            return room;
        }
        let own = method.lanes.get(&connection).map_or(0, VecDeque::len);
        method.lanes.values().map(|lane| lane.len().saturating_sub(own) / 2).max().unwrap_or(0)
    }

    /// Records that calls were refused before they got here.
    pub fn turned_away(&mut self, now: Instant, number: usize) {
        self.methods[number].delay.refused(now);
    }

    /// Returns the calls refused since the last time.
    pub fn take_refused(&mut self) -> Vec<(T, Refusal)> {
        std::mem::take(&mut self.refused)
    }

    /// Queues a call. It, or others in its place, may be refused.
    pub fn add(&mut self, now: Instant, number: usize, connection: u64, bytes: usize, deadline: Option<Instant>, call: T) {
        if deadline.is_some_and(|deadline| deadline <= now) {
            return self.refused.push((call, Refusal::Deadline));
        }
        if self.waiting >= self.most_waiting || self.bytes + bytes > self.most_bytes {
            return self.refused.push((call, Refusal::Overloaded));
        }
        let method = &mut self.methods[number];
        let room = if method.service.is_some() { method.delay.room(now) } else { usize::MAX };
        if !method.delay.is_standing() && method.waiting >= room {
            method.delay.refused(now);
            return self.refused.push((call, Refusal::Overloaded));
        }
        if method.waiting == 0 {
            self.turns[priority(&self.services, method)].push_back(number);
        }
        let lane = method.lanes.entry(connection).or_default();
        if lane.is_empty() {
            method.turns.push_back(connection);
        }
        lane.push_back(Waiting { since: now, deadline, bytes, call });
        method.waiting += 1;
        self.waiting += 1;
        self.bytes += bytes;
        // Two for one: the calls queued before the line was known to be standing are cleared soon, but not all at once.
        for _ in 0..2 {
            if self.methods[number].waiting > room {
                self.push_out(now, number);
            }
        }
    }

    /// Refuses the oldest call of the longest lane.
    fn push_out(&mut self, now: Instant, number: usize) {
        let lanes = &self.methods[number].lanes;
        let longest =
            lanes.iter().max_by_key(|(_, lane)| (lane.len(), std::cmp::Reverse(lane.front().map(|first| first.since))));
        let Some(connection) = longest.map(|(connection, _)| *connection) else { return };
        if let Some(waiting) = self.remove(number, connection, false) {
            self.methods[number].delay.refused(now);
            self.refused.push((waiting.call, Refusal::Overloaded));
        }
    }

    /// Takes up to `limit` calls, without those whose caller `is_gone`.
    pub fn take(&mut self, now: Instant, limit: usize, mut is_gone: impl FnMut(&mut T) -> bool) -> Vec<(usize, T)> {
        let mut taken = Vec::new();
        for priority in 0..PRIORITIES {
            let mut blocked = 0;
            while taken.len() < limit && blocked < self.turns[priority].len() {
                let number = self.turns[priority][0];
                self.turns[priority].rotate_left(1);
                if !self.has_room(number) {
                    blocked += 1;
                    continue;
                }
                blocked = 0;
                if let Some(mut call) = self.next(now, number)
                    && !is_gone(&mut call)
                {
                    self.begin(number);
                    taken.push((number, call));
                }
            }
        }
        self.observe(now);
        taken
    }

    /// Takes the next call of a method, if its deadline can be met.
    fn next(&mut self, now: Instant, number: usize) -> Option<T> {
        let method = &mut self.methods[number];
        let connection = method.turns[0];
        method.turns.rotate_left(1);
        // The oldest call of a lane that drains in time: newest first would let it wait until it is refused.
        let is_long = |lane: &VecDeque<Waiting<T>>| {
            lane.front().is_some_and(|oldest| now.saturating_duration_since(oldest.since) > TARGET)
        };
        let newest = method.delay.is_standing() && method.lanes.get(&connection).is_some_and(is_long);
        let waiting = self.remove(number, connection, newest)?;
        let method = &mut self.methods[number];
        let refusal = if method.delay.is_standing() && now.saturating_duration_since(waiting.since) > LONGEST_WAIT {
            method.delay.refused(now);
            Refusal::Overloaded
        } else if waiting.deadline.is_some_and(|deadline| deadline <= now + method.limit.fastest(now)) {
            Refusal::Deadline
        } else {
            return Some(waiting.call);
        };
        self.refused.push((waiting.call, refusal));
        None
    }

    fn remove(&mut self, number: usize, connection: u64, newest: bool) -> Option<Waiting<T>> {
        let method = &mut self.methods[number];
        let lane = method.lanes.get_mut(&connection)?;
        let waiting = if newest { lane.pop_back() } else { lane.pop_front() }?;
        if lane.is_empty() {
            method.lanes.remove(&connection);
            if method.turns.back() == Some(&connection) {
                method.turns.pop_back(); // the lane is empty
            } else {
                method.turns.retain(|other| *other != connection);
            }
        }
        self.counted_out(number, waiting.bytes);
        Some(waiting)
    }

    fn counted_out(&mut self, number: usize, bytes: usize) {
        let method = &mut self.methods[number];
        method.waiting -= 1;
        self.waiting -= 1;
        self.bytes -= bytes;
        if method.waiting == 0 {
            self.turns[priority(&self.services, method)].retain(|other| *other != number);
        }
    }

    fn has_room(&self, number: usize) -> bool {
        let method = &self.methods[number];
        let Some(service) = method.service.map(|service| &self.services[service]) else { return true };
        let of_all = self.in_progress < service.most_of_all.max(1);
        of_all && service.in_progress < service.most && method.in_progress < method.limit.limit()
    }

    /// Returns whether a call can be taken.
    pub fn has_work(&self) -> bool {
        self.turns.iter().flatten().any(|number| self.has_room(*number))
    }

    fn begin(&mut self, number: usize) {
        let method = &mut self.methods[number];
        method.in_progress += 1;
        method.taken += 1;
        method.limit.began(method.in_progress);
        if let Some(service) = method.service {
            self.services[service].in_progress += 1;
            self.in_progress += 1;
        }
    }

    /// Records the end of a call and its duration; None if its caller left before.
    pub fn end(&mut self, now: Instant, number: usize, took: Option<Duration>) {
        let method = &mut self.methods[number];
        method.in_progress -= 1;
        if let Some(took) = took {
            method.limit.ended(now, took);
        }
        if let Some(service) = method.service {
            self.services[service].in_progress -= 1;
            self.in_progress -= 1;
        }
    }

    fn observe(&mut self, now: Instant) {
        for method in &mut self.methods {
            if method.taken > 0 || method.waiting > 0 || method.delay.is_standing() {
                method.delay.observe(now, std::mem::take(&mut method.taken), method.oldest(now));
            }
        }
    }

    /// Refuses calls that have waited too long in a standing line, and those whose deadline has passed. `take` checks that, too, but
    /// not for lines from which no call may be taken.
    pub fn sweep(&mut self, now: Instant) {
        for number in 0..self.methods.len() {
            if self.methods[number].waiting == 0 {
                continue;
            }
            if !self.has_room(number) {
                let method = &mut self.methods[number];
                method.delay.observe(now, 0, method.oldest(now));
            }
            let method = &mut self.methods[number];
            let is_standing = method.delay.is_standing();
            let is_over = |waiting: &Waiting<T>| {
                is_standing && now.saturating_duration_since(waiting.since) > LONGEST_WAIT
                    || waiting.deadline.is_some_and(|deadline| deadline <= now)
            };
            let mut out = Vec::new();
            for lane in method.lanes.values_mut().filter(|lane| lane.iter().any(is_over)) {
                let (over, kept) = std::mem::take(lane).into_iter().partition(is_over);
                *lane = kept;
                out.extend::<VecDeque<_>>(over);
            }
            if out.is_empty() {
                continue;
            }
            method.lanes.retain(|_, lane| !lane.is_empty());
            let lanes = &method.lanes;
            method.turns.retain(|connection| lanes.contains_key(connection));
            for waiting in out {
                self.counted_out(number, waiting.bytes);
                let is_late = waiting.deadline.is_some_and(|deadline| deadline <= now);
                if !is_late {
                    self.methods[number].delay.refused(now);
                }
                self.refused.push((waiting.call, if is_late { Refusal::Deadline } else { Refusal::Overloaded }));
            }
        }
    }

    /// Removes and returns all waiting calls.
    pub fn clear(&mut self) -> Vec<T> {
        let mut out = Vec::new();
        for number in 0..self.methods.len() {
            let lanes = std::mem::take(&mut self.methods[number].lanes);
            self.methods[number].turns.clear();
            for waiting in lanes.into_values().flatten() {
                self.counted_out(number, waiting.bytes);
                out.push(waiting.call);
            }
        }
        out
    }
}

impl<T> Method<T> {
    /// Returns how long the oldest call has waited; None when none waits.
    fn oldest(&self, now: Instant) -> Option<Duration> {
        let since = self.lanes.values().filter_map(|lane| lane.front()).map(|first| first.since).min()?;
        Some(now.saturating_duration_since(since))
    }
}

fn priority<T>(services: &[Service], method: &Method<T>) -> usize {
    method.service.map_or(0, |service| services[service].priority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::{INTERVAL, LEAST_BURST, LEAST_LIMIT, LEAST_LINE, TARGET};

    const TICK: Duration = Duration::from_millis(1);

    /// Methods 0 to 2 of services of priority 0, 0 and 1, and method 3, which is never bounded.
    fn line(most: usize, of_all: usize) -> Line<usize> {
        let services = [0, 0, 1].map(|priority| Service::new(priority, most, of_all)).into();
        Line::new(services, &[Some(0), Some(1), Some(2), None], 10_000, 1 << 20)
    }

    fn names(taken: Vec<(usize, usize)>) -> Vec<usize> {
        taken.into_iter().map(|(_, name)| name).collect()
    }

    fn take(line: &mut Line<usize>, now: Instant, limit: usize) -> Vec<usize> {
        names(line.take(now, limit, |_| false))
    }

    fn refused(line: &mut Line<usize>) -> Vec<usize> {
        line.take_refused().into_iter().map(|(name, _)| name).collect()
    }

    /// Has a line stand, and returns the time: nothing may be taken from it, as `busy` calls of its service are in progress.
    fn stand(line: &mut Line<usize>, method: usize, start: Instant) -> Instant {
        let mut now = start;
        while !line.methods[method].delay.is_standing() {
            now += TICK;
            assert!(now - start < 2 * INTERVAL);
            line.sweep(now);
        }
        now
    }

    #[test]
    fn connections_take_turns() {
        let mut line = line(9, 9);
        let now = Instant::now();
        for (name, connection) in [1, 1, 1, 2, 3, 2].into_iter().enumerate() {
            line.add(now, 0, connection, 1, None, name);
        }
        assert_eq!(take(&mut line, now, 4), [0, 3, 4, 1]);
        assert_eq!(take(&mut line, now, 4), [5, 2]);
        assert_eq!((line.waiting(), line.bytes), (0, 0));
    }

    #[test]
    fn what_matters_most_is_taken_first_and_its_services_in_turns() {
        let mut line = line(9, 9);
        let now = Instant::now();
        for (name, method) in [2, 2, 0, 0, 0, 1, 1].into_iter().enumerate() {
            line.add(now, method, 1, 1, None, name);
        }
        assert_eq!(take(&mut line, now, 9), [2, 5, 3, 6, 4, 0, 1]);
    }

    #[test]
    fn a_service_that_is_full_holds_nobody_else_up() {
        let mut line = line(2, 5);
        let now = Instant::now();
        for (name, method) in [0, 0, 0, 1, 1, 1, 2, 2, 3].into_iter().enumerate() {
            line.add(now, method, 1, 1, None, name);
        }
        let mut taken = take(&mut line, now, 9);
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 3, 4, 6, 8], "two of each service, five of all, and what is never bounded");
        assert!(!line.has_work());
        line.end(now, 0, Some(TICK));
        assert!(line.has_work());
        assert_eq!(take(&mut line, now, 9), [2]);
    }

    #[test]
    fn a_burst_is_served_in_order() {
        let mut line = line(9, 9);
        let start = Instant::now();
        for name in 0..2000 {
            line.add(start, 0, 1, 1, None, name);
        }
        let mut now = start;
        for round in 0..2000 / 8 {
            assert_eq!(take(&mut line, now, 8), (round * 8..round * 8 + 8).collect::<Vec<_>>());
            (0..8).for_each(|_| line.end(now, 0, Some(TICK)));
            now += TICK / 4; // over before it has waited for an interval
        }
        assert!(refused(&mut line).is_empty());
    }

    #[test]
    fn of_a_line_that_stands_the_newest_is_taken_and_the_oldest_refused() {
        let mut line = line(1, 9);
        let start = Instant::now();
        line.add(start, 0, 1, 1, None, 1000);
        assert_eq!(take(&mut line, start, 9), [1000]);
        for name in 0..5 {
            line.add(start, 0, 1, 1, None, name);
        }
        let now = stand(&mut line, 0, start);
        assert!(now - start >= TARGET + INTERVAL);
        line.sweep(now + TICK);
        assert_eq!(refused(&mut line), [0, 1, 2, 3, 4], "they have waited for longer than they may");
        let now = now + 2 * TICK;
        for name in 5..8 {
            line.add(now + name as u32 * TICK, 0, 1, 1, None, name);
        }
        line.end(now, 0, Some(TICK));
        assert_eq!(take(&mut line, now + 7 * TICK + TARGET, 9), [7]);
        line.sweep(now + 5 * TICK + LONGEST_WAIT + TICK);
        assert_eq!(refused(&mut line), [5]);
        assert_eq!(line.waiting(), 1);
    }

    #[test]
    fn of_one_that_gets_short_in_time_the_oldest_is_taken() {
        let mut line = line(1, 9);
        let start = Instant::now();
        line.add(start, 0, 1, 1, None, 1000);
        take(&mut line, start, 9);
        line.add(start, 0, 1, 1, None, 1001);
        let mut now = stand(&mut line, 0, start);
        line.sweep(now);
        refused(&mut line);
        for name in 0..8 {
            line.add(now, 0, 1, 1, None, 2 * name);
            line.add(now, 0, 1, 1, None, 2 * name + 1);
            line.end(now, 0, Some(TICK));
            assert_eq!(take(&mut line, now, 9), [name]);
            now += TICK;
        }
    }

    #[test]
    fn who_comes_before_the_line_is_told_how_many_it_has_room_for() {
        let mut line = line(1, 9);
        let start = Instant::now();
        assert_eq!(line.allowance(start, 0, 9), usize::MAX, "nobody comes to take any");
        line.add(start, 0, 9, 1, None, 1000);
        take(&mut line, start, 9);
        line.add(start, 0, 9, 1, None, 1001);
        assert_eq!(line.allowance(start, 0, 9), LEAST_BURST - 1);
        let now = stand(&mut line, 0, start);
        line.sweep(now);
        assert_eq!(line.allowance(now, 0, 9), LEAST_LINE);
        for name in 0..LEAST_LINE {
            line.add(now, 0, 1, 1, None, name);
        }
        assert_eq!(line.allowance(now, 0, 1), 0);
        assert_eq!(line.allowance(now, 0, 2), LEAST_LINE / 2, "until both have the same");
        assert_eq!(line.allowance(now, 1, 1), usize::MAX, "another method's line does not stand");
        assert_eq!(line.allowance(now, 3, 1), usize::MAX);
        for (name, connection) in (0..LEAST_LINE).zip(2..) {
            line.add(now, 0, connection, 1, None, 2000 + name);
        }
        assert_eq!(line.allowance(now, 0, 1), 0);
        assert_eq!(line.allowance(now, 0, 9999), 0, "one more would take the only place of another");
    }

    #[test]
    fn of_more_than_a_burst_the_rest_is_told_at_once() {
        let mut line = line(9, 9);
        let now = Instant::now();
        line.add(now, 0, 1, 1, None, 9999);
        take(&mut line, now, 1);
        for name in 0..LEAST_BURST + 2 {
            line.add(now, 0, 1, 1, None, name);
        }
        assert_eq!(refused(&mut line), [LEAST_BURST, LEAST_BURST + 1]);
        assert!(line.is_refusing(now) && !line.methods[0].delay.is_standing());
        assert_eq!(take(&mut line, now, 1), [0], "what waits is served in order");
    }

    #[test]
    fn a_line_that_stands_is_short_and_the_longest_lane_gives_way() {
        let mut line = line(1, 9);
        let start = Instant::now();
        line.add(start, 0, 9, 1, None, 1000);
        take(&mut line, start, 9);
        line.add(start, 0, 9, 1, None, 1001);
        let now = stand(&mut line, 0, start);
        line.sweep(now);
        refused(&mut line);
        // A crowd of a thousand on one connection, and then one call of each of a few others.
        for name in 0..1000 {
            line.add(now, 0, 1, 1, None, name);
        }
        assert_eq!(refused(&mut line).len(), 1000 - LEAST_LINE);
        for name in 2000..2010 {
            line.add(now, 0, name as u64, 1, None, name);
        }
        assert_eq!(refused(&mut line), (1000 - LEAST_LINE..1010 - LEAST_LINE).collect::<Vec<_>>(), "the oldest of the crowd");
        assert_eq!(line.waiting(), LEAST_LINE);
    }

    #[test]
    fn methods_stand_each_by_itself() {
        let mut line = line(1, 9);
        let start = Instant::now();
        for name in 0..2 {
            line.add(start, 0, 1, 1, None, name);
        }
        take(&mut line, start, 1);
        let now = stand(&mut line, 0, start);
        line.add(now, 1, 1, 1, None, 7);
        line.sweep(now + LONGEST_WAIT + TICK);
        assert_eq!(refused(&mut line), [1]);
        assert_eq!(take(&mut line, now + LONGEST_WAIT + TICK, 9), [7]);
    }

    #[test]
    fn it_is_over_when_nobody_was_refused_for_an_interval() {
        let mut line = line(1, 9);
        let start = Instant::now();
        for name in 0..2 {
            line.add(start, 0, 1, 1, None, name);
        }
        take(&mut line, start, 1);
        let now = stand(&mut line, 0, start);
        assert_eq!(refused(&mut line), [1]);
        take(&mut line, now + INTERVAL - TICK, 9);
        assert!(line.methods[0].delay.is_standing());
        take(&mut line, now + INTERVAL, 9);
        assert!(!line.methods[0].delay.is_standing());
    }

    #[test]
    fn a_deadline_that_cannot_be_met_is_refused_before_any_work() {
        let mut line = line(LEAST_LIMIT, LEAST_LIMIT);
        let mut now = Instant::now();
        for round in 0..=LEAST_LIMIT {
            line.add(now, 0, 1, 1, None, round);
            assert_eq!(take(&mut line, now, 1), [round]);
            now += 5 * TICK;
            line.end(now, 0, Some(5 * TICK));
        }
        line.add(now, 0, 1, 1, Some(now), 1);
        line.add(now, 0, 1, 1, Some(now + 4 * TICK), 2);
        line.add(now, 0, 1, 1, Some(now + 6 * TICK), 3);
        assert_eq!(take(&mut line, now, 9), [3]);
        line.add(now, 0, 1, 1, Some(now + 20 * TICK), 4);
        line.sweep(now + 21 * TICK);
        let late = line.take_refused();
        assert_eq!(late, [1, 2, 4].map(|name| (name, Refusal::Deadline)));
        assert_eq!(line.waiting(), 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut line = line(9, 9);
        let now = Instant::now();
        for name in 0..10_001 {
            line.add(now, 0, 1, 0, None, name);
        }
        assert_eq!(refused(&mut line), [10_000]);
        line.clear();
        line.add(now, 0, 1, 1 << 20, None, 1);
        line.add(now, 1, 1, 1, None, 2);
        assert_eq!(refused(&mut line), [2]);
    }
}
