//! Maps to features, and back.

use earshot_common::model::Reduction;

use super::{
    lanes::{Pixel, WIDTH},
    shape::Shape,
};

/// Floats of one clip's features, with those of channels that only fill up.
pub(crate) fn floats(reduction: Reduction, maps: Shape) -> usize {
    match reduction {
        Reduction::Flatten => maps.features(),
        Reduction::Mean => maps.groups * WIDTH,
        Reduction::MeanMax => 2 * maps.groups * WIDTH,
    }
}

/// Features of clips' maps, which have no padding.
pub(crate) fn forward(reduction: Reduction, maps: &[f32], shape: Shape, features: &mut [f32]) {
    let floats = floats(reduction, shape);
    for (maps, features) in maps.chunks_exact(shape.clip()).zip(features.chunks_exact_mut(floats)) {
        match reduction {
            Reduction::Flatten => features.copy_from_slice(maps),
            Reduction::Mean => mean(maps, shape, features),
            Reduction::MeanMax => {
                let (means, largest) = features.split_at_mut(floats / 2);
                mean(maps, shape, means);
                for (to, map) in largest.chunks_exact_mut(WIDTH).zip(maps.chunks_exact(shape.plane())) {
                    to.copy_from_slice(&max(map));
                }
            }
        }
    }
}

fn mean(maps: &[f32], shape: Shape, means: &mut [f32]) {
    let part = 1.0 / (shape.rows * shape.columns) as f32;
    for (to, map) in means.chunks_exact_mut(WIDTH).zip(maps.chunks_exact(shape.plane())) {
        let mut sums = [0.0; WIDTH];
        for pixel in map.as_chunks::<WIDTH>().0 {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += value;
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = sum * part;
        }
    }
}

/// The largest value of each channel; what is not a number is larger than any.
fn max(map: &[f32]) -> Pixel {
    let mut largest = [f32::NEG_INFINITY; WIDTH];
    for pixel in map.as_chunks::<WIDTH>().0 {
        for (largest, &value) in largest.iter_mut().zip(pixel) {
            *largest = if value <= *largest { *largest } else { value };
        }
    }
    largest
}

/// Gradients of maps from those of features; where several pixels are the largest, each has its part, as in `torch.amax`.
pub(crate) fn backward(
    reduction: Reduction,
    maps: &[f32],
    shape: Shape,
    features: &[f32],
    gradients: &mut [f32],
) {
    let floats = floats(reduction, shape);
    let part = 1.0 / (shape.rows * shape.columns) as f32;
    let clips = maps.chunks_exact(shape.clip()).zip(gradients.chunks_exact_mut(shape.clip()));
    for ((maps, gradients), features) in clips.zip(features.chunks_exact(floats)) {
        if reduction == Reduction::Flatten {
            gradients.copy_from_slice(features);
            continue;
        }
        let (means, peaks) = features.split_at(shape.groups * WIDTH);
        let groups = maps.chunks_exact(shape.plane()).zip(gradients.chunks_exact_mut(shape.plane()));
        for (group, ((map, gradient), means)) in groups.zip(means.chunks_exact(WIDTH)).enumerate() {
            for pixel in gradient.chunks_exact_mut(WIDTH) {
                for (to, mean) in pixel.iter_mut().zip(means) {
                    *to = mean * part;
                }
            }
            if let Some(peaks) = peaks.chunks_exact(WIDTH).nth(group) {
                add_peaks(map, peaks, gradient);
            }
        }
    }
}

#[expect(clippy::float_cmp, reason = "the largest is one of them, bit for bit")]
fn add_peaks(map: &[f32], peaks: &[f32], gradient: &mut [f32]) {
    let largest = max(map);
    let mut counts = [0.0_f32; WIDTH];
    for pixel in map.as_chunks::<WIDTH>().0 {
        for ((count, value), largest) in counts.iter_mut().zip(pixel).zip(&largest) {
            *count += f32::from(u8::from(value == largest));
        }
    }
    for (pixel, to) in map.as_chunks::<WIDTH>().0.iter().zip(gradient.as_chunks_mut::<WIDTH>().0) {
        let channels = pixel.iter().zip(&largest).zip(peaks.iter().zip(&counts));
        for (((value, largest), (peak, count)), to) in channels.zip(to) {
            *to += if value == largest { peak / count } else { 0.0 };
        }
    }
}
