//! Logs that a disk has damaged: refused, or read as they were. Never a panic, and never less than was committed.

use std::{
    env,
    panic::{self, AssertUnwindSafe},
};

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use tempfile::TempDir;

use super::*;

/// redb's header: magic number, flags, geometry, and its two newest commits.
const HEADER_BYTES: usize = 320;
/// Among them its flags.
const FLAGS: usize = 9;
/// The one bit of a file that no checksum covers: which of the two commits is the newer. In a file that was not closed, the
/// other one is the commit before.
const NEWER: u32 = 0;
/// Of redb, unless one sets another.
const PAGE_BYTES: u64 = 4096;
/// Which bit of each header byte is flipped, and where else.
const SEED: u64 = 1;
/// Bytes flipped outside the header, of each image.
const FLIPS: usize = 80;
const COMMITS: u64 = 100;
const EVENTS_PER_COMMIT: u64 = 4;

/// A log's bytes, and what they say.
struct Image {
    name: &'static str,
    bytes: Vec<u8>,
    state: State,
}

/// A log as it lies there after it was closed, and as it is when its coordinator is killed.
fn images() -> [Image; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let log = EventLog::open(&path).unwrap();
    let mut state = State::default();
    for commit in 0..COMMITS {
        let first = commit * EVENTS_PER_COMMIT;
        let events: Vec<Event> = (first..first + EVENTS_PER_COMMIT).map(joined).collect();
        let decided: Vec<_> = events.iter().map(|event| state.apply(event).unwrap().digest()).collect();
        log.append(first, &events, &decided).unwrap();
    }
    assert_eq!(log.replay().unwrap(), state);
    let killed = fs::read(&path).unwrap();
    drop(log);
    let closed = fs::read(&path).unwrap();
    [
        Image { name: "killed", bytes: killed, state: state.clone() },
        Image { name: "closed", bytes: closed, state },
    ]
}

/// How many damaged copies were refused, and how many read as they were.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    undamaged: usize,
}

struct Bench {
    folder: TempDir,
    tally: Tally,
}

impl Bench {
    fn new() -> Self {
        // In memory where that is a folder: opening syncs, and a disk takes its time.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        Self { folder: tempfile::tempdir_in(folder).unwrap(), tally: Tally::default() }
    }

    fn check(&mut self, image: &Image, what: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let path = self.folder.path().join("log.redb");
        let mut bytes = image.bytes.clone();
        damage(&mut bytes);
        assert!(bytes != image.bytes, "{what}: the fault did not fire");
        fs::write(&path, bytes).unwrap();
        // What was refused is not mended by that, and so refused again.
        for _ in 0..2 {
            let opened = panic::catch_unwind(AssertUnwindSafe(|| EventLog::open_existing(&path)?.fold()));
            match opened.unwrap_or_else(|_| panic!("{} log, {what}: a panic", image.name)) {
                Ok(Folded { state, .. }) => {
                    let positions = (state.position(), image.state.position());
                    assert_eq!(positions.0, positions.1, "{} log, {what}: events are gone", image.name);
                    assert!(state == image.state, "{} log, {what}: another state", image.name);
                    self.tally.undamaged += 1;
                    return;
                }
                Err(error) => {
                    let is_named = matches!(error, StoreError::Damaged { .. } | StoreError::Entry { .. });
                    assert!(is_named, "{} log, {what}: {error:?}", image.name);
                    self.tally.refused += 1;
                }
            }
        }
    }
}

#[test]
fn a_truncated_log_is_refused() {
    let mut bench = Bench::new();
    for image in images() {
        let whole = image.bytes.len() as u64;
        let beginnings =
            [0, 1, 8, 9, 63, 64, HEADER_BYTES as u64, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1];
        let parts = (1..16).map(|part| whole * part / 16).chain([whole - PAGE_BYTES, whole - 1]);
        for length in beginnings.into_iter().chain(parts) {
            bench.check(&image, &format!("the first {length} of {whole} bytes"), |bytes| {
                bytes.truncate(length as usize);
            });
        }
    }
    assert!(bench.tally.refused > 0, "{:?}", bench.tally);
}

#[test]
fn a_flipped_bit_is_refused_or_without_meaning() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut bench = Bench::new();
    for image in images() {
        let mut flip = |at: usize, bit: u32| {
            bench.check(&image, &format!("bit {bit} of byte {at}"), |bytes| bytes[at] ^= 1 << bit);
        };
        for at in (0..HEADER_BYTES).filter(|&at| at != FLAGS) {
            flip(at, rng.next_u32() % 8);
        }
        (0..8).filter(|&bit| bit != NEWER).for_each(|bit| flip(FLAGS, bit));
        // Most of a small file is free: only pages that hold something are hit.
        let used: Vec<usize> = (HEADER_BYTES..image.bytes.len()).filter(|&at| image.bytes[at] != 0).collect();
        for _ in 0..FLIPS {
            let at = used[(rng.next_u64() % used.len() as u64) as usize];
            flip(at, rng.next_u32() % 8);
        }
    }
    assert!(bench.tally.refused > FLIPS && bench.tally.undamaged > 0, "{:?}", bench.tally);
}
