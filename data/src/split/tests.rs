use proptest::prelude::*;

use super::*;
use earshot_common::ids::BlobId;

fn clip(class: u16, fold: u32, source: u32) -> ClipEntry {
    ClipEntry {
        name: String::new(),
        class,
        fold: Some(fold),
        source: source.to_string(),
        content: BlobId::of(b""),
    }
}

/// Ten clips of each of four classes in five folds, a source for every two clips.
fn clips() -> Vec<ClipEntry> {
    (0..40).map(|i| clip((i / 10) as u16, i % 5 + 1, i / 10 * 10 + i % 5)).collect()
}

fn check(result: Result<Split, SplitError>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn folds_part_the_rows() {
    let split = Split::by_folds(&clips(), 1, &[5]).unwrap();
    assert_eq!((split.train.len(), split.validation.len(), split.test.len()), (24, 8, 8));
    assert_eq!(split.validation[..3], [0, 5, 10]);
    assert!(Split::by_folds(&clips(), 1, &[]).unwrap().test.is_empty());
    assert!(split.shared_sources(&clips()).is_empty());
}

#[test]
fn impossible_splits_are_refused() {
    let clips = clips();
    let labels = labels(&clips);
    let without: Vec<_> = clips.iter().map(|clip| ClipEntry { fold: None, ..clip.clone() }).collect();
    check(
        Split::by_folds(&without, 1, &[]),
        "the clips have no folds: add a column `fold` to their list, or choose [split] kind = \"grouped\" or \"holdout\"",
    );
    check(Split::by_folds(&clips, 6, &[]), "there is no fold 6: the dataset has folds [1, 2, 3, 4, 5]");
    check(Split::by_folds(&clips, 2, &[2]), "fold 2 cannot both validate and test");
    check(
        Split::by_folds(&clips, 1, &[2, 3, 4, 5]),
        "the training part would be empty: choose other folds or sizes, or add clips",
    );
    check(Split::holdout(&labels, 0.0, 0.2, 42), "validation_size must be above 0 and below 1, got 0");
    check(Split::holdout(&labels, 0.2, 1.0, 42), "test_size must be at least 0 and below 1, got 1");
    check(
        Split::holdout(&labels, 0.2, 0.05, 42),
        "the test part would have 2 rows, fewer than the 4 classes: choose another size, or add clips",
    );
    check(
        Split::holdout(&[0, 0, 0, 1], 0.5, 0.0, 42),
        "class 1 has 1 clip to split, at least 2 are needed: add clips of that class",
    );
    let lonely = [clip(0, 1, 1), clip(0, 2, 2), clip(1, 1, 3)];
    check(
        Split::by_folds(&lonely, 1, &[]),
        "no clip of class 1 would be left to train on: choose other folds or sizes, or add clips of that class",
    );
    check(
        Split::grouped(&clips, 0.5, 0.5, 42),
        "validation_size and test_size together must be below 1, got 1",
    );
}

#[test]
fn a_shared_source_is_named() {
    let clips = [clip(0, 1, 7), clip(0, 2, 7), clip(0, 2, 8)];
    let split = Split::by_folds(&clips, 1, &[]).unwrap();
    let shared = split.shared_sources(&clips);
    assert_eq!(shared.keys().collect::<Vec<_>>(), [&"7"]);
    assert_eq!(shared["7"], BTreeSet::from([SplitPart::Train, SplitPart::Validation]));
}

#[test]
fn where_a_blind_split_shares_sources_the_grouped_one_does_not() {
    let clips = clips();
    for seed in 0..20 {
        let blind = Split::holdout(&labels(&clips), 0.25, 0.2, seed).unwrap();
        assert!(!blind.shared_sources(&clips).is_empty(), "seed {seed}");
        let grouped = Split::grouped(&clips, 0.25, 0.2, seed).unwrap();
        assert!(grouped.shared_sources(&clips).is_empty(), "seed {seed}");
    }
}

/// Every row is in exactly one part.
fn is_partition(split: &Split, rows: usize) -> bool {
    let mut all: Vec<u32> = [&split.train[..], &split.validation, &split.test].concat();
    all.sort_unstable();
    all == (0..rows as u32).collect::<Vec<_>>()
}

fn any_clips() -> impl Strategy<Value = Vec<ClipEntry>> {
    let class_fold_source = (0..6_u16, 1..6_u32, 0..40_u32);
    proptest::collection::vec(class_fold_source, 1..200)
        .prop_map(|clips| clips.into_iter().map(|(class, fold, source)| clip(class, fold, source)).collect())
}

proptest! {
    #[test]
    fn grouped_never_shares_a_source(
        clips in any_clips(), seed: u32, validation in 0.1..0.4, test in prop_oneof![Just(0.0), 0.1..0.4],
    ) {
        // Twenty clips of each class with sources of their own, so that every part can get some.
        let own = (0..6 * 20).map(|i| clip(i % 6, 1, 1_000 + u32::from(i)));
        let clips: Vec<_> = clips.into_iter().chain(own).collect();
        let split = Split::grouped(&clips, validation, test, seed).unwrap();
        prop_assert!(split.shared_sources(&clips).is_empty());
        prop_assert!(is_partition(&split, clips.len()));
        prop_assert_eq!(&split, &Split::grouped(&clips, validation, test, seed).unwrap());
    }

    #[test]
    fn grouped_is_stratified(seed: u32, per_class in 10..30_u32) {
        // Singly-sourced clips can be dealt exactly, so every class must get its share, to the clip.
        let clips: Vec<_> = (0..per_class * 5).map(|i| clip((i % 5) as u16, 1, i)).collect();
        let split = Split::grouped(&clips, 0.2, 0.2, seed).unwrap();
        for class in 0..5 {
            let count = |rows: &[u32]| rows.iter().filter(|row| clips[**row as usize].class == class).count() as f64;
            let wanted = f64::from(per_class) * 0.2;
            prop_assert!((count(&split.validation) - wanted).abs() <= 1.0);
            prop_assert!((count(&split.test) - wanted).abs() <= 1.0);
        }
    }

    #[test]
    fn holdout_is_a_stratified_partition(
        labels in proptest::collection::vec(0..5_u16, 30..300), seed: u32, size in 0.1..0.5,
    ) {
        if let Ok((train, held)) = train_test_split(&labels, size, seed) {
            let split = Split { train, validation: held, test: vec![] };
            prop_assert!(is_partition(&split, labels.len()));
            for class in 0..5 {
                let of_class = |rows: &[u32]| rows.iter().filter(|row| labels[**row as usize] == class).count() as f64;
                let total = of_class(&split.train) + of_class(&split.validation);
                prop_assert!((of_class(&split.validation) - total * size).abs() <= 2.0);
            }
        }
    }

    #[test]
    fn splits_travel_without_their_test_rows(clips in any_clips()) {
        if let Ok(split) = Split::by_folds(&clips, 1, &[2]) {
            let read = TrainSplit::read(&split.to_blob().unwrap()).unwrap();
            prop_assert_eq!((read.train, read.validation), (split.train, split.validation));
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(TrainSplit::read(&bytes).is_err());
    }

    #[test]
    fn damaged_splits_never_panic(at in 0..300_usize, byte in any::<u8>(), cut in 0..300_usize) {
        let split = TrainSplit { train: (0..20).collect(), validation: (20..25).collect() };
        let mut bytes = split.write().unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        let _ = TrainSplit::read(&bytes);
        bytes.truncate(cut % length);
        prop_assert!(TrainSplit::read(&bytes).is_err());
    }
}

#[test]
fn a_refit_keeps_one_source_of_each_class_from_training() {
    // Forty clips of a class; of each fold's eight, two share a source.
    let clips: Vec<_> = (0..160_u16)
        .map(|i| clip(i / 40, u32::from(i % 5) + 1, u32::from(if i % 40 < 5 { i + 5 } else { i })))
        .collect();
    let split = Split::by_folds(&clips, 1, &[2]).unwrap();
    let refit = split.refit(&clips);
    assert!(is_partition(&refit, clips.len()));
    assert_eq!((&refit.test, refit.train.starts_with(&split.train)), (&split.test, true));
    let classes = |rows: &[u32]| rows.iter().map(|row| clips[*row as usize].class).collect::<BTreeSet<_>>();
    assert_eq!(classes(&refit.validation), classes(&split.validation));
    assert!(refit.shared_sources(&clips).is_empty());
    assert_eq!((split.validation.len(), refit.validation.len()), (32, 4));
    assert_eq!(refit, refit.refit(&clips));
}

#[test]
fn a_row_listed_twice_is_refused() {
    let bytes = TrainSplit { train: vec![1, 2], validation: vec![2] }.write().unwrap();
    assert!(matches!(TrainSplit::read(&bytes), Err(SplitError::RowTwice(2))));
}
