//! The lifetime of a connection: until its maximum age, until it has been idle too long, or until its certificate expires or is
//! revoked. Then it gets GOAWAY, and its calls have a grace period to finish.

use std::future::pending;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Number of checks within the idle time, so that an idle connection lives at most a quarter longer than configured.
const LOOKS: u32 = 4;
/// Ages vary by this fraction either way, as in C-core, so that connections opened together don't end together.
const SPREAD: f64 = 0.1;

/// As in `settings.py`; None for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub age: Option<Duration>,
    pub idle: Option<Duration>,
    /// How long calls have to finish after GOAWAY.
    pub grace: Duration,
    /// The interval of keepalive pings, and the time to answer one.
    pub ping_every: Duration,
    pub ping_within: Duration,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Activity {
    /// Number of calls begun.
    pub begun: u64,
    /// Whether some of them are in progress.
    pub is_busy: bool,
}

#[derive(Debug, PartialEq)]
pub enum Due {
    GoAway,
    /// The grace period is over.
    Close,
}

pub struct Lifetime {
    ages_at: Option<Instant>,
    /// When it has to end because of its certificate.
    expires_at: Option<Instant>,
    revoked_at: Option<Instant>,
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
        Lifetime {
            ages_at,
            expires_at: None,
            revoked_at: None,
            idle: limits.idle,
            grace: limits.grace,
            looked_at: now,
            busy_at: now,
            begun: 0,
            closes_at: None,
        }
    }

    /// Ends it for a certificate that expires after so many seconds: GOAWAY comes earlier than that, by half the grace period, so
    /// that a client which has renewed its certificate reconnects without an error, and the connection is closed later than that,
    /// so that streams end with a status. One with little time left gets GOAWAY after half of it: a client must not reconnect at
    /// each call.
    pub fn expire_after(&mut self, seconds: f64) {
        let left = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
        self.expires_at = left.and_then(|left| Instant::now().checked_add(left - left.min(self.grace) / 2));
    }

    /// Ends it for a revoked certificate: at once, or if the certificate was already revoked when the client connected, after
    /// the grace period. Its calls are refused in any case, with the reason; later it may have another certificate.
    pub fn revoke(&mut self, is_new: bool) {
        self.revoked_at = Instant::now().checked_add(if is_new { self.grace } else { Duration::ZERO });
    }

    /// Waits for what is due next. The future may be dropped, and the method called again, at any time.
    pub async fn due(&mut self, activity: impl Fn() -> Activity) -> Due {
        loop {
            let look = self.idle.and_then(|idle| self.looked_at.checked_add(idle / LOOKS));
            match self.closes_at.or_else(|| self.ends().chain(look).min()) {
                Some(next) => sleep_until(next).await,
                None => pending().await,
            }
            if let Some(due) = self.look(Instant::now(), activity()) {
                return due;
            }
        }
    }

    /// When it has to end whatever it does.
    fn ends(&self) -> impl Iterator<Item = Instant> + use<> {
        [self.ages_at, self.expires_at, self.revoked_at].into_iter().flatten()
    }

    fn look(&mut self, now: Instant, activity: Activity) -> Option<Due> {
        if let Some(closes_at) = self.closes_at {
            return (now >= closes_at).then_some(Due::Close);
        }
        if activity.is_busy || activity.begun != self.begun {
            (self.busy_at, self.begun) = (now, activity.begun);
        }
        self.looked_at = now;
        let is_old = self.ends().any(|at| now >= at);
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
    async fn those_of_a_certificate_end_around_its_expiry() {
        // The seconds that the certificate is valid, those until GOAWAY, and from there to the end.
        for (left, until, more) in [(100.0, 95.0, 10.0), (6.0, 3.0, 10.0), (0.0, 0.0, 10.0), (-5.0, 0.0, 10.0)] {
            let mut lifetime = Lifetime::new(&Limits { grace: 10 * SECOND, ..LIMITS });
            lifetime.expire_after(left);
            let (what, after) = due(&mut lifetime, Activity::default).await;
            assert!(what == Due::GoAway && (after - until).abs() < 0.01, "{left}: {what:?} after {after}");
            let (what, after) = due(&mut lifetime, Activity::default).await;
            assert!(what == Due::Close && (after - more).abs() < 0.01, "{left}: {what:?} after {after}");
        }
        let mut lifetime = Lifetime::new(&LIMITS);
        lifetime.expire_after(f64::INFINITY);
        let year = Duration::from_secs(365 * 86_400);
        assert!(tokio::time::timeout(year, lifetime.due(Activity::default)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_a_revoked_certificate_end_at_once_unless_they_are_new() {
        for (is_new, until) in [(false, 0.0), (true, 10.0)] {
            let mut lifetime = Lifetime::new(&Limits { grace: 10 * SECOND, ..LIMITS });
            lifetime.revoke(is_new);
            lifetime.expire_after(100.0);
            let (what, after) = due(&mut lifetime, Activity::default).await;
            assert!(what == Due::GoAway && (after - until).abs() < 0.01, "{what:?} after {after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_they_stay() {
        let mut lifetime = Lifetime::new(&LIMITS);
        let year = Duration::from_secs(365 * 86_400);
        assert!(tokio::time::timeout(year, lifetime.due(Activity::default)).await.is_err());
    }
}
