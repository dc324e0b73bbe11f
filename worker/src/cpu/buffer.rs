//! Floats that begin on a cache line: a wide load that straddles two lines takes twice as long.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Zeros until written, kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    /// Floats before the first that counts.
    offset: usize,
    length: usize,
}

impl Buffer {
    /// Of so many zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        let values = vec![0.0_f32; length + LINE / size_of::<f32>()];
        let offset = values.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        Self { values, offset, length }
    }

    /// At least so many floats; zeros if it had fewer.
    pub(crate) fn reserve(&mut self, length: usize) {
        if self.length < length {
            *self = Self::zeros(length);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.values.get(self.offset..self.offset + self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.values.get_mut(self.offset..self.offset + self.length).unwrap_or_default()
    }
}
