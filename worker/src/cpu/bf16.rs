//! Convolutions whose factors are rounded to bfloat16, two products at a time summed in 32 bits, where the processor has an
//! instruction for that (AVX512-BF16).
//!
//! Weights, maps and gradients stay what they are, in 32 bits; copies are rounded when they are about to be multiplied, to the
//! nearest, ties to even. Only training steps do so, and there only convolutions of sixteen channels and more: the validation
//! part, which chooses, is scored in 32 bits, like the exported model. A pair is what one instruction multiplies and adds, so it holds
//! either two channels of a pixel, for sums over channels, or a channel of two neighbouring pixels, for sums over pixels.

use pulp::{Arch, NullaryFnOnce};

use super::{
    buffer::Buffer,
    lanes::{Kernel, Lanes, Multiply, Pixel, Portable, WIDTH, run},
    shape::Shape,
};

/// Two bfloat16.
pub(crate) type Pair = [u16; 2];

/// Pairs of a pixel's sixteen channels.
pub(crate) const PAIRS: usize = WIDTH / 2;

/// How finely factors are told apart in training.
#[derive(Debug, Default, Clone, Copy)]
pub enum Precision {
    /// As 32-bit floats.
    #[default]
    F32,
    /// As bfloat16, where that is faster.
    Bf16(Bf16),
}

/// Proof that this processor multiplies bfloat16.
#[derive(Debug, Clone, Copy)]
pub struct Bf16(Instructions);

#[derive(Debug, Clone, Copy)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512(native::Avx512),
    /// Ordinary ones, for tests on any processor.
    #[cfg_attr(not(test), expect(dead_code, reason = "slower than 32 bits"))]
    Portable,
}

impl Bf16 {
    /// Asks the processor.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return native::Avx512::new().map(|lanes| Self(Instructions::Avx512(lanes)));
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// What the instruction does, in plain arithmetic.
    #[cfg(test)]
    pub(crate) const PORTABLE: Self = Self(Instructions::Portable);

    /// Runs a kernel of pairs.
    pub(crate) fn dispatch<K: Kernel<Pair>>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(lanes) => lanes.run(kernel),
            Instructions::Portable => kernel.run(Portable),
        }
    }
}

impl Multiply<Pair> for Portable {
    type Held = [Pair; WIDTH];

    #[inline(always)]
    fn broadcast(self, factor: Pair) -> [Pair; WIDTH] {
        [factor; WIDTH]
    }

    #[inline(always)]
    fn hold(self, factors: &[Pair; WIDTH]) -> [Pair; WIDTH] {
        *factors
    }

    #[inline(always)]
    fn add_product(self, a: [Pair; WIDTH], b: [Pair; WIDTH], mut sum: Pixel) -> Pixel {
        let wide = |half: u16| f32::from_bits(u32::from(half) << 16);
        for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
            for (a, b) in a.into_iter().zip(b) {
                *sum += wide(a) * wide(b);
            }
        }
        sum
    }
}

