//! Sixteen floats at a time, on whatever registers the processor has.
//!
//! The inner loops of convolutions and linear layers keep dozens of sums in registers, which compilers do not find by
//! themselves; they are written against [`Lanes`]. Everything else is a plain loop over `[f32; 16]`, made wide by being inlined
//! into [`run`].

use pulp::{Arch, NullaryFnOnce};
#[cfg(target_arch = "x86_64")]
use pulp::{
    b16, cast, f32x8, f32x16, m32x8, u32x8,
    x86::{V3, V4},
};

/// Channels of a map that lie next to each other; floats of the widest register.
pub(crate) const WIDTH: usize = 16;

/// The channels of one pixel of one map.
pub(crate) type Pixel = [f32; WIDTH];

/// Arithmetic on sixteen floats.
pub(crate) trait Lanes: Copy {
    /// In registers.
    type Value: Copy;
    /// Whether there are enough registers for twenty-four values and their operands.
    const MANY: bool;

    fn splat(self, value: f32) -> Self::Value;
    fn load(self, values: &Pixel) -> Self::Value;
    fn store(self, value: Self::Value) -> Pixel;
    fn add(self, a: Self::Value, b: Self::Value) -> Self::Value;
    fn mul(self, a: Self::Value, b: Self::Value) -> Self::Value;
    fn mul_add(self, a: Self::Value, b: Self::Value, c: Self::Value) -> Self::Value;
    /// Bit by bit from the lowest: whether `a > b`.
    fn greater(self, a: Self::Value, b: Self::Value) -> u16;
    /// Whether `a >= b`.
    fn at_least(self, a: Self::Value, b: Self::Value) -> u16;
    /// Those of `a` whose bit is set, and those of `b` elsewhere.
    fn select(self, bits: u16, a: Self::Value, b: Self::Value) -> Self::Value;
}

/// Products of factors `F`, added to sixteen floats.
pub(crate) trait Multiply<F>: Lanes {
    /// Sixteen factors in registers.
    type Held: Copy;

    fn broadcast(self, factor: F) -> Self::Held;
    fn hold(self, factors: &[F; WIDTH]) -> Self::Held;
    fn add_product(self, a: Self::Held, b: Self::Held, sum: Self::Value) -> Self::Value;
}

impl<L: Lanes> Multiply<f32> for L {
    type Held = L::Value;

    #[inline(always)]
    fn broadcast(self, factor: f32) -> L::Value {
        self.splat(factor)
    }

    #[inline(always)]
    fn hold(self, factors: &Pixel) -> L::Value {
        self.load(factors)
    }

    #[inline(always)]
    fn add_product(self, a: L::Value, b: L::Value, sum: L::Value) -> L::Value {
        self.mul_add(a, b, sum)
    }
}

/// Something to compute with the widest registers, whose factors are `F`.
pub(crate) trait Kernel<F = f32> {
    type Output;

    /// Must be inlined, or its instructions are narrow.
    fn run<L: Multiply<F>>(self, lanes: L) -> Self::Output;
}

/// Runs a kernel on the widest registers that this processor has.
pub(crate) fn dispatch<K: Kernel>(arch: Arch, kernel: K) -> K::Output {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(lanes) => pulp::Simd::vectorize(lanes, Bound { lanes, kernel }),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(lanes) => pulp::Simd::vectorize(lanes, Bound { lanes, kernel }),
        _ => kernel.run(Portable),
    }
}

/// Runs plain loops on the widest registers that this processor has. Like kernels they must be inlined, so they are a named
/// type's and not a closure.
pub(crate) fn run<W: NullaryFnOnce>(arch: Arch, work: W) -> W::Output {
    arch.dispatch(work)
}

#[cfg(target_arch = "x86_64")]
struct Bound<L, K> {
    lanes: L,
    kernel: K,
}

#[cfg(target_arch = "x86_64")]
impl<L: Lanes, K: Kernel> NullaryFnOnce for Bound<L, K> {
    type Output = K::Output;

    #[inline(always)]
    fn call(self) -> K::Output {
        self.kernel.run(self.lanes)
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for V4 {
    type Value = f32x16;
    const MANY: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> f32x16 {
        self.splat_f32x16(value)
    }

    #[inline(always)]
    fn load(self, values: &Pixel) -> f32x16 {
        cast(*values)
    }

    #[inline(always)]
    fn store(self, value: f32x16) -> Pixel {
        cast(value)
    }

    #[inline(always)]
    fn add(self, a: f32x16, b: f32x16) -> f32x16 {
        self.add_f32x16(a, b)
    }

    #[inline(always)]
    fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
        self.mul_f32x16(a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        self.mul_add_f32x16(a, b, c)
    }

    #[inline(always)]
    fn greater(self, a: f32x16, b: f32x16) -> u16 {
        self.cmp_gt_f32x16(a, b).0
    }

    #[inline(always)]
    fn at_least(self, a: f32x16, b: f32x16) -> u16 {
        self.cmp_ge_f32x16(a, b).0
    }

    #[inline(always)]
    fn select(self, bits: u16, a: f32x16, b: f32x16) -> f32x16 {
        self.select_f32x16(b16(bits), a, b)
    }
}

/// The bit of each of eight lanes.
#[cfg(target_arch = "x86_64")]
const BITS: u32x8 = u32x8(1, 2, 4, 8, 16, 32, 64, 128);

/// Eight lanes' masks as bits.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn bits(lanes: V3, mask: m32x8) -> u16 {
    let bits: [u32; 8] = cast(lanes.select_u32x8(mask, BITS, lanes.splat_u32x8(0)));
    bits.iter().sum::<u32>() as u16
}

/// And back.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn mask(lanes: V3, bits: u16) -> m32x8 {
    lanes.cmp_eq_u32x8(lanes.and_u32x8(lanes.splat_u32x8(u32::from(bits)), BITS), BITS)
}

