//! How a model is quantised: in the way that scores best on the validation part. Test clips have no say.

use earshot_common::int8::{
    Range,
    calibration::{Activations, Fit, Method},
};
use earshot_proto::onnx::ModelProto;
use prost::Message;
use serde::Serialize;

use super::{
    error::ExportError,
    features::Features,
    network::Network,
    onnx::Metadata,
    qdq,
    quantise::{Profile, Quantised},
    session::Session,
};

/// A way to quantise, and what came of it on the validation part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Attempt {
    /// See [`Way::name`].
    pub(super) method: &'static str,
    /// Part of the clips predicted right.
    pub(super) accuracy: f64,
    /// Part of the clips for which the float model predicts the same.
    pub(super) top1_agreement: f64,
    /// Root of the mean squared difference from the float model's logits.
    pub(super) logit_error: f64,
    /// Whether it is the one that was taken.
    pub(super) chosen: bool,
}

/// A way to quantise: a calibration, or ranges that a network was trained to bear.
#[derive(Clone)]
pub(super) struct Way<'a> {
    /// As reports call it.
    pub(super) name: &'static str,
    /// What is quantised.
    pub(super) network: &'a Network,
    /// Of its input and of every step that has a scale.
    pub(super) ranges: Vec<Range>,
    /// What a worker's network, rounding so, made of the validation rows; none where no worker has looked.
    pub(super) recorded: Option<&'a [f32]>,
    /// Whether the network was trained to bear it.
    pub(super) is_aware: bool,
    /// What the file says of it.
    pub(super) metadata: Metadata,
}

/// A quantised network as it will be written.
pub(super) struct Choice<'a> {
    /// How it came about.
    pub(super) way: Way<'a>,
    pub(super) quantised: Quantised,
    pub(super) model: ModelProto,
    /// All that were tried, in the order of the ways.
    pub(super) attempts: Vec<Attempt>,
}

/// What the attempts are measured by.
pub(super) struct Trial<'a> {
    /// Logits of a row.
    pub(super) classes: usize,
    /// As in [`Session::load`].
    pub(super) activations: u64,
    pub(super) features: &'a Features,
    /// The validation part.
    pub(super) rows: &'a [u32],
    /// The float model's logits of these rows.
    pub(super) float: &'a [f32],
}

/// Every calibration of a network.
pub(super) fn calibrations<'a>(network: &'a Network, seen: &Activations, clips: usize) -> Vec<Way<'a>> {
    let way = |method: Method| Way {
        name: method.name(),
        network,
        ranges: seen.ranges(method),
        recorded: None,
        is_aware: false,
        metadata: vec![("earshot.calibration", format!("{} on {clips} training clips", method.name()))],
    };
    Method::ALL.into_iter().map(way).collect()
}

impl Trial<'_> {
    /// Quantises in every way and takes the one with the highest accuracy; of equals the one that agrees with the float model most
    /// often, of those the one whose logits are nearest to its.
    ///
    /// # Errors
    /// tract fails.
    pub(super) fn choose<'a>(
        &self,
        profile: Profile,
        ways: &[Way<'a>],
        metadata: &Metadata,
    ) -> Result<Choice<'a>, ExportError> {
        let mut best: Option<(usize, Choice<'a>)> = None;
        let mut attempts: Vec<Attempt> = Vec::new();
        for (index, way) in ways.iter().enumerate() {
            let quantised = Quantised::new(way.network, &way.ranges, profile);
            let mut metadata = metadata.clone();
            metadata.push(("earshot.profile", profile.kind().profile().to_owned()));
            metadata.extend(way.metadata.iter().cloned());
            let model = qdq::int8(way.network, &quantised, &metadata);
            let attempt = self.attempt(profile, way.name, &model)?;
            if best
                .as_ref()
                .is_none_or(|(best, _)| attempts.get(*best).is_none_or(|best| attempt.beats(best)))
            {
                best = Some((index, Choice { way: way.clone(), quantised, model, attempts: Vec::new() }));
            }
            attempts.push(attempt);
        }
        let (index, choice) =
            best.ok_or_else(|| ExportError::Features { what: "nothing to try".to_owned() })?;
        if let Some(attempt) = attempts.get_mut(index) {
            attempt.chosen = true;
        }
        Ok(Choice { attempts, ..choice })
    }

    fn attempt(
        &self,
        profile: Profile,
        method: &'static str,
        model: &ModelProto,
    ) -> Result<Attempt, ExportError> {
        let session = Session::load(profile.kind().file(), &model.encode_to_vec(), self.activations, &[])?;
        let logits = session.logits(self.features, self.rows)?;
        let fit = Fit::new(self.classes, &logits, self.float, &self.features.labels_of(self.rows));
        let Fit { accuracy, top1_agreement, logit_error } = fit;
        Ok(Attempt { method, accuracy, top1_agreement, logit_error, chosen: false })
    }
}

impl Attempt {
    /// As [`Fit::beats`].
    fn beats(&self, other: &Self) -> bool {
        let fit = |&Self { accuracy, top1_agreement, logit_error, .. }: &Self| Fit {
            accuracy,
            top1_agreement,
            logit_error,
        };
        fit(self).beats(&fit(other))
    }
}
