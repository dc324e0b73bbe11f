//! The confusion matrix and what is read from it, by scikit-learn's definitions.

use serde::{Deserialize, Serialize};

/// Counts of (true class, predicted class).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    classes: usize,
    /// Row-major: true class, then predicted class.
    counts: Vec<u64>,
}

/// One class against the rest. A score whose denominator is zero is 0, as scikit-learn's `zero_division=0`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Of the clips predicted as this class, the part that is.
    pub precision: f64,
    /// Of the clips of this class, the part predicted so.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Clips of this class.
    pub support: u64,
}

impl Confusion {
    /// An empty matrix.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one clip; a class out of range is ignored, and so shows as a total that is too small.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        if truth < self.classes
            && predicted < self.classes
            && let Some(count) = self.counts.get_mut(truth * self.classes + predicted)
        {
            *count += 1;
        }
    }

    /// Counts clips by their row-major logits `(clips, classes)`; the first of equal logits wins, as in `argmax`.
    pub fn from_logits(classes: usize, logits: &[f32], labels: &[u16]) -> Self {
        let mut confusion = Self::new(classes);
        for (row, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            confusion.add(usize::from(label), argmax(row));
        }
        confusion
    }

    /// Classes on each side.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Clips counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Clips of `truth` that were predicted as `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts.get(truth * self.classes + predicted).copied().unwrap_or(0)
    }

    /// Part of the clips predicted right; 0 of none.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|class| self.count(class, class)).sum();
        ratio(right, self.total())
    }

    /// Unweighted mean of F1 over the classes that occur, in truth or in predictions, as `f1_score(average="macro")`.
    pub fn macro_f1(&self) -> f64 {
        let seen: Vec<f64> = (0..self.classes)
            .filter(|&class| self.actual(class) + self.predicted(class) > 0)
            .map(|class| self.class_scores(class).f1)
            .collect();
        if seen.is_empty() { 0.0 } else { seen.iter().sum::<f64>() / seen.len() as f64 }
    }

    /// Precision, recall and F1 of one class.
    pub fn class_scores(&self, class: usize) -> ClassScores {
        let right = self.count(class, class);
        let (support, predicted) = (self.actual(class), self.predicted(class));
        ClassScores {
            precision: ratio(right, predicted),
            recall: ratio(right, support),
            f1: ratio(2 * right, support + predicted),
            support,
        }
    }

    fn actual(&self, class: usize) -> u64 {
        (0..self.classes).map(|predicted| self.count(class, predicted)).sum()
    }

    fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|truth| self.count(truth, class)).sum()
    }
}

/// Index of the largest value; the first of equals; 0 of none.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &value) in row.iter().enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Confusion {
        // y_true = [0, 0, 0, 1, 1, 2], y_pred = [0, 0, 1, 1, 1, 0]
        let mut confusion = Confusion::new(3);
        for (truth, predicted) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (2, 0)] {
            confusion.add(truth, predicted);
        }
        confusion
    }

    #[test]
    fn scores_are_scikit_learns() {
        // sklearn.metrics.accuracy_score, f1_score(average="macro"), precision_recall_fscore_support on the same labels.
        let confusion = example();
        assert!((confusion.accuracy() - 4.0 / 6.0).abs() < 1e-12);
        assert!((confusion.macro_f1() - 0.488_888_888_888_888_9).abs() < 1e-12);
        let second = confusion.class_scores(1);
        assert!((second.precision - 2.0 / 3.0).abs() < 1e-12 && (second.recall - 1.0).abs() < 1e-12);
        assert!((second.f1 - 0.8).abs() < 1e-12 && second.support == 2);
        assert_eq!(
            confusion.class_scores(2),
            ClassScores { precision: 0.0, recall: 0.0, f1: 0.0, support: 1 }
        );
    }

    #[test]
    fn logits_are_read_row_by_row() {
        let confusion = Confusion::from_logits(2, &[0.1, 0.9, 3.0, 3.0], &[1, 1]);
        assert_eq!((confusion.count(1, 1), confusion.count(1, 0)), (1, 1));
    }
}
