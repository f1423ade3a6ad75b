//! How long a connection lives: to its maximum age, or until it had no call for too long; then it gets GOAWAY, and its calls
//! have a grace to end in.

use std::future::pending;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// An idle connection is looked at so many times before it is ended: it lives a quarter longer than asked for at most.
const LOOKS: u32 = 4;
/// Ages are spread by so much either way, so that connections opened together don't end together; as C-core does.
const SPREAD: f64 = 0.1;

/// What `settings.py` says; None for ever.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub age: Option<Duration>,
    pub idle: Option<Duration>,
    /// What calls get to end in, after GOAWAY.
    pub grace: Duration,
    /// A silent connection is asked so often whether it is alive, and has so long to say so.
    pub ping_every: Duration,
    pub ping_within: Duration,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Activity {
    /// Calls that it began.
    pub begun: u64,
    /// Whether some of them are in progress.
    pub is_busy: bool,
}

#[derive(Debug, PartialEq)]
pub enum Due {
    GoAway,
    /// The grace is over.
    Close,
}

pub struct Lifetime {
    ages_at: Option<Instant>,
    idle: Option<Duration>,
    grace: Duration,
    looked_at: Instant,
    busy_at: Instant,
    begun: u64,
    closes_at: Option<Instant>,
}

impl Lifetime {
    pub fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let ages_at = limits.age.and_then(|age| now.checked_add(age.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * chance())));
        Lifetime { ages_at, idle: limits.idle, grace: limits.grace, looked_at: now, busy_at: now, begun: 0, closes_at: None }
    }

    /// Waits for what is due next. May be dropped and called again at any time.
    pub async fn due(&mut self, activity: impl Fn() -> Activity) -> Due {
        loop {
            let look = self.idle.and_then(|idle| self.looked_at.checked_add(idle / LOOKS));
            match self.closes_at.or_else(|| self.ages_at.into_iter().chain(look).min()) {
                Some(next) => sleep_until(next).await,
                None => pending().await,
            }
            if let Some(due) = self.look(Instant::now(), activity()) {
                return due;
            }
        }
    }

    fn look(&mut self, now: Instant, activity: Activity) -> Option<Due> {
        if let Some(closes_at) = self.closes_at {
            return (now >= closes_at).then_some(Due::Close);
        }
        if activity.is_busy || activity.begun != self.begun {
            (self.busy_at, self.begun) = (now, activity.begun);
        }
        self.looked_at = now;
        let is_old = self.ages_at.is_some_and(|at| now >= at);
        let is_idle = self.idle.is_some_and(|idle| now - self.busy_at >= idle);
        (is_old || is_idle).then(|| {
            self.closes_at = Some(now + self.grace);
            Due::GoAway
        })
    }
}

/// Returns a number from 0 to 1.
fn chance() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits =
        Limits { age: None, idle: None, grace: SECOND, ping_every: Duration::MAX, ping_within: Duration::MAX };

    /// Returns what was due, after how many seconds.
    async fn due(lifetime: &mut Lifetime, activity: impl Fn() -> Activity) -> (Due, f64) {
        let began = Instant::now();
        let due = lifetime.due(activity).await;
        (due, began.elapsed().as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_go_whatever_they_do_and_close_after_the_grace() {
        let busy = || Activity { begun: 1, is_busy: true };
        let mut seen = Vec::new();
        for _ in 0..20 {
            let mut lifetime = Lifetime::new(&Limits { age: Some(100 * SECOND), idle: Some(SECOND), ..LIMITS });
            let (what, after) = due(&mut lifetime, busy).await;
            assert!(what == Due::GoAway && (90.0..110.1).contains(&after), "{what:?} after {after}");
            assert_eq!(due(&mut lifetime, busy).await, (Due::Close, 1.0));
            seen.push(after);
        }
        assert!(seen.iter().any(|after| (after - seen[0]).abs() > 1.0), "they would all go at once: {seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_go_once_nothing_is_in_progress() {
        let limits = Limits { idle: Some(100 * SECOND), ..LIMITS };
        assert_eq!(due(&mut Lifetime::new(&limits), Activity::default).await, (Due::GoAway, 100.0));
        let began = Instant::now();
        let until_1000 = || Activity { begun: 1, is_busy: began.elapsed() < 1000 * SECOND };
        let (what, after) = due(&mut Lifetime::new(&limits), until_1000).await;
        assert!(what == Due::GoAway && (1074.0..=1126.0).contains(&after), "{after}");
        let began = Instant::now();
        let calls_until_1000 = || Activity { begun: began.elapsed().as_secs().min(1000), is_busy: false };
        let (what, after) = due(&mut Lifetime::new(&limits), calls_until_1000).await;
        assert!(what == Due::GoAway && (1074.0..=1126.0).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_they_stay() {
        let mut lifetime = Lifetime::new(&LIMITS);
        let year = Duration::from_secs(365 * 86_400);
        assert!(tokio::time::timeout(year, lifetime.due(Activity::default)).await.is_err());
    }
}
