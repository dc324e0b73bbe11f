//! Values that begin on a cache line: a wide load that straddles two lines takes twice as long.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Zeros until written, kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Buffer<T = f32> {
    values: Vec<T>,
    /// Values before the first that counts.
    offset: usize,
    length: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Of so many zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        let values = vec![T::default(); length + LINE / size_of::<T>()];
        let offset = values.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Self { values, offset, length }
    }

    /// At least so many values; zeros if it had fewer.
    pub(crate) fn reserve(&mut self, length: usize) {
        if self.length < length {
            *self = Self::zeros(length);
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.values.get(self.offset..self.offset + self.length).unwrap_or_default()
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.values.get_mut(self.offset..self.offset + self.length).unwrap_or_default()
    }
}
