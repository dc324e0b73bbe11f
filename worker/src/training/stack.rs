//! Batches of one or several runs, gathered and augmented on the device.
//!
//! Each run keeps the draws it would have alone. What an epoch needs is copied to the device at its start, and the dropout masks
//! batch by batch, so that no step waits for the device.

use std::ops::Range;

use earshot_common::sweep::prune::Distil;
use tch::{Device, Kind, TchError, Tensor};

use super::{batches::Batches, drawn::Drawn, transform::Transform};
use crate::{device::upload, features::Features};

/// What the batches of runs are gathered from: their features have the same shape, their training parts as many rows.
#[derive(Debug)]
pub struct Stack {
    /// `(rows, n_mfcc, frames)`: the runs' matrices, each once.
    matrix: Tensor,
    /// `(rows)`.
    labels: Tensor,
    /// By run: where the rows of its matrix begin.
    bases: Vec<i64>,
    /// `(classes)`: 0, 1, …
    classes: Tensor,
    transform: Transform,
    /// This epoch's numbers, once they are asked for.
    drawn: Option<Drawn>,
    device: Device,
}

/// What one step sees of all runs.
#[derive(Debug)]
pub struct StackedBatch {
    /// `(clips, runs, n_mfcc, frames)`.
    pub features: Tensor,
    /// Classes `(clips, runs)`, or, where a run blends, probabilities `(clips, runs, classes)`.
    pub targets: Tensor,
    /// `(runs, clips, features)`, multiplies the head's features; none where no run drops any.
    pub mask: Option<Tensor>,
    /// `(clips, runs, classes)`: what a teacher makes of the clips, with how it is learnt; none without a teacher, or for several runs.
    pub taught: Option<(Tensor, Distil)>,
}

