//! Training on augmented views.

use std::collections::BTreeSet;

use earshot_common::{job::Epoch, views::Range};
use worker::training::views::ViewChooser;

use crate::jobs::{Example, example};

const ALL: Range = Range { min: -1.0, max: 1.0 };

/// An example whose views are louder than its clips, under these terms.
fn augmented(p: f64, range: Range) -> Example {
    let mut example = example(1);
    example.add_view(p, range, |value| value + 40.0);
    example
}

fn epochs(example: &Example) -> Vec<Epoch> {
    let (epochs, trained) = example.train();
    trained.unwrap();
    epochs
}

/// Rows of the matrix chosen for every training row in so many epochs.
fn chosen(example: &Example, times: usize) -> Vec<(i64, i64)> {
    let features = example.features();
    let mut chooser = ViewChooser::new(&example.job.augment, features.views(), 5);
    let rows = features.train().repeat(times);
    rows.into_iter().map(|row| (row, chooser.choose(row))).collect()
}

#[test]
fn views_change_training_and_the_same_seed_trains_the_same() {
    let clean = epochs(&example(1));
    let views = epochs(&augmented(0.5, ALL));
    assert_ne!(views, clean);
    assert_eq!(views, epochs(&augmented(0.5, ALL)));
    assert_ne!(views, epochs(&augmented(0.9, ALL)));
}

#[test]
fn a_range_without_views_trains_as_if_there_were_none() {
    assert_eq!(epochs(&augmented(1.0, Range { min: 7.0, max: 9.0 })), epochs(&example(1)));
}

#[test]
fn clean_rows_and_their_statistics_are_the_same_with_views() {
    let (clean, views) = (example(1).features(), augmented(0.5, ALL).features());
    assert_eq!(clean.input(), views.input());
    let rows = |features: &worker::features::Features| features.matrix().unwrap().narrow(0, 0, 96);
    assert_eq!(rows(&clean), rows(&views));
    assert_eq!(views.matrix().unwrap().size()[0], 96 + clean.train().len() as i64);
}

#[test]
fn a_chosen_view_is_of_the_same_clip() {
    let example = augmented(1.0, ALL);
    let features = example.features();
    let labels = Vec::<i64>::try_from(&features.labels().unwrap()).unwrap();
    let raised = |row: i64| f64::try_from(features.matrix().unwrap().get(row).mean(None)).unwrap();
    for (clean, view) in chosen(&example, 1) {
        assert_ne!(clean, view);
        assert_eq!(labels[clean as usize], labels[view as usize]);
        // Standardised by the clean rows, a view's features are above its own clip's by the same at every number.
        let difference = features.matrix().unwrap().get(view) - features.matrix().unwrap().get(clean);
        let spread = f64::try_from(difference.std(false)).unwrap();
        assert!(raised(view) > raised(clean) + 0.5 && spread < 1.0, "row {clean}: {spread}");
    }
}

#[test]
fn views_come_up_as_often_as_the_probability_says_and_wider_ranges_see_more() {
    let seen = |p, range| {
        let chosen = chosen(&augmented(p, range), 50);
        let views: Vec<i64> =
            chosen.iter().filter(|(row, view)| row != view).map(|(_, view)| *view).collect();
        let share = views.len() as f64 / chosen.len() as f64;
        (share, views.into_iter().collect::<BTreeSet<_>>().len())
    };
    let (share, all) = seen(0.3, ALL);
    assert!((share - 0.3).abs() < 0.03, "{share}");
    assert_eq!(all, example(1).split.train.len());
    let (_, upper) = seen(0.3, Range { min: 0.0, max: 1.0 });
    assert!(upper > all / 3 && upper < all * 2 / 3, "{upper} of {all}");
}

#[test]
fn shards_of_another_view_are_refused() {
    let mut example = augmented(0.5, ALL);
    example.job.augment[0].augmentation = earshot_common::views::Augmentation::TimeStretch;
    let error = example.try_features().unwrap_err().to_string();
    assert!(error.contains("has the view pitch_shift/0"), "{error}");
    let mut example = augmented(0.5, ALL);
    example.job.augment[0].levels[0].reverse();
    assert!(example.try_features().unwrap_err().to_string().contains("not those of the job"));
}