/// The instruction itself.
#[cfg(target_arch = "x86_64")]
mod native {
    use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps};

    use pulp::{NullaryFnOnce, cast, f32x16, u32x16, x86::V4};

    use super::{Kernel, Lanes, Multiply, Pair, Pixel, WIDTH};

    pulp::simd_type! {
        /// Beside what [`V4`] has.
        struct Bfloat16 {
            avx512f: "avx512f",
            avx512bw: "avx512bw",
            avx512cd: "avx512cd",
            avx512dq: "avx512dq",
            avx512vl: "avx512vl",
            avx512bf16: "avx512bf16",
        }
    }

    /// AVX-512 with bfloat16.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Avx512 {
        lanes: V4,
        bfloat16: Bfloat16,
    }

    struct Bound<K> {
        lanes: Avx512,
        kernel: K,
    }

    impl<K: Kernel<Pair>> NullaryFnOnce for Bound<K> {
        type Output = K::Output;

        #[inline(always)]
        fn call(self) -> K::Output {
            self.kernel.run(self.lanes)
        }
    }

    impl Avx512 {
        pub(super) fn new() -> Option<Self> {
            Some(Self { lanes: V4::try_new()?, bfloat16: Bfloat16::try_new()? })
        }

        pub(super) fn run<K: Kernel<Pair>>(self, kernel: K) -> K::Output {
            self.bfloat16.vectorize(Bound { lanes: self, kernel })
        }
    }

    /// In 32 bits, as without bfloat16.
    impl Lanes for Avx512 {
        type Value = f32x16;
        const MANY: bool = true;

        #[inline(always)]
        fn splat(self, value: f32) -> f32x16 {
            Lanes::splat(self.lanes, value)
        }

        #[inline(always)]
        fn load(self, values: &Pixel) -> f32x16 {
            Lanes::load(self.lanes, values)
        }

        #[inline(always)]
        fn store(self, value: f32x16) -> Pixel {
            Lanes::store(self.lanes, value)
        }

        #[inline(always)]
        fn add(self, a: f32x16, b: f32x16) -> f32x16 {
            Lanes::add(self.lanes, a, b)
        }

        #[inline(always)]
        fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
            Lanes::mul(self.lanes, a, b)
        }

        #[inline(always)]
        fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
            Lanes::mul_add(self.lanes, a, b, c)
        }

        #[inline(always)]
        fn greater(self, a: f32x16, b: f32x16) -> u16 {
            Lanes::greater(self.lanes, a, b)
        }

        #[inline(always)]
        fn at_least(self, a: f32x16, b: f32x16) -> u16 {
            Lanes::at_least(self.lanes, a, b)
        }

        #[inline(always)]
        fn select(self, bits: u16, a: f32x16, b: f32x16) -> f32x16 {
            Lanes::select(self.lanes, bits, a, b)
        }
    }

    impl Multiply<Pair> for Avx512 {
        type Held = u32x16;

        #[inline(always)]
        fn broadcast(self, factor: Pair) -> u32x16 {
            self.lanes.splat_u32x16(cast(factor))
        }

        #[inline(always)]
        fn hold(self, factors: &[Pair; WIDTH]) -> u32x16 {
            cast(*factors)
        }

        #[inline(always)]
        fn add_product(self, a: u32x16, b: u32x16, sum: f32x16) -> f32x16 {
            // SAFETY: there is an `Avx512` only where the processor has the instruction; the three types are 64 bytes that may
            // be anything.
            #[expect(unsafe_code, reason = "no crate wraps this instruction yet")]
            unsafe {
                use std::mem::transmute;
                let (a, b) = (transmute::<u32x16, __m512bh>(a), transmute::<u32x16, __m512bh>(b));
                transmute(_mm512_dpbf16_ps(transmute::<f32x16, std::arch::x86_64::__m512>(sum), a, b))
            }
        }
    }
}

/// One layer's operands in bfloat16, kept from step to step.
#[derive(Debug)]
pub(crate) struct Operands {
    pub(crate) bf16: Bf16,
    /// Weights, by channel.
    pub(crate) weights: Buffer<Pair>,
    /// One clip's maps, by channel.
    pub(crate) maps: Buffer<Pair>,
    /// Likewise, the gradients of what they were convolved to.
    pub(crate) delta: Buffer<Pair>,
    /// One clip's maps and the gradients of what they were convolved to, by pixel.
    pub(crate) pixels: [Buffer<Pair>; 2],
}

impl Operands {
    pub(crate) fn new(bf16: Bf16) -> Self {
        let (weights, maps, delta) = Default::default();
        Self { bf16, weights, maps, delta, pixels: Default::default() }
    }

    /// Rounds weights, in the order of [`super::convolve`].
    pub(crate) fn load_weights(&mut self, arch: Arch, weights: &[f32]) {
        self.weights.reserve(weights.len() / 2);
        run(arch, ByFilter { values: weights, pairs: &mut self.weights });
    }

