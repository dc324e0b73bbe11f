//! Identifiers, one newtype each, so that a trial's number can never be passed for an attempt's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A sweep's number in its database, from 0.
    SweepId,
    u32
);
number_id!(
    /// A trial's number in its sweep, from 0 in the order of proposal.
    TrialId,
    u32
);
number_id!(
    /// A worker's number in its database, from 0; a worker that joins again gets a new one.
    WorkerId,
    u32
);
number_id!(
    /// Fencing token of one attempt: the log position of the event that granted it. It grows with every grant, so the
    /// newest attempt of a run always holds the largest token.
    Token,
    u64
);

number_id!(
    /// A replay of a trial: the log position of the event that asked for it.
    ReplayId,
    u64
);

/// The validation fold of a run: the dataset's own fold number, or 0 for a split without folds; or [`FoldId::REFIT`], a step of
/// pruning, or [`FoldId::AWARE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FoldId(pub u32);

impl FoldId {
    /// Not a fold: the run that trains the best trial once more, on nearly all that does not test.
    pub const REFIT: Self = Self(u32::MAX);

    /// Not a fold: the run that trains what is exported to bear being quantised.
    pub const AWARE: Self = Self(u32::MAX - Self::PRUNING_STEPS_MAX - 1);

    /// Steps of pruning at most, which is far more than help.
    pub const PRUNING_STEPS_MAX: u32 = 64;

    /// Not a fold: the run that trains what this step of pruning, from 1, has left of the best trial.
    pub const fn pruned(step: u32) -> Self {
        Self(u32::MAX - step)
    }

    /// The step of pruning, from 1, if it is one.
    pub fn pruning_step(self) -> Option<u32> {
        Some(u32::MAX - self.0).filter(|step| (1..=Self::PRUNING_STEPS_MAX).contains(step))
    }

    /// Whether it is a fold of the data.
    pub fn is_fold(self) -> bool {
        self != Self::REFIT && self != Self::AWARE && self.pruning_step().is_none()
    }
}

impl fmt::Display for FoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pruning_step() {
            Some(step) => write!(f, "pruned-{step}"),
            None if *self == Self::REFIT => f.write_str("refit"),
            None if *self == Self::AWARE => f.write_str("aware"),
            None => self.0.fmt(f),
        }
    }
}

/// One run: a trial of a sweep trained with one validation fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    /// The sweep.
    pub sweep: SweepId,
    /// The trial in that sweep.
    pub trial: TrialId,
    /// The fold that validates.
    pub fold: FoldId,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.sweep, self.trial, self.fold)
    }
}

/// Name of a blob: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId([u8; 32]);

/// Text that is not a blob's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a blob is named by 64 hexadecimal digits, got {0:?}")]
pub struct BlobIdError(String);

impl BlobId {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The name as 32 bytes, as the protocol carries it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for BlobId {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl From<[u8; 32]> for BlobId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

impl FromStr for BlobId {
    type Err = BlobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| BlobIdError(text.to_owned()))
    }
}

impl Serialize for BlobId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_fold_has_a_number_of_its_own() {
        let steps = (1..=FoldId::PRUNING_STEPS_MAX).map(FoldId::pruned);
        let others: Vec<FoldId> = steps.chain([FoldId::REFIT, FoldId::AWARE]).collect();
        assert!(others.iter().all(|fold| !fold.is_fold()) && FoldId(5).is_fold());
        assert!(others.iter().enumerate().all(|(at, fold)| !others[..at].contains(fold)));
        assert_eq!(FoldId::AWARE.pruning_step(), None);
        assert_eq!(FoldId::AWARE.to_string(), "aware");
    }

    #[test]
    fn blob_names_round_trip_as_text() {
        let id = BlobId::of(b"clip");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<BlobId>().is_err());
    }
}
