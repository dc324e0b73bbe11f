//! The views of one clip, through the same chain as the clean one.

use earshot_common::{
    frontend::FrontEnd,
    views::{Augmentation, Level},
};

use super::{Draw, PitchError, noise::add_gaussian_snr, pitch, separation::Parts, stretch::Stretcher};
use crate::{chain::Chain, condition};

/// Lengths of the front end's clip after which a waveform is cut before it is augmented. At rate 2, the fastest there is, this
/// much fills the clip; and an hour of sound takes no more memory than this.
const LENGTHS_HEARD: usize = 2;

/// Renders views of one clip after another; one for each thread. A clone shares plans and has buffers of its own.
#[derive(Clone)]
pub struct Renderer {
    chain: Chain,
    front_end: FrontEnd,
    stretcher: Stretcher,
}

impl Renderer {
    /// For a chain and its front end.
    pub fn new(chain: Chain, front_end: &FrontEnd) -> Self {
        Self { chain, front_end: front_end.clone(), stretcher: Stretcher::new(front_end.sample_rate_hz) }
    }

    /// The chain that views go through.
    pub fn chain(&mut self) -> &mut Chain {
        &mut self.chain
    }

    /// Features of each view of a cleaned waveform, `(n_mfcc, FrontEnd::frames())`, in the order of `draws`: augmented,
    /// peak-normalised if the front end says so, brought to the fixed length.
    ///
    /// # Errors
    /// [`PitchError`].
    pub fn features(
        &mut self,
        waveform: &[f32],
        draws: &[(Level, Draw)],
    ) -> Result<Vec<Vec<f32>>, PitchError> {
        let heard = waveform.len().min(LENGTHS_HEARD * self.front_end.samples());
        let mut material = Material { waveform: waveform.get(..heard).unwrap_or(waveform), parts: None };
        let features = draws.iter().map(|(level, draw)| {
            let mut augmented = material.augmented(&mut self.stretcher, level.augmentation, draw)?;
            if self.front_end.peak_normalise {
                condition::normalise(&mut augmented);
            }
            Ok(self.chain.features(&augmented).into_iter().collect())
        });
        features.collect()
    }
}

/// A cleaned waveform and, once a view needed them, its parts.
struct Material<'a> {
    waveform: &'a [f32],
    parts: Option<Parts>,
}

impl Material<'_> {
    fn augmented(
        &mut self,
        stretcher: &mut Stretcher,
        augmentation: Augmentation,
        draw: &Draw,
    ) -> Result<Vec<f32>, PitchError> {
        match augmentation {
            Augmentation::AddGaussianSnr => {
                let mut noisy = self.waveform.to_vec();
                add_gaussian_snr(&mut noisy, draw.strength, draw.seed);
                Ok(noisy)
            }
            Augmentation::PitchShift => {
                let parts = self.parts(stretcher);
                pitch::shift(stretcher, parts, draw.strength)
            }
            Augmentation::TimeStretch => {
                let parts = self.parts(stretcher);
                Ok(stretcher.stretch(parts, f64::from(draw.strength)))
            }
        }
    }

    fn parts(&mut self, stretcher: &mut Stretcher) -> &Parts {
        self.parts.get_or_insert_with(|| stretcher.separate(self.waveform))
    }
}
