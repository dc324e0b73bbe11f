//! The report: numbers of clips, classes and the whole, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::frontend::FrontEnd;
use serde::{Deserialize, Serialize};

use super::{
    ChosenSplit, ClipReport, Duplicates, Finding, Leakage, Severity, Survey, duplicates, findings, leakage,
    measure::TOP_DB_DEFAULT,
};
use crate::manifest::Problem;

/// Part of the front end's length that a clip lacks when it counts as short, or has too much when it counts as cut, 0.1 s of
/// 5 s: less is a matter of frames, and of the blocks that lossy formats come in.
const TOLERANCE: f64 = 0.02;

/// Silence from which a clip counts as padded, in seconds: less is the breath before a sound.
pub(super) const PADDED_S: f64 = 0.1;

/// Everything there is to say of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The dataset, as it was named.
    pub data: String,
    /// How it says what its clips are.
    pub layout: String,
    /// Sums over its clips.
    pub totals: Totals,
    /// What matters, the worst first.
    pub findings: Vec<Finding>,
    /// Classes, by index.
    pub classes: Vec<ClassReport>,
    /// Clips that cannot be used, and files that are not listed.
    pub problems: Vec<Problem>,
    /// Clips with the same audio.
    pub duplicates: Vec<Duplicates>,
    /// What is on both sides of a split.
    pub leakage: Leakage,
    /// Clips that can be used, in the dataset's order.
    pub clips: Vec<ClipReport>,
}

/// Sums over the clips that can be used.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Clips.
    pub clips: u64,
    /// Classes.
    pub classes: u64,
    /// Sources.
    pub sources: u64,
    /// Seconds.
    pub duration_s: f64,
    /// Seconds that trimming keeps.
    pub trimmed_s: f64,
    /// Clips with silence of at least 0.1 s at either end or both.
    pub padded: u64,
    /// Clips shorter than [`Totals::short_s`] after trimming.
    pub short: u64,
    /// Seconds below which a trimmed clip counts as short: the front end's length less 2%.
    pub short_s: f64,
    /// Clips longer than [`Totals::cut_s`] after trimming, whose end the front end cuts off.
    pub cut: u64,
    /// Seconds above which a trimmed clip counts as cut: the front end's length and 2%.
    pub cut_s: f64,
    /// The front end's length in seconds.
    pub front_end_s: f64,
    /// Decibels below the loudest frame that trimming was measured at.
    pub top_db: f32,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Its name.
    pub class: String,
    /// Its clips that can be used.
    pub clips: u64,
    /// Sources of these.
    pub sources: u64,
    /// Seconds of all of them.
    pub duration_s: f64,
    /// Seconds that trimming keeps.
    pub trimmed_s: f64,
    /// Clips shorter than [`Totals::short_s`] after trimming.
    pub short: u64,
    /// Mean of the clips' RMS in decibels.
    pub rms_dbfs: Option<f64>,
    /// Mean of the clips' noise floors in decibels.
    pub noise_floor_dbfs: Option<f64>,
}

impl Report {
    /// Puts a report together; `data` is the dataset as its user named it.
    pub fn new(data: String, survey: Survey, front_end: &FrontEnd, split: Option<&ChosenSplit>) -> Self {
        let Survey { layout, classes, clips, problems, warnings } = survey;
        let totals = Totals::new(&clips, classes.len(), front_end);
        let classes = (0_u16..).zip(&classes).map(|(index, name)| class_report(index, name, &clips, &totals));
        let classes: Vec<ClassReport> = classes.collect();
        let duplicates = duplicates::duplicates(&clips);
        let leakage = leakage::leakage(&clips, &duplicates, split);
        let mut report = Self {
            data,
            layout,
            totals,
            findings: Vec::new(),
            classes,
            problems,
            duplicates,
            leakage,
            clips,
        };
        report.findings = findings::findings(&report, front_end, &warnings);
        report
    }

    /// Clips in the order in which to listen to them: those of the worst findings first, then by silence.
    pub fn worst_clips(&self) -> Vec<&ClipReport> {
        let mut named: BTreeMap<&str, (Severity, u32)> = BTreeMap::new();
        for finding in &self.findings {
            for clip in &finding.clips {
                let (worst, count) = named.entry(clip).or_insert((finding.severity, 0));
                (*worst, *count) = ((*worst).max(finding.severity), *count + 1);
            }
        }
        let of = |clip: &ClipReport| named.get(clip.clip.as_str()).copied();
        let mut clips: Vec<_> = self.clips.iter().map(|clip| (of(clip), clip)).collect();
        clips.sort_by(|(a_named, a), (b_named, b)| {
            b_named.cmp(a_named).then(b.silence_s().total_cmp(&a.silence_s()))
        });
        clips.into_iter().map(|(_, clip)| clip).collect()
    }
}

impl Totals {
    fn new(clips: &[ClipReport], classes: usize, front_end: &FrontEnd) -> Self {
        let short_s = front_end.duration_s * (1.0 - TOLERANCE);
        let cut_s = front_end.duration_s * (1.0 + TOLERANCE);
        let count =
            |holds: &dyn Fn(&ClipReport) -> bool| clips.iter().filter(|clip| holds(clip)).count() as u64;
        let sources: BTreeSet<&str> = clips.iter().map(|clip| clip.source.as_str()).collect();
        Self {
            clips: clips.len() as u64,
            classes: classes as u64,
            sources: sources.len() as u64,
            duration_s: clips.iter().map(|clip| clip.measures.duration_s).sum(),
            trimmed_s: clips.iter().map(|clip| clip.measures.trimmed_s).sum(),
            padded: count(&|clip| clip.silence_s() >= PADDED_S),
            short: count(&|clip| clip.measures.trimmed_s < short_s),
            short_s,
            cut: count(&|clip| clip.measures.trimmed_s > cut_s),
            cut_s,
            front_end_s: front_end.duration_s,
            top_db: front_end.trim_top_db.unwrap_or(TOP_DB_DEFAULT),
        }
    }
}

fn class_report(index: u16, name: &str, clips: &[ClipReport], totals: &Totals) -> ClassReport {
    let of_class: Vec<&ClipReport> = clips.iter().filter(|clip| clip.class_index == index).collect();
    let sources: BTreeSet<&str> = of_class.iter().map(|clip| clip.source.as_str()).collect();
    let sum = |of: fn(&ClipReport) -> f64| of_class.iter().map(|clip| of(clip)).sum();
    let mean = |of: fn(&ClipReport) -> Option<f64>| {
        let values: Vec<f64> = of_class.iter().filter_map(|clip| of(clip)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    ClassReport {
        class: name.to_owned(),
        clips: of_class.len() as u64,
        sources: sources.len() as u64,
        duration_s: sum(|clip| clip.measures.duration_s),
        trimmed_s: sum(|clip| clip.measures.trimmed_s),
        short: of_class.iter().filter(|clip| clip.measures.trimmed_s < totals.short_s).count() as u64,
        rms_dbfs: mean(|clip| clip.measures.rms_dbfs),
        noise_floor_dbfs: mean(|clip| clip.measures.noise_floor_dbfs),
    }
}