impl Stack {
    /// For the runs of these plans, each with its features.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(plans: &[Batches<'_>], features: &[&Features], device: Device) -> Result<Self, TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut matrices: Vec<(&Features, i64)> = Vec::new();
        let mut bases = Vec::new();
        let mut rows = 0;
        for features in features {
            let known = matrices.iter().find(|(known, _)| known.is_same(features));
            let base = known.map_or(rows, |(_, base)| *base);
            if known.is_none() {
                matrices.push((features, base));
                rows += features.classes().len() as i64;
            }
            bases.push(base);
        }
        let all = |of: fn(&Features) -> Result<Tensor, TchError>| {
            let tensors = matrices.iter().map(|(features, _)| of(features)).collect::<Result<Vec<_>, _>>()?;
            match tensors.as_slice() {
                [alone] => Ok(alone.shallow_clone()),
                several => Tensor::f_cat(several, 0),
            }
        };
        let classes = plans.first().map_or(0, Batches::classes);
        Ok(Self {
            matrix: all(Features::matrix)?,
            labels: all(Features::labels)?,
            bases,
            classes: Tensor::f_arange(classes as i64, (Kind::Int64, device))?,
            transform: Transform::new(plans.iter().map(Batches::augmenter), device)?,
            drawn: None,
            device,
        })
    }

    /// The next batch is one of another epoch, which its plans have shuffled.
    pub fn next_epoch(&mut self) {
        self.drawn = None;
    }

    /// Goes on with some of the runs, whose plans these are, in another epoch.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn retain(&mut self, is_kept: &[bool], plans: &[Batches<'_>]) -> Result<(), TchError> {
        let mut kept = is_kept.iter().copied();
        self.bases.retain(|_| kept.next().unwrap_or(true));
        self.transform = Transform::new(plans.iter().map(Batches::augmenter), self.device)?;
        self.next_epoch();
        Ok(())
    }

    /// The batch of this index, augmented anew and with masks of its own.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn get(&mut self, plans: &mut [Batches<'_>], index: usize) -> Result<StackedBatch, TchError> {
        let _no_grad = tch::no_grad_guard();
        let drawn = match self.drawn.take() {
            Some(drawn) => drawn,
            None => self.draw(plans)?,
        };
        let drawn = self.drawn.insert(drawn);
        let (start, clips) =
            plans.first().map_or((0, 0), |plan| (plan.start(index), plan.indices(index).len()));
        let drawn = drawn.batch(start as i64, clips as i64)?;
        let (features, targets) = self.gather(&drawn, clips as i64)?;
        let taught = self.taught(plans, index, &drawn)?;
        Ok(StackedBatch { features, targets, mask: self.mask(plans, clips)?, taught })
    }

    /// `(classes)`: 0, 1, …
    pub fn classes(&self) -> &Tensor {
        &self.classes
    }

    /// Features `(clips, runs, n_mfcc, frames)` of rows of each run's own matrix, as they are: those in these places of its list. A
    /// run with fewer has its last row again.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn plain(&self, rows: &[&[i64]], places: Range<usize>) -> Result<Tensor, TchError> {
        let clips = places.len() as i64;
        let row = |rows: &[i64], place: usize| rows.get(place).or(rows.last()).copied().unwrap_or(0);
        let rows: Vec<i64> = places
            .flat_map(|place| rows.iter().zip(&self.bases).map(move |(rows, base)| base + row(rows, place)))
            .collect();
        let features = self.matrix.f_index_select(0, &upload(&rows, self.device)?)?;
        let size = features.size();
        let extents: Vec<i64> =
            [clips, self.bases.len() as i64].into_iter().chain(size.into_iter().skip(1)).collect();
        features.f_view(extents.as_slice())
    }

    fn draw(&self, plans: &mut [Batches<'_>]) -> Result<Drawn, TchError> {
        let size = plans.first().map_or(1, Batches::size);
        let runs = plans.iter_mut().zip(&self.bases).map(|(plan, base)| {
            let rows = plan.order().iter().map(|row| base + row).collect();
            (rows, plan.script())
        });
        Drawn::new(&runs.collect::<Vec<_>>(), size, self.device)
    }

    /// Features and targets.
    fn gather(&self, drawn: &Drawn, clips: i64) -> Result<(Tensor, Tensor), TchError> {
        let runs = self.bases.len() as i64;
        let features = self.matrix.f_index_select(0, &drawn.rows)?;
        let size = features.size();
        let extents: Vec<i64> = [clips, runs].into_iter().chain(size.into_iter().skip(1)).collect();
        let features = self.transform.apply(features.f_view(extents.as_slice())?, drawn)?;
        let labels = self.labels.f_index_select(0, &drawn.rows)?.f_view([clips, runs])?;
        match &drawn.blend {
            Some(blend) => {
                let probabilities = one_hot(&labels, &self.classes)?;
                Ok((blend.apply(&features)?, blend.apply(&probabilities)?))
            }
            None => Ok((features, labels)),
        }
    }

    /// What the teacher of a run that is trained alone makes of a batch.
    fn taught(
        &self,
        plans: &[Batches<'_>],
        index: usize,
        drawn: &Drawn,
    ) -> Result<Option<(Tensor, Distil)>, TchError> {
        let [plan] = plans else { return Ok(None) };
        let Some((probabilities, distil)) = plan.taught(index) else { return Ok(None) };
        let plain = upload(&probabilities, self.device)?.f_view([-1, 1, plan.classes() as i64])?;
        let taught = match &drawn.blend {
            Some(blend) => blend.apply(&plain)?,
            None => plain,
        };
        Ok(Some((taught, distil)))
    }

    /// The next masks of all runs.
    fn mask(&self, plans: &mut [Batches<'_>], clips: usize) -> Result<Option<Tensor>, TchError> {
        if !plans.iter().any(Batches::has_dropout) {
            return Ok(None);
        }
        let scales: Vec<f32> = plans.iter().map(Batches::dropout_scale).collect();
        let mut kept = Vec::new();
        for plan in plans {
            plan.push_kept(clips, &mut kept);
        }
        let kept = upload(&kept, self.device)?.f_view([scales.len() as i64, clips as i64, -1])?;
        let scales = upload(&scales, self.device)?.f_view([-1_i64, 1, 1])?;
        Ok(Some(kept.f_to_kind(Kind::Float)?.f_mul(&scales)?))
    }
}

/// Probabilities `(…, classes)` of labels `(…)`. libtorch's own may look at the labels first, and so wait for them.
///
/// # Errors
/// libtorch refuses.
pub fn one_hot(labels: &Tensor, classes: &Tensor) -> Result<Tensor, TchError> {
    labels.f_unsqueeze(-1)?.f_eq_tensor(classes)?.f_to_kind(Kind::Float)
}
