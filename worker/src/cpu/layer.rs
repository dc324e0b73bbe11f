//! One convolution with all that follows it: bias or batch norm, ReLU, pooling. Forwards; [`super::backward`] has the way back.
//!
//! A line that was convolved is pooled while it is in the cache. What was convolved is kept only where the way back needs it:
//! for batch norm, and for ReLU where max pooling's codes do not tell what it let through.

use earshot_common::model::{Conv2d, Pooling};
use pulp::Arch;

use super::{
    adam::Parameter,
    backward::Scratch,
    bf16::{Operands, Precision},
    buffer::Buffer,
    convolve::ConvolveLine,
    depthwise::DepthwiseLine,
    lanes::{Kernel, Lanes, Pixel, WIDTH, dispatch, run},
    norm::{Norm, Sums},
    packing,
    pool::{self, Affine, Codes},
    shape::Shape,
};
use crate::training::optimiser::Numbers;

/// What is added to what was convolved.
#[derive(Debug)]
pub(crate) enum Offset {
    Bias(Parameter),
    Norm(Box<Norm>),
}

/// A convolution and what follows it.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) arch: Arch,
    /// Prefix of its tensors' names.
    pub(crate) name: String,
    pub(crate) is_depthwise: bool,
    pub(crate) kernel: usize,
    /// Of its input, with padding of half the kernel.
    pub(crate) input: Shape,
    /// Of what it convolves to, without padding.
    pub(crate) convolved: Shape,
    pub(crate) pooling: Option<Pooling>,
    pub(crate) weight: Parameter,
    pub(crate) offset: Offset,
    /// Where a checkpoint's weights lie.
    pub(crate) places: Vec<usize>,
    /// Filters, without those that fill up a group.
    pub(crate) filters: usize,
    /// Clips of what was convolved, where it is kept.
    pub(crate) kept: Buffer,
    /// Clips of max pooling's codes.
    pub(crate) codes: Vec<Codes>,
    /// By group, of the last batch.
    pub(crate) affines: Vec<Affine>,
    pub(crate) scratch: Scratch,
    pub(crate) sums: Sums,
    /// For training steps with factors of 16 bits.
    pub(crate) operands: Option<Box<Operands>>,
    /// Instead of a bias, by group.
    zeros: Vec<Pixel>,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Training,
    Evaluation,
}

impl Layer {
    /// From a spec's convolution on maps whose pixels have `width` channels to a group; `tensor` gives a checkpoint's values.
    pub(crate) fn new<E>(
        (arch, precision): (Arch, Precision),
        name: &str,
        conv: &Conv2d,
        width: usize,
        pooling: Option<Pooling>,
        mut tensor: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let [channels, rows, columns] = conv.input.map(|extent| extent as usize);
        let (kernel, filters) = (conv.kernel_size as usize, conv.filters as usize);
        let input = Shape { width, ..Shape::of_channels(channels, rows, columns, kernel / 2) };
        let convolved = Shape::of_channels(filters, rows, columns, 0);
        let places = packing::convolution(conv, width);
        let floats = packing::convolution_floats(conv, width);
        let weight = Parameter::new(&packing::pack(&tensor("weight")?, &places, floats));
        let padded = convolved.groups * WIDTH;
        let mut by_channel = |name: &str| {
            let mut values = tensor(name)?;
            values.resize(padded, 0.0);
            Ok(values)
        };
        let offset = if conv.batch_norm {
            let (weight, bias) = (by_channel("norm.weight")?, by_channel("norm.bias")?);
            let (mean, var) = (by_channel("norm.running_mean")?, by_channel("norm.running_var")?);
            Offset::Norm(Box::new(Norm::new(&weight, &bias, mean, var)))
        } else {
            Offset::Bias(Parameter::new(&by_channel("bias")?))
        };
        let mut scratch = Scratch::default();
        scratch.lines.reserve(convolved.groups * 2 * columns * WIDTH);
        let operands = match precision {
            Precision::Bf16(bf16) if conv.groups == 1 && width == WIDTH => {
                Some(Box::new(Operands::new(bf16)))
            }
            Precision::Bf16(_) | Precision::F32 => None,
        };
        Ok(Self {
            arch,
            name: name.to_owned(),
            is_depthwise: conv.groups > 1,
            kernel,
            input,
            convolved,
            pooling,
            weight,
            offset,
            places,
            filters,
            kept: Buffer::default(),
            codes: Vec::new(),
            affines: vec![Affine::IDENTITY; convolved.groups],
            scratch,
            sums: Sums::default(),
            operands,
            zeros: vec![[0.0; WIDTH]; convolved.groups],
        })
    }

