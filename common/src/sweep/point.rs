//! A point of the space, and the model and the recipe that it describes.

use std::collections::BTreeMap;

use serde::{
    Deserialize, Serialize,
    de::{
        DeserializeOwned, IntoDeserializer,
        value::{Error, StringDeserializer},
    },
};

use super::{Hyperparameter, Schedule, Value};
use crate::{
    frontend::FrontEnd,
    job::{FeatureAugmentation, Keep, Recipe},
    model::{AudioCnn, Block, Convolution, Head},
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

    pub(super) fn float(&self, hyperparameter: Hyperparameter) -> f64 {
        match self.get(hyperparameter) {
            Value::Float(number) => number,
            _ => f64::NAN,
        }
    }

    fn truth(&self, hyperparameter: Hyperparameter) -> bool {
        self.get(hyperparameter) == Value::Bool(true)
    }

    /// What a word means in the model spec or the recipe, which write it the same way.
    fn word<T: DeserializeOwned + Default>(&self, hyperparameter: Hyperparameter) -> T {
        match self.get(hyperparameter) {
            Value::Text(text) => {
                let text: StringDeserializer<Error> = text.into_deserializer();
                T::deserialize(text).unwrap_or_default()
            }
            _ => T::default(),
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
        let block = |(index, filters)| Block {
            filters,
            kernel_size: self.int(Hyperparameter::KernelSize),
            convolution: match index {
                0 => Convolution::Ordinary,
                _ => self.word(Hyperparameter::Convolution),
            },
            batch_norm: self.truth(Hyperparameter::BatchNorm),
            pooling: self.word(Hyperparameter::Pooling),
        };
        AudioCnn {
            input: self.word(Hyperparameter::Input),
            n_mfcc: self.int(Hyperparameter::NMfcc),
            frames,
            blocks: self.list(Hyperparameter::Filters).into_iter().enumerate().map(block).collect(),
            head: Head {
                reduction: self.word(Hyperparameter::Head),
                dropout: self.float(Hyperparameter::Dropout),
                fc_units: self.int_or_none(Hyperparameter::FcUnits),
            },
            classes,
        }
    }

    /// The recipe this point describes, for features of this front end.
    pub fn recipe(&self, schedule: &Schedule, front_end: &FrontEnd, seed: u64) -> Recipe {
        // A gain of 1 dB adds 1 to every mel band, and so √n_mels to the 0th coefficient of their orthonormal DCT.
        let gain_of_db = f64::from(front_end.n_mels).sqrt();
        Recipe {
            optimizer: self.word(Hyperparameter::Optimizer),
            learning_rate: self.float(Hyperparameter::LearningRate),
            weight_decay: self.float(Hyperparameter::WeightDecay),
            lr_scheduler: self.word(Hyperparameter::LrScheduler),
            label_smoothing: self.float(Hyperparameter::LabelSmoothing),
            batch_size: self.int(Hyperparameter::BatchSize),
            epochs: schedule.epochs,
            patience: schedule.patience,
            keep: Keep::Best,
            augmentation: FeatureAugmentation {
                gain: gain_of_db * self.float(Hyperparameter::GainDb),
                roll: self.float(Hyperparameter::Roll),
                time_masks: self.int(Hyperparameter::TimeMasks),
                time_mask_param: self.int(Hyperparameter::TimeMaskParam),
                freq_masks: self.int(Hyperparameter::FreqMasks),
                freq_mask_param: self.int(Hyperparameter::FreqMaskParam),
                mixup_alpha: self.float(Hyperparameter::MixupAlpha),
            },
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sweep::hyperparameter::Kind;

    #[test]
    fn a_point_without_names_is_the_reference() {
        let point = Point { named: BTreeMap::new() };
        assert_eq!(point.model(431, 50), AudioCnn::reference(13, 431, 50));
    }

    #[test]
    fn every_word_of_the_table_is_one_of_the_spec() {
        for &hyperparameter in Hyperparameter::ALL {
            let Kind::Word(words) = hyperparameter.kind() else { continue };
            let jobs: BTreeSet<String> = words
                .iter()
                .map(|&word| {
                    let point =
                        Point { named: BTreeMap::from([(hyperparameter, Value::Text(word.to_owned()))]) };
                    let schedule = Schedule { epochs: 1, patience: None, refit: false };
                    let job = (point.model(431, 50), point.recipe(&schedule, &FrontEnd::default(), 1));
                    let json = serde_json::to_string(&job).unwrap();
                    assert!(json.contains(&format!("{word:?}")), "{word} is not in {json}");
                    json
                })
                .collect();
            assert_eq!(jobs.len(), words.len(), "two words of {hyperparameter:?} mean the same");
        }
    }

    #[test]
    fn the_first_block_is_always_ordinary() {
        let word = Value::Text("depthwise_separable".to_owned());
        let point = Point { named: BTreeMap::from([(Hyperparameter::Convolution, word)]) };
        let convolutions: Vec<Convolution> =
            point.model(431, 50).blocks.iter().map(|block| block.convolution).collect();
        assert_eq!(convolutions, [Convolution::Ordinary, Convolution::DepthwiseSeparable]);
    }
}
