//! The test report: how well the files do on clips that neither trained nor selected them.

use std::fmt::Write;

use earshot_common::{
    ids::{FoldId, TrialId},
    job::Epoch,
    metrics::{ClassScores, Confusion},
    model::Cost,
    sweep::Point,
};
use serde::Serialize;

use super::{
    Champion,
    choice::Attempt,
    deploy::Deployed,
    gates::Shipped,
    pruning::PruningReport,
    robustness::Robustness,
    score::Scores,
    verified::{Measured, Verified},
};
use crate::bundle::Kind;

/// The contents of `report.json`; `report.md` and `confusion.svg` show the same.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) sweep: &'a str,
    pub(super) trial: TrialId,
    pub(super) trials_completed: u32,
    /// Whether the weights are those of the refit.
    pub(super) refit: bool,
    pub(super) point: &'a Point,
    /// `test`, or `validation` when the split has no test part.
    pub(super) part: &'static str,
    pub(super) labels: &'a [String],
    pub(super) float: FileReport,
    pub(super) int8: FileReport,
    pub(super) tensorrt: FileReport,
    /// Part of the validation and test clips for which `model.onnx` and `model.int8.onnx` give the same class.
    pub(super) top1_agreement: f64,
    /// Largest difference of a validation logit between the float file and the worker.
    pub(super) logit_difference_max: f32,
    /// The model that is meant to be shipped.
    pub(super) shipped: &'a Shipped,
    /// Exact, of the exported model.
    pub(super) cost: Cost,
    /// Every epoch of the exported run; empty where it was not recorded.
    pub(super) learning_curve: &'a [Epoch],
    /// The epoch whose weights are exported.
    pub(super) best_epoch: u32,
    /// The shipped model under worse conditions, the clean one first; empty where the recordings were not at hand.
    pub(super) robustness: &'a [Robustness],
    /// Largest difference of a logit between the int8 file in tract and whole-number arithmetic.
    pub(super) int8_logit_difference_max: f32,
    /// What pruning did; none where nothing was to be pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pruning: Option<PruningReport<'a>>,
    /// Whether the int8 file was trained to bear quantisation, and why; none where nobody wished that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quantisation: Option<String>,
}

/// One file's part of the report.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    pub(super) file: &'static str,
    pub(super) bytes: u64,
    pub(super) validation: Scores,
    pub(super) test: Option<Scores>,
    /// Within which the accuracy on the reported part lies with 95 % confidence (Wilson 1927).
    pub(super) accuracy_interval: [f64; 2],
    /// Part of the validation and test clips for which the float file gives the same class.
    pub(super) top1_agreement: f64,
    /// In ONNX Runtime.
    pub(super) onnxruntime: Deployed,
    /// Calibrations tried, measured on the validation part; none for the float file.
    pub(super) calibrations: Vec<Attempt>,
    /// By class index, on the reported part.
    pub(super) classes: Vec<ClassScores>,
    /// Clips by true class, then predicted class, on the reported part.
    pub(super) confusion: Vec<Vec<u64>>,
}

impl<'a> Report<'a> {
    /// Of a champion's two files.
    pub(super) fn new(
        champion: &'a Champion,
        verified: &'a Verified,
        cost: Cost,
        robustness: &'a [Robustness],
    ) -> Self {
        let has_test = verified.float.scored.test.is_some();
        Self {
            sweep: &champion.sweep.name,
            trial: champion.trial,
            trials_completed: champion.trials_completed,
            refit: champion.fold == FoldId::REFIT,
            point: &champion.point,
            part: if has_test { "test" } else { "validation" },
            labels: &champion.manifest.classes,
            float: FileReport::new(&verified.float),
            int8: FileReport::new(&verified.int8),
            tensorrt: FileReport::new(&verified.tensorrt),
            top1_agreement: verified.int8.top1_agreement,
            logit_difference_max: verified.float.difference,
            shipped: &verified.shipped,
            cost,
            learning_curve: &champion.learning_curve,
            best_epoch: champion.best.epoch,
            robustness,
            int8_logit_difference_max: verified.int8.difference.max(verified.tensorrt.difference),
            pruning: verified
                .whole
                .as_ref()
                .zip(champion.pruning.as_ref())
                .map(|(whole, pruning)| whole.report(pruning)),
            quantisation: verified.quantisation(champion),
        }
    }

    /// What is said of one of the files.
    pub(super) fn file(&self, kind: Kind) -> &FileReport {
        match kind {
            Kind::Float => &self.float,
            Kind::Int8 => &self.int8,
            Kind::TensorRt => &self.tensorrt,
        }
    }

