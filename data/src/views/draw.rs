//! How strong each view of each clip is.

use earshot_common::{
    ids::BlobId,
    views::{Bank, Level},
};

/// What is random about one view of one clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Strength in the augmentation's unit, uniform in the level's range.
    pub strength: f32,
    /// Seed of whatever else is random in it.
    pub seed: [u8; 32],
}

/// The draw of a clip's view on one level: from the bank's seed, the clip's name and the level, so it does not depend on which
/// other clips or levels there are.
pub fn draw(bank: &Bank, clip: &str, level: &Level) -> Draw {
    let mut hasher = blake3::Hasher::new_derive_key("earshot view draw v1");
    hasher.update(&bank.seed.to_le_bytes());
    hasher.update(BlobId::of(clip.as_bytes()).as_bytes());
    hasher.update(level.view().to_string().as_bytes());
    let mut bytes = hasher.finalize_xof();
    let (mut first, mut seed) = ([0; 8], [0; 32]);
    bytes.fill(&mut first);
    bytes.fill(&mut seed);
    // 53 bits, as many as a double has between 0 and 1 at equal distance.
    let part = (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64;
    let strength = (level.range.min + (level.range.max - level.range.min) * part).min(level.range.max);
    Draw { strength: strength as f32, seed }
}

#[cfg(test)]
mod tests {
    use earshot_common::views::Augmentation;
    use proptest::prelude::*;

    use super::*;

    fn bank(seed: u64) -> Bank {
        Bank::new(seed, Augmentation::ALL.map(|kind| (kind, kind.default_range())), 4)
    }

    #[test]
    fn a_draw_is_its_clips_and_levels_own() {
        let bank = bank(7);
        let of = |clip, level: usize| draw(&bank, clip, &bank.levels[level]);
        assert_eq!(of("a", 0), of("a", 0));
        assert_ne!(of("a", 0).seed, of("b", 0).seed);
        assert_ne!(of("a", 0).seed, of("a", 1).seed);
        let other = self::bank(8);
        assert_ne!(of("a", 0), draw(&other, "a", &other.levels[0]));
    }

    #[test]
    fn draws_fill_their_stratum_evenly() {
        let bank = bank(7);
        for level in &bank.levels {
            let (min, max) = (level.range.min, level.range.max);
            let parts = (0..1000).map(|clip| draw(&bank, &clip.to_string(), level)).map(|draw| {
                assert!(level.range.contains(draw.strength));
                (f64::from(draw.strength) - min) / (max - min)
            });
            let mean = parts.sum::<f64>() / 1000.0;
            assert!((mean - 0.5).abs() < 0.05, "{mean}");
        }
    }

    proptest! {
        #[test]
        fn no_draw_leaves_its_range(min in -12.0..12.0_f64, width in 0.0..1e-6_f64, clip in any::<u32>()) {
            let range = earshot_common::views::Range { min, max: min + width };
            let level = Level { augmentation: Augmentation::PitchShift, level: 0, range };
            let strength = draw(&Bank::default(), &clip.to_string(), &level).strength;
            prop_assert!(range.contains(strength), "{strength} in {range:?}");
        }
    }
}
