//! How much of the coordinator one caller may take: token buckets (as RFC 2697 meters with one rate), and a count of the
//! blobs on their way.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Caller, Limits, policy::Kind};

/// Callers that are remembered at most; those that are idle are forgotten first, and lose nothing by it.
const CALLERS_MAX: usize = 4096;

/// Who an allowance is for: a token, or an address where no token is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Token(Arc<str>),
    Peer(IpAddr),
}

impl Key {
    pub(super) fn of(caller: &Caller, peer: IpAddr) -> Self {
        match caller {
            Caller::Known { name, .. } => Self::Token(Arc::clone(name)),
            Caller::Anyone => Self::Peer(peer),
        }
    }
}

/// Why a call has to wait.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub(super) enum Excess {
    /// Calls.
    #[error("too many calls at once; try again in a moment")]
    Calls,
    /// Workers that join.
    #[error("too many workers join at once; try again in a moment")]
    Joins,
    /// Blobs.
    #[error("too many blobs are on their way; try again in a moment")]
    Transfers,
    /// Answers without an end.
    #[error("too many watch at once; try again when others have ended")]
    Watches,
    /// Questions without an end.
    #[error("too many report at once; try again when others have ended")]
    Streams,
}

/// A place among the blobs on their way, or among what has no end, given back when it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

/// Everybody's allowances.
#[derive(Debug)]
pub(super) struct Allowances {
    limits: Limits,
    /// A std mutex: nothing waits while holding it.
    callers: Mutex<BTreeMap<Key, Allowance>>,
}

#[derive(Debug)]
struct Allowance {
    calls: Bucket,
    joins: Bucket,
    transfers: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Allowances {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, callers: Mutex::default() }
    }

    /// Takes a call of this kind out of the caller's allowance; a blob's transfer gets a place, and so does what has no end.
    pub(super) fn take(&self, key: Key, kind: Kind, now_ms: u64) -> Result<Option<Place>, Excess> {
        let Limits { calls_hz, calls_burst, joins_hz, joins_burst, .. } = self.limits;
        let Limits { transfers_max, watches_max, streams_max, .. } = self.limits;
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= CALLERS_MAX && !callers.contains_key(&key) {
            callers.retain(|_, allowance| !allowance.is_untouched(&self.limits, now_ms));
        }
        let allowance = callers.entry(key).or_insert_with(|| Allowance {
            calls: Bucket::full(calls_burst, now_ms),
            joins: Bucket::full(joins_burst, now_ms),
            transfers: Arc::new(Semaphore::new(transfers_max)),
            watches: Arc::new(Semaphore::new(watches_max)),
            streams: Arc::new(Semaphore::new(streams_max)),
        });
        if !allowance.calls.take(calls_hz, calls_burst, now_ms) {
            return Err(Excess::Calls);
        }
        let place = |places: &Arc<Semaphore>, excess| {
            Arc::clone(places).try_acquire_owned().map(Some).map_err(|_| excess)
        };
        match kind {
            Kind::Join if !allowance.joins.take(joins_hz, joins_burst, now_ms) => Err(Excess::Joins),
            Kind::Transfer => place(&allowance.transfers, Excess::Transfers),
            Kind::Watch => place(&allowance.watches, Excess::Watches),
            Kind::Stream => place(&allowance.streams, Excess::Streams),
            Kind::Health | Kind::Join | Kind::Call => Ok(None),
        }
    }
}

impl Allowance {
    /// Whether a new one would be the same.
    fn is_untouched(&self, limits: &Limits, now_ms: u64) -> bool {
        self.calls.level_at(limits.calls_hz, limits.calls_burst, now_ms) >= limits.calls_burst
            && self.joins.level_at(limits.joins_hz, limits.joins_burst, now_ms) >= limits.joins_burst
            && self.transfers.available_permits() == limits.transfers_max
            && self.watches.available_permits() == limits.watches_max
            && self.streams.available_permits() == limits.streams_max
    }
}

/// Fills at a rate, up to a burst; every call takes one out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    level: f64,
    at_ms: u64,
}

impl Bucket {
    pub(super) fn full(burst: f64, now_ms: u64) -> Self {
        Self { level: burst, at_ms: now_ms }
    }

    /// Takes one out, if there is one.
    pub(super) fn take(&mut self, hz: f64, burst: f64, now_ms: u64) -> bool {
        self.level = self.level_at(hz, burst, now_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let has_one = self.level >= 1.0;
        if has_one {
            self.level -= 1.0;
        }
        has_one
    }

    fn level_at(&self, hz: f64, burst: f64, now_ms: u64) -> f64 {
        let passed_s = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        (self.level + passed_s * hz).min(burst)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const TIGHT: fn() -> Limits = || Limits {
        calls_hz: 10.0,
        calls_burst: 5.0,
        joins_hz: 1.0,
        joins_burst: 2.0,
        transfers_max: 1,
        ..Limits::default()
    };

    fn peer(number: u32) -> Key {
        Key::Peer(Ipv4Addr::from(number).into())
    }

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let allowances = Allowances::new(TIGHT());
        let taken =
            |now_ms| (0..100).filter(|_| allowances.take(peer(1), Kind::Call, now_ms).is_ok()).count();
        assert_eq!((taken(0), taken(99), taken(100), taken(1_100)), (5, 0, 1, 5));
        assert_eq!(taken(50), 0, "a clock that goes back gives nothing");
        assert!(allowances.take(peer(2), Kind::Call, 0).is_ok(), "everybody has his own");
        let token = Key::of(
            &Caller::Known { name: "t".into(), role: crate::access::Role::User },
            [127, 0, 0, 1].into(),
        );
        assert!(allowances.take(token, Kind::Call, 0).is_ok());
    }

    #[test]
    fn joins_and_transfers_are_counted_apart() {
        let allowances = Allowances::new(TIGHT());
        let take = |kind| allowances.take(peer(1), kind, 0);
        assert!(take(Kind::Join).is_ok() && take(Kind::Join).is_ok());
        assert_eq!(take(Kind::Join).unwrap_err(), Excess::Joins);
        let place = take(Kind::Transfer).unwrap();
        assert_eq!(take(Kind::Transfer).unwrap_err(), Excess::Transfers);
        assert_eq!(take(Kind::Transfer).unwrap_err(), Excess::Calls);
        let later = |kind| allowances.take(peer(1), kind, 10_000);
        assert_eq!(later(Kind::Transfer).unwrap_err(), Excess::Transfers);
        drop(place);
        assert!(later(Kind::Transfer).unwrap().is_some());
    }

    #[test]
    fn the_idle_are_forgotten_before_there_are_too_many() {
        let allowances = Allowances::new(TIGHT());
        for number in 0..3 * CALLERS_MAX as u32 {
            allowances.take(peer(number), Kind::Call, u64::from(number)).unwrap();
        }
        assert!(allowances.callers.lock().unwrap().len() <= CALLERS_MAX);
    }
}
