//! Sobol's sequence, scrambled: points that fill the space more evenly than chance does.

use std::sync::LazyLock;

use earshot_common::sweep::{Hyperparameter, Point, Space};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Past, dice::stream, is_new, random};

/// Joe and Kuo's direction numbers (2008, "Constructing Sobol sequences with better two-dimensional projections").
const DIRECTIONS: &str = include_str!("golden/directions.txt");
const BITS: usize = 32;
/// Points of the sequence that are tried for one that is new and not forbidden, before one is drawn.
const TRIED: u64 = 200;

/// The direction numbers of one dimension.
type Directions = [u32; BITS];

static TABLE: LazyLock<Vec<Directions>> = LazyLock::new(|| {
    // The first dimension is van der Corput's sequence.
    let first = std::array::from_fn(|bit| 1 << (BITS - 1 - bit));
    let lines = DIRECTIONS.lines().filter(|line| !line.starts_with('#'));
    let rest = lines.filter_map(|line| {
        let numbers: Vec<u32> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [_, degree, coefficients, initial @ ..] = numbers.as_slice() else { return None };
        Some(directions(*degree as usize, *coefficients, initial))
    });
    std::iter::once(first).chain(rest).collect()
});

/// Joe and Kuo's recurrence, their equation (2).
fn directions(degree: usize, coefficients: u32, initial: &[u32]) -> Directions {
    let mut numbers: Vec<u32> = Vec::with_capacity(BITS);
    let back = |numbers: &[u32], by: usize| numbers.iter().rev().nth(by - 1).copied().unwrap_or(0);
    for (bit, m) in initial.iter().map(Some).chain(std::iter::repeat(None)).enumerate().take(BITS) {
        numbers.push(if let Some(m) = m {
            m << (BITS - 1 - bit)
        } else {
            let last = back(&numbers, degree);
            (1..degree).fold(last ^ (last >> degree), |sum, by| {
                let is_in = (coefficients >> (degree - 1 - by)) & 1;
                sum ^ (is_in * back(&numbers, by))
            })
        });
    }
    std::array::from_fn(|bit| numbers.get(bit).copied().unwrap_or(0))
}

/// A coordinate of the sequence's point of that number, as a fraction of 2³². Points come in the order of the Gray code, as
/// SciPy's do.
fn coordinate(directions: &Directions, number: u64) -> u32 {
    let gray = number ^ (number >> 1);
    (0..BITS).zip(directions).filter(|(bit, _)| (gray >> bit) & 1 == 1).fold(0, |sum, (_, bits)| sum ^ bits)
}

/// Owen's scrambling by a hash (Burley 2020, "Practical Hash-based Owen Scrambling", with Vegdahl's constants): each half of
/// each interval is swapped with the other or not, by chance and all the way down, so that a point is evenly distributed
/// and the points are still as evenly spread.
fn scrambled(coordinate: u32, seed: u32) -> u32 {
    let mut bits = coordinate.reverse_bits();
    bits ^= bits.wrapping_mul(0x3d20_adea);
    bits = bits.wrapping_add(seed);
    bits = bits.wrapping_mul((seed >> 16) | 1);
    bits ^= bits.wrapping_mul(0x0552_6c56);
    bits ^= bits.wrapping_mul(0x53a2_2864);
    bits.reverse_bits()
}

/// The sequence in some dimensions, scrambled by a seed.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    seeds: Vec<u32>,
}

impl Sequence {
    /// In so many dimensions; beyond those that there are direction numbers for, they repeat with another scrambling.
    pub(super) fn new(dimensions: usize, dice: &mut ChaCha8Rng) -> Self {
        Self { seeds: (0..dimensions).map(|_| dice.random()).collect() }
    }

    /// The point of that number, each coordinate above 0 and below 1.
    pub(super) fn point(&self, number: u64) -> Vec<f64> {
        let directions = TABLE.iter().cycle();
        let coordinates = self.seeds.iter().zip(directions);
        let fraction = |bits: u32| (f64::from(bits) + 0.5) / (1_u64 << BITS) as f64;
        coordinates.map(|(&seed, bits)| fraction(scrambled(coordinate(bits, number), seed))).collect()
    }
}

/// The next point of a sweep's sequence that is new and not forbidden.
pub(super) fn propose(
    space: &Space,
    seed: u64,
    history: &[Past<'_>],
    dice: &mut ChaCha8Rng,
) -> Option<Point> {
    let names: Vec<Hyperparameter> = space.dimensions().map(|(name, _)| name).collect();
    let sequence = Sequence::new(names.len(), &mut stream(seed, "sobol"));
    let number = history.len() as u64;
    let found = (number..number + TRIED).find_map(|number| {
        let coordinates = sequence.point(number);
        let coordinate =
            |name| names.iter().position(|known| *known == name).and_then(|at| coordinates.get(at));
        let point = space.at(|name| coordinate(name).copied().unwrap_or(0.5));
        point.filter(|point| is_new(point, history))
    });
    found.or_else(|| random::draw(space, history, dice))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::search::dice::dice;

    #[test]
    fn unscrambled_points_are_scipys() {
        #[derive(serde::Deserialize)]
        struct Golden {
            points: Vec<Vec<f64>>,
        }
        let golden: Golden = serde_json::from_str(include_str!("golden/sobol.json")).unwrap();
        assert_eq!((golden.points.len(), TABLE.len()), (64, 64));
        for (number, expected) in (0..).zip(&golden.points) {
            let found: Vec<f64> = TABLE
                .iter()
                .map(|bits| f64::from(coordinate(bits, number)) / (1_u64 << BITS) as f64)
                .collect();
            assert_eq!(&found, expected, "point {number}");
        }
    }

    /// What makes it Owen's: of 2ᵏ points one is in each of 2ᵏ equal intervals, in every dimension, whatever the seed.
    #[test]
    fn scrambling_keeps_every_interval_filled() {
        for seed in 0..20 {
            let sequence = Sequence::new(64, &mut dice(seed, 0));
            let points: Vec<Vec<f64>> = (0..256).map(|number| sequence.point(number)).collect();
            for dimension in 0..64 {
                let filled: BTreeSet<u64> =
                    points.iter().map(|point| (point[dimension] * 256.0) as u64).collect();
                assert_eq!(filled.len(), 256, "dimension {dimension} of seed {seed}");
            }
        }
        let [one, other] = [1, 2].map(|seed| Sequence::new(3, &mut dice(seed, 0)).point(5));
        assert_ne!(one, other);
    }

    /// And of the first two dimensions, one is in each of 16 × 16 squares.
    #[test]
    fn scrambling_keeps_every_square_filled() {
        let sequence = Sequence::new(2, &mut dice(3, 0));
        let squares = (0..256).map(|number| sequence.point(number));
        let squares: BTreeSet<[u64; 2]> =
            squares.map(|point| [(point[0] * 16.0) as u64, (point[1] * 16.0) as u64]).collect();
        assert_eq!(squares.len(), 256);
    }
}
