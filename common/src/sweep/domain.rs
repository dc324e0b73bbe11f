//! What one hyperparameter may be: a fixed value, one of some values, or a range of numbers.
//!
//! Every domain is also seen as the interval from 0 to 1, in which all of its values have the same share; a range with
//! `log` has it in its logarithm. Searches work there.

use serde::{Deserialize, Serialize};

use super::Value;

/// The values a hyperparameter may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// Always this one.
    Fixed(Value),
    /// One of these, at least two and all different. They have no order.
    Choice(Vec<Value>),
    /// A number of this range.
    Float(Interval<f64>),
    /// A whole number of this range.
    Int(Interval<i64>),
}

/// Numbers from `low` to `high`, `low` being smaller.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval<T> {
    /// The smallest.
    pub low: T,
    /// The largest, or above it by less than a step.
    pub high: T,
    /// Which of those between, and how they count.
    pub spacing: Spacing<T>,
}

/// Which numbers of a range there are, and how they count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing<T> {
    /// All, evenly.
    Linear,
    /// All, evenly in their logarithm. The smallest is above 0.
    Log,
    /// The smallest and what lies whole steps above it.
    Step(T),
}

/// Significant digits of numbers drawn from a range: more would only be noise to a reader.
const DIGITS: usize = 7;

impl Interval<f64> {
    fn count(&self) -> Option<u64> {
        match self.spacing {
            // Steps are written in decimals: 0.3 is three tenths, whatever their binary quotient.
            Spacing::Step(step) => Some(((self.high - self.low) / step + 1e-9) as u64 + 1),
            Spacing::Linear | Spacing::Log => None,
        }
    }

    fn nth(&self, index: u64) -> Option<f64> {
        let Spacing::Step(step) = self.spacing else { return None };
        (index < self.count()?)
            .then(|| rounded(self.low + step * index as f64, 12).clamp(self.low, self.high))
    }

    fn index(&self, number: f64) -> Option<u64> {
        let Spacing::Step(step) = self.spacing else { return None };
        let index = ((number - self.low) / step).round() as u64;
        self.nth(index)?.total_cmp(&number).is_eq().then_some(index)
    }

    fn at(&self, unit: f64) -> f64 {
        let number = match self.spacing {
            Spacing::Linear => self.low + (self.high - self.low) * unit,
            Spacing::Log => (self.low.ln() + (self.high / self.low).ln() * unit).exp(),
            Spacing::Step(_) => return self.nth(cell(unit, self.count().unwrap_or(1))).unwrap_or(self.low),
        };
        rounded(number, DIGITS).clamp(self.low, self.high)
    }

    fn unit(&self, number: f64) -> Option<f64> {
        if !(self.low..=self.high).contains(&number) {
            return None;
        }
        match self.spacing {
            Spacing::Linear => Some((number - self.low) / (self.high - self.low)),
            Spacing::Log => Some((number / self.low).ln() / (self.high / self.low).ln()),
            Spacing::Step(_) => Some(middle(self.index(number)?, self.count()?)),
        }
    }
}

impl Interval<i64> {
    fn step(&self) -> u64 {
        match self.spacing {
            Spacing::Step(step) => step.unsigned_abs().max(1),
            Spacing::Linear | Spacing::Log => 1,
        }
    }

    fn count(&self) -> u64 {
        self.high.abs_diff(self.low) / self.step() + 1
    }

    fn nth(&self, index: u64) -> Option<i64> {
        (index < self.count()).then(|| self.low.saturating_add_unsigned(self.step().saturating_mul(index)))
    }

    fn index(&self, number: i64) -> Option<u64> {
        let is_one =
            (self.low..=self.high).contains(&number) && number.abs_diff(self.low).is_multiple_of(self.step());
        is_one.then(|| number.abs_diff(self.low) / self.step())
    }

    /// Logarithms of the ends, half a number further out, so that the ends have as much room as their neighbours.
    fn logs(&self) -> (f64, f64) {
        ((self.low as f64 - 0.5).ln(), (self.high as f64 + 0.5).ln())
    }

