//! What a run is said to take at most, beside what it takes. Alone in its process: it counts all that is allocated there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test may fail by panicking

use earshot_common::model::{Block, Convolution, Head, Reduction};
use peak_alloc::PeakAlloc;
use worker::{
    control::Control,
    cpu::{Precision, footprint},
    device::Processor,
    training::{self, Observer, Start, midway::Midway},
};

#[path = "it/jobs.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod jobs;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Keeps what the run has come to, as a slot does until it is handed in.
struct Keeper(Option<Vec<u8>>);

impl Observer for Keeper {
    fn wants_midway(&mut self, _: u32) -> bool {
        true
    }

    fn epoch(&mut self, _: earshot_common::job::Epoch, midway: Option<Midway>) {
        self.0 = midway.map(|midway| midway.encode().unwrap());
    }
}

fn check(name: &str, blocks: Vec<Block>, head: Head, batch_size: u32) {
    let mut example = jobs::example(1);
    example.job.model.blocks = blocks;
    example.job.model.head = head;
    example.job.recipe.batch_size = batch_size;
    example.job.recipe.epochs = 2;
    let features = example.features();
    let claimed = footprint(&example.job.model, batch_size).unwrap();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let trained = training::train(
        &example.job,
        &features,
        Start::Fresh,
        Processor::Cpu(Precision::F32),
        &Control::default(),
        Keeper(None),
    );
    trained.unwrap();
    let taken = (ALLOCATOR.peak_usage() - before) as u64;
    println!("{name}: claimed {claimed}, taken {taken}");
    assert!(taken <= claimed, "{name} took {taken} bytes and claimed {claimed}");
    assert!(claimed <= 3 * taken, "{name} claimed {claimed} bytes and took {taken}");
}

#[test]
fn no_run_takes_more_than_it_claims() {
    let flat = Head { reduction: Reduction::Flatten, dropout: 0.3, fc_units: Some(64) };
    let mean = Head { reduction: Reduction::Mean, dropout: 0.0, fc_units: None };
    let normed = |filters| Block { batch_norm: true, ..Block::new(filters, 3) };
    let separable =
        |filters| Block { convolution: Convolution::DepthwiseSeparable, ..Block::new(filters, 3) };
    check("the reference", vec![Block::new(16, 3), Block::new(32, 3)], flat, 32);
    check("wide", vec![normed(128), normed(256)], mean, 64);
    check("wide and flat", vec![normed(64), normed(256)], Head { fc_units: Some(512), ..flat }, 16);
    check("of one filter", vec![Block::new(1, 5), Block::new(1, 5)], mean, 64);
    check("separable", vec![normed(64), separable(128)], flat, 64);
}