#[cfg(target_arch = "x86_64")]
impl Lanes for V3 {
    type Value = [f32x8; 2];
    const MANY: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> [f32x8; 2] {
        [self.splat_f32x8(value); 2]
    }

    #[inline(always)]
    fn load(self, values: &Pixel) -> [f32x8; 2] {
        cast(*values)
    }

    #[inline(always)]
    fn store(self, value: [f32x8; 2]) -> Pixel {
        cast(value)
    }

    #[inline(always)]
    fn add(self, [a, b]: [f32x8; 2], [c, d]: [f32x8; 2]) -> [f32x8; 2] {
        [self.add_f32x8(a, c), self.add_f32x8(b, d)]
    }

    #[inline(always)]
    fn mul(self, [a, b]: [f32x8; 2], [c, d]: [f32x8; 2]) -> [f32x8; 2] {
        [self.mul_f32x8(a, c), self.mul_f32x8(b, d)]
    }

    #[inline(always)]
    fn greater(self, [a, b]: [f32x8; 2], [c, d]: [f32x8; 2]) -> u16 {
        bits(self, self.cmp_gt_f32x8(a, c)) | bits(self, self.cmp_gt_f32x8(b, d)) << 8
    }

    #[inline(always)]
    fn at_least(self, [a, b]: [f32x8; 2], [c, d]: [f32x8; 2]) -> u16 {
        bits(self, self.cmp_ge_f32x8(a, c)) | bits(self, self.cmp_ge_f32x8(b, d)) << 8
    }

    #[inline(always)]
    fn select(self, bits: u16, [a, b]: [f32x8; 2], [c, d]: [f32x8; 2]) -> [f32x8; 2] {
        [self.select_f32x8(mask(self, bits), a, c), self.select_f32x8(mask(self, bits >> 8), b, d)]
    }

    #[inline(always)]
    fn mul_add(self, [a, b]: [f32x8; 2], [c, d]: [f32x8; 2], [e, f]: [f32x8; 2]) -> [f32x8; 2] {
        [self.mul_add_f32x8(a, c, e), self.mul_add_f32x8(b, d, f)]
    }
}

/// What every processor has. Products are rounded before they are added: without an instruction for it, an exact
/// multiply-add is a function call.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type Value = Pixel;
    const MANY: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Pixel {
        [value; WIDTH]
    }

    #[inline(always)]
    fn load(self, values: &Pixel) -> Pixel {
        *values
    }

    #[inline(always)]
    fn store(self, value: Pixel) -> Pixel {
        value
    }

    #[inline(always)]
    fn add(self, mut a: Pixel, b: Pixel) -> Pixel {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
        a
    }

    #[inline(always)]
    fn mul(self, mut a: Pixel, b: Pixel) -> Pixel {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= b;
        }
        a
    }

    #[inline(always)]
    fn greater(self, a: Pixel, b: Pixel) -> u16 {
        a.iter().zip(b).rev().fold(0, |bits, (&a, b)| bits << 1 | u16::from(a > b))
    }

    #[inline(always)]
    fn at_least(self, a: Pixel, b: Pixel) -> u16 {
        a.iter().zip(b).rev().fold(0, |bits, (&a, b)| bits << 1 | u16::from(a >= b))
    }

    #[inline(always)]
    fn select(self, bits: u16, mut a: Pixel, b: Pixel) -> Pixel {
        for (lane, (a, b)) in a.iter_mut().zip(b).enumerate() {
            *a = if bits >> lane & 1 == 1 { *a } else { b };
        }
        a
    }

    #[inline(always)]
    fn mul_add(self, a: Pixel, b: Pixel, mut c: Pixel) -> Pixel {
        for (c, (a, b)) in c.iter_mut().zip(a.iter().zip(&b)) {
            *c += a * b;
        }
        c
    }
}

/// Where tiles of a size begin so that they cover an extent: the last one overlaps the one before it where they do not fit.
/// The extent is at least the size.
#[inline(always)]
pub(crate) fn tiles(extent: usize, size: usize) -> impl Iterator<Item = usize> {
    let last = extent.saturating_sub(size);
    (0..last).step_by(size.max(1)).chain([last])
}
