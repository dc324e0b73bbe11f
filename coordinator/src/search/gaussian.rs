//! A Gaussian process with a Matérn-5/2 kernel and noise: what it believes of places, and how likely it finds what was seen.
//!
//! Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning": algorithm 2.1, equations (2.30), (4.17) and (5.9).
//! Every axis has a length of its own. Choices are as far from each other as a whole axis (Hamming distance), and a dimension
//! that is inactive is a place beside the middle of its axis, a whole length away: distances are those of an embedding in
//! Euclidean space, so the kernel stays positive definite.

use std::f64::consts::TAU;

use faer::{
    Mat, Side,
    linalg::solvers::{DenseSolveCore, Llt, Solve},
};

use super::axes::{Axes, Place, choice};

const SQRT_5: f64 = 2.236_067_977_499_79;
/// Added to the diagonal, ten times as much with each attempt, where rounding leaves a matrix not positive definite.
const JITTERS: [f64; 4] = [0.0, 1e-10, 1e-8, 1e-6];

/// What the kernel's shape depends on. Variances are of scores whose own is 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kernel {
    /// For each axis the distance over which scores change.
    pub(super) lengths: Vec<f64>,
    /// Variance of the function.
    pub(super) signal: f64,
    /// Variance of what is added to it by chance, at each observation.
    pub(super) noise: f64,
}

/// How many choices each axis has; none for numbers.
#[derive(Debug, Clone)]
pub(super) struct Metric(Vec<Option<usize>>);

impl Metric {
    /// Of these axes, and one of numbers for how far a trial had trained where that counts.
    pub(super) fn new(axes: &Axes<'_>, is_staged: bool) -> Self {
        Self(axes.iter().map(|axis| axis.choices).chain(is_staged.then_some(None)).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Squared distances on each axis.
    fn squares<'a>(&'a self, one: &'a Place, other: &'a Place) -> impl Iterator<Item = f64> + 'a {
        self.0.iter().zip(one).zip(other).map(|((choices, one), other)| match (choices, one, other) {
            (_, None, None) => 0.0,
            (Some(_), None, Some(_)) | (Some(_), Some(_), None) => 1.0,
            (Some(choices), Some(one), Some(other)) => {
                f64::from(u8::from(choice(*one, *choices) != choice(*other, *choices)))
            }
            (None, Some(one), Some(other)) => (one - other) * (one - other),
            (None, None, Some(at)) | (None, Some(at), None) => (at - 0.5) * (at - 0.5) + 1.0,
        })
    }

    /// Half the derivative of the squared distance on an axis of numbers by the first place's coordinate.
    fn slope(&self, axis: usize, one: &Place, other: &Place) -> f64 {
        let coordinate = |place: &Place| place.get(axis).copied().flatten();
        match (self.0.get(axis), coordinate(one)) {
            (Some(None), Some(at)) => at - coordinate(other).unwrap_or(0.5),
            _ => 0.0,
        }
    }
}

impl Kernel {
    /// The covariance at that scaled distance, and how it changes: −d/dr of it, divided by r.
    fn matern(&self, squared: f64) -> (f64, f64) {
        let scaled = SQRT_5 * squared.sqrt();
        let decay = self.signal * (-scaled).exp();
        ((1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay)
    }

    fn squared<'a>(&'a self, squares: impl Iterator<Item = f64> + 'a) -> f64 {
        squares.zip(&self.lengths).map(|(square, length)| square / (length * length)).sum()
    }
}

/// A factored covariance; none where even jitter does not help.
fn factored(covariance: &Mat<f64>) -> Option<Llt<f64>> {
    JITTERS.iter().find_map(|jitter| {
        let mut covariance = covariance.clone();
        for index in 0..covariance.nrows() {
            covariance[(index, index)] += jitter;
        }
        covariance.llt(Side::Lower).ok()
    })
}

fn column(values: &[f64]) -> Mat<f64> {
    Mat::from_fn(values.len(), 1, |row, _| values.get(row).copied().unwrap_or(0.0))
}

