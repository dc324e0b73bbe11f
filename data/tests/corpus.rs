//! The fuzz targets over their committed corpus and seeded mutations of it: no panic, and no more memory than stated here.
//!
//! `fuzz/` runs the same functions for longer. Each input below is the same in every run.

#![allow(unsafe_code, reason = "a global allocator that counts cannot be written without")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs, panic,
    path::PathBuf,
};

use earshot_data::fuzz::{TARGETS, Target};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Mutations of each file of a corpus.
const MUTATIONS: u32 = 150;

/// Memory that a reader may hold whatever its input: a decoder's tables and buffers.
const BYTES_FIXED: usize = 16 * 1024 * 1024;

/// And for each byte of its input. A lossless file of silence is a hundred times smaller than its samples, which are held
/// once as they are decoded and once as they grow; a list's row of a few bytes becomes a handful of texts.
const BYTES_PER_BYTE: usize = 2_048;

/// Counts what each thread holds, and the most that it held. Only sums are kept, so it allocates nothing itself.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(held: impl Fn(usize) -> usize) {
    // A thread that is ending has no count any more; nothing is measured there.
    let _ = HELD.try_with(|cell| {
        cell.set(held(cell.get()));
        let _ = MOST.try_with(|most| most.set(most.get().max(cell.get())));
    });
}

// SAFETY: every call goes to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|held| held.saturating_add(layout.size()));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(|held| held.saturating_add(layout.size()));
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks are there while one is copied to the other.
        count(|held| held.saturating_add(size));
        // SAFETY: the caller keeps `realloc`'s contract.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        count(|held| held.saturating_sub(layout.size()));
        moved
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(|held| held.saturating_sub(layout.size()));
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes held at most by this thread during a call, beyond what it held before.
fn most_held(call: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    call();
    MOST.get() - before
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

/// A few changes as damage and malice make them: bytes replaced, removed, doubled, set to extremes, the end cut off.
fn mutate(bytes: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut mutated = bytes.to_vec();
    for _ in 0..random.random_range(1..6) {
        if mutated.is_empty() {
            break;
        }
        // Headers are where lengths are: half of the changes go there.
        let reach = if random.random() { mutated.len() } else { mutated.len().min(128) };
        let at = random.random_range(0..reach);
        let end = (at + random.random_range(1..9)).min(mutated.len());
        match random.random_range(0..6) {
            0 => mutated[at] = random.random(),
            1 => mutated[at] ^= 1 << random.random_range(0..8),
            2 => mutated[at..end].fill(0xff),
            3 => mutated[at..end].fill(0),
            4 => drop(mutated.drain(at..end)),
            _ => mutated.truncate(at),
        }
    }
    if random.next_u32().is_multiple_of(8) {
        let twice = mutated.clone();
        mutated.extend(twice);
    }
    mutated
}

fn check((name, target): Target) {
    let files = corpus(name);
    assert!(!files.is_empty(), "{name} has no corpus");
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut most, mut runs) = (0, 0);
    for (path, bytes) in &files {
        for mutation in 0..=MUTATIONS {
            let input = if mutation == 0 { bytes.clone() } else { mutate(bytes, &mut random) };
            let limit = BYTES_FIXED + BYTES_PER_BYTE * input.len();
            let held = most_held(|| target(&input));
            assert!(held <= limit, "{name}: {held} bytes for {} of {path}, mutation {mutation}", input.len());
            (most, runs) = (most.max(held), runs + 1);
        }
    }
    println!("{name}: {runs} inputs, at most {most} bytes");
}

#[test]
fn no_input_panics_or_fills_memory() {
    // A backtrace of a panic that the decoder catches would read the debug symbols, on this thread's account.
    panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    for target in TARGETS {
        check(target);
    }
}

/// The net that the test above trusts.
#[test]
fn what_is_held_is_counted() {
    assert!(most_held(|| drop(vec![0_u8; 1_000_000])) >= 1_000_000);
    assert!(most_held(|| drop((0..100_000).collect::<Vec<u64>>())) >= 800_000);
    assert!(most_held(|| ()) < 1_000);
}
