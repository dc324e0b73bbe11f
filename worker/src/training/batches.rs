//! Which rows come when and in which view, gathered from the resident matrix and augmented, with their targets and their
//! dropout masks.

use earshot_common::job::Job;
use tch::{Device, Kind, TchError, Tensor};

use crate::{
    features::Features,
    network::Network,
    randomness::{Masks, Order},
    training::{augmentation::Augmenter, views::ViewChooser},
};

/// The training rows of one run, batch by batch.
#[derive(Debug)]
pub struct Batches<'a> {
    features: &'a Features,
    /// Training rows in this epoch's order.
    rows: Vec<i64>,
    /// Rows of the matrix that stand for them in this epoch, on the device.
    index: Tensor,
    views: ViewChooser<'a>,
    order: Order,
    masks: Masks,
    augmenter: Augmenter,
    classes: i64,
    /// Where masks are made, kept from batch to batch.
    buffer: Vec<f32>,
    /// Elements of one clip's mask.
    mask_width: i64,
    size: usize,
    device: Device,
}

/// What one step sees.
#[derive(Debug)]
pub struct Batch {
    /// `(clips, n_mfcc, frames)`.
    pub features: Tensor,
    /// Classes `(clips)`, or, blended, probabilities `(clips, classes)`.
    pub targets: Tensor,
    /// `(clips, features)`; none without dropout.
    pub mask: Option<Tensor>,
}

impl<'a> Batches<'a> {
    /// The batches of this job.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(
        job: &'a Job,
        features: &'a Features,
        network: &Network,
        device: Device,
    ) -> Result<Self, TchError> {
        Ok(Self {
            features,
            rows: features.train().to_vec(),
            index: Tensor::new(),
            views: ViewChooser::new(&job.augment, features.views(), job.recipe.seed),
            order: Order::new(job.recipe.seed),
            masks: Masks::new(job.recipe.seed, job.model.head.dropout),
            augmenter: Augmenter::new(job, features.input(), device)?,
            classes: i64::from(job.model.classes),
            buffer: Vec::new(),
            mask_width: network.features(),
            size: (job.recipe.batch_size as usize).max(1),
            device,
        })
    }

    /// Training rows of an epoch.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Batches of an epoch; the last may be smaller.
    pub fn count(&self) -> usize {
        self.rows.len().div_ceil(self.size)
    }

    /// Draws the next epoch's order, and each clip's view.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn shuffle(&mut self) -> Result<(), TchError> {
        self.order.shuffle(&mut self.rows);
        let seen: Vec<i64> = self.rows.iter().map(|&row| self.views.choose(row)).collect();
        self.index = Tensor::f_from_slice(&seen)?.f_to_device(self.device)?;
        Ok(())
    }

    /// The batch of this index, augmented anew and with a mask of its own.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn get(&mut self, index: usize) -> Result<Batch, TchError> {
        let start = index * self.size;
        let clips = self.size.min(self.rows.len().saturating_sub(start)) as i64;
        let rows = self.index.f_narrow(0, start as i64, clips)?;
        let features = self.features.matrix.f_index_select(0, &rows)?;
        let labels = self.features.labels.f_index_select(0, &rows)?;
        if self.augmenter.is_active() {
            for clip in 0..clips {
                let draw = self.augmenter.draw();
                self.augmenter.apply(&features.f_get(clip)?, &draw)?;
            }
        }
        let (features, targets) = match self.augmenter.mix(clips as usize) {
            Some(mix) => {
                let targets = labels.f_one_hot(self.classes)?.f_to_kind(Kind::Float)?;
                (mix.apply(&features)?, mix.apply(&targets)?)
            }
            None => (features, labels),
        };
        let mask = self.masks.is_active().then(|| self.mask(clips)).transpose()?;
        Ok(Batch { features, targets, mask })
    }

    /// Draws what an epoch draws, and makes nothing of it.
    pub fn skip_epoch(&mut self) {
        self.order.shuffle(&mut self.rows);
        for &row in &self.rows {
            self.views.choose(row);
        }
        for batch in self.rows.chunks(self.size) {
            if self.augmenter.is_active() {
                for _ in batch {
                    self.augmenter.draw();
                }
            }
            self.augmenter.mix(batch.len());
            if self.masks.is_active() {
                self.buffer.resize(batch.len() * self.mask_width as usize, 0.0);
                self.masks.fill(&mut self.buffer);
            }
        }
    }

    fn mask(&mut self, clips: i64) -> Result<Tensor, TchError> {
        self.buffer.resize((clips * self.mask_width) as usize, 0.0);
        self.masks.fill(&mut self.buffer);
        Tensor::f_from_slice(&self.buffer)?.f_view([clips, self.mask_width])?.f_to_device(self.device)
    }
}
