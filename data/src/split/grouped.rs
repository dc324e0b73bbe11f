//! A stratified split that deals whole sources.
//!
//! Each source goes to the part where it adds least to Σ n²/t over parts and classes (n clips dealt, t clips wanted): that sum
//! is smallest when every n is proportional to its t, so the greedy deal drives every class towards its share in every part.
//! The same idea as scikit-learn's `StratifiedGroupKFold`, for parts of unequal size.

use std::collections::BTreeMap;

use super::{Split, rows};
use crate::{manifest::ClipEntry, randomstate::RandomState};

const PARTS: usize = 3;

/// A source: its rows and how many there are of each class.
#[derive(Default)]
struct Source {
    rows: Vec<u32>,
    classes: BTreeMap<u16, f64>,
}

/// Deals all sources to train, validation and test of these shares, which sum to 1.
pub(super) fn deal(clips: &[ClipEntry], shares: [f64; PARTS], seed: u32) -> Split {
    let mut sources: BTreeMap<&str, Source> = BTreeMap::new();
    let mut totals: BTreeMap<u16, f64> = BTreeMap::new();
    for (row, clip) in rows(clips) {
        let source = sources.entry(&clip.source).or_default();
        source.rows.push(row);
        *source.classes.entry(clip.class).or_default() += 1.0;
        *totals.entry(clip.class).or_default() += 1.0;
    }
    let mut order: Vec<Source> = sources.into_values().collect();
    RandomState::new(seed).shuffle(&mut order);
    // The sort is stable: sources of one size keep their shuffled order.
    order.sort_by_key(|source| std::cmp::Reverse(source.rows.len()));

    let mut dealt: [BTreeMap<u16, f64>; PARTS] = Default::default();
    let mut parts: [Vec<u32>; PARTS] = Default::default();
    for source in order {
        let cost = |share: f64, dealt: &BTreeMap<u16, f64>| -> f64 {
            let one = |(class, clips): (&u16, &f64)| {
                let wanted = share * totals.get(class).copied().unwrap_or(0.0);
                let before = dealt.get(class).copied().unwrap_or(0.0);
                (2.0 * before + clips) * clips / wanted
            };
            if share > 0.0 { source.classes.iter().map(one).sum() } else { f64::INFINITY }
        };
        let costs = shares.iter().zip(&dealt).map(|(share, dealt)| cost(*share, dealt));
        let cheapest = costs.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(part, _)| part);
        if let (Some(part), Some(dealt)) = (parts.get_mut(cheapest), dealt.get_mut(cheapest)) {
            part.extend(source.rows);
            for (class, clips) in source.classes {
                *dealt.entry(class).or_default() += clips;
            }
        }
    }
    for part in &mut parts {
        part.sort_unstable();
    }
    let [train, validation, test] = parts;
    Split { train, validation, test }
}
