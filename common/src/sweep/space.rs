//! The space: a domain for every hyperparameter that a sweep names, under which conditions each is one, which combinations
//! never are, and the grid of points between them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Domain, Hyperparameter, Point, Value};

/// Combinations of a space with conditions or forbidden points that are gone through to list its points; where there are
/// more, points are drawn and not counted.
const LISTED_MAX: u64 = 200_000;

/// Values that some hyperparameters have, each one of a list: a condition, or what is forbidden.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Combination {
    /// For each hyperparameter at least one value.
    pub of: BTreeMap<Hyperparameter, Vec<Value>>,
}

impl Combination {
    fn holds<'a>(&self, value: impl Fn(Hyperparameter) -> Option<&'a Value>) -> bool {
        self.of.iter().all(|(&name, values)| value(name).is_some_and(|value| values.contains(value)))
    }
}

/// A domain for every hyperparameter that the sweep names; the others keep their defaults.
///
/// Only what is named is kept, so that a space written before a hyperparameter was known means the same afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Space {
    written: Written,
    /// Where the space has conditions or forbidden points, and few enough of them: its points, by their numbers in the grid
    /// that it would be without. What is inactive counts as having its first value.
    listed: Option<Arc<[u32]>>,
}

/// A space as it stands in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Written {
    #[serde(flatten)]
    named: BTreeMap<Hyperparameter, Domain>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    when: BTreeMap<Hyperparameter, Combination>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forbid: Vec<Combination>,
}

impl From<Space> for Written {
    fn from(space: Space) -> Self {
        space.written
    }
}

impl From<Written> for Space {
    fn from(written: Written) -> Self {
        let is_plain = written.when.is_empty() && written.forbid.is_empty();
        let combinations = written.combinations().filter(|&count| !is_plain && count <= LISTED_MAX);
        let listed = combinations.map(|count| {
            let is_point = |&number: &u64| written.is_point(number);
            (0..count).filter(is_point).map(|number| number as u32).collect()
        });
        Self { written, listed }
    }
}

impl Written {
    /// Points if there were no conditions and nothing were forbidden; none where there is no end to them.
    fn combinations(&self) -> Option<u64> {
        self.named.values().try_fold(1_u64, |product, domain| Some(product.saturating_mul(domain.count()?)))
    }

    /// The values of that combination, the last hyperparameter varying fastest.
    fn combination(&self, number: u64) -> Option<BTreeMap<Hyperparameter, Value>> {
        let mut rest = number;
        let mut values = BTreeMap::new();
        for (&name, domain) in self.named.iter().rev() {
            let count = domain.count()?;
            values.insert(name, domain.nth(rest.checked_rem(count)?)?);
            rest /= count;
        }
        (rest == 0).then_some(values)
    }

    /// Whether that combination stands for its point: nothing forbids it, and what is inactive has its first value.
    fn is_point(&self, number: u64) -> bool {
        let Some(values) = self.combination(number) else { return false };
        let point = self.point(values.clone());
        let is_first = |name: Hyperparameter, value: &Value| {
            self.named.get(&name).and_then(|domain| domain.nth(0)).as_ref() == Some(value)
        };
        let is_canonical =
            values.iter().all(|(&name, value)| point.named.contains_key(&name) || is_first(name, value));
        is_canonical && !self.forbids(&point)
    }

    /// What is left of these values when all that is inactive is left out.
    fn point(&self, mut values: BTreeMap<Hyperparameter, Value>) -> Point {
        // What goes may be what others depend on.
        loop {
            let is_inactive = |(&name, when): (&Hyperparameter, &Combination)| -> Option<Hyperparameter> {
                (values.contains_key(&name) && !when.holds(|other| values.get(&other))).then_some(name)
            };
            let Some(inactive) = self.when.iter().find_map(is_inactive) else { break };
            values.remove(&inactive);
        }
        Point { named: values }
    }

    fn forbids(&self, point: &Point) -> bool {
        self.forbid
            .iter()
            .any(|forbidden| forbidden.of.iter().all(|(&name, values)| values.contains(&point.get(name))))
    }
}

impl Space {
    /// A space of these domains, all of them always active.
    pub fn new(named: BTreeMap<Hyperparameter, Domain>) -> Self {
        Self::from(Written { named, when: BTreeMap::new(), forbid: Vec::new() })
    }

    /// A space in which some hyperparameters have their defaults unless a condition holds, on named ones and without cycles,
    /// and which leaves out points in which a forbidden combination is met.
    #[must_use]
    pub fn with(self, when: BTreeMap<Hyperparameter, Combination>, forbid: Vec<Combination>) -> Self {
        Self::from(Written { named: self.written.named, when, forbid })
    }

