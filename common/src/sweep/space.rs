//! The space: a domain for every hyperparameter that a sweep names, and the grid of points between them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Hyperparameter, Point, Value};

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

/// A domain for every hyperparameter that the sweep names; the others keep their defaults.
///
/// Only what is named is kept, so that a space written before a hyperparameter was known means the same afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Space {
    named: BTreeMap<Hyperparameter, Domain>,
}

impl Space {
    /// A space of these domains.
    pub fn new(named: BTreeMap<Hyperparameter, Domain>) -> Self {
        Self { named }
    }

    /// Whether the sweep names `hyperparameter`.
    pub fn names(&self, hyperparameter: Hyperparameter) -> bool {
        self.named.contains_key(&hyperparameter)
    }

    /// The values that `hyperparameter` may take, named or not.
    pub fn values(&self, hyperparameter: Hyperparameter) -> Vec<Value> {
        match self.named.get(&hyperparameter) {
            Some(domain) => domain.values().to_vec(),
            None => vec![hyperparameter.default_value()],
        }
    }

    /// Whether the sweep says something of `hyperparameter`.
    pub(super) fn is_named(&self, hyperparameter: Hyperparameter) -> bool {
        self.named.contains_key(&hyperparameter)
    }

    /// Points of the grid.
    pub fn size(&self) -> u64 {
        self.named.values().map(|domain| domain.values().len() as u64).fold(1, u64::saturating_mul)
    }

    /// The grid's point of that number, from 0; the last hyperparameter varies fastest. None past the end.
    pub fn point(&self, number: u64) -> Option<Point> {
        let mut rest = number;
        let mut named = BTreeMap::new();
        for (&hyperparameter, domain) in self.named.iter().rev() {
            let choices = domain.values();
            let count = choices.len() as u64;
            let value = choices.get(usize::try_from(rest.checked_rem(count)?).ok()?)?;
            named.insert(hyperparameter, value.clone());
            rest /= count;
        }
        (rest == 0).then_some(Point { named })
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
        let dropouts: Vec<Value> =
            (0..5).filter_map(|n| space.point(n)).map(|p| p.get(Hyperparameter::Dropout)).collect();
        assert_eq!(dropouts, [0.0, 0.1, 0.2, 0.3, 0.0].map(Value::Float));
    }

    #[test]
    fn points_and_values_survive_json() {
        let point = grid([2, 2, 2]).point(5).unwrap();
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&json).unwrap(), point);
    }
}
