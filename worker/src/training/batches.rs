//! Which rows come when and in which view, gathered from the resident matrix and augmented, with their targets and their
//! dropout masks.

use earshot_common::{job::Job, sweep::prune::Distil};

use crate::{
    cpu::{Batch, Targets, Taught},
    features::Features,
    randomness::{Masks, Order},
    training::{
        augmentation::{Augmenter, Draw, Mix},
        views::ViewChooser,
    },
};

/// The training rows of one run, batch by batch.
#[derive(Debug)]
pub struct Batches<'a> {
    features: &'a Features,
    /// Training rows in this epoch's order.
    rows: Vec<i64>,
    /// Rows of the matrix that stand for them in this epoch.
    seen: Vec<i64>,
    views: ViewChooser<'a>,
    order: Order,
    masks: Masks,
    augmenter: Augmenter,
    classes: usize,
    /// Floats of one clip's mask.
    mask_width: usize,
    size: usize,
    room: Room,
}

/// What one batch consists of, kept from batch to batch.
#[derive(Debug, Default)]
struct Room {
    features: Vec<f32>,
    classes: Vec<i64>,
    probabilities: Vec<f32>,
    /// Features or probabilities before they were blended.
    plain: Vec<f32>,
    mask: Vec<f32>,
    /// What a teacher makes of the clips.
    taught: Vec<f32>,
}

/// What an epoch's clips go through.
#[derive(Debug, Default)]
pub struct Script {
    /// By place in the epoch's order; empty when clips go through nothing.
    pub draws: Vec<Draw>,
    /// By batch; empty without mixup.
    pub mixes: Vec<Mix>,
}

impl<'a> Batches<'a> {
    /// The batches of this job, for a network whose dropout masks have so many floats a clip.
    pub fn new(job: &'a Job, features: &'a Features, mask_width: usize) -> Self {
        Self {
            features,
            rows: features.train().to_vec(),
            seen: Vec::new(),
            views: ViewChooser::new(&job.augment, features.views(), job.recipe.seed),
            order: Order::new(job.recipe.seed),
            masks: Masks::new(job.recipe.seed, job.model.head.dropout),
            augmenter: Augmenter::new(job, features.input()),
            classes: job.model.classes as usize,
            mask_width,
            size: (job.recipe.batch_size as usize).max(1),
            room: Room::default(),
        }
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
    pub fn shuffle(&mut self) {
        self.order.shuffle(&mut self.rows);
        self.seen.clear();
        self.seen.extend(self.rows.iter().map(|&row| self.views.choose(row)));
    }

    /// Rows of the matrix in this epoch's order.
    pub fn order(&self) -> &[i64] {
        &self.seen
    }

    /// Clips of every batch but perhaps the last.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where the batch of this index begins in it.
    pub fn start(&self, index: usize) -> usize {
        index * self.size
    }

    /// Rows of the matrix in the batch of this index.
    pub fn indices(&self, index: usize) -> &[i64] {
        self.seen.chunks(self.size).nth(index).unwrap_or_default()
    }

    /// The training rows in the batch of this index, whatever view they are seen in.
    fn clean(&self, index: usize) -> &[i64] {
        self.rows.chunks(self.size).nth(index).unwrap_or_default()
    }

    /// What a teacher makes of the batch of this index before clips are blended, `(clips, classes)`, if there is one.
    pub fn taught(&self, index: usize) -> Option<(Vec<f32>, Distil)> {
        let lesson = self.features.lesson()?;
        let mut taught = Vec::new();
        lesson.gather(self.clean(index), &mut taught);
        Some((taught, lesson.distil()))
    }

    /// Classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// What is done to features.
    pub fn augmenter(&self) -> &Augmenter {
        &self.augmenter
    }

    /// Draws what [`Self::get`] would draw for the epoch's batches, one after another, dropout masks aside.
    pub fn script(&mut self) -> Script {
        let mut script = Script::default();
        for clips in self.sizes() {
            if self.augmenter.is_active() {
                script.draws.extend((0..clips).map(|_| self.augmenter.draw()));
            }
            script.mixes.extend(self.augmenter.mix(clips));
        }
        script
    }

    /// Clips of each batch of an epoch.
    fn sizes(&self) -> impl Iterator<Item = usize> + use<> {
        let (rows, size) = (self.rows.len(), self.size);
        (0..rows).step_by(size).map(move |start| size.min(rows - start))
    }

    /// The batch of this index, augmented anew and with a mask of its own.
    pub fn get(&mut self, index: usize) -> Batch<'_> {
        let mut room = std::mem::take(&mut self.room);
        let indices = self.indices(index);
        let clips = indices.len();
        self.features.gather(indices, &mut room.features);
        room.classes.clear();
        let class = |&row: &i64| self.features.classes().get(row as usize).copied();
        room.classes.extend(indices.iter().filter_map(class));
        if self.augmenter.is_active() {
            for clip in room.features.chunks_exact_mut(self.features.clip()) {
                let draw = self.augmenter.draw();
                self.augmenter.apply(clip, &draw);
            }
        }
        let mix = self.augmenter.mix(clips);
        if let Some(mix) = &mix {
            mix.blend(&mut room.features, &mut room.plain);
            room.probabilities.clear();
            room.probabilities.resize(clips * self.classes, 0.0);
            let lines = room.probabilities.chunks_exact_mut(self.classes).zip(&room.classes);
            for (line, &class) in lines {
                if let Some(probability) = line.get_mut(class as usize) {
                    *probability = 1.0;
                }
            }
            mix.blend(&mut room.probabilities, &mut room.plain);
        }
        let lesson = self.features.lesson();
        if let Some(lesson) = lesson {
            lesson.gather(self.clean(index), &mut room.taught);
            if let Some(mix) = &mix {
                mix.blend(&mut room.taught, &mut room.plain);
            }
        }
        self.room = room;
        let has_mask = self.mask(clips).is_some();
        let Room { features, classes, probabilities, mask, taught, .. } = &self.room;
        let targets =
            if mix.is_some() { Targets::Probabilities(probabilities) } else { Targets::Classes(classes) };
        let taught = lesson.map(|lesson| Taught { probabilities: taught, distil: lesson.distil() });
        Batch { features, targets, mask: has_mask.then_some(mask), taught }
    }

    /// Draws what an epoch draws, and makes nothing of it.
    pub fn skip_epoch(&mut self) {
        self.shuffle();
        self.script();
        for clips in self.sizes() {
            self.mask(clips);
        }
    }

    /// The next mask `(clips, floats)`; none without dropout.
    pub fn mask(&mut self, clips: usize) -> Option<&[f32]> {
        if !self.masks.is_active() {
            return None;
        }
        self.room.mask.resize(clips * self.mask_width, 0.0);
        self.masks.fill(&mut self.room.mask);
        Some(&self.room.mask)
    }

    /// Appends the next mask as what is kept, without its scale; everything is, without dropout.
    pub fn push_kept(&mut self, clips: usize, kept: &mut Vec<bool>) {
        let start = kept.len();
        kept.resize(start + clips * self.mask_width, true);
        if self.masks.is_active() {
            self.masks.fill_kept(kept.get_mut(start..).unwrap_or_default());
        }
    }

    /// Whether there are masks.
    pub fn has_dropout(&self) -> bool {
        self.masks.is_active()
    }

    /// What a mask multiplies what it keeps by.
    pub fn dropout_scale(&self) -> f32 {
        self.masks.scale()
    }
}
