//! What a user should know, the worst first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use earshot_common::frontend::FrontEnd;
use serde::{Deserialize, Serialize};

use super::{ClassReport, ClipReport, Duplicates, Report};

/// Mean of a channel from which there is an offset that a microphone does not make: 1% of full scale.
const DC_OFFSET_MAX: f64 = 0.01;

/// Peak below which a recording uses less than half of its 16 bits, in decibels.
const QUIET_DBFS: f64 = -48.0;

/// Clips of the largest class for each of the smallest from which a classifier learns to answer with the largest.
const IMBALANCE_MAX: u64 = 3;

/// Sources of a class below which no split can tell a sound from its recordings.
const SOURCES_MIN: u64 = 5;

/// Names in a message; the report has all of them.
const NAMED: usize = 5;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Scores may be worse, or look better, than they are.
    Warning,
    /// The data says something wrong.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, in one word that does not change.
    pub kind: String,
    /// What was found, and how to mend it.
    pub message: String,
    /// The clips it is about; none if it is about all.
    pub clips: Vec<String>,
}

/// All findings of a report whose other fields are filled.
pub(super) fn findings(report: &Report, front_end: &FrontEnd, warnings: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(problems(report));
    findings.extend(duplicates(report));
    findings.extend(leakage(report));
    findings
        .extend(warnings.iter().map(|warning| finding(Severity::Warning, "labels", warning.clone(), vec![])));
    findings.extend(classes(report));
    findings.extend(levels(report));
    findings.extend(silence(report));
    findings.extend(formats(report, front_end));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn finding(severity: Severity, kind: &str, message: String, clips: Vec<String>) -> Finding {
    Finding { severity, kind: kind.to_owned(), message, clips }
}

/// One finding for each kind of problem.
fn problems(report: &Report) -> Vec<Finding> {
    let mut kinds: BTreeMap<_, Vec<&crate::manifest::Problem>> = BTreeMap::new();
    for problem in &report.problems {
        kinds.entry(problem.kind).or_default().push(problem);
    }
    let describe = |(kind, problems): (_, Vec<&crate::manifest::Problem>)| {
        let first = problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
        let more = match problems.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let clips = problems.iter().map(|problem| problem.clip.clone()).collect();
        finding(Severity::Error, kind_name(kind), format!("{first}{more}"), clips)
    };
    kinds.into_iter().map(describe).collect()
}

fn kind_name(kind: crate::manifest::ProblemKind) -> &'static str {
    use crate::manifest::ProblemKind;
    match kind {
        ProblemKind::Missing => "missing",
        ProblemKind::Unlisted => "unlisted",
        ProblemKind::Unreadable => "unreadable",
        ProblemKind::Truncated => "truncated",
        ProblemKind::TooLarge => "too_large",
        ProblemKind::Silent => "silent",
        ProblemKind::Mislabelled => "mislabelled",
        ProblemKind::Misnamed => "misnamed",
    }
}

fn duplicates(report: &Report) -> Vec<Finding> {
    let (torn, same): (Vec<&Duplicates>, Vec<_>) =
        report.duplicates.iter().partition(|group| group.classes.len() > 1);
    let mut findings = Vec::new();
    let clips = |groups: &[&Duplicates]| groups.iter().flat_map(|group| group.clips.clone()).collect();
    let examples = |groups: &[&Duplicates]| {
        named(
            groups.iter().map(|group| format!("{} ({})", group.clips.join(" = "), group.classes.join(", "))),
        )
    };
    if !torn.is_empty() {
        let message =
            format!("{} recordings have two labels: {}: correct or remove them", torn.len(), examples(&torn));
        findings.push(finding(Severity::Error, "contradiction", message, clips(&torn)));
    }
    if !same.is_empty() {
        let message = format!(
            "{} recordings are there more than once: {}: keep one of each",
            same.len(),
            examples(&same)
        );
        findings.push(finding(Severity::Warning, "duplicates", message, clips(&same)));
    }
    findings
}

fn leakage(report: &Report) -> Vec<Finding> {
    let leakage = &report.leakage;
    let mut findings = Vec::new();
    if !leakage.refusal.is_empty() {
        let message = format!("the split ({}) cannot be made: {}", leakage.split, leakage.refusal);
        findings.push(finding(Severity::Error, "split", message, vec![]));
    }
    for fold in &leakage.folds {
        if fold.sources.is_empty() && fold.duplicates.is_empty() {
            continue;
        }
        let sources = named(fold.sources.iter().cloned());
        let duplicates = match fold.duplicates.len() {
            0 => String::new(),
            count => format!(", and {count} recordings as duplicates"),
        };
        let message = format!(
            "{} sources are on two sides when fold {} validates ({}; {} of its clips){duplicates}: scores flatter; a split of kind \"grouped\" keeps sources together",
            fold.sources.len(),
            fold.validation_fold,
            sources,
            fold.validation_clips
        );
        findings.push(finding(Severity::Warning, "leakage", message, fold.duplicates.concat()));
    }
    if !leakage.sources_across_folds.is_empty() {
        let shared = leakage.sources_across_folds.iter();
        let names = named(shared.clone().map(|shared| {
            let folds: Vec<String> = shared.folds.iter().map(ToString::to_string).collect();
            format!("{} (folds {})", shared.source, folds.join(", "))
        }));
        let message = format!("{} sources span two of the dataset's folds: {names}", shared.len());
        let clips = shared.flat_map(|shared| shared.clips.clone()).collect();
        findings.push(finding(Severity::Warning, "folds", message, clips));
    }
    findings
}

