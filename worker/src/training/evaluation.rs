//! Loss, accuracy and macro-F1 on the validation rows.

use earshot_common::{job::Epoch, metrics::Confusion};

/// How a network does on the validation rows.
#[derive(Debug)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Truth against prediction.
    pub confusion: Confusion,
    /// `(rows, classes)`, row-major, in the split's order.
    pub logits: Vec<f32>,
}

impl Evaluation {
    /// From logits of the validation rows.
    pub fn new(logits: Vec<f32>, labels: &[u16]) -> Self {
        let classes = logits.len() / labels.len().max(1);
        Self {
            loss: cross_entropy(classes, &logits, labels),
            confusion: Confusion::from_logits(classes, &logits, labels),
            logits,
        }
    }

    /// The metrics of this epoch, whose mean loss in training is given; none when it has diverged.
    pub fn epoch(&self, epoch: u32, train_loss: f64) -> Option<Epoch> {
        let Self { loss, ref confusion, .. } = *self;
        (train_loss.is_finite() && loss.is_finite()).then(|| Epoch {
            epoch,
            train_loss,
            loss,
            accuracy: confusion.accuracy(),
            macro_f1: confusion.macro_f1(),
            int8_accuracy: None,
        })
    }
}

/// Mean of `log Σ exp(logits) - logit of the truth`, in double precision.
pub fn cross_entropy(classes: usize, logits: &[f32], labels: &[u16]) -> f64 {
    let losses = logits.chunks_exact(classes.max(1)).zip(labels).map(|(row, &label)| {
        let row = row.iter().copied().map(f64::from);
        let max = row.clone().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = row.clone().map(|logit| (logit - max).exp()).sum::<f64>().ln() + max;
        log_sum - row.clone().nth(usize::from(label)).unwrap_or(f64::NAN)
    });
    losses.sum::<f64>() / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_is_pytorchs() {
        // F.cross_entropy(torch.tensor([[1., 2., 3.], [0., 0., 0.]]), torch.tensor([2, 1])) = 0.7531090
        let loss = cross_entropy(3, &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], &[2, 1]);
        assert!((loss - 0.753_109_0).abs() < 1e-6, "{loss}");
        assert!((cross_entropy(2, &[1e4, -1e4], &[0])).abs() < 1e-12);
        assert!(cross_entropy(2, &[f32::NAN, 0.0], &[0]).is_nan());
    }

    #[test]
    fn an_epoch_that_diverged_has_no_metrics() {
        let good = Evaluation::new(vec![1.0, 0.0], &[0]);
        assert_eq!(good.epoch(2, 0.5).map(|epoch| (epoch.epoch, epoch.accuracy)), Some((2, 1.0)));
        assert_eq!(good.epoch(2, f64::INFINITY), None);
        assert_eq!(Evaluation::new(vec![f32::NAN, 0.0], &[0]).epoch(2, 0.5), None);
    }
}