    /// Rounds one clip's maps, for sums over channels.
    pub(crate) fn load_maps(&mut self, arch: Arch, maps: &[f32]) {
        self.maps.reserve(maps.len() / 2);
        run(arch, ByChannel { values: maps, pairs: &mut self.maps });
    }

    /// Rounds one clip's gradients, likewise.
    pub(crate) fn load_delta(&mut self, arch: Arch, delta: &[f32]) {
        self.delta.reserve(delta.len() / 2);
        run(arch, ByChannel { values: delta, pairs: &mut self.delta });
    }

    /// Rounds one clip's maps and its gradients, for sums over pixels.
    pub(crate) fn load_pixels(&mut self, arch: Arch, clips: [(&[f32], Shape); 2]) {
        for (pairs, (values, shape)) in self.pixels.iter_mut().zip(clips) {
            pairs.reserve(values.len());
            run(arch, ByPixel { values, line: shape.line(), pairs });
        }
    }

    /// The shape of maps by channel.
    pub(crate) fn by_channel(shape: Shape) -> Shape {
        Shape { width: PAIRS, ..shape }
    }
}

/// Pairs of each two channels of a pixel, which lie next to each other.
struct ByChannel<'a> {
    values: &'a [f32],
    pairs: &'a mut [Pair],
}

impl NullaryFnOnce for ByChannel<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (half, value) in self.pairs.as_flattened_mut().iter_mut().zip(self.values) {
            *half = rounded(*value);
        }
    }
}

/// Pairs of each two channels' weights, which lie as far apart as there are filters of a group.
struct ByFilter<'a> {
    values: &'a [f32],
    pairs: &'a mut [Pair],
}

impl NullaryFnOnce for ByFilter<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.values.as_chunks::<WIDTH>().0.as_chunks::<2>().0;
        for ([first, second], pairs) in channels.iter().zip(self.pairs.as_chunks_mut::<WIDTH>().0) {
            for ((first, second), pair) in first.iter().zip(second).zip(pairs) {
                *pair = [rounded(*first), rounded(*second)];
            }
        }
    }
}

/// Pairs of each pixel and the next of its line, which after the last is zero.
struct ByPixel<'a> {
    values: &'a [f32],
    line: usize,
    pairs: &'a mut [Pair],
}

impl NullaryFnOnce for ByPixel<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (line, pairs) in self.values.chunks_exact(self.line).zip(self.pairs.chunks_exact_mut(self.line)) {
            let next = line.get(WIDTH..).unwrap_or_default();
            for ((value, next), pair) in line.iter().zip(next).zip(&mut *pairs) {
                *pair = [rounded(*value), rounded(*next)];
            }
            let last = line.len().saturating_sub(WIDTH);
            for (value, pair) in line.iter().zip(pairs).skip(last) {
                *pair = [rounded(*value), 0];
            }
        }
    }
}

/// The nearest bfloat16; what is not a number stays so.
#[inline(always)]
fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let quiet = bits | 0x0040_0000;
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    ((if value.is_nan() { quiet } else { nearest }) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_rounded_to_the_nearest_and_ties_to_even() {
        let wide = |value| f32::from_bits(u32::from(rounded(value)) << 16);
        let check = |value: f32, expected: f32| {
            let found = wide(value);
            assert_eq!(found.to_bits(), expected.to_bits(), "{value} became {found}");
        };
        check(1.0, 1.0);
        check(1.0 + 1.0 / 256.0, 1.0);
        check(1.0 + 1.1 / 256.0, 1.0 + 1.0 / 128.0);
        check(1.0 + 3.0 / 256.0, 1.0 + 1.0 / 64.0);
        check(-0.0, -0.0);
        check(f32::MAX, f32::INFINITY);
        check(f32::NEG_INFINITY, f32::NEG_INFINITY);
        assert!(wide(f32::NAN).is_nan() && wide(f32::from_bits(0x7fff_ffff)).is_nan());
    }
}