    fn at(&self, unit: f64) -> i64 {
        if self.spacing == Spacing::Log {
            let (low, high) = self.logs();
            return ((low + (high - low) * unit).exp().round() as i64).clamp(self.low, self.high);
        }
        self.nth(cell(unit, self.count())).unwrap_or(self.low)
    }

    fn unit(&self, number: i64) -> Option<f64> {
        let index = self.index(number)?;
        if self.spacing == Spacing::Log {
            let (low, high) = self.logs();
            return Some(((number as f64).ln() - low) / (high - low));
        }
        Some(middle(index, self.count()))
    }
}

impl Domain {
    /// How many values there are; none: too many to tell apart.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Fixed(_) => Some(1),
            Self::Choice(values) => Some(values.len() as u64),
            Self::Float(interval) => interval.count(),
            Self::Int(interval) => Some(interval.count()),
        }
    }

    /// The value of that number, from 0; none past the end, or where values have no numbers.
    pub fn nth(&self, index: u64) -> Option<Value> {
        match self {
            Self::Fixed(value) => (index == 0).then(|| value.clone()),
            Self::Choice(values) => values.get(usize::try_from(index).ok()?).cloned(),
            Self::Float(interval) => interval.nth(index).map(Value::Float),
            Self::Int(interval) => interval.nth(index).map(Value::Int),
        }
    }

    /// The number of a value, as [`Domain::nth`] counts.
    pub fn index(&self, value: &Value) -> Option<u64> {
        match (self, value) {
            (Self::Fixed(fixed), value) => (fixed == value).then_some(0),
            (Self::Choice(values), value) => {
                values.iter().position(|known| known == value).map(|index| index as u64)
            }
            (Self::Float(interval), Value::Float(number)) => interval.index(*number),
            (Self::Int(interval), Value::Int(number)) => interval.index(*number),
            _ => None,
        }
    }

    /// The value at that place between 0 and 1.
    pub fn at(&self, unit: f64) -> Value {
        let unit = unit.clamp(0.0, 1.0);
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Choice(values) => {
                let index = cell(unit, values.len() as u64) as usize;
                // A choice has values; without any, no word of the table is this one.
                values.get(index).cloned().unwrap_or(Value::List(Vec::new()))
            }
            Self::Float(interval) => Value::Float(interval.at(unit)),
            Self::Int(interval) => Value::Int(interval.at(unit)),
        }
    }

    /// Where between 0 and 1 a value lies, in the middle of its share; none for one that is not in the domain.
    pub fn unit(&self, value: &Value) -> Option<f64> {
        match (self, value) {
            (Self::Fixed(fixed), value) => (fixed == value).then_some(0.5),
            (Self::Choice(values), value) => Some(middle(self.index(value)?, values.len() as u64)),
            (Self::Float(interval), Value::Float(number)) => interval.unit(*number),
            (Self::Int(interval), Value::Int(number)) => interval.unit(*number),
            _ => None,
        }
    }

    /// Whether a value is one of the domain's.
    pub fn holds(&self, value: &Value) -> bool {
        self.unit(value).is_some()
    }

    /// Smallest and largest number; none without numbers.
    pub fn extent(&self) -> Option<(f64, f64)> {
        let number = |value: &Value| match value {
            Value::Float(number) => Some(*number),
            Value::Int(number) => Some(*number as f64),
            _ => None,
        };
        match self {
            Self::Fixed(value) => number(value).map(|number| (number, number)),
            Self::Choice(values) => {
                let numbers = values.iter().filter_map(number).map(|number| (number, number));
                numbers.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
            }
            Self::Float(interval) => Some((interval.low, interval.high)),
            Self::Int(interval) => Some((interval.low as f64, interval.high as f64)),
        }
    }
}

/// Which of `count` equal parts of the interval from 0 to 1 a place is in.
fn cell(unit: f64, count: u64) -> u64 {
    ((unit * count as f64) as u64).min(count.saturating_sub(1))
}

/// The middle of a part.
fn middle(index: u64, count: u64) -> f64 {
    (index as f64 + 0.5) / count as f64
}