    /// Whether the sweep names `hyperparameter`.
    pub fn names(&self, hyperparameter: Hyperparameter) -> bool {
        self.written.named.contains_key(&hyperparameter)
    }

    /// What `hyperparameter` may be if it is active; none for one that is not named.
    pub fn domain(&self, hyperparameter: Hyperparameter) -> Option<&Domain> {
        self.written.named.get(&hyperparameter)
    }

    /// Every hyperparameter with more than one value, in order, with its domain.
    pub fn dimensions(&self) -> impl Iterator<Item = (Hyperparameter, &Domain)> {
        let named = self.written.named.iter().map(|(&name, domain)| (name, domain));
        named.filter(|(_, domain)| !matches!(domain, Domain::Fixed(_)))
    }

    /// When `hyperparameter` is active; none: always.
    pub fn condition(&self, hyperparameter: Hyperparameter) -> Option<&Combination> {
        self.written.when.get(&hyperparameter)
    }

    /// Whether `hyperparameter` has something to do with conditions or with what is forbidden.
    pub(super) fn is_entangled(&self, hyperparameter: Hyperparameter) -> bool {
        let Written { when, forbid, .. } = &self.written;
        when.contains_key(&hyperparameter)
            || forbid.iter().any(|forbidden| forbidden.of.contains_key(&hyperparameter))
    }

    /// The values that `hyperparameter` may take if they can be counted, its default among them if it is not always active.
    pub(super) fn values(&self, hyperparameter: Hyperparameter) -> Option<Vec<Value>> {
        let domain = self.domain(hyperparameter);
        let default = (domain.is_none() || self.condition(hyperparameter).is_some())
            .then(|| hyperparameter.default_value());
        let count = domain.map_or(Some(0), Domain::count)?;
        let named = (0..count).filter_map(|index| domain?.nth(index));
        Some(named.chain(default).collect())
    }

    /// Smallest and largest number that `hyperparameter` may be; none where it is no number.
    pub(super) fn extent(&self, hyperparameter: Hyperparameter) -> Option<(f64, f64)> {
        let named = self.domain(hyperparameter).and_then(Domain::extent);
        let is_default = !self.names(hyperparameter) || self.condition(hyperparameter).is_some();
        let default = Domain::Fixed(hyperparameter.default_value()).extent().filter(|_| is_default);
        match (named, default) {
            (Some(named), Some(default)) => Some((named.0.min(default.0), named.1.max(default.1))),
            (named, default) => named.or(default),
        }
    }

    /// How many points there are; none where there is no end to them, or too many to leave out what is forbidden.
    pub fn size(&self) -> Option<u64> {
        match &self.listed {
            Some(listed) => Some(listed.len() as u64),
            None if self.written.when.is_empty() && self.written.forbid.is_empty() => {
                self.written.combinations()
            }
            None => None,
        }
    }

    /// The grid's point of that number, from 0; the last hyperparameter varies fastest. None past the end, and in a space
    /// whose points are not counted.
    pub fn point(&self, number: u64) -> Option<Point> {
        let combination = match &self.listed {
            Some(listed) => u64::from(*listed.get(usize::try_from(number).ok()?)?),
            None => (number < self.size()?).then_some(number)?,
        };
        Some(self.written.point(self.written.combination(combination)?))
    }

    /// The number of a point in the grid, as [`Space::point`] counts; none for one that is not of the space.
    pub fn number(&self, point: &Point) -> Option<u64> {
        let number = self.written.named.iter().try_fold(0_u64, |number, (name, domain)| {
            let index = point.named.get(name).map_or(Some(0), |value| domain.index(value))?;
            number.checked_mul(domain.count()?)?.checked_add(index)
        })?;
        match &self.listed {
            Some(listed) => listed.binary_search(&u32::try_from(number).ok()?).ok().map(|index| index as u64),
            None => Some(number),
        }
    }

