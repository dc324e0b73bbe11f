//! Softmax and cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7), as
//! `torch.nn.functional.cross_entropy` has them.

use earshot_common::sweep::prune::Distil;

/// What clips should be.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// One class each.
    Classes(&'a [i64]),
    /// `(clips, classes)`: how much of each class.
    Probabilities(&'a [f32]),
}

/// What a teacher makes of clips.
#[derive(Debug, Clone, Copy)]
pub struct Taught<'a> {
    /// `(clips, classes)`: its probabilities, softened.
    pub probabilities: &'a [f32],
    /// How they are learnt.
    pub distil: Distil,
}

/// The mean loss over the batch with a part `w` of it from a teacher (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2):
/// `(1 − w)` times the cross-entropy, and `w·T²` times the Kullback-Leibler divergence of softmax(logits / T) from the teacher's
/// probabilities. `logits` become their gradients.
pub(crate) fn distilled(
    logits: &mut [f32],
    classes: usize,
    targets: Targets,
    smoothing: f64,
    Taught { probabilities, distil: Distil { weight, temperature } }: Taught,
) -> f64 {
    let classes = classes.max(1);
    let clips = (logits.len() / classes).max(1) as f64;
    let mut own = logits.to_vec();
    let mut total = (1.0 - weight) * cross_entropy(&mut own, classes, targets, smoothing);
    let lines = logits.chunks_exact_mut(classes).zip(own.chunks_exact(classes));
    for ((logits, own), taught) in lines.zip(probabilities.chunks_exact(classes)) {
        let scaled = |logit: f32| f64::from(logit) / temperature;
        let largest = logits.iter().copied().map(scaled).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|&logit| (scaled(logit) - largest).exp()).sum();
        let log_sum = sum.ln() + largest;
        let mass: f64 = taught.iter().copied().map(f64::from).sum();
        for ((logit, &own), &taught) in logits.iter_mut().zip(own).zip(taught) {
            let (log_probability, taught) = (scaled(*logit) - log_sum, f64::from(taught));
            // What a teacher rules out costs nothing: the limit of q·log q is 0.
            if taught > 0.0 {
                total += weight * temperature.powi(2) * taught * (taught.ln() - log_probability) / clips;
            }
            let slope = weight * temperature * (log_probability.exp() * mass - taught) / clips;
            *logit = ((1.0 - weight) * f64::from(own) + slope) as f32;
        }
    }
    total
}

/// The mean loss over the batch; `logits` `(clips, classes)` become their gradients.
pub(crate) fn cross_entropy(logits: &mut [f32], classes: usize, targets: Targets, smoothing: f64) -> f64 {
    let clips = (logits.len() / classes.max(1)).max(1) as f64;
    let spread = smoothing / classes as f64;
    let mut total = 0.0;
    let mut wanted = vec![0.0_f64; classes];
    for (clip, logits) in logits.chunks_exact_mut(classes.max(1)).enumerate() {
        match targets {
            Targets::Classes(labels) => {
                wanted.fill(spread);
                let class = labels.get(clip).and_then(|&label| usize::try_from(label).ok());
                if let Some(wanted) = class.and_then(|class| wanted.get_mut(class)) {
                    *wanted += 1.0 - smoothing;
                }
            }
            Targets::Probabilities(probabilities) => {
                let probabilities = probabilities.chunks_exact(classes.max(1)).nth(clip).unwrap_or_default();
                for (wanted, &probability) in wanted.iter_mut().zip(probabilities) {
                    *wanted = f64::from(probability) * (1.0 - smoothing) + spread;
                }
            }
        }
        let largest = logits.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        let log_sum = sum.ln() + largest;
        let mass: f64 = wanted.iter().sum();
        for (logit, &wanted) in logits.iter_mut().zip(&wanted) {
            let log_probability = f64::from(*logit) - log_sum;
            total -= wanted * log_probability;
            *logit = ((log_probability.exp() * mass - wanted) / clips) as f32;
        }
    }
    total / clips
}
