//! Numbers of a coordinator in Prometheus' text, by the names that `proto/README.md` lists.

use std::{collections::BTreeSet, fmt};

use earshot_common::ids::WorkerId;
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::tally::{Label, Tally};
use crate::{
    state::{State, TrialStatus},
    views,
};

/// The text's type: OpenMetrics 1.0, which Prometheus reads.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the state says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of all sweeps, by status.
    trials: Vec<(&'static str, u64)>,
    runs_waiting: u64,
    leases: u64,
    replays: u64,
    expiries: u64,
    epochs: u64,
    events: u64,
    workers_present: u64,
    workers_gone: u64,
    /// Of workers that are present.
    slots: u64,
    slots_busy: u64,
}

impl Snapshot {
    /// `heard` are the workers that were heard lately.
    pub fn of(state: &State, heard: &BTreeSet<WorkerId>) -> Self {
        let statuses = [
            ("waiting", TrialStatus::Waiting),
            ("running", TrialStatus::Running),
            ("stopped", TrialStatus::Stopped),
            ("completed", TrialStatus::Completed),
            ("failed", TrialStatus::Failed),
            ("infeasible", TrialStatus::Infeasible),
        ];
        let count = |status| state.sweeps().map(|(_, sweep)| u64::from(sweep.count(status))).sum();
        let is_present = |id: &WorkerId, has_left: bool| !has_left && heard.contains(id);
        let mut snapshot = Self {
            trials: statuses.map(|(name, status)| (name, count(status))).to_vec(),
            runs_waiting: state.sweeps().map(|(_, sweep)| views::runs_waiting(sweep)).sum(),
            leases: state.live_tokens().count() as u64,
            replays: state.replays_open() as u64,
            expiries: state.expiries(),
            epochs: state.epochs(),
            events: state.position(),
            ..Self::default()
        };
        for (id, worker) in state.workers() {
            if is_present(&id, worker.has_left) {
                snapshot.workers_present += 1;
                snapshot.slots += u64::from(worker.slots);
                snapshot.slots_busy += worker.held.len() as u64;
            } else {
                snapshot.workers_gone += 1;
            }
        }
        snapshot
    }
}

/// Everything there is to tell.
#[derive(Debug)]
pub struct Numbers<'a> {
    /// What the state says.
    pub snapshot: Snapshot,
    /// What was counted.
    pub tally: &'a Tally,
    /// How long commits took.
    pub commits: &'a Histogram,
    /// Commands that wait for the mind.
    pub commands_waiting: u64,
}

impl Numbers<'_> {
    /// The text.
    ///
    /// # Errors
    /// None that a string could have.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("earshot");
        self.register_state(&mut registry);
        let Self { tally, commits, commands_waiting, .. } = self;
        gauge(
            &mut registry,
            "commands_waiting",
            "Commands that wait for the coordinator's mind",
            commands_waiting,
        );
        let about = "How long it took to bring a batch of events to disk";
        registry.register_with_unit("commit", about, Unit::Seconds, commits.clone());
        registry.register("calls", "Calls that came, by their name", tally.calls.clone());
        registry.register(
            "refusals",
            "Calls that were not let through, by the reason",
            tally.refusals.clone(),
        );
        registry.register("connections", "Connections that are open", tally.connections.clone());
        let about = "Connections that were closed at once, for want of room";
        registry.register("connections_turned_away", about, tally.turned_away.clone());
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn register_state(&self, registry: &mut Registry) {
        let now = &self.snapshot;
        by_state(registry, "trials", "Trials proposed so far, of all sweeps", &now.trials);
        gauge(registry, "runs_waiting", "Runs that nobody trains yet, of all sweeps", now.runs_waiting);
        gauge(registry, "leases", "Attempts that workers hold", now.leases);
        gauge(registry, "replays", "Replays under way", now.replays);
        counter(registry, "lease_expiries", "Leases that ended without a sign of life", now.expiries);
        counter(registry, "epochs", "Epochs that were reported", now.epochs);
        counter(registry, "events", "Entries of the log", now.events);
        let workers = [("present", now.workers_present), ("gone", now.workers_gone)];
        by_state(registry, "workers", "Workers that ever joined", &workers);
        gauge(registry, "slots", "Runs that the workers which are present train at once", now.slots);
        gauge(registry, "slots_busy", "Of these slots, those that hold an attempt", now.slots_busy);
    }
}

fn gauge(registry: &mut Registry, name: &str, about: &str, value: u64) {
    registry.register(name, about, ConstGauge::new(value));
}

fn counter(registry: &mut Registry, name: &str, about: &str, value: u64) {
    registry.register(name, about, ConstCounter::new(value));
}

fn by_state(registry: &mut Registry, name: &str, about: &str, counts: &[(&'static str, u64)]) {
    let family = Family::<Label, Gauge>::default();
    for &(state, count) in counts {
        family.get_or_create(&[("state", state)]).set(count as i64);
    }
    registry.register(name, about, family);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tally::{Refused, commit_times};

    #[test]
    fn numbers_are_told_by_their_names() {
        let (tally, commits) = (Tally::default(), commit_times());
        tally.called("/earshot.v1.Cluster/Lease");
        tally.refused(Refused::Stranger);
        tally.connected();
        commits.observe(0.004);
        let snapshot = Snapshot {
            trials: vec![("completed", 3)],
            epochs: 40,
            workers_present: 2,
            ..Snapshot::default()
        };
        let numbers = Numbers { snapshot, tally: &tally, commits: &commits, commands_waiting: 0 };
        let text = numbers.text().unwrap();
        for line in [
            "earshot_trials{state=\"completed\"} 3",
            "earshot_epochs_total 40",
            "earshot_workers{state=\"present\"} 2",
            "earshot_calls_total{call=\"/earshot.v1.Cluster/Lease\"} 1",
            "earshot_refusals_total{reason=\"stranger\"} 1",
            "earshot_connections 1",
            "earshot_commit_seconds_count 1",
            "earshot_commit_seconds_bucket{le=\"0.002\"} 0",
            "earshot_commit_seconds_bucket{le=\"0.005\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
