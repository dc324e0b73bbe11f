//! A log's decisions, made again from nothing but its entries, and held against what is known of those that were made at the time:
//! the digest of each, and what searches proposed.
//!
//! Grants, verdicts, promotions and refits are decisions of the state machine, and the same on every machine. What a search
//! proposes is computed in floating point, and so the same on machines that round alike.

use std::collections::BTreeMap;

use earshot_common::{ids::FoldId, job::Verdict};

use crate::{
    state::{AttemptEnd, Decision, Event, EventKind, Grant, State},
    store::{EventLog, StoreError},
};

/// Letters of a decision that are shown.
const DECISION_SHOWN: usize = 300;

/// Whether searches are asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Searches {
    /// What they propose has to be what the log says.
    Asked,
    /// The log is believed.
    Believed,
}

/// What has come of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retraced {
    /// Entries that were followed.
    pub entries: u64,
    /// How many of which event led to which decision.
    pub counts: BTreeMap<(&'static str, &'static str), Count>,
    /// The first entry that is not reproduced.
    pub difference: Option<Difference>,
}

/// Entries of one kind, with one kind of decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// All of them.
    pub entries: u64,
    /// Those whose decision was compared with the one made at the time.
    pub compared: u64,
    /// Points that searches proposed once more.
    pub proposed: u64,
}

/// An entry that is not reproduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its position.
    pub position: u64,
    /// Its event.
    pub event: &'static str,
    /// What is different.
    pub what: What,
    /// As it was.
    pub recorded: String,
    /// As it is now.
    pub found: String,
}

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// What the search proposes.
    Proposals,
    /// What was decided.
    Decision,
    /// That it was accepted at all.
    Acceptance,
}

impl What {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proposals => "proposals",
            Self::Decision => "decision",
            Self::Acceptance => "acceptance",
        }
    }
}

/// Follows a log from its beginning, to its end or to an entry that does not follow from those before it. `tell` hears the
/// position.
///
/// # Errors
/// [`StoreError`]: the log cannot be read.
pub fn retrace(log: &EventLog, searches: Searches, tell: impl Fn(u64)) -> Result<Retraced, StoreError> {
    let decided = log.decided()?;
    let (mut state, mut retraced, mut is_over) = (State::default(), Retraced::default(), false);
    log.for_each(|position, event| {
        if is_over {
            return Ok(());
        }
        tell(position);
        let proposed = if searches == Searches::Asked { propose(&state, &event) } else { None };
        if let Some(Proposed { recorded, found, .. }) = &proposed
            && recorded != found
        {
            let [recorded, found] = [recorded, found].map(|points| shown(points.clone()));
            retraced.note(position, &event, What::Proposals, recorded, found);
        }
        let decision = match state.apply(&event) {
            Ok(decision) => decision,
            Err(refusal) => {
                let accepted = "accepted".to_owned();
                retraced.note(position, &event, What::Acceptance, accepted, refusal.to_string());
                is_over = true;
                return Ok(());
            }
        };
        let recorded = decided.get(&position);
        if let Some(recorded) = recorded.filter(|recorded| **recorded != decision.digest()) {
            let found = shown(serde_json::to_string(&decision).unwrap_or_default());
            let found = format!("{} {found}", decision.digest());
            retraced.note(position, &event, What::Decision, recorded.to_string(), found);
        }
        let count = retraced.counts.entry((event.kind.name(), name(&state, &decision))).or_default();
        count.entries += 1;
        count.compared += u64::from(recorded.is_some());
        count.proposed += proposed.map_or(0, |proposed| proposed.points);
        retraced.entries += 1;
        Ok(())
    })?;
    Ok(retraced)
}

impl Retraced {
    /// Notes a difference, if it is the first.
    fn note(&mut self, position: u64, event: &Event, what: What, recorded: String, found: String) {
        let event = event.kind.name();
        self.difference.get_or_insert(Difference { position, event, what, recorded, found });
    }
}

/// What a search proposed then, and what it proposes now, as JSON.
struct Proposed {
    points: u64,
    recorded: String,
    found: String,
}

/// Asks the search once more what the log says of it; none where it says nothing, or what another version of the method proposed:
/// that is believed.
fn propose(state: &State, event: &Event) -> Option<Proposed> {
    let (recorded, mut found) = match &event.kind {
        EventKind::Asked { proposed, .. } if !proposed.is_empty() => (proposed, state.proposals(event.at_ms)),
        EventKind::AskedAlike { like, proposed, .. } if !proposed.is_empty() => {
            (proposed, state.run_of(*like).and_then(|run| state.proposals_alike(run)).unwrap_or_default())
        }
        _ => return None,
    };
    if recorded.iter().zip(&found).any(|(recorded, found)| recorded.version != found.version) {
        return None;
    }
    let points = recorded.len() as u64;
    // Reasons were not always written down; what was not is not compared.
    for (found, recorded) in found.iter_mut().zip(recorded) {
        found.why = found.why.filter(|_| recorded.why.is_some());
    }
    // Points have a form in JSON, and another one where they are others.
    let [recorded, found] =
        [recorded, &found].map(|points| serde_json::to_string(points).unwrap_or_default());
    Some(Proposed { points, recorded, found })
}

/// A decision in a word; `state` is the one after it.
fn name(state: &State, decision: &Decision) -> &'static str {
    match decision {
        Decision::Submitted(_) => "submitted",
        Decision::Replaying(_) => "replaying",
        Decision::Joined(_) => "joined",
        Decision::Granted(grant) => kind_of_grant(state, grant),
        Decision::NothingLeft => "nothing_left",
        Decision::Verdict(Verdict::Continue) => "continue",
        Decision::Verdict(Verdict::Stop) => "stop",
        Decision::Verdict(Verdict::Pause) => "pause",
        Decision::Noted => "noted",
    }
}

fn kind_of_grant(state: &State, grant: &Grant) -> &'static str {
    if grant.replay.is_some() {
        return "replay";
    }
    if grant.run.fold == FoldId::REFIT {
        return "refit";
    }
    if grant.run.fold.pruning_step().is_some() {
        return "pruned";
    }
    if grant.run.fold == FoldId::AWARE {
        return "aware";
    }
    let run = state.sweep(grant.run.sweep).and_then(|sweep| sweep.run(grant.run));
    let before = run.and_then(|run| run.attempts.iter().rev().find(|attempt| attempt.token != grant.token));
    match before.map(|attempt| &attempt.end) {
        Some(Some(AttemptEnd::Held)) => "promoted",
        Some(_) => "granted_again",
        None => "granted",
    }
}

fn shown(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(DECISION_SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}