/// Observations whose distances are kept, to ask again and again how likely they are.
#[derive(Debug)]
pub(super) struct Evidence {
    scores: Vec<f64>,
    axes: usize,
    /// Squared distances on each axis, of each pair of an observation and an earlier one.
    squares: Vec<f64>,
}

impl Evidence {
    pub(super) fn new(metric: &Metric, places: &[Place], scores: &[f64]) -> Self {
        let pairs = places
            .iter()
            .enumerate()
            .flat_map(|(row, one)| places.iter().take(row).map(move |other| (one, other)));
        let squares = pairs.flat_map(|(one, other)| metric.squares(one, other)).collect();
        Self { scores: scores.to_vec(), axes: metric.len(), squares }
    }

    /// The logarithm of the marginal likelihood, and its derivatives by the logarithms of the lengths, the signal and the
    /// noise; none where the covariance cannot be factored.
    pub(super) fn log_likelihood(&self, kernel: &Kernel) -> Option<(f64, Vec<f64>)> {
        let count = self.scores.len();
        let mut covariance = Mat::<f64>::zeros(count, count);
        let mut slopes = Vec::with_capacity(self.squares.len() / self.axes.max(1));
        let mut pairs = self.squares.chunks(self.axes.max(1));
        for row in 0..count {
            for earlier in 0..row {
                let squares = if self.axes == 0 { &[] } else { pairs.next()? };
                let (value, slope) = kernel.matern(kernel.squared(squares.iter().copied()));
                covariance[(row, earlier)] = value;
                covariance[(earlier, row)] = value;
                slopes.push(slope);
            }
            covariance[(row, row)] = kernel.signal + kernel.noise;
        }
        let factor = factored(&covariance)?;
        let scores = column(&self.scores);
        let weights = factor.solve(&scores);
        let inverse = factor.inverse();
        let fit: f64 = (0..count).map(|row| scores[(row, 0)] * weights[(row, 0)]).sum();
        let log_root: f64 = (0..count).map(|row| factor.L()[(row, row)].ln()).sum();
        let value = -0.5 * fit - log_root - 0.5 * count as f64 * TAU.ln();

        let mut lengths = vec![0.0; self.axes];
        let (mut signal, mut noise) = (0.0, 0.0);
        let mut pairs = self.squares.chunks(self.axes.max(1)).zip(&slopes);
        for row in 0..count {
            for earlier in 0..row {
                // Both halves of the symmetric matrices at once.
                let inner = weights[(row, 0)] * weights[(earlier, 0)] - inverse[(row, earlier)];
                signal += inner * covariance[(row, earlier)];
                if let Some((squares, slope)) = (self.axes > 0).then(|| pairs.next()).flatten() {
                    for (sum, square) in lengths.iter_mut().zip(squares) {
                        *sum += inner * slope * square;
                    }
                }
            }
            let inner = 0.5 * (weights[(row, 0)] * weights[(row, 0)] - inverse[(row, row)]);
            signal += inner * kernel.signal;
            noise += inner * kernel.noise;
        }
        let lengths = lengths.iter().zip(&kernel.lengths).map(|(sum, length)| sum / (length * length));
        Some((value, lengths.chain([signal, noise]).collect()))
    }
}

/// What a process believes after observations.
#[derive(Debug)]
pub(super) struct Gaussian {
    metric: Metric,
    kernel: Kernel,
    places: Vec<Place>,
    factor: Llt<f64>,
    weights: Vec<f64>,
}

/// A belief about the score at a place, without noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Belief {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// The least deviation: what rounding may take from a variance of 1.
const DEVIATION_MIN: f64 = 1e-7;

impl Gaussian {
    /// After these scores at these places; none where the covariance cannot be factored.
    pub(super) fn new(metric: &Metric, kernel: Kernel, places: Vec<Place>, scores: &[f64]) -> Option<Self> {
        let mut covariance = Mat::<f64>::zeros(places.len(), places.len());
        for (row, one) in places.iter().enumerate() {
            for (earlier, other) in places.iter().enumerate().take(row) {
                let (value, _) = kernel.matern(kernel.squared(metric.squares(one, other)));
                covariance[(row, earlier)] = value;
                covariance[(earlier, row)] = value;
            }
            covariance[(row, row)] = kernel.signal + kernel.noise;
        }
        let factor = factored(&covariance)?;
        let weights = factor.solve(&column(scores));
        let weights = (0..places.len()).map(|row| weights[(row, 0)]).collect();
        Some(Self { metric: metric.clone(), kernel, places, factor, weights })
    }

