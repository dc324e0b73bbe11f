//! Every reader of untrusted bytes, as a fuzzer calls it.
//!
//! Each function takes any bytes and must come back: without a panic, and without more memory than its reader's limits allow.
//! `fuzz/` runs them under libFuzzer for as long as one likes, `tests/corpus.rs` over a fixed corpus and seeded mutations of
//! it. What a function reads it also writes and reads again, where there is a writer: both sides must agree.

use std::{collections::BTreeMap, path::Path};

use crate::{
    dataset::{Listing, esc50, folders, table},
    decode,
    manifest::Manifest,
    shard::Shard,
    split::TrainSplit,
};

/// A reader under its name, which is also that of its corpus's folder.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("decode", decode),
    ("esc50", esc50),
    ("table", table),
    ("folders", folders),
    ("shard", shard),
    ("split", split),
    ("manifest", manifest),
];

/// The decoder. It catches symphonia's panics, arithmetic that overflows in a build that checks it; libFuzzer stops at them
/// all the same.
///
/// # Panics
/// Samples that are not what [`decode::Audio`] promises.
pub fn decode(bytes: &[u8]) {
    if let Ok(audio) = decode::decode(bytes) {
        assert!(audio.samples.iter().all(|sample| sample.is_finite()), "a sample is not finite");
        assert!(audio.channels > 0 && audio.samples.len() % audio.channels == 0, "half a frame");
    }
}

/// The list of ESC-50's layout.
///
/// # Panics
/// See [`table()`].
pub fn esc50(bytes: &[u8]) {
    if let Ok(listing) = esc50::parse(Path::new(esc50::LIST), bytes) {
        check_listing(&listing);
    }
}

/// The list of one's own.
///
/// # Panics
/// A list was accepted that breaks what holds of every list.
pub fn table(bytes: &[u8]) {
    if let Ok(listing) = table::parse(Path::new(table::LIST), bytes) {
        check_listing(&listing);
    }
}

/// Folders as classes: each line of the bytes is a class and a file, split at the first slash.
///
/// # Panics
/// See [`table()`].
pub fn folders(bytes: &[u8]) {
    let mut classes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let (class, file) = line.split_once('/').unwrap_or((line, ""));
        classes.entry(class.to_owned()).or_default().push(file.to_owned());
    }
    if let Ok(listing) = folders::listing(Path::new("root"), &classes) {
        check_listing(&listing);
    }
}

/// A shard.
///
/// # Panics
/// A shard that was read cannot be written and read again.
pub fn shard(bytes: &[u8]) {
    if let Ok(shard) = Shard::read(bytes) {
        let again = shard.write().and_then(|bytes| Shard::read(&bytes));
        assert!(again.is_ok_and(|again| again == shard), "a shard that was read cannot be written");
    }
}

/// A split.
///
/// # Panics
/// A split that was read cannot be written and read again.
pub fn split(bytes: &[u8]) {
    if let Ok(split) = TrainSplit::read(bytes) {
        let again = split.write().and_then(|bytes| TrainSplit::read(&bytes));
        assert!(again.is_ok_and(|again| again == split), "a split that was read cannot be written");
    }
}

/// A manifest.
///
/// # Panics
/// A manifest that was read cannot be written and read again.
pub fn manifest(bytes: &[u8]) {
    let path = Path::new(crate::manifest::MANIFEST_FILE);
    if let Ok(manifest) = Manifest::read(path, bytes) {
        let json = serde_json::to_vec(&manifest).unwrap_or_default();
        let again = Manifest::read(path, &json);
        assert!(again.is_ok_and(|again| again == manifest), "a manifest that was read cannot be written");
    }
}

/// What holds of every list that is accepted.
fn check_listing(listing: &Listing) {
    let mut names: Vec<&str> = listing.rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair.first() != pair.last()), "two clips of one name");
    for row in &listing.rows {
        assert!(usize::from(row.class) < listing.classes.len(), "a class without a name");
        let is_inside = !row.file.starts_with('/') && row.file.split('/').all(|part| part != "..");
        assert!(is_inside, "{:?} leaves the folder", row.file);
        assert!(!row.name.is_empty() && !row.name.contains(['/', '\0']), "{:?} is no safe name", row.name);
    }
}