    /// Of what it gives, with as much padding as what follows it wants.
    pub(crate) fn output(&self, pad: usize) -> Shape {
        let by = if self.pooling.is_some() { 2 } else { 1 };
        let Shape { rows, columns, .. } = self.convolved;
        Shape { rows: rows / by, columns: columns / by, pad, ..self.convolved }
    }

    /// Whether codes alone tell the way back.
    pub(crate) fn has_codes_only(&self) -> bool {
        matches!(self.offset, Offset::Bias(_)) && self.pooling == Some(Pooling::Max)
    }

    /// Clips of maps, with padding as the shapes say.
    pub(crate) fn forward(&mut self, input: &[f32], output: &mut [f32], out: Shape, purpose: Purpose) {
        let clips = input.len() / self.input.clip();
        let is_kept = purpose == Purpose::Training && !self.has_codes_only();
        if is_kept {
            self.kept.reserve(clips * self.convolved.clip());
        }
        let pixels = out.groups * out.rows * out.columns;
        self.codes.resize(clips * pixels, Codes::default());
        let learns_statistics = is_kept && matches!(self.offset, Offset::Norm(_));
        match &self.offset {
            Offset::Norm(_) if learns_statistics => self.sums.clear(self.convolved.groups),
            Offset::Norm(norm) => self.affines = norm.evaluation(),
            Offset::Bias(_) => {}
        }
        let mut kept = std::mem::take(&mut self.kept);
        let mut codes = std::mem::take(&mut self.codes);
        let mut lines = std::mem::take(&mut self.scratch.lines);
        let mut operands = self.operands.take();
        let mut rounded = operands.as_mut().filter(|_| purpose == Purpose::Training);
        if let Some(operands) = &mut rounded {
            operands.load_weights(self.arch, &self.weight.values);
        }
        let outputs = output.chunks_exact_mut(out.clip()).zip(codes.chunks_exact_mut(pixels.max(1)));
        for (clip, (input, (output, codes))) in input.chunks_exact(self.input.clip()).zip(outputs).enumerate()
        {
            let start = clip * self.convolved.clip();
            let kept = kept.get_mut(start..start + self.convolved.clip()).unwrap_or_default();
            let [rows, columns] = self.needed(learns_statistics);
            if let Some(operands) = &mut rounded {
                operands.load_maps(self.arch, input);
            }
            let rounded = rounded.as_deref().map(|operands| &**operands);
            for row in 0..rows {
                if is_kept {
                    let at = self.convolved.start(0, row);
                    let to = kept.get_mut(at..).unwrap_or_default();
                    self.convolve(input, rounded, row, columns, to, self.convolved.plane());
                    if learns_statistics {
                        let (shape, sums) = (self.convolved, &mut self.sums);
                        dispatch(self.arch, Statistics { shape, kept, row, sums });
                    } else {
                        let (lines, shape) = (&*kept, self.convolved);
                        dispatch(
                            self.arch,
                            Finish { layer: self, lines, shape, place: row, row, output, out, codes },
                        );
                    }
                } else {
                    let pair = Shape { rows: 2, ..self.convolved };
                    let to = lines.get_mut(pair.start(0, row % 2)..).unwrap_or_default();
                    self.convolve(input, rounded, row, columns, to, pair.plane());
                    let (lines, shape) = (&*lines, pair);
                    dispatch(
                        self.arch,
                        Finish { layer: self, lines, shape, place: row % 2, row, output, out, codes },
                    );
                }
            }
        }
        if learns_statistics {
            let count = clips * self.convolved.rows * self.convolved.columns;
            if let Offset::Norm(norm) = &mut self.offset {
                self.affines = norm.training(&self.sums, count);
            }
            let outputs = output.chunks_exact_mut(out.clip()).zip(codes.chunks_exact_mut(pixels.max(1)));
            for (kept, (output, codes)) in kept.chunks_exact(self.convolved.clip()).zip(outputs) {
                for row in 0..self.convolved.rows {
                    let (lines, shape) = (kept, self.convolved);
                    dispatch(
                        self.arch,
                        Finish { layer: self, lines, shape, place: row, row, output, out, codes },
                    );
                }
            }
        }
        (self.kept, self.codes, self.scratch.lines, self.operands) = (kept, codes, lines, operands);
    }

