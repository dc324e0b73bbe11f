//! Who runs the mind's errands, cuts and quantisations, as the coordinator does: looks, takes its time, and says what came of it. A
//! process that dies may have said it or not; now and then it says it twice.

use coordinator::{
    mind::Mind,
    state::{Candidate, Cut, Due, EventKind, Quantisation, Refusal, State, SweepState},
};
use earshot_common::{
    ids::{BlobId, SweepId},
    int8::Range,
};

use crate::world::Stage;

#[derive(Default)]
pub(crate) struct Errands {
    /// What it is at.
    running: Option<Errand>,
    /// What it said last.
    said: Option<EventKind>,
}

#[derive(Clone)]
enum Errand {
    Cut(SweepId, Due),
    Quantise(SweepId, Candidate),
}

impl Errands {
    /// The process died, and with it what was not said.
    pub(crate) fn dies(&mut self, stage: &mut Stage) {
        match self.running.take() {
            Some(Errand::Cut(..)) => stage.covered.cuts_lost += 1,
            Some(Errand::Quantise(..)) => stage.covered.quantisations_lost += 1,
            None => {}
        }
    }

    /// One of its ticks.
    pub(crate) fn acts(&mut self, mind: &mut Mind, now_ms: u64, stage: &mut Stage) {
        if self.running.is_none() {
            self.running = due(mind.state());
            self.repeat(mind, now_ms, stage);
            return;
        }
        if stage.dice.chance(0.7) {
            return;
        }
        let kind = match self.running.take() {
            Some(Errand::Cut(sweep, due)) => cut(sweep, &due, stage),
            Some(Errand::Quantise(sweep, candidate)) => quantised(sweep, &candidate, stage),
            None => return,
        };
        match mind.apply(kind.clone(), now_ms) {
            Ok(_) => self.said = Some(kind),
            // A user has cancelled it meanwhile.
            Err(Refusal::SweepEnded(_)) => {}
            Err(refusal) => panic!("what was due was refused: {refusal}"),
        }
    }

    fn repeat(&mut self, mind: &mut Mind, now_ms: u64, stage: &mut Stage) {
        let Some(said) = self.said.clone() else { return };
        // What was said may not have reached the disk; then it is due again.
        if is_due(mind.state(), &said) || !stage.dice.chance(0.05) {
            return;
        }
        let repeated = match said {
            EventKind::Pruned { .. } => &mut stage.covered.cuts_repeated,
            _ => &mut stage.covered.quantisations_repeated,
        };
        *repeated += 1;
        assert!(mind.apply(said, now_ms).is_err(), "an errand's end was taken twice");
    }
}

fn due(state: &State) -> Option<Errand> {
    let cut = state.pruning_due().map(|(sweep, due)| Errand::Cut(sweep, due));
    cut.or_else(|| state.quantisation_due().map(|(sweep, candidate)| Errand::Quantise(sweep, candidate)))
}

fn is_due(state: &State, said: &EventKind) -> bool {
    match said {
        EventKind::Pruned { sweep, trial, step, .. } => {
            let due = state.sweep(*sweep).and_then(SweepState::pruning_due);
            due.is_some_and(|due| (due.trial, due.step) == (*trial, *step))
        }
        EventKind::Quantised { sweep, trial, .. } => {
            let due = state.sweep(*sweep).and_then(SweepState::quantisation_due);
            due.is_some_and(|due| due.trial == *trial)
        }
        other => panic!("{other:?} is no errand's end"),
    }
}

/// A network that is a little smaller; the same each time, as real cuts are.
fn cut(sweep: SweepId, due: &Due, stage: &mut Stage) -> EventKind {
    let Due { trial, step, ref model, .. } = *due;
    let cut = if stage.dice.chance(0.05) {
        Cut::Refused { why: "out of reach".into() }
    } else {
        let mut model = model.clone();
        for block in &mut model.blocks {
            block.filters = (block.filters - 1).max(1);
        }
        let weights = BlobId::of(format!("{sweep}/{trial}/{step}").as_bytes());
        Cut::Made { model, weights, teacher: None, why: "by magnitude".into() }
    };
    EventKind::Pruned { sweep, trial, step, cut }
}

/// Ranges for every scale; or little was lost.
fn quantised(sweep: SweepId, candidate: &Candidate, stage: &mut Stage) -> EventKind {
    let Candidate { trial, ref model, .. } = *candidate;
    let quantisation = if stage.dice.chance(0.2) {
        Quantisation::Kept { why: "little was lost".into() }
    } else {
        let ranges = vec![Range { min: 0.0, max: trial.0 as f32 }; model.scales().unwrap()];
        Quantisation::Aware { ranges, why: "much was lost".into() }
    };
    EventKind::Quantised { sweep, trial, quantisation }
}
