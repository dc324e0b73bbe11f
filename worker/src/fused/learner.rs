//! The members' networks in training, with their batches.

use earshot_common::{job::Job, tensors::Tensors};
use tch::{Device, Kind, TchError, Tensor};

use super::{
    Member,
    network::{FusedNetwork, Weights},
    operations::losses,
    optimiser::FusedAdam,
};
use crate::{
    device::upload,
    features::Features,
    network::{Mode, NetworkError, copy_out},
    training::{
        batches::Batches,
        device::ROWS,
        optimiser::Rule,
        schedule::{Pace, Schedule},
        stack::{Stack, StackedBatch, one_hot},
    },
};

/// Fewest rows of each member in a forward pass without gradients.
const ROWS_MIN: usize = 8;

/// [`crate::training::device::DeviceLearner`] for several members.
#[derive(Debug)]
pub struct FusedLearner<'a> {
    members: Vec<(&'a Job, &'a Features)>,
    network: FusedNetwork,
    adam: FusedAdam,
    plans: Vec<Batches<'a>>,
    stack: Stack,
    schedules: Vec<Schedule>,
    /// Taken so far.
    steps: u64,
    /// `(members)`: parts of the targets spread over all classes.
    smoothing: Tensor,
    /// `(members)`: losses of the epoch so far, on the device.
    total: Option<Tensor>,
    /// Each member's weights after its best epoch, on the device.
    best: Weights,
    device: Device,
}

impl<'a> FusedLearner<'a> {
    /// For these members, each from its weights.
    ///
    /// # Errors
    /// The network cannot be built, or libtorch refuses.
    pub fn new(members: &[Member<'a>], weights: &[&Tensors], device: Device) -> Result<Self, NetworkError> {
        let _no_grad = tch::no_grad_guard();
        let Some(Member { job: first, .. }) = members.first() else {
            return Err(TchError::Torch("no member to train".to_owned()).into());
        };
        let network = FusedNetwork::new(&first.model, weights, device)?;
        let width = network.features();
        let plans: Vec<Batches<'a>> =
            members.iter().map(|member| Batches::new(member.job, member.features, width)).collect();
        let features: Vec<&Features> = members.iter().map(|member| member.features).collect();
        let count = plans.first().map_or(0, Batches::count);
        let recipes = || members.iter().map(|member| &member.job.recipe);
        Ok(Self {
            adam: FusedAdam::new(&network.weights().trained, recipes().map(Rule::new).collect())?,
            stack: Stack::new(&plans, &features, device)?,
            plans,
            schedules: recipes().map(|recipe| Schedule::new(recipe, count)).collect(),
            steps: 0,
            smoothing: smoothing(members.iter().map(|member| member.job), device)?,
            total: None,
            best: network.weights().snapshot()?,
            network,
            members: members.iter().map(|member| (member.job, member.features)).collect(),
            device,
        })
    }

    /// Batches of an epoch.
    pub fn count(&self) -> usize {
        self.plans.first().map_or(0, Batches::count)
    }

    /// Draws the next epoch.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn begin_epoch(&mut self) -> Result<(), TchError> {
        self.plans.iter_mut().for_each(Batches::shuffle);
        self.stack.next_epoch();
        let (first, last) = (self.steps, self.steps + self.count() as u64);
        let paces: Vec<Vec<Pace>> = (first..last)
            .map(|step| self.schedules.iter().map(|schedule| schedule.pace(step)).collect())
            .collect();
        self.steps = last;
        self.adam.plan(&paces, self.device)
    }

    /// One step of every member on the batch of this index.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, index: usize) -> Result<(), TchError> {
        let StackedBatch { features, targets, mask, taught: _ } = self.stack.get(&mut self.plans, index)?;
        let targets = if targets.dim() == 2 { one_hot(&targets, self.stack.classes())? } else { targets };
        let logits = self.network.forward(&features, Mode::Training { mask: mask.as_ref() })?;
        let losses = losses(&logits, &targets, &self.smoothing)?;
        // Each member's loss depends on its own weights alone, so the sum's gradients are theirs.
        let sum = losses.f_sum(None::<Kind>)?;
        let gradients = Tensor::f_run_backward(&[&sum], self.network.parameters(), false, false)?;
        self.adam.step(&self.network.weights().trained, &gradients, index)?;
        let clips = features.size().first().copied().unwrap_or(0);
        let summed = losses.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(clips)?;
        self.total = Some(match self.total.take() {
            Some(total) => total.f_add(&summed)?,
            None => summed,
        });
        Ok(())
    }

    /// Each member's mean loss per clip since the last call.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn take_means(&mut self) -> Result<Vec<f64>, TchError> {
        let Some(total) = self.total.take() else { return Ok(vec![0.0; self.plans.len()]) };
        let rows = self.plans.first().map_or(0, Batches::rows);
        Vec::try_from(total.f_div_scalar(rows as f64)?)
    }

    /// Each member's logits of its validation rows `(rows, classes)`, in its split's order.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn logits(&self) -> Result<Vec<Vec<f32>>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let rows: Vec<&[i64]> = self.members.iter().map(|(_, features)| features.validation()).collect();
        let most = rows.iter().map(|rows| rows.len()).max().unwrap_or(0);
        let at_once = (ROWS / self.members.len().max(1)).max(ROWS_MIN);
        let mut logits = Vec::new();
        for start in (0..most).step_by(at_once) {
            let batch = self.stack.plain(&rows, start..(start + at_once).min(most))?;
            logits.push(self.network.forward(&batch, Mode::Evaluation)?);
        }
        let logits = copy_out(&Tensor::f_cat(&logits, 1)?)?;
        let (members, classes) = (self.members.len().max(1), logits.shape.last().copied().unwrap_or(1));
        let lines = logits.values.chunks((logits.values.len() / members).max(1)).zip(&rows);
        Ok(lines.map(|(line, rows)| line.iter().take(rows.len() * classes).copied().collect()).collect())
    }

    /// Keeps the weights of those members whose best epoch this is.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn keep(&mut self, are_best: &[bool]) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.best.take_over(self.network.weights(), &upload(are_best, self.device)?)
    }

    /// A member's weights as they were last kept.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn kept(&self, place: usize) -> Result<Tensors, TchError> {
        let _no_grad = tch::no_grad_guard();
        self.best.member(place)
    }

    /// Goes on with some of the members, in another epoch.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn retain(&mut self, is_kept: &[bool]) -> Result<(), NetworkError> {
        let _no_grad = tch::no_grad_guard();
        let places: Vec<i64> =
            (0..).zip(is_kept).filter(|(_, is_kept)| **is_kept).map(|(place, _)| place).collect();
        let places = upload(&places, self.device)?;
        retain(&mut self.members, is_kept);
        retain(&mut self.plans, is_kept);
        retain(&mut self.schedules, is_kept);
        self.network = self.network.select(&places)?;
        self.best = self.best.select(&places)?;
        self.adam.retain(is_kept, &places)?;
        self.stack.retain(is_kept, &self.plans)?;
        self.smoothing = self.smoothing.f_index_select(0, &places)?;
        Ok(())
    }
}

fn retain<T>(items: &mut Vec<T>, is_kept: &[bool]) {
    let mut kept = is_kept.iter().copied();
    items.retain(|_| kept.next().unwrap_or(true));
}

fn smoothing<'a>(jobs: impl Iterator<Item = &'a Job>, device: Device) -> Result<Tensor, TchError> {
    upload(&jobs.map(|job| job.recipe.label_smoothing as f32).collect::<Vec<_>>(), device)
}
