//! The mind with its leases: state, deadlines, and the events that are not on disk yet. Pure: the time is passed in, and
//! writing is the caller's.
//!
//! [`crate::engine`] drives it with the real clock and the log on disk, the simulation of `coordinator/tests/simulation`
//! with a made-up clock and a disk that fails. Both follow one rule: nothing is answered before what it depends on is
//! committed, which is to say before [`Mind::committed`].

use std::iter;

use earshot_common::ids::{Token, WorkerId};

use crate::{
    leases::{Leases, Lost},
    state::{Decision, Digest, Event, EventKind, Grant, Refusal, State},
};

/// The longest time between two looks at deadlines in which workers count as listened to. Looks are a fraction of a second apart;
/// a longer time without one means that the process was suspended or its disk hung, and that what workers said meanwhile may still
/// be waiting.
const LISTENING_MS: u64 = 2_000;

/// The answer to a worker that asks for a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Train these: one run, or several whose tensors have the same shapes.
    Granted(Vec<Grant>),
    /// Nothing to do now; ask again when something has changed.
    NoWork,
    /// Every run of every sweep has ended.
    Done,
}

/// A coordinator's mind.
#[derive(Debug)]
pub struct Mind {
    state: State,
    leases: Leases,
    /// When deadlines were looked at last.
    looked_ms: u64,
    /// Applied and not yet on disk.
    uncommitted: Vec<Event>,
    /// What was decided of each.
    decided: Vec<Digest>,
}

impl Mind {
    /// Wakes with what the log says. Every live attempt gets a whole lease: nobody could renew it meanwhile.
    pub fn wake(state: State, lease_ms: u64, now_ms: u64) -> Self {
        let mut leases = Leases::new(lease_ms);
        for token in state.live_tokens() {
            leases.begin(token, now_ms);
        }
        Self { state, leases, looked_ms: now_ms, uncommitted: Vec::new(), decided: Vec::new() }
    }

    /// What is known, uncommitted events included.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When which lease ends.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Position of the first uncommitted event, and all of them.
    pub fn uncommitted(&self) -> (u64, &[Event]) {
        (self.state.position() - self.uncommitted.len() as u64, &self.uncommitted)
    }

    /// What was decided of each uncommitted event.
    pub fn decided(&self) -> &[Digest] {
        &self.decided
    }

    /// What was uncommitted is on disk.
    pub fn committed(&mut self) {
        self.uncommitted.clear();
        self.decided.clear();
    }

    /// Applies what happened.
    ///
    /// # Errors
    /// The refusal; then nothing has changed.
    pub fn apply(&mut self, kind: EventKind, now_ms: u64) -> Result<Decision, Refusal> {
        let event = Event { at_ms: now_ms.max(self.state.at_ms()), kind };
        let decision = self.state.apply(&event)?;
        match (&decision, &event.kind) {
            (Decision::Granted(grant), _) => self.leases.begin(grant.token, now_ms),
            (_, &EventKind::Reported { token, .. }) => self.leases.renew(token, now_ms),
            _ => {}
        }
        self.decided.push(decision.digest());
        self.uncommitted.push(event);
        Ok(decision)
    }

    /// Looks for a run for this worker, and for up to `runs` in all that can be trained as one computation. It never holds more
    /// than it has slots: an answer that never reached it has to be given up first.
    ///
    /// # Errors
    /// [`Refusal::UnknownWorker`].
    pub fn ask(&mut self, worker: WorkerId, runs: usize, now_ms: u64) -> Result<Asked, Refusal> {
        let has_room = self.state.present(worker)?.has_room();
        if has_room && self.state.has_work() {
            let proposed = self.state.proposals(now_ms);
            let asked = EventKind::Asked { worker, proposed };
            if let Decision::Granted(grant) = self.apply(asked, now_ms)? {
                let alike = self.ask_alike(worker, &grant, runs.saturating_sub(1), now_ms)?;
                return Ok(Asked::Granted(iter::once(*grant).chain(alike).collect()));
            }
        }
        Ok(if self.state.is_done() { Asked::Done } else { Asked::NoWork })
    }

