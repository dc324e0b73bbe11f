//! Several attempts in one slot, trained as one computation: see [`crate::fused`].
//!
//! What a run has come to midway is not kept: another attempt at it begins anew.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use earshot_common::{
    job::{Epoch, Failure, Job, Reason},
    tensors::{self, Tensors},
};
use tch::Device;

use super::{AttemptError, End, Event, Work, encode, load_features, of_panic};
use crate::{
    cpu::footprint,
    features::{FeatureCache, Features},
    fused::{self, Company, Member},
    room::{Claim, Room},
    training::{TrainError, Trained},
};

/// An attempt with all that training needs.
struct Ready {
    work: Work,
    features: Features,
    initial: Option<Tensors>,
}

impl Ready {
    fn member(&self) -> Member<'_> {
        let Self { work, features, initial } = self;
        Member { job: &work.job, features, weights: initial.as_ref(), control: &work.control }
    }
}

/// Runs attempts of one shape to their ends, whatever happens in them.
pub(super) fn perform(works: Vec<Work>, device: Device, cache: &FeatureCache) {
    // Splits decide how many rows train, and with that how many steps an epoch has.
    let mut by_rows: BTreeMap<usize, Vec<Ready>> = BTreeMap::new();
    for work in works {
        let prepared = catch_unwind(AssertUnwindSafe(|| prepare(&work, device, cache)));
        let end = match prepared {
            Ok(Ok((features, initial))) => {
                let rows = features.train().len();
                by_rows.entry(rows).or_default().push(Ready { work, features, initial });
                continue;
            }
            Ok(Err(error)) => error.into_end(),
            Err(panic) => End::Failed(of_panic(&*panic)),
        };
        work.end(end);
    }
    for alike in by_rows.into_values() {
        train(&alike, device, cache.room());
    }
}

fn prepare(
    work: &Work,
    device: Device,
    cache: &FeatureCache,
) -> Result<(Features, Option<Tensors>), AttemptError> {
    let Work { job, control, source, .. } = work;
    let features = load_features(job, device, cache, source.as_ref(), control)?;
    features.check_classes(job.model.classes)?;
    let initial = match job.initial_weights {
        Some(id) => {
            let bytes = source.read(id, control)?;
            let decoded = tensors::decode_checkpoint(&bytes, &job.model);
            Some(decoded.map_err(|error| AttemptError::InitialWeights(id, error))?)
        }
        None => None,
    };
    Ok((features, initial))
}

/// Trains attempts that are ready. Where the device's memory does not suffice for all of them, for one half after the other.
fn train(ready: &[Ready], device: Device, room: &Room) {
    let members: Vec<Member<'_>> = ready.iter().map(Ready::member).collect();
    let mut teller = Teller { ready, have_ended: vec![false; ready.len()], is_silent: true };
    let company = || {
        let _claim = claim(&members, device, room)?;
        fused::train(&members, device, &mut teller).map_err(AttemptError::Train)
    };
    let failure = match catch_unwind(AssertUnwindSafe(company)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => match error.into_end() {
            End::Failed(failure) => failure,
            end => Failure { reason: Reason::Worker, message: format!("all members ended as {end:?}") },
        },
        Err(panic) => of_panic(&*panic),
    };
    if failure.reason == Reason::OutOfMemory && teller.is_silent && ready.len() > 1 {
        let (first, second) = ready.split_at(ready.len() / 2);
        tracing::warn!(runs = ready.len(), "not enough memory to train all at once; trying halves");
        train(first, device, room);
        train(second, device, room);
        return;
    }
    let left = ready.iter().zip(&teller.have_ended).filter(|(_, has_ended)| !**has_ended);
    left.for_each(|(ready, _)| ready.work.end(End::Failed(failure.clone())));
}

/// The memory that they train in, where that is this machine's own.
fn claim(members: &[Member<'_>], device: Device, room: &Room) -> Result<Claim, AttemptError> {
    /// libtorch keeps what each operation came to for the way back; our own kernels keep less.
    const TIMES: u64 = 2;
    let mut claim = room.claim();
    if device == Device::Cpu {
        for member in members {
            let Job { model, recipe, .. } = member.job;
            claim.grow("training a model among others", TIMES * footprint(model, recipe.batch_size)?)?;
        }
    }
    Ok(claim)
}

/// Passes on what training says.
struct Teller<'a> {
    ready: &'a [Ready],
    have_ended: Vec<bool>,
    /// Whether nothing was said yet.
    is_silent: bool,
}

impl Company for Teller<'_> {
    fn epoch(&mut self, member: usize, epoch: Epoch) {
        self.is_silent = false;
        if let Some(ready) = self.ready.get(member) {
            let _ = ready.work.events.send(Event::Epoch(epoch, None));
        }
    }

    fn ended(&mut self, member: usize, result: Result<Trained, TrainError>) {
        self.is_silent = false;
        let trained = result.map_err(AttemptError::Train);
        let end = trained.and_then(|trained| encode(&trained)).unwrap_or_else(AttemptError::into_end);
        if let (Some(ready), Some(has_ended)) = (self.ready.get(member), self.have_ended.get_mut(member)) {
            *has_ended = true;
            ready.work.end(end);
        }
    }
}
