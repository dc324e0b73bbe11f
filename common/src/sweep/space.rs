//! Hyperparameters, their domains, and the points between them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::{
    job::Recipe,
    model::{AudioCnn, BLOCKS, Block, FC_UNITS_MAX, FILTERS_MAX, Head},
};

/// Everything a trial may vary. The order is that of points and of the grid: the last varies fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hyperparameter {
    /// Adam's step size.
    LearningRate,
    /// Clips of one step.
    BatchSize,
    /// Coefficients: rows of the input.
    NMfcc,
    /// Filters of every block; the list's length is the number of blocks.
    Filters,
    /// Kernel of every block.
    KernelSize,
    /// Dropout before the head.
    Dropout,
    /// Units of the hidden layer, or `"none"`.
    FcUnits,
}

impl Hyperparameter {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::LearningRate,
        Self::BatchSize,
        Self::NMfcc,
        Self::Filters,
        Self::KernelSize,
        Self::Dropout,
        Self::FcUnits,
    ];

    /// As it stands in the sweep file.
    pub fn name(self) -> &'static str {
        match self {
            Self::LearningRate => "learning_rate",
            Self::BatchSize => "batch_size",
            Self::NMfcc => "n_mfcc",
            Self::Filters => "filters",
            Self::KernelSize => "kernel_size",
            Self::Dropout => "dropout",
            Self::FcUnits => "fc_units",
        }
    }

    /// The hyperparameter of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hyperparameter| hyperparameter.name() == name)
    }

    /// The reference AudioCNN's value, for a space that does not name it.
    pub fn default_value(self) -> Value {
        match self {
            Self::LearningRate => Value::Float(1e-3),
            Self::BatchSize => Value::Int(32),
            Self::NMfcc => Value::Int(13),
            Self::Filters => Value::List(vec![16, 32]),
            Self::KernelSize => Value::Int(3),
            Self::Dropout => Value::Float(0.3),
            Self::FcUnits => Value::Int(64),
        }
    }

    /// Takes a value if it is of this hyperparameter's type and range (whole numbers become floats where floats are meant).
    ///
    /// # Errors
    /// What would be right.
    pub fn accept(self, value: Value) -> Result<Value, String> {
        let wanted = match self {
            Self::LearningRate => "a number above 0 and at most 1",
            Self::BatchSize => "a whole number from 1 to 4096",
            Self::NMfcc => "a whole number from 1 to 64",
            Self::Filters => "a list of 2 to 5 whole numbers from 1 to 1024, one for each block, as [16, 32]",
            Self::KernelSize => "3 or 5",
            Self::Dropout => "a number from 0 to below 1",
            Self::FcUnits => "a whole number from 1 to 4096, or \"none\"",
        };
        let value = match (self, value) {
            (Self::LearningRate | Self::Dropout, Value::Int(number)) => Value::Float(number as f64),
            (_, value) => value,
        };
        let right = match (self, &value) {
            (Self::LearningRate, Value::Float(rate)) => *rate > 0.0 && *rate <= 1.0,
            (Self::Dropout, Value::Float(part)) => (0.0..1.0).contains(part),
            (Self::BatchSize, Value::Int(size)) => (1..=4096).contains(size),
            (Self::NMfcc, Value::Int(count)) => (1..=64).contains(count),
            (Self::KernelSize, Value::Int(size)) => [3, 5].contains(size),
            (Self::FcUnits, Value::Int(units)) => (1..=i64::from(FC_UNITS_MAX)).contains(units),
            (Self::FcUnits, Value::Text(text)) => text == "none",
            (Self::Filters, Value::List(filters)) => {
                BLOCKS.contains(&filters.len())
                    && filters.iter().all(|f| (1..=i64::from(FILTERS_MAX)).contains(f))
            }
            _ => false,
        };
        if right { Ok(value) } else { Err(format!("{} must be {wanted}, got {value}", self.name())) }
    }
}

/// One hyperparameter's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Whole numbers.
    List(Vec<i64>),
    /// A word.
    Text(String),
}

impl fmt::Display for Value {
    /// As it would stand in a sweep file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number:?}"),
            Self::List(numbers) => write!(f, "{numbers:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// The values a hyperparameter may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// Always this one.
    Fixed(Value),
    /// One of these, at least two and all different.
    Choice(Vec<Value>),
}

impl Domain {
    /// The values, in order.
    pub fn values(&self) -> &[Value] {
        match self {
            Self::Fixed(value) => std::slice::from_ref(value),
            Self::Choice(values) => values,
        }
    }
}

/// A domain for every hyperparameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Space {
    domains: BTreeMap<Hyperparameter, Domain>,
}

/// A value for every hyperparameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Point {
    values: BTreeMap<Hyperparameter, Value>,
}

impl Space {
    /// A space of these domains; hyperparameters not named keep the reference AudioCNN's value.
    pub fn new(named: BTreeMap<Hyperparameter, Domain>) -> Self {
        let mut domains: BTreeMap<_, _> =
            Hyperparameter::ALL.into_iter().map(|h| (h, Domain::Fixed(h.default_value()))).collect();
        domains.extend(named);
        Self { domains }
    }

