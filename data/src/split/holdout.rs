//! scikit-learn's stratified hold-out, index for index.
//!
//! Source: scikit-learn 1.9, `model_selection/_split.py` (`train_test_split`, `_validate_shuffle_split`,
//! `StratifiedShuffleSplit._iter_indices`) and `utils/_random.pyx`'s neighbour `_approximate_mode` in `utils/extmath.py`.

use std::collections::BTreeMap;

use super::{SplitError, SplitPart, check_size};
use crate::randomstate::RandomState;

/// Rows of `(train, held out)`, equal to `sklearn.model_selection.train_test_split(rows, test_size=size, stratify=labels,
/// random_state=seed)`; `labels` has the class of each row.
///
/// # Errors
/// A size out of range, a class with a single clip, or a part with fewer rows than there are classes.
pub fn train_test_split(labels: &[u16], size: f64, seed: u32) -> Result<(Vec<u32>, Vec<u32>), SplitError> {
    check_size("validation_size", "above 0 and below 1", size, size > 0.0 && size < 1.0)?;
    let n_held = (size * labels.len() as f64).ceil() as usize;
    let n_train = labels.len().saturating_sub(n_held);

    let mut classes: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for (row, class) in (0_u32..).zip(labels) {
        classes.entry(*class).or_default().push(row);
    }
    if let Some((class, rows)) = classes.iter().find(|(_, rows)| rows.len() < 2) {
        return Err(SplitError::ClassTooSmall { class: *class, clips: rows.len() });
    }
    for (part, rows) in [(SplitPart::Train, n_train), (SplitPart::Validation, n_held)] {
        if rows < classes.len().max(1) {
            return Err(SplitError::TooFewRows { part, rows, classes: classes.len() });
        }
    }

    let counts: Vec<usize> = classes.values().map(Vec::len).collect();
    let mut random = RandomState::new(seed);
    let of_train = approximate_mode(&counts, n_train, &mut random);
    let remaining: Vec<usize> = counts.iter().zip(&of_train).map(|(count, taken)| count - taken).collect();
    let of_held = approximate_mode(&remaining, n_held, &mut random);
    let (mut train, mut held) = (Vec::with_capacity(n_train), Vec::with_capacity(n_held));
    for (rows, (n_train, n_held)) in classes.values().zip(of_train.into_iter().zip(of_held)) {
        let order = random.permutation(rows.len());
        let mut shuffled = order.into_iter().filter_map(|at| rows.get(at).copied());
        train.extend(shuffled.by_ref().take(n_train));
        held.extend(shuffled.take(n_held));
    }
    random.shuffle(&mut train);
    random.shuffle(&mut held);
    Ok((train, held))
}

/// How many of `n_draws` fall to each class: proportional, rounded down, and the rest to the largest remainders, ties broken
/// at random.
fn approximate_mode(counts: &[usize], n_draws: usize, random: &mut RandomState) -> Vec<usize> {
    let total: usize = counts.iter().sum();
    let continuous: Vec<f64> =
        counts.iter().map(|count| *count as f64 / total as f64 * n_draws as f64).collect();
    let mut drawn: Vec<usize> = continuous.iter().map(|value| value.floor() as usize).collect();
    let remainders: Vec<f64> = continuous.iter().map(|value| value - value.floor()).collect();
    let mut missing = n_draws.saturating_sub(drawn.iter().sum());
    let mut values = remainders.clone();
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    values.dedup();
    for value in values {
        if missing == 0 {
            break;
        }
        let tied: Vec<usize> = (0..)
            .zip(&remainders)
            .filter(|(_, other)| other.total_cmp(&value).is_eq())
            .map(|(class, _)| class)
            .collect();
        let chosen = random.choose(&tied, tied.len().min(missing));
        missing -= chosen.len();
        for class in chosen {
            if let Some(count) = drawn.get_mut(class) {
                *count += 1;
            }
        }
    }
    drawn
}