    /// Up to so many further runs of the shape of the one just granted. A replay is trained alone, as its original may have been,
    /// and so is what goes on from where another attempt was kept.
    fn ask_alike(
        &mut self,
        worker: WorkerId,
        grant: &Grant,
        runs: usize,
        now_ms: u64,
    ) -> Result<Vec<Grant>, Refusal> {
        let mut alike = Vec::new();
        let is_alone = grant.replay.is_some() || grant.job.resume.is_some();
        while !is_alone && alike.len() < runs && self.state.present(worker)?.has_room() {
            let Some(proposed) = self.state.proposals_alike(grant.run) else { break };
            let asked = EventKind::AskedAlike { worker, like: grant.token, proposed };
            let Decision::Granted(grant) = self.apply(asked, now_ms)? else { break };
            alike.push(*grant);
        }
        Ok(alike)
    }

    /// Renews the leases of the attempts that a worker names, and returns those that it no longer holds.
    ///
    /// # Errors
    /// [`Refusal::UnknownWorker`].
    pub fn heartbeat(
        &mut self,
        worker: WorkerId,
        named: &[Token],
        now_ms: u64,
    ) -> Result<Vec<Token>, Refusal> {
        let held = &self.state.present(worker)?.held;
        let (renewed, revoked): (Vec<_>, Vec<_>) = named.iter().partition(|token| held.contains(token));
        for &token in held {
            if !renewed.contains(&token) {
                self.leases.pass_over(token, now_ms);
            }
        }
        for token in renewed {
            self.leases.renew(token, now_ms);
        }
        Ok(revoked)
    }