fn classes(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    let largest = report.classes.iter().max_by_key(|class| class.clips);
    let smallest = report.classes.iter().min_by_key(|class| class.clips);
    if let (Some(largest), Some(smallest)) = (largest, smallest)
        && largest.clips > IMBALANCE_MAX * smallest.clips
    {
        let message = format!(
            "classes are uneven: {} clips of {:?}, {} of {:?}: look at macro-F1 rather than accuracy, or add clips",
            largest.clips, largest.class, smallest.clips, smallest.class
        );
        findings.push(finding(Severity::Warning, "balance", message, vec![]));
    }
    let few: Vec<&ClassReport> = report.classes.iter().filter(|class| class.sources < SOURCES_MIN).collect();
    if !few.is_empty() {
        let names = named(few.iter().map(|class| format!("{:?} ({})", class.class, class.sources)));
        let message = format!(
            "{} classes have fewer than {SOURCES_MIN} sources: {names}: a model learns the recordings; add others",
            few.len()
        );
        findings.push(finding(Severity::Warning, "sources", message, vec![]));
    }
    findings
}

fn levels(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |kind, clips: Vec<String>, message: &dyn Fn(usize) -> String| {
        if !clips.is_empty() {
            findings.push(finding(Severity::Warning, kind, message(clips.len()), clips));
        }
    };
    add(
        "clipping",
        worst(report, |clip| (clip.measures.clipped_runs > 0).then_some(clip.measures.clipped_share)),
        &|clips| format!("{clips} clips have crests cut off at full scale: record them lower"),
    );
    let offset = |clip: &ClipReport| clip.measures.dc_offset.abs();
    add("dc_offset", worst(report, |clip| (offset(clip) > DC_OFFSET_MAX).then(|| offset(clip))), &|clips| {
        format!("{clips} clips have an offset of more than {DC_OFFSET_MAX} of full scale: high-pass them")
    });
    let quiet =
        |clip: &ClipReport| clip.measures.peak_dbfs.filter(|peak| *peak < QUIET_DBFS).map(|peak| -peak);
    add("quiet", worst(report, quiet), &|clips| {
        format!("{clips} clips peak below {QUIET_DBFS} dB: normalising lifts their quantisation noise, too")
    });
    findings
}

/// Names of the clips that have this value, the largest first.
fn worst(report: &Report, value: impl Fn(&ClipReport) -> Option<f64>) -> Vec<String> {
    let valued = report.clips.iter().filter_map(|clip| Some((value(clip)?, &clip.clip)));
    let mut clips: Vec<_> = valued.collect();
    clips.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then(a_name.cmp(b_name)));
    clips.into_iter().map(|(_, name)| name.clone()).collect()
}

fn silence(report: &Report) -> Vec<Finding> {
    let totals = &report.totals;
    let mut findings = Vec::new();
    if totals.padded > 0 {
        let clips = worst(report, |clip| {
            let silence = clip.silence_s();
            (silence >= super::report::PADDED_S).then_some(silence)
        });
        let message = format!(
            "{} of {} clips begin or end with at least {} s of silence ({} dB below their loudest), {:.0}% of all audio; trimming takes it away",
            totals.padded,
            totals.clips,
            super::report::PADDED_S,
            totals.top_db,
            100.0 * (1.0 - totals.trimmed_s / totals.duration_s.max(f64::MIN_POSITIVE))
        );
        findings.push(finding(Severity::Note, "padding", message, clips));
    }
    if totals.short > 0 {
        let clips = worst(report, |clip| {
            (clip.measures.trimmed_s < totals.short_s).then_some(-clip.measures.trimmed_s)
        });
        let message = format!(
            "{} of {} clips are shorter than {:.2} s after trimming, the front end fills them up to {} s; length = \"tile\" repeats them instead of adding silence",
            totals.short, totals.clips, totals.short_s, totals.front_end_s
        );
        findings.push(finding(Severity::Note, "short", message, clips));
    }
    if totals.cut > 0 {
        let clips =
            worst(report, |clip| (clip.measures.trimmed_s > totals.cut_s).then_some(clip.measures.trimmed_s));
        let message = format!(
            "{} of {} clips are longer than {:.2} s after trimming, the front end cuts their end: raise duration_s, or cut them into clips",
            totals.cut, totals.clips, totals.cut_s
        );
        findings.push(finding(Severity::Warning, "cut", message, clips));
    }
    findings
}

fn formats(report: &Report, front_end: &FrontEnd) -> Vec<Finding> {
    let mut findings = Vec::new();
    let formats: BTreeSet<(u32, u32)> =
        report.clips.iter().map(|clip| (clip.measures.sample_rate_hz, clip.measures.channels)).collect();
    if formats.len() > 1 {
        let names = named(formats.iter().map(|(rate, channels)| format!("{rate} Hz × {channels}")));
        let message =
            format!("{} combinations of rate and channels: {names}; all are brought to one", formats.len());
        findings.push(finding(Severity::Note, "formats", message, vec![]));
    }
    let low = worst(report, |clip| {
        let rate = clip.measures.sample_rate_hz;
        (rate < front_end.sample_rate_hz).then(|| -f64::from(rate))
    });
    if !low.is_empty() {
        let message = format!(
            "{} clips have a lower rate than the front end's {} Hz: they are empty above half of their own, which a model can tell classes by",
            low.len(),
            front_end.sample_rate_hz
        );
        findings.push(finding(Severity::Warning, "rate", message, low));
    }
    findings
}

/// The first few names.
fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.take(NAMED).collect::<Vec<_>>().join(", ") + &more
}
