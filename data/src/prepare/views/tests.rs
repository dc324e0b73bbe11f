use earshot_common::{
    blob::BlobStore,
    views::{Augmentation, Range, View},
};

use super::{
    super::{BLOBS, Options, prepare, tests::Set},
    *,
};
use crate::{
    manifest::{MANIFEST_FILE, Manifest},
    shard::Shard,
};

fn bank(seed: u64, levels: u8) -> Bank {
    Bank::new(seed, Augmentation::ALL.map(|kind| (kind, kind.default_range())), levels)
}

fn rendered(set: &Set, bank: &Bank) -> Manifest {
    prepare(&Options { bank: bank.clone(), ..set.options() }, &()).unwrap()
}

fn shards(set: &Set, view: &ViewEntry) -> Vec<Shard> {
    let blobs = BlobStore::open(set.out().join(BLOBS)).unwrap();
    view.shards.iter().map(|shard| Shard::read(&blobs.read(shard.blob).unwrap()).unwrap()).collect()
}

#[test]
fn views_have_the_rows_of_the_clean_shards_and_record_their_draws() {
    let set = Set::new(100);
    let bank = bank(1, 2);
    let manifest = rendered(&set, &bank);
    assert_eq!(Manifest::load(&set.out().join(MANIFEST_FILE)).unwrap(), manifest);
    assert!(manifest.shards.len() > 1);
    assert_eq!(manifest.views.iter().map(|view| view.level).collect::<Vec<_>>(), bank.levels);
    for view in &manifest.views {
        let shards = shards(&set, view);
        assert!(shards.iter().all(|shard| shard.view == view.level.view()));
        let labels: Vec<u16> = shards.iter().flat_map(|shard| shard.labels.clone()).collect();
        assert_eq!(labels, manifest.labels());
        let draws = shards.iter().flat_map(|shard| &shard.draws);
        for (clip, drawn) in manifest.clips.iter().zip(draws) {
            assert_eq!(draw(&bank, &clip.name, &view.level).strength.to_bits(), drawn.to_bits());
            assert!(view.level.range.contains(*drawn));
        }
        let recorded = view.shards.iter().map(|shard| shard.draws.clone());
        assert!(recorded.eq(shards.iter().map(|shard| shard.draws.clone())));
    }
}

#[test]
fn without_a_bank_everything_stays_as_it_was() {
    let set = Set::new(60);
    let plain = set.prepare().0;
    let with_views = rendered(&set, &bank(1, 1));
    assert_eq!(with_views.shards, plain.shards);
    assert_eq!(with_views.data_hash, plain.data_hash);
    let again = set.prepare().0;
    assert_eq!(again, plain);
    assert!(!std::fs::read_to_string(set.out().join(MANIFEST_FILE)).unwrap().contains("views"));
}

#[test]
fn only_what_is_missing_is_rendered() {
    let set = Set::new(60);
    let narrow = [(Augmentation::AddGaussianSnr, Range { min: 10.0, max: 20.0 })];
    let first = rendered(&set, &Bank::new(1, narrow, 2));
    let before = set.files();
    assert_eq!(rendered(&set, &Bank::new(1, narrow, 2)), first);
    assert!(before == set.files(), "a second run wrote something");

    let pitch = (Augmentation::PitchShift, Range { min: 1.0, max: 2.0 });
    let more = rendered(&set, &Bank::new(1, [narrow[0], pitch], 2));
    assert_eq!(more.views[..2], first.views);
    let other_seed = rendered(&set, &Bank::new(2, narrow, 2));
    assert_ne!(other_seed.views, first.views);

    let blobs = BlobStore::open(set.out().join(BLOBS)).unwrap();
    std::fs::remove_file(blobs.path(first.views[1].shards[0].blob)).unwrap();
    assert_eq!(rendered(&set, &Bank::new(1, narrow, 2)), first);
    assert!(blobs.contains(first.views[1].shards[0].blob));
}

#[test]
fn threads_and_rounds_change_nothing() {
    let (one, many) = (Set::new(40), Set::new(40));
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let bank = bank(3, 2);
    let a = pool(1).install(|| rendered(&one, &bank));
    let b = pool(5).install(|| rendered(&many, &bank));
    assert_eq!(a, b);
}

#[test]
fn a_bad_clip_is_a_row_in_no_view() {
    let set = Set::new(10);
    set.write_samples("clip3", &[0.0; 1000]);
    let manifest = rendered(&set, &bank(1, 1));
    assert_eq!(manifest.clips.len(), 9);
    assert!(
        manifest
            .views
            .iter()
            .all(|view| view.shards.iter().map(|shard| shard.draws.len()).sum::<usize>() == 9)
    );
}

#[test]
fn noise_is_as_strong_as_drawn_in_the_features() {
    // White noise at 0 dB raises the quiet bands of a tone; at 60 dB it hardly shows.
    let set = Set::new(8);
    let level =
        |snr_db: f64| Bank::new(1, [(Augmentation::AddGaussianSnr, Range { min: snr_db, max: snr_db })], 4);
    let first_coefficients = |bank: &Bank| {
        let manifest = rendered(&set, bank);
        let shard = shards(&set, &manifest.views[0]).remove(0);
        assert_eq!(shard.view, View::Augmented { augmentation: Augmentation::AddGaussianSnr, level: 0 });
        shard.features[..shard.frames].iter().sum::<f32>() / shard.frames as f32
    };
    assert!(first_coefficients(&level(0.0)) > first_coefficients(&level(60.0)) + 10.0);
}

#[test]
fn rendering_can_be_stopped_and_continued() {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::{ClipOutcome, Progress};

    struct Stopper(AtomicU64, Options);
    impl Progress for Stopper {
        fn start(&self, _clips: u64) {}
        fn clip_done(&self, _name: &str, _outcome: ClipOutcome) {}
        fn start_views(&self, views: u64) {
            assert_eq!(views, 100 * 3);
        }
        fn views_done(&self, views: u64) {
            if self.0.fetch_add(views, Ordering::Relaxed) + views > 100 {
                self.1.cancel.store(true, Ordering::Relaxed);
            }
        }
    }

    let set = Set::new(100);
    let options = Options { bank: bank(1, 1), ..set.options() };
    let stopper = Stopper(AtomicU64::new(0), options.clone());
    assert!(matches!(prepare(&options, &stopper), Err(PrepareError::Cancelled)));
    assert!(!set.out().join(MANIFEST_FILE).exists());
    assert_eq!(rendered(&set, &options.bank), rendered(&Set::new(100), &options.bank));
}