    /// Rows and columns that must be convolved: pooling drops an odd last one, and only statistics ask for it.
    fn needed(&self, all: bool) -> [usize; 2] {
        let Shape { rows, columns, .. } = self.convolved;
        if all || self.pooling.is_none() { [rows, columns] } else { [rows / 2 * 2, columns / 2 * 2] }
    }

    fn convolve(
        &self,
        input: &[f32],
        rounded: Option<&Operands>,
        row: usize,
        columns: usize,
        output: &mut [f32],
        output_plane: usize,
    ) {
        let bias: &[Pixel] = match &self.offset {
            Offset::Bias(bias) => bias.values.as_chunks().0,
            Offset::Norm(_) => &self.zeros,
        };
        let (shape, kernel) = (self.input, self.kernel);
        if let Some(Operands { bf16, weights, maps: input, .. }) = rounded {
            let shape = Operands::by_channel(shape);
            let line =
                ConvolveLine { input, shape, weights, kernel, bias, row, output, output_plane, columns };
            return bf16.dispatch(line);
        }
        let weights = &self.weight.values;
        let line = ConvolveLine { input, shape, weights, kernel, bias, row, output, output_plane, columns };
        if self.is_depthwise {
            run(self.arch, DepthwiseLine(line));
        } else {
            dispatch(self.arch, line);
        }
    }

    /// One step of its parameters by their gradients, which are then zero.
    pub(crate) fn step(&mut self, numbers: Numbers) {
        self.weight.step(self.arch, numbers);
        match &mut self.offset {
            Offset::Bias(bias) => bias.step(self.arch, numbers),
            Offset::Norm(norm) => norm.step(self.arch, numbers),
        }
    }
}

/// From convolved lines to one of the output: at every line, or with the second of two that are pooled.
struct Finish<'a> {
    layer: &'a Layer,
    lines: &'a [f32],
    shape: Shape,
    /// Where `row` lies in `lines`.
    place: usize,
    row: usize,
    /// One clip.
    output: &'a mut [f32],
    out: Shape,
    codes: &'a mut [Codes],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { layer, lines, shape, place, row, output, out, codes } = self;
        for (group, affine) in layer.affines.iter().enumerate() {
            let line = |row| shape.row(lines, group, row).as_chunks().0;
            match layer.pooling {
                None => pool::activate(
                    lanes,
                    line(place),
                    affine,
                    out.row_mut(output, group, row).as_chunks_mut().0,
                ),
                Some(pooling) if row % 2 == 1 => {
                    let output = out.row_mut(output, group, row / 2).as_chunks_mut().0;
                    let from = (group * out.rows + row / 2) * out.columns;
                    let codes = codes.get_mut(from..from + out.columns).unwrap_or_default();
                    pool::pool(lanes, pooling, [line(place - 1), line(place)], affine, output, codes);
                }
                Some(_) => {}
            }
        }
    }
}

/// Adds one kept line to the sums for batch norm.
struct Statistics<'a> {
    shape: Shape,
    kept: &'a [f32],
    row: usize,
    sums: &'a mut Sums,
}

impl Kernel for Statistics<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for group in 0..self.shape.groups {
            let line = self.shape.row(self.kept, group, self.row).as_chunks().0;
            self.sums.add(lanes, group, line, line);
        }
    }
}
