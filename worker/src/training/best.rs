//! The best epoch so far, and when to stop waiting for a better one.

use earshot_common::{job::Epoch, tensors::Tensors};

/// The epoch of lowest validation loss, with what it left.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Its metrics.
    pub epoch: Epoch,
    /// The network's weights after it.
    pub weights: Tensors,
    /// Logits of the validation rows by those weights, row-major.
    pub logits: Vec<f32>,
}

impl Best {
    /// Whether an epoch is better: of equal losses the earlier stays.
    pub fn is_beaten_by(&self, epoch: &Epoch) -> bool {
        epoch.loss < self.epoch.loss
    }

    /// Whether patience has run out at this epoch.
    pub fn is_final(&self, epoch: &Epoch, patience: Option<u32>) -> bool {
        patience.is_some_and(|patience| epoch.epoch.saturating_sub(self.epoch.epoch) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: u32, loss: f64) -> Epoch {
        Epoch { epoch, train_loss: 1.0, loss, accuracy: 0.5, macro_f1: 0.5, int8_accuracy: None }
    }

    #[test]
    fn equal_losses_keep_the_earlier_and_use_up_patience() {
        let best = Best { epoch: epoch(3, 0.5), weights: Tensors::new(), logits: Vec::new() };
        assert!(!best.is_beaten_by(&epoch(4, 0.5)));
        assert!(best.is_beaten_by(&epoch(4, 0.49)));
        assert!(!best.is_final(&epoch(4, 0.5), Some(2)));
        assert!(best.is_final(&epoch(5, 0.5), Some(2)));
        assert!(!best.is_final(&epoch(500, 0.5), None));
    }
}