    /// As Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("# Test report: {}, trial {}\n\n", self.sweep, self.trial);
        let point: Vec<String> =
            self.point.iter().map(|(h, value)| format!("`{} = {value}`", h.name())).collect();
        let point = if point.is_empty() { "the reference's values".to_owned() } else { point.join(", ") };
        let _ = writeln!(text, "The best of {} completed trials, with\n{point}.\n", self.trials_completed);
        if self.refit {
            text.push_str(
                "When all trials had ended, it was trained once more, to the last epoch, on all clips that do not test, except \
                 those of the validation part below: one source of each class.\n\n",
            );
        }
        self.write_pruning(&mut text);
        text.push_str(match self.part {
            "validation" if self.refit => {
                "**The split has no test part.** Scores are on the few clips of the validation part, which had a part in \
                 selecting the trial: name test folds or a `test_size` in the sweep for an unbiased figure.\n\n"
            }
            "test" => "Scores are on the **test part**: clips that neither trained nor selected the model.\n\n",
            _ => {
                "**The split has no test part.** Scores are on the validation part, which stopped training and selected this \
                 trial, so they flatter the model: name test folds or a `test_size` in the sweep for an unbiased figure.\n\n"
            }
        });
        self.write_files(&mut text);
        self.write_runtime(&mut text);
        self.write_calibrations(&mut text);
        self.write_classes(&mut text);
        for file in [&self.float, &self.int8] {
            let _ = writeln!(text, "## Confusion of `{}` on the {} part\n", file.file, self.part);
            self.write_confusion(&mut text, file);
        }
        text.push_str("![confusion matrices](confusion.svg)\n");
        text
    }

    fn write_pruning(&self, text: &mut String) {
        let Some(pruning) = &self.pruning else { return };
        let whole = &pruning.whole;
        let _ = writeln!(
            text,
            "**Pruning**: {}. Before it the champion has {:.2} % on the {} part, {} parameters and {:.1} KiB in int8; what is \
             exported has {:.2} %, {} and {:.1}. report.html has the steps, what each class lost and what each layer could lose.\n",
            pruning.reason,
            100.0 * whole.reported().accuracy,
            self.part,
            whole.cost.params,
            whole.cost.int8_kib(),
            100.0 * self.float.reported().accuracy,
            self.cost.params,
            self.cost.int8_kib(),
        );
    }

    fn write_files(&self, text: &mut String) {
        let mut rows = Vec::new();
        for file in [&self.float, &self.int8, &self.tensorrt] {
            let parts = [("validation", Some(file.validation)), ("test", file.test)];
            for (part, scores) in parts {
                let Some(scores) = scores else { continue };
                rows.push(vec![
                    format!("`{}`", file.file),
                    file.bytes.to_string(),
                    part.to_owned(),
                    scores.clips.to_string(),
                    format!("{:.2} %", 100.0 * scores.accuracy),
                    format!("{:.4}", scores.macro_f1),
                ]);
            }
        }
        table(text, &["file", "bytes", "part", "clips", "accuracy", "macro-F1"], &rows);
        let reported = |file: &FileReport| file.reported().accuracy;
        let _ = writeln!(
            text,
            "Quantisation changed accuracy on the {} part by {:+.2} points; both files give the same class for {:.2} % of the \
             validation and test clips. The float file's validation logits are within {:.2e} of the worker's.\n",
            self.part,
            100.0 * (reported(&self.int8) - reported(&self.float)),
            100.0 * self.top1_agreement,
            self.logit_difference_max,
        );
    }

    fn write_runtime(&self, text: &mut String) {
        let _ = writeln!(text, "**Ship `{}`**: {}.\n", self.shipped.file, self.shipped.reason);
        let _ = writeln!(text, "## In ONNX Runtime, on one thread\n");
        let rows: Vec<Vec<String>> = [&self.float, &self.int8, &self.tensorrt]
            .map(|file| {
                let Deployed { scores, top1_agreement, latency } = file.onnxruntime;
                vec![
                    format!("`{}`", file.file),
                    format!("{:.1}", file.bytes as f64 / 1024.0),
                    format!("{:.3}", latency.p50_ms),
                    format!("{:.3}", latency.p99_ms),
                    format!("{:.2} %", 100.0 * scores.accuracy),
                    format!("{:.2} %", 100.0 * top1_agreement),
                ]
            })
            .into();
        let accuracy = format!("accuracy, {} part", self.part);
        table(text, &["file", "KiB", "p50 ms", "p99 ms", &accuracy, "as tract"], &rows);
        let Cost { params, macs, .. } = self.cost;
        let _ = writeln!(
            text,
            "{params} parameters, {macs} multiply-accumulates a clip, {:.1} KiB of int8 activations at their peak.\n",
            self.cost.peak_ram_kib()
        );
    }

    fn write_calibrations(&self, text: &mut String) {
        text.push_str("## Calibrations, on the validation part\n\n");
        let mut rows = Vec::new();
        for file in [&self.int8, &self.tensorrt] {
            rows.extend(file.calibrations.iter().map(|attempt| {
                vec![
                    format!("`{}`", file.file),
                    attempt.method.to_owned(),
                    format!("{:.2} %", 100.0 * attempt.accuracy),
                    format!("{:.2} %", 100.0 * attempt.top1_agreement),
                    format!("{:.3}", attempt.logit_error),
                    if attempt.chosen { "taken".to_owned() } else { String::new() },
                ]
            }));
        }
        table(text, &["file", "calibration", "accuracy", "as float", "RMS error of a logit", ""], &rows);
        if let Some(quantisation) = &self.quantisation {
            let _ = writeln!(text, "**Quantisation-aware training**: {quantisation}.\n");
        }
    }

    fn write_classes(&self, text: &mut String) {
        let _ = writeln!(text, "## Classes, on the {} part\n", self.part);
        let both = self.float.classes.iter().zip(&self.int8.classes);
        let rows: Vec<Vec<String>> = self
            .labels
            .iter()
            .zip(both)
            .map(|(label, (float, int8))| {
                let scores = [float.precision, float.recall, float.f1, int8.precision, int8.recall, int8.f1];
                [cell(label), float.support.to_string()]
                    .into_iter()
                    .chain(scores.map(|score| format!("{score:.3}")))
                    .collect()
            })
            .collect();
        let header =
            ["class", "support", "float precision", "recall", "F1", "int8 precision", "recall", "F1"];
        table(text, &header, &rows);
    }

    fn write_confusion(&self, text: &mut String, file: &FileReport) {
        let numbers: Vec<String> = (0..self.labels.len()).map(|class| class.to_string()).collect();
        let header: Vec<&str> =
            std::iter::once("true \\ predicted").chain(numbers.iter().map(String::as_str)).collect();
        let rows: Vec<Vec<String>> = self
            .labels
            .iter()
            .zip(&file.confusion)
            .enumerate()
            .map(|(class, (label, counts))| {
                let label = format!("{class} {}", cell(label));
                let counts =
                    counts.iter().map(|&count| if count == 0 { String::new() } else { count.to_string() });
                std::iter::once(label).chain(counts).collect()
            })
            .collect();
        table(text, &header, &rows);
    }
}

