//! Training on the CPU, with [`crate::cpu`]'s kernels.

use earshot_common::{job::Job, tensors::Tensors};

use super::{
    batches::Batches,
    optimiser::{Numbers, Rule},
    schedule::Pace,
};
use crate::{
    cpu::{self, Network, Precision},
    features::Features,
    network::NetworkError,
};

/// Clips of one forward pass: enough for whole tiles, few enough that activations stay near.
const CLIPS: usize = 32;

/// A network in training with its batches.
#[derive(Debug)]
pub struct HostLearner<'a> {
    network: Network,
    rule: Rule,
    label_smoothing: f64,
    features: &'a Features,
    batches: Batches<'a>,
}

impl<'a> HostLearner<'a> {
    /// For this job, from these weights.
    ///
    /// # Errors
    /// The network cannot be built.
    pub fn new(
        job: &'a Job,
        features: &'a Features,
        weights: &Tensors,
        precision: Precision,
    ) -> Result<Self, NetworkError> {
        let network = Network::new(&job.model, weights, precision)?;
        let batches = Batches::new(job, features, network.features());
        Ok(Self {
            network,
            rule: Rule::new(&job.recipe),
            label_smoothing: job.recipe.label_smoothing,
            features,
            batches,
        })
    }

    /// Which rows come when.
    pub fn batches(&mut self) -> &mut Batches<'a> {
        &mut self.batches
    }

    /// One step on the batch of this index: its loss, summed over its clips.
    pub fn step(&mut self, index: usize, pace: Pace) -> f64 {
        let clips = self.batches.indices(index).len();
        let batch = self.batches.get(index);
        let numbers: Numbers = self.rule.next(pace);
        self.network.step(batch, numbers, self.label_smoothing) * clips as f64
    }

    /// Logits of the validation rows `(rows, classes)`, in the split's order.
    pub fn logits(&mut self) -> Vec<f32> {
        logits(&mut self.network, self.features)
    }

    /// A copy of every tensor's values, by the checkpoint's names.
    pub fn values(&self) -> Tensors {
        self.network.values()
    }

    /// The optimiser's moving means, of gradients and of their squares, by the checkpoint's names.
    pub fn moments(&self) -> [Tensors; 2] {
        self.network.moments()
    }

    /// Goes on from these moments, after so many steps.
    pub fn resume(&mut self, moments: &[Tensors; 2], steps: u64) {
        self.network.resume(moments);
        self.rule.resume(steps);
    }
}

/// Logits of the validation rows `(rows, classes)`, in the split's order.
pub fn logits(network: &mut cpu::Network, features: &Features) -> Vec<f32> {
    let mut logits = Vec::new();
    let mut batch = Vec::new();
    for rows in features.validation().chunks(CLIPS) {
        features.gather(rows, &mut batch);
        logits.extend_from_slice(network.logits(&batch));
    }
    logits
}
