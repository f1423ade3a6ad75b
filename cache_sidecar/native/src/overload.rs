//! What is measured of the calls of one method, to tell when there are too many of them. Time is an argument.
//!
//! `Delay` says whether a line stands (CoDel, RFC 8289: a burst is served, a queue that does not get shorter is not), `Limit` how
//! many calls may be in progress (as in Netflix's concurrency-limits: additive increase, multiplicative decrease). Crates for
//! either wrap a tower service or an async lock each call waits at; here calls wait as bytes, and are refused without a task.
//!
//! There is no such thing on grpc.aio, whose calls wait in C-core, which does not say since when.

use std::time::{Duration, Instant};

/// A line that was never shorter than this, in the time that its oldest call has waited, for `INTERVAL` stands.
pub const TARGET: Duration = Duration::from_millis(20);
pub const INTERVAL: Duration = Duration::from_millis(100);
/// While a line stands, a call that has waited for longer is refused, the newest is taken first, and the line holds no more than
/// what is taken in `WORTH`, or `LEAST_LINE`, which is two wake-ups of Python: what does not fit could only wait in vain.
pub const LONGEST_WAIT: Duration = Duration::from_millis(50);
pub const WORTH: Duration = Duration::from_millis(10);
pub const LEAST_LINE: usize = 128;
/// As long as Python came for calls within `INTERVAL`, a line that does not stand holds no more than was ever taken in one, or this:
/// the rest of a larger burst could not be answered within 200 ms, and is better told at once.
pub const LEAST_BURST: usize = 2048;
/// How fast the most that was taken in an interval is forgotten, per interval.
const FORGET_MOST: f64 = 0.99;

#[derive(Default)]
pub struct Delay {
    above_since: Option<Instant>,
    refused_at: Option<Instant>,
    is_standing: bool,
    counts_from: Option<Instant>,
    taken: usize,
    taken_before: usize,
    most_taken: f64,
    came_at: Option<Instant>,
}

impl Delay {
    /// Takes how many calls were taken just now, and how long the oldest of those that were left has waited; None when none was.
    pub fn observe(&mut self, now: Instant, taken: usize, left: Option<Duration>) {
        self.count(now, taken);
        if taken > 0 {
            self.came_at = Some(now);
        }
        if self.is_standing {
            let since_refusal = self.refused_at.map_or(INTERVAL, |at| now.saturating_duration_since(at));
            self.is_standing = left.is_some() || since_refusal < INTERVAL;
            self.above_since = None;
        } else if left.is_none_or(|age| age <= TARGET) {
            self.above_since = None;
        } else if now.saturating_duration_since(*self.above_since.get_or_insert(now)) >= INTERVAL {
            (self.is_standing, self.refused_at) = (true, Some(now));
        }
    }

    fn count(&mut self, now: Instant, taken: usize) {
        let from = *self.counts_from.get_or_insert(now);
        let passed = now.saturating_duration_since(from);
        if passed >= INTERVAL {
            self.taken_before = if passed < 2 * INTERVAL { self.taken } else { 0 };
            self.most_taken = (self.taken_before as f64).max(self.most_taken * FORGET_MOST);
            (self.taken, self.counts_from) = (0, Some(now));
        }
        self.taken += taken;
    }

    pub fn refused(&mut self, now: Instant) {
        self.refused_at = Some(now);
    }

    pub fn is_standing(&self) -> bool {
        self.is_standing
    }

    /// Whether calls are refused at the moment, or were just now.
    pub fn is_refusing(&self, now: Instant) -> bool {
        self.is_standing || self.refused_at.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL)
    }

    /// Returns how many calls may wait.
    pub fn room(&self, now: Instant) -> usize {
        if !self.is_standing {
            let is_served = self.came_at.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL);
            return if is_served { LEAST_BURST.max(self.most_taken as usize) } else { usize::MAX };
        }
        let per_interval = self.taken_before.max(self.taken);
        LEAST_LINE.max(per_interval * WORTH.as_millis() as usize / INTERVAL.as_millis() as usize)
    }
}

/// Bounds of `Limit`. Below the least, Python and Redis would not work on many calls at once, which is what makes them fast.
pub const LEAST_LIMIT: usize = 128;
pub const FIRST_LIMIT: usize = 512;
/// Calls that a window of `INTERVAL` must have for it to count.
const LEAST_SAMPLES: u32 = 10;
/// Calls take too long when it is twice as long as they took at best, and longer than this: what is served is to be served within
/// 200 ms, and a Redis that is slow whatever is asked of it is not to be asked less.
const SLOW: Duration = Duration::from_millis(75);
/// What a call is thought to take at least is never longer.
const LONGEST_FASTEST: Duration = Duration::from_millis(20);
/// How fast what they took at best is forgotten, per window.
const FORGET: f64 = 1.01;

pub struct Limit {
    limit: usize,
    most: usize,
    /// Seconds.
    best: f64,
    least: f64,
    since: Option<Instant>,
    sum: f64,
    count: u32,
    /// Most in progress at once.
    peak: usize,
    /// What the fastest call of the last window took, and when that was.
    fastest: Option<(Duration, Instant)>,
}