    /// The mean of the belief: all that is cheap to know.
    pub(super) fn mean(&self, place: &Place) -> f64 {
        let covariances = self.places.iter().map(|known| self.covariance(place, known));
        covariances.zip(&self.weights).map(|(covariance, weight)| covariance * weight).sum()
    }

    fn covariance(&self, one: &Place, other: &Place) -> f64 {
        self.kernel.matern(self.kernel.squared(self.metric.squares(one, other))).0
    }

    /// Beliefs about many places.
    pub(super) fn beliefs(&self, places: &[Place]) -> Vec<Belief> {
        let covariances = Mat::from_fn(self.places.len(), places.len(), |row, column| {
            match (places.get(column), self.places.get(row)) {
                (Some(one), Some(other)) => self.covariance(one, other),
                _ => 0.0,
            }
        });
        let solved = self.factor.solve(&covariances);
        let beliefs = (0..places.len()).map(|column| {
            let (mut mean, mut explained) = (0.0, 0.0);
            for (row, weight) in self.weights.iter().enumerate() {
                mean += covariances[(row, column)] * weight;
                explained += covariances[(row, column)] * solved[(row, column)];
            }
            Belief { mean, deviation: (self.kernel.signal - explained).max(0.0).sqrt().max(DEVIATION_MIN) }
        });
        beliefs.collect()
    }

