//! Networks on the CPU with kernels of our own: forwards, backwards and the optimiser's step over plain floats.
//!
//! libtorch's CPU kernels are general: each operation reads and writes whole tensors, autograd keeps what lies between, and the
//! backward pass of max pooling hands on maps that are three quarters zeros. Here a layer's operations run together on lines
//! that stay in the core's cache, zeros are not multiplied (see `sparse`), and buffers are kept from step to step. The networks, their checkpoints and
//! their arithmetic are the same; tests hold both to PyTorch's.
//!
//! In reading order:
//! - `shape`, `lanes`, `buffer`: how maps lie in memory, how sixteen channels are computed at a time.
//! - `bf16`: convolutions with 16-bit factors.
//! - `convolve`, `depthwise`, `sparse`, `pool`, `norm`, `reduce`, `linear`, `loss`, `adam`: the arithmetic.
//! - `packing`: from a checkpoint's order of weights to ours.
//! - `layer`, `backward`: one convolution with all that follows it.
//! - `network`: the whole; `footprint`: the memory that it trains in.
//!
//! Deliberately absent: threads. A slot has one core, and a sum that is split differently is another sum: with one thread the
//! same seed gives the same result, bit for bit, on the same kind of processor.

#![expect(
    clippy::inline_always,
    reason = "wide instructions are allowed only in what is inlined where they are"
)]

mod adam;
mod backward;
mod bf16;
mod buffer;
mod convolve;
mod depthwise;
mod footprint;
mod lanes;
mod layer;
mod linear;
mod loss;
mod network;
mod norm;
mod packing;
mod pool;
mod reduce;
mod shape;
mod sparse;
#[cfg(test)]
mod tests;

pub use self::{
    bf16::{Bf16, Precision},
    footprint::footprint,
    loss::{Targets, Taught},
    network::{Batch, Network},
};
