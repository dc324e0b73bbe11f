//! The models in ONNX Runtime, as devices run them: what they say, and how long it takes on one thread.

use earshot_common::metrics::Confusion;
use serde::Serialize;

use super::{error::ExportError, features::Features, score::Scores, verify};
use crate::bundle::{Kind, Latency, Runtime};

/// Runs that are not measured, and those that are, of each model in turn, so that whatever else the machine does slows all alike.
const WARM_UP_RUNS: usize = 10;
const RUNS: usize = 100;

/// Part of the clips for which both runtimes must predict the same in int8; the float logits are held to the worker's. Sums on the
/// edge between two int8 values fall to either side, and clips that are undecided follow them.
const TOP1_AGREEMENT_MIN: f64 = 0.9;

/// Times one run of a model, in nanoseconds: the one thing of an export that differs from time to time.
pub type Timer<'a> = &'a dyn Fn(Kind, &mut dyn FnMut()) -> u64;

/// One model in ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Deployed {
    /// On the part that is reported: the test part where there is one.
    pub scores: Scores,
    /// Part of the validation and test clips for which tract gives the same class.
    pub top1_agreement: f64,
    /// One clip at a time, on one thread.
    pub latency: Latency,
}

/// One model's bytes, and tract's logits of the validation and of the test part.
pub(super) struct Candidate<'a> {
    pub(super) kind: Kind,
    pub(super) bytes: &'a [u8],
    pub(super) validation: &'a [f32],
    pub(super) test: &'a [f32],
}

/// Runs all of the models over both parts, then each in turn against the clock.
///
/// # Errors
/// ONNX Runtime is not there, refuses a model, or disagrees with tract.
pub(super) fn deploy<const N: usize>(
    models: &[Candidate<'_>; N],
    features: &Features,
    [validation, test]: [&[u32]; 2],
    classes: usize,
    timer: Timer<'_>,
) -> Result<[Deployed; N], ExportError> {
    let mut runtimes = Vec::with_capacity(N);
    let mut found = Vec::with_capacity(N);
    for model in models {
        let mut runtime = Runtime::load(model.kind.file(), model.bytes, features.shape())?;
        let mut logits = [Vec::new(), Vec::new()];
        for (logits, rows) in logits.iter_mut().zip([validation, test]) {
            for &row in rows {
                logits.extend(runtime.logits(features.row(row))?);
            }
        }
        let [on_validation, on_test] = &logits;
        let file = model.kind.file();
        if model.kind == Kind::Float {
            let reference = "tract's run of the same file";
            verify::float_logits(file, reference, on_validation, model.validation, classes, validation)?;
            verify::float_logits(file, reference, on_test, model.test, classes, test)?;
        }
        let both = [on_validation.as_slice(), on_test.as_slice()].concat();
        let top1_agreement = verify::top1_agreement(classes, &[model.validation, model.test].concat(), &both);
        if top1_agreement < TOP1_AGREEMENT_MIN {
            return Err(ExportError::Runtimes { model: file, agreement: top1_agreement });
        }
        let (logits, rows) = if test.is_empty() { (on_validation, validation) } else { (on_test, test) };
        let scores = Scores::of(&Confusion::from_logits(classes, logits, &features.labels_of(rows)));
        found.push((scores, top1_agreement));
        runtimes.push((model.kind, runtime));
    }
    let clip = validation.first().map_or(&[][..], |&row| features.row(row));
    let times = time(&mut runtimes, clip, timer)?;
    let deployed = found.into_iter().zip(times).filter_map(|((scores, top1_agreement), times)| {
        Some(Deployed { scores, top1_agreement, latency: Latency::of(times)? })
    });
    <[Deployed; N]>::try_from(deployed.collect::<Vec<_>>())
        .map_err(|_| ExportError::Features { what: "no model was timed".to_owned() })
}

/// Times of every model, in their order.
fn time(
    runtimes: &mut [(Kind, Runtime)],
    clip: &[f32],
    timer: Timer<'_>,
) -> Result<Vec<Vec<u64>>, ExportError> {
    let mut times = vec![Vec::with_capacity(RUNS); runtimes.len()];
    for round in 0..WARM_UP_RUNS + RUNS {
        for ((kind, runtime), times) in runtimes.iter_mut().zip(&mut times) {
            let mut result = Ok(Vec::new());
            let ns = timer(*kind, &mut || result = runtime.logits(clip));
            result?;
            if round >= WARM_UP_RUNS {
                times.push(ns);
            }
        }
    }
    Ok(times)
}
