//! The fixed linear layer before a model on mel bands.

use std::f64::consts::PI;

/// The inverse of the orthonormal DCT-II over `n` points, `(band, coefficient)`, row-major: `n` MFCCs of a frame to `n` mel
/// bands.
///
/// With as many MFCCs as the front end has mel bands this is exactly its mel spectrogram in decibels. With fewer, `n` of
/// `n_mels`, the result is that spectrogram without its finer ripples (the coefficients that were dropped), read at `n` equally spaced
/// places of the mel scale, times `√(n_mels / n)`, which standardisation takes out again. The matrix is orthogonal, so nothing of the
/// MFCCs is lost or weighted.
pub fn inverse_dct(n: usize) -> Vec<f32> {
    let size = n as f64;
    let element = |band: usize, coefficient: usize| {
        let scale = if coefficient == 0 { (1.0 / size).sqrt() } else { (2.0 / size).sqrt() };
        scale * (PI * coefficient as f64 * (2 * band + 1) as f64 / (2.0 * size)).cos()
    };
    (0..n * n).map(|index| element(index / n, index % n) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_is_scipys() {
        // scipy.fft.idct([1, 2, 3, 4], norm="ortho")
        let expected = [4.388_955, -3.071_93, 1.071_93, -0.388_955];
        let matrix = inverse_dct(4);
        for (row, expected) in matrix.chunks_exact(4).zip(expected) {
            let found: f32 = row.iter().zip([1.0, 2.0, 3.0, 4.0]).map(|(a, b)| a * b).sum();
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    #[test]
    fn fewer_coefficients_read_the_same_spectrum_at_fewer_places() {
        // A spectrum made of the first three coefficients only, on 12 bands and on 4: places 4k + 1.5 of 12 are those of 4.
        let coefficients = [3.0, -2.0, 1.0];
        let bands = |n: usize| -> Vec<f32> {
            let matrix = inverse_dct(n);
            let rows = matrix.chunks_exact(n);
            rows.map(|row| row.iter().zip(coefficients).map(|(a, b)| a * b).sum()).collect()
        };
        let (fine, coarse) = (bands(12), bands(4));
        for (k, coarse) in coarse.iter().enumerate() {
            // The middle one of three.
            let fine = fine[3 * k + 1] * f32::sqrt(12.0 / 4.0);
            assert!((fine - coarse).abs() < 1e-5, "{fine} is not {coarse}");
        }
    }
}
