//! What is counted as it happens. The state counts what must survive a restart; this does not.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};

/// One label of a metric: its name and its value.
pub(super) type Label = [(&'static str, &'static str); 1];

/// Calls that are told apart; any other is `other`, so that nobody can fill the memory with made-up names.
const CALLS: [&str; 23] = [
    "/earshot.v1.Blobs/Fetch",
    "/earshot.v1.Blobs/Put",
    "/earshot.v1.Cluster/Finish",
    "/earshot.v1.Cluster/Heartbeat",
    "/earshot.v1.Cluster/Join",
    "/earshot.v1.Cluster/Lease",
    "/earshot.v1.Cluster/Leave",
    "/earshot.v1.Cluster/Report",
    "/earshot.v1.Sweeps/CancelSweep",
    "/earshot.v1.Sweeps/GetChampion",
    "/earshot.v1.Sweeps/GetCurve",
    "/earshot.v1.Sweeps/GetImportance",
    "/earshot.v1.Sweeps/GetLeaderboard",
    "/earshot.v1.Sweeps/GetReplay",
    "/earshot.v1.Sweeps/GetStatus",
    "/earshot.v1.Sweeps/GetTrial",
    "/earshot.v1.Sweeps/ListSweeps",
    "/earshot.v1.Sweeps/PauseSweep",
    "/earshot.v1.Sweeps/ReplayTrial",
    "/earshot.v1.Sweeps/ResumeSweep",
    "/earshot.v1.Sweeps/SubmitSweep",
    "/earshot.v1.Sweeps/WatchStatus",
    "/grpc.health.v1.Health/Check",
];

/// Why a call was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Without a token that is valid.
    Stranger,
    /// With one that is for something else.
    NotAllowed,
    /// Too many at once.
    Excess,
}

/// Counts since the coordinator started. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub(super) calls: Family<Label, Counter>,
    pub(super) refusals: Family<Label, Counter>,
    /// Open now.
    pub(super) connections: Gauge,
    pub(super) turned_away: Counter,
}

impl Tally {
    /// A call has come.
    pub fn called(&self, path: &str) {
        let known = CALLS.into_iter().find(|&known| known == path).unwrap_or("other");
        self.calls.get_or_create(&[("call", known)]).inc();
    }

    /// A call was not let through.
    pub fn refused(&self, why: Refused) {
        let reason = match why {
            Refused::Stranger => "stranger",
            Refused::NotAllowed => "not_allowed",
            Refused::Excess => "excess",
        };
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    /// A connection was made.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// A connection has ended.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// A connection was closed at once, for want of room.
    pub fn turned_away(&self) {
        self.turned_away.inc();
    }
}

/// Times of commits, in seconds. Clones count together.
pub fn commit_times() -> Histogram {
    // From a tenth of a millisecond, which no disk syncs in, to what leases are lost at.
    Histogram::new([1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 5.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_calls_are_counted_together() {
        let tally = Tally::default();
        for path in ["/earshot.v1.Cluster/Lease", "/earshot.v1.Cluster/Lease", "/x", "/y"] {
            tally.called(path);
        }
        let count = |call| tally.calls.get_or_create(&[("call", call)]).get();
        assert_eq!((count("/earshot.v1.Cluster/Lease"), count("other")), (2, 2));
    }

    /// Every call of our own protocol is told apart.
    #[test]
    fn the_protocols_calls_are_known() {
        use prost::Message;
        let files =
            prost_types::FileDescriptorSet::decode(earshot_proto::earshot::v1::FILE_DESCRIPTOR_SET).unwrap();
        for file in files.file.iter().filter(|file| file.package() == "earshot.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/earshot.v1.{}/{}", service.name(), method.name());
                    assert!(CALLS.contains(&path.as_str()), "{path}");
                }
            }
        }
    }
}
