//! What a search proposes, and why.

use earshot_common::sweep::{Objective, Point};
use serde::{Deserialize, Serialize};

use super::gaussian::Belief;

/// A point to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Proposal {
    /// Where in the space.
    pub point: Point,
    /// Why there; none where it was not written down.
    pub why: Option<Why>,
    /// Version of the method that proposed it: another one may propose another point.
    pub version: u32,
}

/// The version of every method at first, and of those that have not changed since.
const FIRST: u32 = 1;
/// The version of what learns from results. The second has other priors, and kernels as wide as their neighbours are far away.
const LEARNING: u32 = 2;

/// A proposal as it stands in the log: before reasons were written down, it was the point alone.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Explained {
        point: Point,
        why: Why,
        #[serde(default = "first", skip_serializing_if = "is_first")]
        version: u32,
    },
    Bare(Point),
}

impl From<Written> for Proposal {
    fn from(written: Written) -> Self {
        match written {
            Written::Explained { point, why, version } => Self { point, why: Some(why), version },
            Written::Bare(point) => Self { point, why: None, version: FIRST },
        }
    }
}

impl From<Proposal> for Written {
    fn from(Proposal { point, why, version }: Proposal) -> Self {
        match why {
            Some(why) => Self::Explained { point, why, version },
            None => Self::Bare(point),
        }
    }
}

fn first() -> u32 {
    FIRST
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_first(version: &u32) -> bool {
    *version == FIRST
}

/// Why a search proposed a point. Every number is finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Why {
    /// It was its turn in the grid.
    Grid,
    /// It was drawn evenly from the space.
    Random,
    /// It was the next one of Sobol's sequence.
    Sobol,
    /// It was the next one of Sobol's sequence, for results are not heeded before enough trials have ended.
    Startup {
        /// Trials that had.
        ended: u32,
        /// Trials that have to.
        startup: u32,
    },
    /// Good points were densest there, beside all others.
    Density {
        /// Logarithm of the good points' density divided by the others'.
        log_ratio: f64,
        /// Good points.
        good: u32,
        /// Others, pending ones included.
        others: u32,
    },
    /// The largest improvement was expected there. Numbers are of the objective, the larger the better.
    Improvement {
        /// What was expected.
        mean: f64,
        /// How uncertain that was.
        deviation: f64,
        /// What had to be improved on: the best of what was believed of known points.
        best: f64,
        /// Results that were heeded.
        known: u32,
        /// Trials under way, taken to turn out as was believed.
        pending: u32,
    },
    /// The largest gain in what the front dominates was expected there.
    Volume {
        /// The score that was expected, the larger the better.
        mean: f64,
        /// How uncertain that was.
        deviation: f64,
        /// Points on the front.
        front: u32,
        /// Results that were heeded.
        known: u32,
        /// Trials under way, taken to turn out as was believed.
        pending: u32,
    },
    /// All that the method weighed was known already, so it was drawn evenly from the rest of the space.
    Exhausted,
}

impl Proposal {
    /// With its reason.
    pub(crate) fn new(point: Point, why: Why) -> Self {
        Self { point, why: Some(why), version: why.version() }
    }
}

impl Why {
    /// Of a belief about the point in units of the scores' deviation, beside the best or the front; what is not finite explains
    /// nothing.
    pub(super) fn improvement(
        belief: Belief,
        (best, front): (f64, Option<usize>),
        (mean, deviation): (f64, f64),
        (known, pending): (usize, usize),
    ) -> Self {
        let why = [mean + deviation * belief.mean, deviation * belief.deviation, mean + deviation * best];
        let [mean, deviation, best] = why;
        if !why.iter().all(|number| number.is_finite()) {
            return Self::Exhausted;
        }
        let (known, pending) = (known as u32, pending as u32);
        match front {
            Some(front) => Self::Volume { mean, deviation, front: front as u32, known, pending },
            None => Self::Improvement { mean, deviation, best, known, pending },
        }
    }

