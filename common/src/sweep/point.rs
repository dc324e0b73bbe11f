//! A point of the space, and the model and the recipe that it describes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Hyperparameter, Schedule, Value};
use crate::{
    job::Recipe,
    model::{AudioCnn, Block, Head},
};

/// A value for every hyperparameter that the space names; the others have their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Point {
    pub(super) named: BTreeMap<Hyperparameter, Value>,
}

impl Point {
    /// Values that the space names, in the hyperparameters' order.
    pub fn iter(&self) -> impl Iterator<Item = (Hyperparameter, &Value)> {
        self.named.iter().map(|(&hyperparameter, value)| (hyperparameter, value))
    }

    /// The value of `hyperparameter`, named or not.
    pub fn get(&self, hyperparameter: Hyperparameter) -> Value {
        self.named.get(&hyperparameter).cloned().unwrap_or_else(|| hyperparameter.default_value())
    }

    /// A whole number; none: the word `"none"`.
    fn int_or_none(&self, hyperparameter: Hyperparameter) -> Option<u32> {
        match self.get(hyperparameter) {
            Value::Int(number) => u32::try_from(number).ok(),
            _ => None,
        }
    }

    /// A whole number; 0, which no model or recipe takes, for anything else.
    fn int(&self, hyperparameter: Hyperparameter) -> u32 {
        self.int_or_none(hyperparameter).unwrap_or_default()
    }

    fn float(&self, hyperparameter: Hyperparameter) -> f64 {
        match self.get(hyperparameter) {
            Value::Float(number) => number,
            _ => f64::NAN,
        }
    }

    fn list(&self, hyperparameter: Hyperparameter) -> Vec<u32> {
        match self.get(hyperparameter) {
            Value::List(numbers) => {
                numbers.into_iter().map(|number| u32::try_from(number).unwrap_or_default()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The model this point describes, for features of `frames` columns and that many classes.
    pub fn model(&self, frames: u32, classes: u32) -> AudioCnn {
        let kernel_size = self.int(Hyperparameter::KernelSize);
        let filters = self.list(Hyperparameter::Filters);
        AudioCnn {
            n_mfcc: self.int(Hyperparameter::NMfcc),
            frames,
            blocks: filters.into_iter().map(|filters| Block { filters, kernel_size }).collect(),
            head: Head {
                dropout: self.float(Hyperparameter::Dropout),
                fc_units: self.int_or_none(Hyperparameter::FcUnits),
            },
            classes,
        }
    }

    /// The recipe this point describes.
    pub fn recipe(&self, schedule: &Schedule, seed: u64) -> Recipe {
        Recipe {
            learning_rate: self.float(Hyperparameter::LearningRate),
            batch_size: self.int(Hyperparameter::BatchSize),
            epochs: schedule.epochs,
            patience: schedule.patience,
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_without_names_is_the_reference() {
        let point = Point { named: BTreeMap::new() };
        assert_eq!(point.model(431, 50), AudioCnn::reference(13, 431, 50));
    }
}
