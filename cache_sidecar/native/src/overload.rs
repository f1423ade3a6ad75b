//! Detects overload by measuring the calls of one method. Time is an argument.
//!
//! `Delay` determines whether a line is standing (CoDel, RFC 8289: bursts are served, but a queue that does not drain is a standing
//! queue), `Limit` how many calls may be in progress (as in Netflix's concurrency-limits: additive increase, multiplicative
//! decrease). The crates for either wrap a tower service, or an async lock at which each call waits; here calls wait as bytes, and
//! are refused without a task.
//!
//! The aio engine has no such thing: its calls wait in C-core, which does not report since when.

use std::time::{Duration, Instant};

/// A line is standing when the waiting time of its oldest call has not been below this for `INTERVAL`.
pub const TARGET: Duration = Duration::from_millis(20);
pub const INTERVAL: Duration = Duration::from_millis(100);
/// While a line is standing, calls that have waited longer than this are refused, the newest call is taken first, and the line
/// holds at most what is taken in `WORTH`, or `LEAST_LINE`, which is two wake-ups of Python: more would only wait in vain.
pub const LONGEST_WAIT: Duration = Duration::from_millis(50);
pub const WORTH: Duration = Duration::from_millis(10);
pub const LEAST_LINE: usize = 128;
/// If Python took calls within the last `INTERVAL`, a line that is not standing holds at most the maximum ever taken in one
/// interval, or this: the rest of a larger burst could not be answered within 200 ms, so it is refused at once.
pub const LEAST_BURST: usize = 2048;
/// The decay, per interval, of the maximum taken in an interval.
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
    /// Records how many calls were taken just now, and how long the oldest of the others has waited; None if no other is left.
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

    /// Whether calls are being refused, or were a moment ago.
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

/// The bounds of `Limit`. Below the minimum, Python and Redis could not batch calls, which makes them fast.
pub const LEAST_LIMIT: usize = 128;
pub const FIRST_LIMIT: usize = 512;
/// Minimum number of calls for a window of `INTERVAL` to count.
const LEAST_SAMPLES: u32 = 10;
/// Calls are too slow when they take twice as long as at best, and longer than this: replies are due within 200 ms, and a Redis
/// that is slow at any load does not get faster with fewer calls.
const SLOW: Duration = Duration::from_millis(75);
/// The maximum of the estimated minimum duration.
const LONGEST_FASTEST: Duration = Duration::from_millis(20);
/// The growth, per window, of the best duration.
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
    /// The maximum number in progress.
    peak: usize,
    /// The duration of the fastest call of the last window, and when that was.
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

    /// Returns the estimated minimum duration of a call, which may only be too low. It is short, and decays soon, so that calls are
    /// admitted again when the cause of slow calls is over.
    pub fn fastest(&self, now: Instant) -> Duration {
        let recent = self.fastest.filter(|(_, at)| now.saturating_duration_since(*at) < 10 * INTERVAL);
        recent.map_or(Duration::ZERO, |(fastest, _)| fastest.min(LONGEST_FASTEST))
    }

    /// Records the start of a call; `in_progress` includes it.
    pub fn began(&mut self, in_progress: usize) {
        self.peak = self.peak.max(in_progress);
    }

    /// Records the end of a call, and its duration.
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