    /// The point whose dimensions are at these places between 0 and 1; those that are inactive are not looked at. None for
    /// one that is forbidden.
    pub fn at(&self, mut unit: impl FnMut(Hyperparameter) -> f64) -> Option<Point> {
        let place = |(&name, domain): (&Hyperparameter, &Domain)| (name, domain.at(unit(name)));
        let point = self.written.point(self.written.named.iter().map(place).collect());
        (!self.written.forbids(&point)).then_some(point)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sweep::domain::{Interval, Spacing};

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

    fn word(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn is(name: Hyperparameter, values: &[Value]) -> Combination {
        Combination { of: BTreeMap::from([(name, values.to_vec())]) }
    }

    /// Weight decay only for AdamW; dropout only with a weight decay of 0.01; no filters [1, 8] at the first learning rate.
    fn conditional() -> Space {
        let words = Domain::Choice(vec![word("adam"), word("adamw")]);
        let decays = Domain::Choice([0.01, 0.1].map(Value::Float).to_vec());
        let mut named = grid([2, 2, 3]).written.named;
        named.extend([(Hyperparameter::Optimizer, words), (Hyperparameter::WeightDecay, decays)]);
        let mut forbidden = is(Hyperparameter::LearningRate, &[Value::Float(0.1)]);
        forbidden.of.insert(Hyperparameter::Filters, vec![Value::List(vec![1, 8])]);
        Space::new(named).with(
            BTreeMap::from([
                (Hyperparameter::WeightDecay, is(Hyperparameter::Optimizer, &[word("adamw")])),
                (Hyperparameter::Dropout, is(Hyperparameter::WeightDecay, &[Value::Float(0.01)])),
            ]),
            vec![forbidden],
        )
    }

    fn points(space: &Space) -> Vec<Point> {
        (0..space.size().unwrap()).filter_map(|number| space.point(number)).collect()
    }

    fn different(points: &[Point]) -> usize {
        points.iter().map(|point| format!("{point:?}")).collect::<BTreeSet<_>>().len()
    }

    proptest! {
        #[test]
        fn a_grid_visits_every_point_once(counts in [1usize..5, 1usize..5, 1usize..5]) {
            let space = grid(counts);
            let points = points(&space);
            prop_assert_eq!(different(&points), counts.iter().product::<usize>());
            for (number, point) in (0..).zip(&points) {
                prop_assert_eq!(space.number(point), Some(number));
            }
            prop_assert!(space.point(space.size().unwrap()).is_none());
        }

        #[test]
        fn drawn_points_are_those_of_the_grid(units in prop::collection::vec(0.0..1.0f64, 5)) {
            let space = conditional();
            let mut units = units.into_iter();
            let drawn = space.at(|_| units.next().unwrap_or(0.0));
            prop_assert!(drawn.is_none_or(|drawn| points(&space).contains(&drawn)));
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
    fn what_is_inactive_or_forbidden_makes_no_points() {
        let space = conditional();
        let points = points(&space);
        // Adam; AdamW with 0.01 and three dropouts; AdamW with 0.1: five, at three pairs of rate and filters.
        assert_eq!((points.len(), different(&points)), (15, 15));
        for (number, point) in (0..).zip(&points) {
            assert_eq!(space.number(point), Some(number));
            let [optimizer, decay, dropout] =
                [Hyperparameter::Optimizer, Hyperparameter::WeightDecay, Hyperparameter::Dropout]
                    .map(|name| point.named.get(&name).cloned());
            assert_eq!(decay.is_some(), optimizer == Some(word("adamw")), "{point:?}");
            assert_eq!(dropout.is_some(), decay == Some(Value::Float(0.01)), "{point:?}");
            let first = Value::List(vec![1, 8]);
            assert!(
                point.get(Hyperparameter::LearningRate) != Value::Float(0.1)
                    || point.get(Hyperparameter::Filters) != first
            );
        }
    }

    #[test]
    fn ranges_have_no_end_of_points() {
        let mut named = grid([2, 1, 1]).written.named;
        let interval = Interval { low: 0.0, high: 0.5, spacing: Spacing::Linear };
        named.insert(Hyperparameter::LabelSmoothing, Domain::Float(interval));
        let space = Space::new(named);
        assert_eq!((space.size(), space.point(0)), (None, None));
        assert_eq!(space.at(|_| 0.5).unwrap().get(Hyperparameter::LabelSmoothing), Value::Float(0.25));
        assert_eq!(space.dimensions().count(), 2);
    }

    #[test]
    fn points_and_spaces_survive_json() {
        let point = grid([2, 2, 2]).point(5).unwrap();
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&json).unwrap(), point);
        let json = serde_json::to_string(&conditional()).unwrap();
        assert_eq!(serde_json::from_str::<Space>(&json).unwrap(), conditional());
    }

    #[test]
    fn a_plain_space_is_written_as_it_always_was() {
        let json = r#"{"learning_rate":{"choice":[0.01,0.001]},"filters":{"fixed":[4,8]},"fc_units":{"fixed":"none"}}"#;
        let space: Space = serde_json::from_str(json).unwrap();
        assert_eq!(space.size(), Some(2));
        assert_eq!(serde_json::to_string(&space).unwrap(), json);
    }
}