/// To so many significant digits, as they would be written.
fn rounded(number: f64, digits: usize) -> f64 {
    format!("{number:.*e}", digits - 1).parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domains() -> impl Strategy<Value = Domain> {
        let ints = (-50i64..50, 1i64..60, 0usize..3).prop_map(|(low, width, kind)| {
            let low = if kind == 1 { low.abs() + 1 } else { low };
            let spacing = [Spacing::Linear, Spacing::Log, Spacing::Step(1 + width / 3)][kind];
            Domain::Int(Interval { low, high: low + width, spacing })
        });
        let floats = (0.01..10.0, 0.01..10.0, 0usize..3).prop_map(|(low, width, kind): (f64, f64, usize)| {
            let spacing = [Spacing::Linear, Spacing::Log, Spacing::Step(width / 7.0)][kind];
            Domain::Float(Interval { low, high: low + width, spacing })
        });
        let choices = (2i64..9).prop_map(|count| Domain::Choice((0..count).map(Value::Int).collect()));
        prop_oneof![ints, floats, choices, Just(Domain::Fixed(Value::Bool(true)))]
    }

    proptest! {
        #[test]
        fn every_place_has_a_value_that_leads_back_to_it(domain in domains(), unit in 0.0..=1.0f64) {
            let value = domain.at(unit);
            prop_assert!(domain.holds(&value), "{value} of {domain:?}");
            let back = domain.unit(&value).unwrap();
            prop_assert_eq!(domain.at(back), value);
            match domain.count() {
                Some(count) if !matches!(&domain, Domain::Int(ints) if ints.spacing == Spacing::Log) => {
                    prop_assert!((back - unit).abs() <= 0.5 / count as f64 + 1e-9);
                }
                Some(_) => {}
                None => prop_assert!((back - unit).abs() < 1e-4, "{back} {unit}"),
            }
        }

        #[test]
        fn counted_values_are_different_and_none_is_past_the_end(domain in domains()) {
            let Some(count) = domain.count() else { return Ok(()) };
            let values: Vec<Value> = (0..count).map(|index| domain.nth(index).unwrap()).collect();
            for (index, value) in values.iter().enumerate() {
                prop_assert!(domain.holds(value) && !values[..index].contains(value));
                prop_assert_eq!(domain.index(value), Some(index as u64));
            }
            prop_assert_eq!(domain.nth(count), None);
        }
    }

    #[test]
    fn steps_are_decimal() {
        let domain = Domain::Float(Interval { low: 0.1, high: 0.5, spacing: Spacing::Step(0.1) });
        let values: Vec<Value> = (0..5).filter_map(|index| domain.nth(index)).collect();
        assert_eq!(values, [0.1, 0.2, 0.3, 0.4, 0.5].map(Value::Float));
        let uneven = Domain::Int(Interval { low: 8, high: 39, spacing: Spacing::Step(8) });
        assert_eq!((uneven.count(), uneven.nth(3)), (Some(4), Some(Value::Int(32))));
    }

    #[test]
    fn the_middle_of_a_logarithmic_range_is_the_geometric_mean() {
        let rates = Domain::Float(Interval { low: 1e-4, high: 1e-2, spacing: Spacing::Log });
        assert_eq!(rates.at(0.5), Value::Float(1e-3));
        assert_eq!((rates.at(0.0), rates.at(1.0)), (Value::Float(1e-4), Value::Float(1e-2)));
        // Every power of two has as much room as the next.
        let units = Domain::Int(Interval { low: 1, high: 1024, spacing: Spacing::Log });
        assert_eq!((units.at(0.0), units.at(1.0)), (Value::Int(1), Value::Int(1024)));
        assert!(
            (units.unit(&Value::Int(64)).unwrap() - units.unit(&Value::Int(32)).unwrap() - 0.0908).abs()
                < 1e-3
        );
    }

    #[test]
    fn what_is_no_value_has_no_place() {
        let domain = Domain::Int(Interval { low: 8, high: 32, spacing: Spacing::Step(8) });
        for wrong in [Value::Int(9), Value::Int(40), Value::Float(8.0), Value::Text("8".into())] {
            assert!(!domain.holds(&wrong), "{wrong}");
        }
    }
}