    /// The values that `hyperparameter` may take.
    pub fn values(&self, hyperparameter: Hyperparameter) -> &[Value] {
        self.domains.get(&hyperparameter).map_or(&[], Domain::values)
    }

    /// Hyperparameters with a choice, in order.
    pub fn tuned(&self) -> impl Iterator<Item = (Hyperparameter, &[Value])> {
        self.domains.iter().filter_map(|(&hyperparameter, domain)| match domain {
            Domain::Choice(values) => Some((hyperparameter, values.as_slice())),
            Domain::Fixed(_) => None,
        })
    }

    /// Points of the grid.
    pub fn size(&self) -> u64 {
        self.domains.values().map(|domain| domain.values().len() as u64).fold(1, u64::saturating_mul)
    }

    /// The grid's point of that number, from 0; the last hyperparameter varies fastest. None past the end.
    pub fn point(&self, number: u64) -> Option<Point> {
        let mut rest = number;
        let mut values = BTreeMap::new();
        for (&hyperparameter, domain) in self.domains.iter().rev() {
            let choices = domain.values();
            let count = choices.len() as u64;
            let value = choices.get(usize::try_from(rest.checked_rem(count)?).ok()?)?;
            values.insert(hyperparameter, value.clone());
            rest /= count;
        }
        (rest == 0).then_some(Point { values })
    }
}

impl Point {
    /// Values in the hyperparameters' order.
    pub fn iter(&self) -> impl Iterator<Item = (Hyperparameter, &Value)> {
        self.values.iter().map(|(&hyperparameter, value)| (hyperparameter, value))
    }

    /// The value of `hyperparameter`; a point holds all of them.
    pub fn get(&self, hyperparameter: Hyperparameter) -> Option<&Value> {
        self.values.get(&hyperparameter)
    }

    fn int(&self, hyperparameter: Hyperparameter) -> Option<u32> {
        match self.get(hyperparameter) {
            Some(Value::Int(number)) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    fn float(&self, hyperparameter: Hyperparameter) -> f64 {
        match self.get(hyperparameter) {
            Some(Value::Float(number)) => *number,
            _ => f64::NAN,
        }
    }

    /// The model this point describes, for features of `frames` columns and that many classes.
    pub fn model(&self, frames: u32, classes: u32) -> AudioCnn {
        let kernel_size = self.int(Hyperparameter::KernelSize).unwrap_or_default();
        let filters: &[i64] = match self.get(Hyperparameter::Filters) {
            Some(Value::List(filters)) => filters,
            _ => &[],
        };
        let filters = filters.iter().map(|&filters| u32::try_from(filters).unwrap_or_default());
        AudioCnn {
            n_mfcc: self.int(Hyperparameter::NMfcc).unwrap_or_default(),
            frames,
            blocks: filters.map(|filters| Block { filters, kernel_size }).collect(),
            head: Head {
                dropout: self.float(Hyperparameter::Dropout),
                fc_units: self.int(Hyperparameter::FcUnits),
            },
            classes,
        }
    }

    /// The recipe this point describes.
    pub fn recipe(&self, schedule: &Schedule, seed: u64) -> Recipe {
        Recipe {
            learning_rate: self.float(Hyperparameter::LearningRate),
            batch_size: self.int(Hyperparameter::BatchSize).unwrap_or_default(),
            epochs: schedule.epochs,
            patience: schedule.patience,
            seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn grid(counts: [usize; 3]) -> Space {
        let [rates, filters, dropouts] = counts;
        let domain = |count: usize, value: &dyn Fn(usize) -> Value| match count {
            1 => Domain::Fixed(value(0)),
            _ => Domain::Choice((0..count).map(value).collect()),
        };
        Space::new(BTreeMap::from([
            (Hyperparameter::LearningRate, domain(rates, &|i| Value::Float(0.1 / (i + 1) as f64))),
            (Hyperparameter::Filters, domain(filters, &|i| Value::List(vec![i as i64 + 1, 8]))),
            (Hyperparameter::Dropout, domain(dropouts, &|i| Value::Float(i as f64 / 10.0))),
        ]))
    }

    proptest! {
        #[test]
        fn a_grid_visits_every_point_once(counts in [1usize..5, 1usize..5, 1usize..5]) {
            let space = grid(counts);
            let points: BTreeSet<String> =
                (0..space.size()).filter_map(|n| space.point(n)).map(|p| format!("{p:?}")).collect();
            prop_assert_eq!(points.len() as u64, counts.iter().product::<usize>() as u64);
            prop_assert!(space.point(space.size()).is_none());
        }
    }

    #[test]
    fn the_last_hyperparameter_varies_fastest() {
        let space = grid([3, 2, 4]);
        let dropouts: Vec<f64> =
            (0..5).filter_map(|n| space.point(n)).map(|p| p.float(Hyperparameter::Dropout)).collect();
        assert_eq!(dropouts, [0.0, 0.1, 0.2, 0.3, 0.0]);
    }

    #[test]
    fn a_space_without_names_is_the_reference() {
        let point = Space::new(BTreeMap::new()).point(0).unwrap();
        assert_eq!(point.model(431, 50), AudioCnn::reference(13, 431, 50));
    }

    #[test]
    fn points_and_values_survive_json() {
        let point = grid([2, 2, 2]).point(5).unwrap();
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&json).unwrap(), point);
    }
}