impl FileReport {
    /// Scores on the reported part.
    pub(super) fn reported(&self) -> Scores {
        self.test.unwrap_or(self.validation)
    }

    fn new(measured: &Measured) -> Self {
        let reported = measured.scored.reported();
        let classes = 0..reported.classes();
        Self {
            file: measured.file,
            bytes: measured.bytes,
            validation: Scores::of(&measured.scored.validation),
            test: measured.scored.test.as_ref().map(Scores::of),
            accuracy_interval: wilson(reported.accuracy(), reported.total()),
            top1_agreement: measured.top1_agreement,
            onnxruntime: measured.deployed,
            calibrations: measured.calibrations.clone(),
            classes: classes.clone().map(|class| reported.class_scores(class)).collect(),
            confusion: classes.map(|truth| row(reported, truth)).collect(),
        }
    }
}

/// Within which a part of so many independent clips lies with 95 % confidence: Wilson's score interval (Wilson 1927).
fn wilson(part: f64, clips: u64) -> [f64; 2] {
    /// Quantile of the normal distribution that 2.5 % lie above.
    const Z: f64 = 1.959_963_984_540_054;
    if clips == 0 {
        return [0.0, 1.0];
    }
    let n = clips as f64;
    let middle = part + Z * Z / (2.0 * n);
    let half = Z * (part * (1.0 - part) / n + Z * Z / (4.0 * n * n)).sqrt();
    [middle - half, middle + half].map(|bound| bound / (1.0 + Z * Z / n))
}

fn row(confusion: &Confusion, truth: usize) -> Vec<u64> {
    (0..confusion.classes()).map(|predicted| confusion.count(truth, predicted)).collect()
}

/// A Markdown table: the first column to the left, the others to the right.
fn table(text: &mut String, header: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(text, "| {} |", header.join(" | "));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(header.len().saturating_sub(1)));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text.push('\n');
}

/// A class name that breaks no table.
fn cell(label: &str) -> String {
    label.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_wilsons() {
        // scipy.stats.binomtest(right, clips).proportion_ci(method="wilson")
        for ((right, clips), expected) in [
            ((8, 10), [0.490_162_47, 0.943_317_85]),
            ((0, 20), [0.0, 0.161_125_16]),
            ((356, 400), [0.855_549_09, 0.917_031_32]),
        ] {
            let found = wilson(f64::from(right) / f64::from(clips), u64::from(clips as u32));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{right} of {clips}: {found}");
            }
        }
        assert!(
            wilson(0.0, 0).iter().zip([0.0, 1.0]).all(|(found, expected)| (found - expected).abs() < 1e-9)
        );
    }
}
