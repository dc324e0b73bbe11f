//! Which view of a clip an epoch sees.

use earshot_common::job::Augment;

use crate::{features::ViewRows, randomness::Choices};

/// Chooses views by a run's augmentations, see [`Augment`].
#[derive(Debug)]
pub struct ViewChooser<'a> {
    augment: &'a [Augment],
    views: &'a ViewRows,
    choices: Choices,
}

impl<'a> ViewChooser<'a> {
    /// For a run of this seed; `views` are those of `augment`.
    pub fn new(augment: &'a [Augment], views: &'a ViewRows, seed: u64) -> Self {
        Self { augment, views, choices: Choices::new(seed) }
    }

    /// The row of the matrix to train on in the place of a clean training row.
    pub fn choose(&mut self, row: i64) -> i64 {
        let choices = &mut self.choices;
        let up: Vec<(usize, &Augment)> =
            self.augment.iter().enumerate().filter(|(_, augment)| choices.comes_up(augment.p)).collect();
        let Some((augmentation, augment)) = choices.one_of(&up) else {
            return row;
        };
        let within =
            self.views.of(augmentation, row).filter(|(strength, _)| augment.range.contains(*strength));
        let within: Vec<i64> = within.map(|(_, row)| row).collect();
        choices.one_of(&within).unwrap_or(row)
    }
}
