//! The space as a cube: an axis from 0 to 1 for every dimension, on which all values of a domain have the same share.

use earshot_common::sweep::{Domain, Hyperparameter, Point, Space};

/// The dimensions of a space, in order.
#[derive(Debug)]
pub(super) struct Axes<'a> {
    space: &'a Space,
    axes: Vec<Axis<'a>>,
}

/// One dimension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis<'a> {
    name: Hyperparameter,
    domain: &'a Domain,
    /// How many values, where they have no order.
    pub(super) choices: Option<usize>,
    /// The part of the axis that is one value; 0 where values have no end.
    pub(super) cell: f64,
}

/// Where a point is, on every axis; none where the dimension is inactive.
pub(super) type Place = Vec<Option<f64>>;

impl<'a> Axes<'a> {
    pub(super) fn new(space: &'a Space) -> Self {
        let axes = space.dimensions().map(|(name, domain)| Axis {
            name,
            domain,
            choices: match domain {
                Domain::Choice(values) => Some(values.len()),
                Domain::Fixed(_) | Domain::Float(_) | Domain::Int(_) => None,
            },
            cell: domain.count().map_or(0.0, |count| 1.0 / count as f64),
        });
        Self { space, axes: axes.collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.axes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Axis<'a>> {
        self.axes.iter()
    }

    /// Where a point of the space is.
    pub(super) fn place(&self, point: &Point) -> Place {
        let value = |name| point.iter().find_map(|(named, value)| (named == name).then_some(value));
        self.axes.iter().map(|axis| axis.domain.unit(value(axis.name)?)).collect()
    }

    /// The point at those coordinates, one for each axis, of which those of inactive dimensions do not matter; none if it is
    /// forbidden.
    pub(super) fn point(&self, coordinates: &[f64]) -> Option<Point> {
        self.space.at(|name| {
            let index = self.axes.iter().position(|axis| axis.name == name);
            index.and_then(|index| coordinates.get(index)).copied().unwrap_or(0.5)
        })
    }
}

/// The number of a choice by its coordinate.
pub(super) fn choice(coordinate: f64, choices: usize) -> usize {
    ((coordinate * choices as f64) as usize).min(choices.saturating_sub(1))
}

/// The coordinate of a choice, in the middle of its share.
pub(super) fn middle(choice: usize, choices: usize) -> f64 {
    (choice as f64 + 0.5) / choices as f64
}