    /// Ends the attempts whose leases have run out, and says which. Time in which nobody was listened to is nobody's silence.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Lost> {
        let passed_ms = now_ms.saturating_sub(self.looked_ms);
        self.looked_ms = now_ms;
        if passed_ms > LISTENING_MS {
            self.leases.defer(passed_ms, now_ms);
        }
        let state = &self.state;
        self.leases.retain(|token| state.is_live(token));
        let mut ended = self.leases.expired(now_ms);
        ended.retain(|lost| {
            let kind = match *lost {
                Lost::Silent(token) => EventKind::Expired { token },
                Lost::Unclaimed(token) => EventKind::Unclaimed { token },
            };
            // Refused only if an earlier end of this round ended it too.
            self.apply(kind, now_ms).is_ok()
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use earshot_common::{
        ids::{BlobId, FoldId},
        sweep::Sweep,
    };

    use super::*;
    use crate::state::{AttemptEnd, Dataset, RunStatus};

    const LEASE_MS: u64 = 90;

    /// A mind with a sweep of two runs of one attempt each, and a worker of one slot.
    fn mind() -> (Mind, WorkerId) {
        let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\n\
                    dropout = { choice = [0.1, 0.2] }\n[schedule]\nepochs = 2\n[budget]\nattempts = 1\n";
        let sweep = Box::new(Sweep::parse(text, Path::new("t.toml"), &[]).unwrap());
        let mut mind = Mind::wake(State::default(), LEASE_MS, 0);
        mind.apply(EventKind::Submitted { sweep, dataset: dataset() }, 0).unwrap();
        let joined = EventKind::Joined { name: "w".into(), slots: 1, device: "cpu".into(), by: None };
        match mind.apply(joined, 0) {
            Ok(Decision::Joined(worker)) => (mind, worker),
            other => panic!("{other:?}"),
        }
    }

    fn dataset() -> Dataset {
        Dataset {
            labels: vec!["dog".into(), "rain".into()],
            frames: 40,
            shards: vec![BlobId::of(b"shard")],
            views: vec![],
            splits: [(FoldId(1), BlobId::of(b"split"))].into(),
            manifest: BlobId::of(b"manifest"),
        }
    }

    fn ask(mind: &mut Mind, worker: WorkerId, now_ms: u64) -> Grant {
        match mind.ask(worker, 1, now_ms) {
            Ok(Asked::Granted(mut grants)) if grants.len() == 1 => grants.remove(0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_worker_holds_no_more_than_its_slots() {
        let (mut mind, worker) = mind();
        ask(&mut mind, worker, 0);
        assert_eq!(mind.ask(worker, 1, 1), Ok(Asked::NoWork));
        assert_eq!(mind.ask(WorkerId(9), 1, 1), Err(Refusal::UnknownWorker(WorkerId(9))));
    }

    /// A worker of four slots that wants three runs at once, of a sweep over `space`: the trials of what it gets.
    fn together(space: &str) -> Vec<u32> {
        let text = format!(
            "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\n{space}[schedule]\nepochs = 2\n"
        );
        let sweep = Box::new(Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap());
        let mut mind = Mind::wake(State::default(), LEASE_MS, 0);
        mind.apply(EventKind::Submitted { sweep, dataset: dataset() }, 0).unwrap();
        let joined = EventKind::Joined { name: "w".into(), slots: 4, device: "cuda".into(), by: None };
        let Ok(Decision::Joined(worker)) = mind.apply(joined, 0) else { panic!() };
        let Ok(Asked::Granted(grants)) = mind.ask(worker, 3, 0) else { panic!() };
        assert!(grants.iter().all(|grant| grant.job.shape() == grants[0].job.shape()));
        assert_eq!(mind.state().live_tokens().count(), grants.len());
        grants.iter().map(|grant| grant.run.trial.0).collect()
    }

    #[test]
    fn runs_of_one_shape_are_granted_together_and_the_others_wait() {
        assert_eq!(together("dropout = { choice = [0.1, 0.2, 0.3, 0.4] }\n"), [0, 1, 2]);
        assert_eq!(together("dropout = { choice = [0.1, 0.2] }\n"), [0, 1]);
        assert_eq!(together("batch_size = { choice = [16, 32] }\n"), [0]);
        let mixed = "batch_size = { choice = [16, 32] }\nlearning_rate = { choice = [1e-2, 1e-3, 1e-4] }\n";
        let mixed = together(mixed);
        assert!(mixed.len() == 3 && (mixed == [0, 1, 2] || mixed == [0, 2, 4]), "{mixed:?}");
    }

    #[test]
    fn a_grant_that_never_arrived_does_not_count_against_its_run() {
        let (mut mind, worker) = mind();
        let grant = ask(&mut mind, worker, 0);
        assert_eq!(mind.heartbeat(worker, &[], 60), Ok(vec![]));
        assert_eq!(mind.expire(89), []);
        assert_eq!(mind.expire(90), [Lost::Unclaimed(grant.token)]);
        let again = ask(&mut mind, worker, 91);
        assert_eq!((again.run, again.attempt), (grant.run, 2));
    }

    #[test]
    fn silence_counts_even_if_the_worker_was_heard_just_after_the_grant() {
        let (mut mind, worker) = mind();
        let grant = ask(&mut mind, worker, 0);
        // On its way before the grant arrived.
        mind.heartbeat(worker, &[], 1).unwrap();
        assert_eq!(mind.expire(90), [Lost::Silent(grant.token)]);
        let run = mind.state().newest_sweep().unwrap().1.run(grant.run).unwrap();
        assert_eq!((run.status, &run.attempts[0].end), (RunStatus::Failed, &Some(AttemptEnd::Expired)));
    }

    #[test]
    fn a_worker_that_stops_naming_an_attempt_has_lost_it() {
        let (mut mind, worker) = mind();
        let grant = ask(&mut mind, worker, 0);
        mind.heartbeat(worker, &[grant.token, Token(77)], 30).unwrap();
        mind.heartbeat(worker, &[], 100).unwrap();
        assert_eq!(mind.expire(119), []);
        assert_eq!(mind.expire(120), [Lost::Silent(grant.token)]);
        assert_eq!(mind.heartbeat(worker, &[grant.token], 121), Ok(vec![grant.token]), "and is told so");
    }

    /// A suspended coordinator hears nobody; its workers are not dead for that.
    #[test]
    fn a_lease_loses_no_time_in_which_nobody_was_listened_to() {
        let (mut mind, worker) = mind();
        let grant = ask(&mut mind, worker, 0);
        mind.heartbeat(worker, &[grant.token], 30).unwrap();
        assert_eq!(mind.expire(50), []);
        let awake_ms = 50 + 10 * LISTENING_MS;
        assert_eq!(mind.expire(awake_ms), []);
        assert_eq!(mind.leases().ends_ms(grant.token), Some(awake_ms + 70), "what was left of it");
        assert_eq!(mind.expire(awake_ms + 69), []);
        assert_eq!(mind.expire(awake_ms + 70), [Lost::Silent(grant.token)]);
        // What was heard before the look counts once.
        let grant = ask(&mut mind, worker, awake_ms + 80);
        mind.heartbeat(worker, &[grant.token], 2 * awake_ms).unwrap();
        mind.expire(2 * awake_ms + 1);
        assert_eq!(mind.leases().ends_ms(grant.token), Some(2 * awake_ms + LEASE_MS + 1));
    }
}
