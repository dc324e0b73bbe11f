//! The memory that a network trains in.

use earshot_common::model::{AudioCnn, Conv2d, Linear, ModelError, Operation};

use super::lanes::WIDTH;

/// Floats for each trained number at the most, as measured: value, gradient and two means to step by, the same in the order of
/// the kernels with where each one goes; value and means as they are kept midway, and encoded; the best epoch's.
const COPIES: u64 = 22;

/// Numbers of each element of a layer's input and output in training: itself and its gradient, and what was convolved.
const NUMBERS: u64 = 3;

/// Clips at a time, whatever the recipe's batch: validation's.
const CLIPS_MIN: u64 = 32;

/// Bytes that a model trains in with batches of so many clips, at most: the network with its optimiser, and what a run keeps
/// of it on the way.
///
/// # Errors
/// The model spec cannot be built.
pub fn footprint(model: &AudioCnn, batch_size: u32) -> Result<u64, ModelError> {
    let elements: u64 = model.layers()?.iter().map(|layer| elements(&layer.operation)).sum();
    let clips = u64::from(batch_size).max(CLIPS_MIN);
    let numbers = model.cost()?.params * COPIES + elements * NUMBERS * clips;
    Ok(numbers * size_of::<f32>() as u64)
}

/// What enters a layer and what leaves it, with the channels that fill up a group.
fn elements(operation: &Operation) -> u64 {
    let full = |channels: u32| u64::from(channels).next_multiple_of(WIDTH as u64);
    match *operation {
        Operation::Conv2d(Conv2d { input: [channels, rows, columns], filters, .. }) => {
            let channels = if channels == 1 { 1 } else { full(channels) };
            (channels + full(filters)) * u64::from(rows) * u64::from(columns)
        }
        Operation::Hidden(Linear { input, output }) | Operation::Logits(Linear { input, output }) => {
            u64::from(input) + u64::from(output)
        }
    }
}