    /// Of the method that gives this reason.
    fn version(self) -> u32 {
        match self {
            Self::Grid | Self::Random | Self::Sobol | Self::Startup { .. } => FIRST,
            Self::Density { .. } | Self::Improvement { .. } | Self::Volume { .. } | Self::Exhausted => {
                LEARNING
            }
        }
    }

    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Random => "random",
            Self::Sobol => "sobol",
            Self::Startup { .. } => "startup",
            Self::Density { .. } => "density",
            Self::Improvement { .. } => "improvement",
            Self::Volume { .. } => "volume",
            Self::Exhausted => "exhausted",
        }
    }
}

impl Why {
    /// For people; numbers are of the objective as it is shown, the smaller the better if it is a loss.
    pub fn words(self, objective: Objective) -> String {
        match self {
            Self::Grid => "its turn in the grid".to_owned(),
            Self::Random => "drawn evenly from the space".to_owned(),
            Self::Sobol => "the next of Sobol's sequence".to_owned(),
            Self::Startup { ended, startup } => format!(
                "the next of Sobol's sequence, for results are heeded once {startup} trials have ended, and {ended} had"
            ),
            Self::Density { log_ratio, good, others } => format!(
                "the {good} best are {:.3} times as dense there as the {others} others, pending ones included",
                log_ratio.exp()
            ),
            Self::Improvement { mean, deviation, best, known, pending } => format!(
                "the largest improvement was expected there after {known} results and with {pending} pending: {} of \
                 {:.4} ± {deviation:.4}, where the best so far is believed to be {:.4}",
                objective.name(),
                objective.shown(mean),
                objective.shown(best)
            ),
            Self::Volume { mean, deviation, front, known, pending } => format!(
                "the largest gain in what the front of {front} dominates was expected there after {known} results and with \
                 {pending} pending: {} of {:.4} ± {deviation:.4} at its costs",
                objective.name(),
                objective.shown(mean)
            ),
            Self::Exhausted => {
                "all that the method weighed is known already, so drawn evenly from the rest of the space"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_reasons_and_reads_what_has_none() {
        let bare = r#"{"filters":[8,16],"dropout":0.1}"#;
        let proposal: Proposal = serde_json::from_str(bare).unwrap();
        assert_eq!((proposal.why, serde_json::to_string(&proposal).unwrap().len()), (None, bare.len()));
        let reasons = [
            Why::Grid,
            Why::Startup { ended: 3, startup: 10 },
            Why::Density { log_ratio: 0.1 + 0.2, good: 3, others: 27 },
            Why::Improvement { mean: 0.1 + 0.7, deviation: 1e-300, best: 1.0 / 3.0, known: 12, pending: 0 },
        ];
        for why in reasons {
            let explained = Proposal::new(proposal.point.clone(), why);
            let text = serde_json::to_string(&explained).unwrap();
            assert!(text.contains(&format!("\"by\":\"{}\"", why.name())), "{text}");
            assert_eq!(serde_json::from_str::<Proposal>(&text).unwrap(), explained, "{text}");
            assert_eq!(text.contains("\"version\":2"), explained.version == LEARNING, "{text}");
        }
    }

    #[test]
    fn improvements_are_told_in_the_objectives_units() {
        let belief = Belief { mean: 1.0, deviation: 0.5 };
        let why = Why::improvement(belief, (2.0, None), (0.5, 0.1), (3, 1));
        let expected = Why::Improvement { mean: 0.6, deviation: 0.05, best: 0.7, known: 3, pending: 1 };
        assert_eq!(why, expected);
        let nonsense = Belief { mean: f64::NAN, deviation: 0.5 };
        assert_eq!(Why::improvement(nonsense, (2.0, None), (0.5, 0.1), (3, 1)), Why::Exhausted);
        let loss = Why::improvement(belief, (2.0, None), (-0.9, 0.1), (3, 1));
        assert!(loss.words(Objective::Loss).contains("loss of 0.8000 ± 0.0500"), "{loss:?}");
    }
}
