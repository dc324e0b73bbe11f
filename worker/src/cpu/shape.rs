//! How maps lie in memory: sixteen channels of a pixel next to each other, then the pixels of a line, the lines, the groups of
//! sixteen channels, the clips. Lines and columns of zeros around each map stand for a convolution's padding.
//!
//! Channels that fill up the last group are zeros everywhere, weights included, and stay so.

use super::lanes::WIDTH;

/// The extents of one clip's maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Groups of channels.
    pub(crate) groups: usize,
    /// Channels of a group: [`WIDTH`], or 1 for the input.
    pub(crate) width: usize,
    /// Lines, without padding.
    pub(crate) rows: usize,
    /// Pixels of a line, without padding.
    pub(crate) columns: usize,
    /// Zeros on every side.
    pub(crate) pad: usize,
}

impl Shape {
    /// Maps of so many channels.
    pub(crate) fn of_channels(channels: usize, rows: usize, columns: usize, pad: usize) -> Self {
        Self { groups: channels.div_ceil(WIDTH), width: WIDTH, rows, columns, pad }
    }

    /// Floats of one line with its padding.
    pub(crate) fn line(&self) -> usize {
        (self.columns + 2 * self.pad) * self.width
    }

    /// Floats of one group with its padding.
    pub(crate) fn plane(&self) -> usize {
        (self.rows + 2 * self.pad) * self.line()
    }

    /// Floats of one clip.
    pub(crate) fn clip(&self) -> usize {
        self.groups * self.plane()
    }

    /// Floats of one clip without padding.
    pub(crate) fn features(&self) -> usize {
        self.groups * self.rows * self.columns * self.width
    }

    /// Where a line's first pixel is within its clip.
    pub(crate) fn start(&self, group: usize, row: usize) -> usize {
        group * self.plane() + (row + self.pad) * self.line() + self.pad * self.width
    }

    /// The pixels of one line of one clip, without padding.
    pub(crate) fn row<'a, T>(&self, clip: &'a [T], group: usize, row: usize) -> &'a [T] {
        let start = self.start(group, row);
        clip.get(start..start + self.columns * self.width).unwrap_or_default()
    }

    /// As [`Self::row`], to be written.
    pub(crate) fn row_mut<'a, T>(&self, clip: &'a mut [T], group: usize, row: usize) -> &'a mut [T] {
        let start = self.start(group, row);
        clip.get_mut(start..start + self.columns * self.width).unwrap_or_default()
    }

    /// The same maps with other padding.
    pub(crate) fn padded(self, pad: usize) -> Self {
        Self { pad, ..self }
    }
}
