//! The table of learning curves, `benches/data/curves.json`, by the points of its sweep.

use std::path::Path;

use earshot_common::sweep::{Hyperparameter, Point, Search, Stop, Sweep, Value};
use serde::Deserialize;

/// The sweep whose trials the table has.
const SWEEP: &str = include_str!("../../../benches/curves.toml");
const TABLE: &str = include_str!("../../../benches/data/curves.json");
/// What its clips were: five seconds of ten classes.
pub(crate) const FRAMES: u32 = 54;
pub(crate) const CLASSES: u32 = 10;
/// A thousandth of the mean configuration's epoch is a millisecond of simulated time.
pub(crate) const MEAN_EPOCH_MS: u64 = 1_000;

/// After an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Clips of the validation part that were right.
    pub(crate) clips: u32,
    pub(crate) loss: f64,
}

/// A configuration.
#[derive(Debug)]
pub(crate) struct Row {
    /// Which of the table's values it has.
    pub(crate) numbers: Vec<usize>,
    /// One for each epoch; none if its training diverged.
    pub(crate) curve: Vec<Measured>,
    /// What an epoch takes, in proportion to its model's multiplications.
    pub(crate) epoch_ms: u64,
}

/// All of them, in the order of the sweep's grid.
#[derive(Debug)]
pub(crate) struct Table {
    sweep: Sweep,
    /// Of the validation part.
    pub(crate) clips: u32,
    pub(crate) rows: Vec<Row>,
}

/// As it is written: a row is the numbers of a point's values, the clips and the losses.
#[derive(Deserialize)]
struct Written {
    clips: u32,
    space: serde_json::Map<String, serde_json::Value>,
    rows: Vec<(Vec<usize>, Vec<u32>, Vec<u32>)>,
}

impl Table {
    pub(crate) fn read() -> Self {
        let sweep = Sweep::parse(SWEEP, Path::new("curves.toml"), &[]).unwrap();
        let written: Written = serde_json::from_str(TABLE).unwrap();
        let points: Vec<Point> =
            (0..).map_while(|number| sweep.space.point(number)).take(written.rows.len() + 1).collect();
        assert_eq!(points.len(), written.rows.len(), "the table is of another space");
        let macs: Vec<u64> =
            points.iter().map(|point| point.model(FRAMES, CLASSES).cost().unwrap().macs).collect();
        let mean = macs.iter().sum::<u64>() as f64 / macs.len() as f64;
        let row = |(point, macs): (&Point, u64)| {
            let numbers = written.numbers(point);
            let (_, clips, losses) = written.rows.iter().find(|(of, ..)| *of == numbers).unwrap();
            let measured = |(&clips, &loss): (&u32, &u32)| Measured { clips, loss: f64::from(loss) / 1000.0 };
            Row {
                curve: clips.iter().zip(losses).map(measured).collect(),
                numbers,
                epoch_ms: (MEAN_EPOCH_MS as f64 * macs as f64 / mean).round() as u64,
            }
        };
        let rows = points.iter().zip(macs).map(row).collect();
        Self { clips: written.clips, rows, sweep }
    }

    /// A sweep over the table's space with this method.
    pub(crate) fn sweep(&self, search: Search, stop: Option<Stop>, seed: u64) -> Sweep {
        Sweep { search, stop, seed, ..self.sweep.clone() }
    }

    pub(crate) fn row(&self, point: &Point) -> &Row {
        &self.rows[self.sweep.space.number(point).unwrap() as usize]
    }

    /// Clips of the best configuration, trained to its end.
    pub(crate) fn best(&self) -> u32 {
        self.rows.iter().filter_map(Row::kept).max().unwrap()
    }
}

impl Row {
    /// Clips of the weights that are kept in the end: those of the least loss.
    pub(crate) fn kept(&self) -> Option<u32> {
        self.kept_by(self.curve.len())
    }

    /// As if it ended after so many epochs.
    pub(crate) fn kept_by(&self, epochs: usize) -> Option<u32> {
        self.best_by(epochs).map(|(_, clips)| clips)
    }

    /// The epoch of the least loss of the first so many, from 1, and its clips.
    pub(crate) fn best_by(&self, epochs: usize) -> Option<(u32, u32)> {
        let first = (1..).zip(self.curve.iter().take(epochs));
        let least = first.min_by(|(_, one), (_, other)| one.loss.total_cmp(&other.loss));
        least.map(|(epoch, measured)| (epoch, measured.clips))
    }
}

impl Written {
    /// The number of each of a point's values in the table's lists.
    fn numbers(&self, point: &Point) -> Vec<usize> {
        let number = |(name, values): (&String, &serde_json::Value)| {
            let name: Hyperparameter = serde_json::from_value(name.as_str().into()).unwrap();
            let values: Vec<Value> = serde_json::from_value(values.clone()).unwrap();
            let value = point.get(name);
            values.iter().position(|other| is_same(&value, other)).unwrap()
        };
        self.space.iter().map(number).collect()
    }
}

/// But for the last digit of a number that was counted in steps.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => (one - other).abs() < 1e-9,
        _ => one == other,
    }
}
