//! Calibration by the float file itself, in tract: how ranges are read from what it gives is [`earshot_common::int8::calibration`]'s.

use earshot_common::int8::{Range, calibration::Activations};

use super::{
    error::ExportError,
    features::Features,
    graph,
    network::{Network, Step},
    session::Session,
};

/// Runs the float model twice over these rows, for the extremes of what leaves the standardisation and every step that has a scale of
/// its own, and for the histograms between them.
///
/// # Errors
/// tract refuses the float model, or fails in it.
pub(super) fn collect(
    model: &[u8],
    network: &Network,
    activations: u64,
    features: &Features,
    rows: &[u32],
) -> Result<Activations, ExportError> {
    let values: Vec<String> = std::iter::once(graph::STANDARDISED.to_owned())
        .chain(network.steps.iter().filter(|step| step.has_scale()).map(Step::value))
        .collect();
    // Every activation of a batch is held at once here.
    let held = activations * values.len() as u64;
    let session = Session::load(super::FLOAT_FILE, model, held, &values)?;
    let extremes = session
        .map(features, rows, |outputs| outputs.iter().map(|values| Range::of(values)).collect::<Vec<_>>())?;
    let extremes = extremes.into_iter().fold(vec![Range::default(); values.len()], |all, batch| {
        all.into_iter().zip(batch).map(|(range, more)| range.union(more)).collect()
    });
    let empty = Activations::within(extremes);
    let seen = session.map(features, rows, |outputs| {
        let mut seen = empty.clone();
        for (number, values) in outputs.iter().enumerate() {
            seen.add(number, values);
        }
        seen
    })?;
    Ok(seen.iter().fold(empty, Activations::merged))
}