    /// The belief about a place, and how mean and deviation change with each coordinate; 0 for choices and what is inactive.
    pub(super) fn slopes(&self, place: &Place) -> (Belief, Vec<[f64; 2]>) {
        let materns: Vec<(f64, f64)> = self
            .places
            .iter()
            .map(|known| self.kernel.matern(self.kernel.squared(self.metric.squares(place, known))))
            .collect();
        let covariances: Vec<f64> = materns.iter().map(|(value, _)| *value).collect();
        let solved = self.factor.solve(&column(&covariances));
        let mean = covariances.iter().zip(&self.weights).map(|(value, weight)| value * weight).sum();
        let explained: f64 =
            covariances.iter().enumerate().map(|(row, value)| value * solved[(row, 0)]).sum();
        let deviation = (self.kernel.signal - explained).max(0.0).sqrt().max(DEVIATION_MIN);
        let slopes = self.kernel.lengths.iter().enumerate().map(|(axis, length)| {
            let known = self.places.iter().zip(&materns).zip(&self.weights).enumerate();
            let (mut of_mean, mut of_explained) = (0.0, 0.0);
            for (row, ((known, (_, slope)), weight)) in known {
                let slope = -slope * self.metric.slope(axis, place, known) / (length * length);
                of_mean += slope * weight;
                of_explained += 2.0 * slope * solved[(row, 0)];
            }
            [of_mean, -of_explained / (2.0 * deviation)]
        });
        (Belief { mean, deviation }, slopes.collect())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What scikit-learn's `GaussianProcessRegressor` makes of some numbers: see `golden/make.py`.
    #[derive(Deserialize)]
    struct Golden {
        places: Vec<Vec<f64>>,
        scores: Vec<f64>,
        lengths: Vec<f64>,
        signal: f64,
        noise: f64,
        log_likelihood: f64,
        gradient: Vec<f64>,
        asked: Vec<Vec<f64>>,
        means: Vec<f64>,
        deviations: Vec<f64>,
    }

    fn places(raw: &[Vec<f64>]) -> Vec<Place> {
        raw.iter().map(|place| place.iter().copied().map(Some).collect()).collect()
    }

    fn golden() -> (Golden, Metric, Kernel) {
        let golden: Golden = serde_json::from_str(include_str!("golden/gaussian.json")).unwrap();
        let kernel = Kernel { lengths: golden.lengths.clone(), signal: golden.signal, noise: golden.noise };
        let metric = Metric(vec![None; golden.lengths.len()]);
        (golden, metric, kernel)
    }

    fn check(found: f64, expected: f64, what: &str) {
        assert!(
            (found - expected).abs() < 1e-8 * expected.abs().max(1.0),
            "{what}: {found}, expected {expected}"
        );
    }

    #[test]
    fn beliefs_are_scikit_learns() {
        let (golden, metric, kernel) = golden();
        let gaussian = Gaussian::new(&metric, kernel, places(&golden.places), &golden.scores).unwrap();
        let asked = places(&golden.asked);
        for (index, belief) in gaussian.beliefs(&asked).into_iter().enumerate() {
            check(belief.mean, golden.means[index], "mean");
            check(belief.deviation, golden.deviations[index], "deviation");
            check(gaussian.mean(&asked[index]), golden.means[index], "mean alone");
            check(
                gaussian.slopes(&asked[index]).0.deviation,
                golden.deviations[index],
                "deviation with slopes",
            );
        }
    }

    #[test]
    fn the_likelihood_and_its_gradient_are_scikit_learns() {
        let (golden, metric, kernel) = golden();
        let evidence = Evidence::new(&metric, &places(&golden.places), &golden.scores);
        let (value, gradient) = evidence.log_likelihood(&kernel).unwrap();
        check(value, golden.log_likelihood, "likelihood");
        assert_eq!(gradient.len(), golden.gradient.len());
        for (found, expected) in gradient.iter().zip(&golden.gradient) {
            check(*found, *expected, "gradient");
        }
    }

    /// Two axes of numbers, the second not always active, and one of three choices.
    fn mixed() -> Gaussian {
        let metric = Metric(vec![None, None, Some(3)]);
        let kernel = Kernel { lengths: vec![0.4, 0.7, 1.5], signal: 1.3, noise: 0.01 };
        let places: Vec<Place> = (0..12)
            .map(|n| {
                let n = f64::from(n);
                let inner = (!(n as usize).is_multiple_of(3)).then_some((n * 0.37) % 1.0);
                vec![Some((n * 0.61) % 1.0), inner, Some((n % 3.0 + 0.5) / 3.0)]
            })
            .collect();
        let scores: Vec<f64> = (0..12).map(|n| f64::from(n * 7 % 5) - 2.0).collect();
        Gaussian::new(&metric, kernel, places, &scores).unwrap()
    }

    #[test]
    fn slopes_are_differences_in_the_limit() {
        let gaussian = mixed();
        for place in [vec![Some(0.3), Some(0.8), Some(0.5)], vec![Some(0.9), None, Some(5.0 / 6.0)]] {
            let (belief, slopes) = gaussian.slopes(&place);
            for axis in 0..2 {
                if place[axis].is_none() {
                    assert!(slopes[axis].iter().all(|slope| slope.abs() < 1e-12));
                    continue;
                }
                let beside = |by: f64| {
                    let mut place = place.clone();
                    place[axis] = place[axis].map(|at| at + by);
                    gaussian.beliefs(&[place])[0]
                };
                let (less, more) = (beside(-1e-5), beside(1e-5));
                let differences = [more.mean - less.mean, more.deviation - less.deviation].map(|d| d / 2e-5);
                for (slope, difference) in slopes[axis].iter().zip(differences) {
                    assert!((slope - difference).abs() < 1e-5, "{slope} {difference} at {belief:?}");
                }
            }
        }
    }

    /// Where distances are not an embedding's, some covariance has a negative eigenvalue and cannot be factored.
    #[test]
    fn what_is_inactive_keeps_the_kernel_positive_definite() {
        let metric = Metric(vec![None]);
        let places: Vec<Place> = (0..40).map(|n| vec![(n > 0).then_some(f64::from(n) / 39.0)]).collect();
        for length in [0.1, 0.5, 2.0, 10.0] {
            let kernel = Kernel { lengths: vec![length], signal: 1.0, noise: 1e-9 };
            let covariance = Mat::from_fn(40, 40, |row, column| {
                let noise = if row == column { kernel.noise } else { 0.0 };
                kernel.matern(kernel.squared(metric.squares(&places[row], &places[column]))).0 + noise
            });
            assert!(covariance.llt(Side::Lower).is_ok(), "length {length}");
        }
    }
}
