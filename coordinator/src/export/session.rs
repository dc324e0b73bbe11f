//! tract, running an ONNX file's bytes over rows of features.

use std::{num::NonZero, panic, sync::Arc, thread};

use tract_onnx::prelude::*;

use super::{error::ExportError, features::Features};

/// Clips of one batch at most: enough to keep matrix products busy.
const BATCH_MAX: usize = 16;

/// Activations of one batch at most, in floats (64 MiB), so that memory stays bounded for wide models too.
const ACTIVATIONS_MAX: u64 = 16 << 20;

/// A model that tract has accepted.
pub(super) struct Session {
    /// Which file, for messages.
    model: &'static str,
    plan: Arc<TypedRunnableModel>,
    /// Clips of one batch.
    batch: usize,
}

impl Session {
    /// Parses and optimises a model. `activations` is what one clip needs at the widest point of the network; `outputs` are
    /// the values to give, none for the model's own.
    ///
    /// # Errors
    /// tract refuses the model.
    pub(super) fn load(
        model: &'static str,
        mut bytes: &[u8],
        activations: u64,
        outputs: &[String],
    ) -> Result<Self, ExportError> {
        let failed = |step| move |source| ExportError::Tract { model, step, source };
        let mut graph = tract_onnx::onnx().model_for_read(&mut bytes).map_err(failed("read"))?;
        if !outputs.is_empty() {
            graph.select_outputs_by_name(outputs).map_err(failed("find the values of"))?;
        }
        let plan = graph.into_optimized().and_then(IntoRunnable::into_runnable).map_err(failed("prepare"))?;
        let batch = (ACTIVATIONS_MAX / activations.max(1)).clamp(1, BATCH_MAX as u64) as usize;
        Ok(Self { model, plan, batch })
    }

    /// Runs these rows in batches, on all cores, and hands each batch's outputs to `read`. Results are in the rows' order.
    ///
    /// # Errors
    /// tract fails, or gives something else than floats.
    pub(super) fn map<T: Send>(
        &self,
        features: &Features,
        rows: &[u32],
        read: impl Fn(&[&[f32]]) -> T + Sync,
    ) -> Result<Vec<T>, ExportError> {
        let batches: Vec<&[u32]> = rows.chunks(self.batch).collect();
        let lanes = thread::available_parallelism().map_or(1, NonZero::get);
        let share = batches.len().div_ceil(lanes).max(1);
        thread::scope(|scope| {
            let lanes: Vec<_> = batches
                .chunks(share)
                .map(|batches| {
                    let read = &read;
                    scope.spawn(move || {
                        let results = batches.iter().map(|rows| self.batch(features, rows, read));
                        results.collect::<Result<Vec<T>, ExportError>>()
                    })
                })
                .collect();
            let mut results = Vec::with_capacity(batches.len());
            for lane in lanes {
                results.extend(lane.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))?);
            }
            Ok(results)
        })
    }

    /// First output of these rows, row-major.
    ///
    /// # Errors
    /// As [`Session::map`].
    pub(super) fn logits(&self, features: &Features, rows: &[u32]) -> Result<Vec<f32>, ExportError> {
        let batches = self
            .map(features, rows, |outputs| outputs.first().map_or_else(Vec::new, |logits| logits.to_vec()))?;
        Ok(batches.concat())
    }

    fn batch<T>(
        &self,
        features: &Features,
        rows: &[u32],
        read: &impl Fn(&[&[f32]]) -> T,
    ) -> Result<T, ExportError> {
        let [n_mfcc, frames] = features.shape();
        let values: Vec<f32> = rows.iter().flat_map(|&row| features.row(row)).copied().collect();
        let run = || -> TractResult<T> {
            let input = Tensor::from_shape(&[rows.len(), 1, n_mfcc, frames], &values)?;
            let outputs = self.plan.run(tvec!(input.into_tvalue()))?;
            let outputs = outputs
                .iter()
                .map(|output| output.try_as_plain_ram()?.as_slice::<f32>())
                .collect::<TractResult<Vec<_>>>()?;
            Ok(read(&outputs))
        };
        run().map_err(|source| ExportError::Tract { model: self.model, step: "run", source })
    }
}
