//! Who cuts what is due, as the coordinator's own pruner: looks, takes its time, and says it. A process that dies may have said it
//! or not; now and then it says it twice.

use coordinator::{
    mind::Mind,
    state::{Cut, Due, EventKind, Refusal, SweepState},
};
use earshot_common::ids::{BlobId, SweepId};

use crate::world::Stage;

#[derive(Default)]
pub(crate) struct Pruner {
    /// What it is at.
    cutting: Option<(SweepId, Due)>,
    /// What it said last.
    said: Option<EventKind>,
}

impl Pruner {
    /// The process died, and with it what was not said.
    pub(crate) fn dies(&mut self, stage: &mut Stage) {
        stage.covered.cuts_lost += u64::from(self.cutting.take().is_some());
    }

    /// One of its ticks.
    pub(crate) fn acts(&mut self, mind: &mut Mind, now_ms: u64, stage: &mut Stage) {
        if self.cutting.is_none() {
            self.cutting = mind.state().pruning_due();
            self.repeat(mind, now_ms, stage);
            return;
        }
        if stage.dice.chance(0.7) {
            return;
        }
        let Some((sweep, due)) = self.cutting.take() else { return };
        let kind = cut(sweep, &due, stage);
        match mind.apply(kind.clone(), now_ms) {
            Ok(_) => self.said = Some(kind),
            // A user has cancelled it meanwhile.
            Err(Refusal::SweepEnded(_)) => {}
            Err(refusal) => panic!("a cut that was due was refused: {refusal}"),
        }
    }

    fn repeat(&mut self, mind: &mut Mind, now_ms: u64, stage: &mut Stage) {
        let Some(EventKind::Pruned { sweep, trial, step, .. }) = &self.said else { return };
        // What was said may not have reached the disk; then it is due again.
        let is_due = mind.state().sweep(*sweep).and_then(SweepState::pruning_due);
        if is_due.is_some_and(|due| (due.trial, due.step) == (*trial, *step)) || !stage.dice.chance(0.05) {
            return;
        }
        let again = self.said.clone().unwrap();
        assert!(mind.apply(again, now_ms).is_err(), "a cut was taken twice");
        stage.covered.cuts_repeated += 1;
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
