//! Between a checkpoint's order of weights and the order of [`super`].

use earshot_common::model::{Conv2d, Reduction};

use super::{lanes::WIDTH, shape::Shape};

/// Of one convolution's weights: where each of a checkpoint's lies here, in the checkpoint's order.
pub(crate) fn convolution(conv: &Conv2d, input_width: usize) -> Vec<usize> {
    let Conv2d { input: [channels, ..], filters, kernel_size, groups, .. } = *conv;
    let taps = (kernel_size * kernel_size) as usize;
    let (filters, channels) = (filters as usize, (channels / groups.max(1)) as usize);
    let channel_groups = if input_width == 1 { 1 } else { channels.div_ceil(WIDTH) };
    let mut places = Vec::with_capacity(filters * channels * taps);
    for filter in 0..filters {
        for channel in 0..channels {
            for tap in 0..taps {
                places.push(if groups > 1 {
                    (filter / WIDTH * taps + tap) * WIDTH + filter % WIDTH
                } else {
                    let group = filter / WIDTH * channel_groups + channel / WIDTH;
                    ((group * taps + tap) * input_width + channel % WIDTH) * WIDTH + filter % WIDTH
                });
            }
        }
    }
    places
}

/// Floats of a convolution's weights here.
pub(crate) fn convolution_floats(conv: &Conv2d, input_width: usize) -> usize {
    let Conv2d { input: [channels, ..], filters, kernel_size, groups, .. } = *conv;
    let taps = (kernel_size * kernel_size) as usize;
    let filter_groups = (filters as usize).div_ceil(WIDTH);
    let channel_floats = match (groups, input_width) {
        (2.., _) | (_, 1) => 1,
        _ => (channels as usize).next_multiple_of(WIDTH),
    };
    filter_groups * taps * channel_floats * WIDTH
}

/// Of the features that maps of this shape and so many channels become: where each of a checkpoint's lies here.
pub(crate) fn features(reduction: Reduction, maps: Shape, channels: usize) -> Vec<usize> {
    let pixels = maps.rows * maps.columns;
    match reduction {
        Reduction::Flatten => (0..channels * pixels)
            .map(|feature| {
                let (channel, pixel) = (feature / pixels, feature % pixels);
                (channel / WIDTH * pixels + pixel) * WIDTH + channel % WIDTH
            })
            .collect(),
        Reduction::Mean => (0..channels).collect(),
        Reduction::MeanMax => (0..channels).chain((0..channels).map(|c| maps.groups * WIDTH + c)).collect(),
    }
}

/// Of a fully connected layer's weights `(outputs, features)`: where each lies here, where a panel has so many inputs.
pub(crate) fn linear(outputs: usize, features: &[usize], panel: usize) -> Vec<usize> {
    let place = |output, feature| (feature / panel * outputs + output) * panel + feature % panel;
    (0..outputs).flat_map(|output| features.iter().map(move |&feature| place(output, feature))).collect()
}

/// A checkpoint's values, put where they lie here; zeros between them.
pub(crate) fn pack(values: &[f32], places: &[usize], floats: usize) -> Vec<f32> {
    let mut packed = vec![0.0; floats];
    for (&value, &place) in values.iter().zip(places) {
        if let Some(to) = packed.get_mut(place) {
            *to = value;
        }
    }
    packed
}

/// Back again.
pub(crate) fn unpack(packed: &[f32], places: &[usize]) -> Vec<f32> {
    places.iter().map(|&place| packed.get(place).copied().unwrap_or_default()).collect()
}

/// Ordinary weights turned round, for the way back to the input: `(channel groups, filter groups, …)`, the kernel upside down,
/// filters where channels were.
pub(crate) fn turn(weights: &[f32], kernel: usize, [filters, channels]: [usize; 2], turned: &mut [f32]) {
    let taps = kernel * kernel;
    for_each_block(weights, taps, channels, |filter, channel, tap, block| {
        let at = ((channel * filters + filter) * taps + taps - 1 - tap) * WIDTH * WIDTH;
        let to = turned.get_mut(at..at + WIDTH * WIDTH).unwrap_or_default();
        for (c, line) in block.chunks_exact(WIDTH).enumerate() {
            for (to, value) in to.iter_mut().skip(c).step_by(WIDTH).zip(line) {
                *to = *value;
            }
        }
    });
}

/// Depthwise weights turned round: the kernel upside down.
pub(crate) fn turn_depthwise(weights: &[f32], kernel: usize, turned: &mut [f32]) {
    let group = kernel * kernel * WIDTH;
    for (turned, weights) in turned.chunks_exact_mut(group).zip(weights.chunks_exact(group)) {
        for (to, from) in turned.chunks_exact_mut(WIDTH).zip(weights.chunks_exact(WIDTH).rev()) {
            to.copy_from_slice(from);
        }
    }
}

/// Ordinary weights by filter: `(filters, channel groups, kernel rows, kernel columns, channels of a group)`.
pub(crate) fn by_filter(weights: &[f32], kernel: usize, channels: usize, sorted: &mut [f32]) {
    let taps = kernel * kernel;
    for_each_block(weights, taps, channels, |filter, channel, tap, block| {
        for (c, line) in block.chunks_exact(WIDTH).enumerate() {
            for (f, &value) in line.iter().enumerate() {
                let at = (((filter * WIDTH + f) * channels + channel) * taps + tap) * WIDTH + c;
                if let Some(to) = sorted.get_mut(at) {
                    *to = value;
                }
            }
        }
    });
}

/// Back from [`by_filter`].
pub(crate) fn from_by_filter(sorted: &[f32], kernel: usize, channels: usize, weights: &mut [f32]) {
    let taps = kernel * kernel;
    for (index, value) in sorted.iter().enumerate() {
        let (c, rest) = (index % WIDTH, index / WIDTH);
        let (tap, rest) = (rest % taps, rest / taps);
        let (channel, filter) = (rest % channels, rest / channels);
        let block = (filter / WIDTH * channels + channel) * taps + tap;
        if let Some(to) = weights.get_mut((block * WIDTH + c) * WIDTH + filter % WIDTH) {
            *to = *value;
        }
    }
}

/// Each sixteen channels by sixteen filters of each weight of the kernel.
fn for_each_block(
    weights: &[f32],
    taps: usize,
    channels: usize,
    mut each: impl FnMut(usize, usize, usize, &[f32]),
) {
    for (index, block) in weights.chunks_exact(WIDTH * WIDTH).enumerate() {
        let (tap, pair) = (index % taps, index / taps);
        each(pair / channels, pair % channels, tap, block);
    }
}