impl Limit {
    pub fn new(most: usize) -> Self {
        let limit = FIRST_LIMIT.min(most);
        Limit { limit, most, best: f64::INFINITY, least: 0.0, since: None, sum: 0.0, count: 0, peak: 0, fastest: None }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns what a call takes at least: an estimate that may only be too low. It is short, and soon forgotten, so that calls
    /// get through again when what made all of them slow is over.
    pub fn fastest(&self, now: Instant) -> Duration {
        let recent = self.fastest.filter(|(_, at)| now.saturating_duration_since(*at) < 10 * INTERVAL);
        recent.map_or(Duration::ZERO, |(fastest, _)| fastest.min(LONGEST_FASTEST))
    }

    /// Takes that a call began; with it so many are in progress.
    pub fn began(&mut self, in_progress: usize) {
        self.peak = self.peak.max(in_progress);
    }

    /// Takes that a call ended, so long after it began.
    pub fn ended(&mut self, now: Instant, took: Duration) {
        let took = took.as_secs_f64();
        (self.sum, self.count) = (self.sum + took, self.count + 1);
        self.least = if self.count == 1 { took } else { self.least.min(took) };
        let since = *self.since.get_or_insert(now);
        if self.count < LEAST_SAMPLES || now.saturating_duration_since(since) < INTERVAL {
            return;
        }
        self.fastest = Some((Duration::from_secs_f64(self.least), now));
        let mean = self.sum / f64::from(self.count);
        self.best = mean.min(self.best * FORGET);
        if mean > (2.0 * self.best).max(SLOW.as_secs_f64()) {
            self.limit = (self.limit.min(self.peak) * 4 / 5).max(LEAST_LIMIT.min(self.most));
        } else if 2 * self.peak >= self.limit {
            self.limit = (self.limit + (self.limit / 10).max(4)).min(self.most);
        }
        (self.since, self.sum, self.count, self.peak) = (Some(now), 0.0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    #[test]
    fn a_line_stands_when_it_did_not_get_short_for_an_interval() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        let over = Some(TARGET + TICK);
        for (at, left, stands) in [(0, over, false), (99, over, false), (100, over, true)] {
            delay.observe(start + at * TICK, 1, left);
            assert_eq!(delay.is_standing(), stands, "{at}");
        }
        let mut delay = Delay::default();
        for (at, left) in [(0, over), (50, Some(TARGET)), (100, over), (199, over), (250, None), (300, over)] {
            delay.observe(start + at * TICK, 1, left);
            assert!(!delay.is_standing(), "{at}");
        }
    }

    #[test]
    fn it_stands_as_long_as_calls_are_left_or_were_refused() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        delay.observe(start, 1, Some(TARGET + TICK));
        delay.observe(start + INTERVAL, 1, Some(TARGET + TICK));
        delay.observe(start + 3 * INTERVAL, 1, Some(TICK));
        delay.refused(start + 3 * INTERVAL);
        delay.observe(start + 4 * INTERVAL - TICK, 1, None);
        assert!(delay.is_standing());
        delay.observe(start + 4 * INTERVAL, 1, None);
        assert!(!delay.is_standing());
    }

    #[test]
    fn there_is_room_for_what_is_taken_soon() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        let over = Some(TARGET + TICK);
        for at in 0..=100 {
            delay.observe(start + at * TICK, 50, over);
        }
        let now = start + 101 * TICK;
        assert!(delay.is_standing());
        assert_eq!(delay.room(now), 500);
        delay.observe(start + 1000 * TICK, 0, over);
        delay.observe(start + 1100 * TICK, 0, over);
        assert_eq!(delay.room(now), LEAST_LINE);
    }

    #[test]
    fn a_burst_is_as_large_as_what_is_taken_in_time_and_unbounded_while_nobody_comes() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        assert_eq!(delay.room(start), usize::MAX, "nobody has come yet");
        delay.observe(start, 1, None);
        assert_eq!(delay.room(start), LEAST_BURST);
        for at in 0..=100 {
            delay.observe(start + at * TICK, 50, None);
        }
        assert_eq!(delay.room(start + 100 * TICK), 5001);
        assert_eq!(delay.room(start + 300 * TICK), usize::MAX, "nobody comes any more");
    }

    /// Windows of calls that take so long, with so many in progress.
    fn windows(limit: &mut Limit, now: &mut Instant, count: u32, took: Duration, in_progress: usize) {
        for _ in 0..count * 10 {
            limit.began(in_progress);
            *now += INTERVAL / 10;
            limit.ended(*now, took);
        }
    }

    #[test]
    fn the_limit_follows_how_long_calls_take() {
        let (mut limit, mut now) = (Limit::new(1000), Instant::now());
        windows(&mut limit, &mut now, 20, 5 * TICK, 10);
        assert_eq!(limit.limit(), FIRST_LIMIT, "what is not used says nothing");
        windows(&mut limit, &mut now, 20, 5 * TICK, 1000);
        assert_eq!(limit.limit(), 1000);
        windows(&mut limit, &mut now, 2, 100 * TICK, 1000); // the first has fast ones among them, too
        assert_eq!(limit.limit(), 800);
        windows(&mut limit, &mut now, 20, 100 * TICK, 1000);
        assert_eq!(limit.limit(), LEAST_LIMIT);
        windows(&mut limit, &mut now, 40, 6 * TICK, 1000);
        assert_eq!(limit.limit(), 1000);
    }

    #[test]
    fn calls_that_always_take_long_are_not_slow() {
        let (mut limit, mut now) = (Limit::new(1000), Instant::now());
        windows(&mut limit, &mut now, 20, 400 * TICK, 1000);
        assert_eq!(limit.limit(), 1000);
    }

    #[test]
    fn the_fastest_call_is_soon_forgotten() {
        let (mut limit, mut now) = (Limit::new(1000), Instant::now());
        assert_eq!(limit.fastest(now), Duration::ZERO);
        windows(&mut limit, &mut now, 2, 5 * TICK, 1);
        assert_eq!(limit.fastest(now), 5 * TICK);
        windows(&mut limit, &mut now, 2, 2000 * TICK, 1);
        assert_eq!(limit.fastest(now), LONGEST_FASTEST);
        assert_eq!(limit.fastest(now + 10 * INTERVAL), Duration::ZERO);
    }
}
