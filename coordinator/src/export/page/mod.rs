//! The report as one HTML file that needs nothing else: no scripts, styles and charts inside it, readable on a phone.

use std::fmt::Write;

use earshot_common::metrics::Confusion;

use super::{
    picture,
    report::{FileReport, Report},
    robustness::{Condition, Robustness},
};

mod chart;
mod pruning;

use chart::{Part, lines, parts};

const STYLE: &str = include_str!("style.css");

/// The report as HTML. `matrices` are the confusion matrices to draw, with the names of their files.
pub(super) fn page(report: &Report<'_>, matrices: &[(&str, &Confusion)]) -> String {
    let title = escape(&format!("{}, trial {}", report.sweep, report.trial));
    let sections = [
        summary(report),
        accuracy(report),
        cost(report),
        classes(report),
        pruning::pruning(report),
        confusion(report, matrices),
        robustness(report),
        learning(report),
        found(report),
        rebuild(),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<h1>{title}</h1>\n{}</body>\n</html>\n",
        sections.concat()
    )
}

/// Text that stands for itself between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn section(title: &str, body: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(title))
}

/// A table: the first column to the left, the others to the right. Cells are escaped here.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    let body: String = rows.iter().map(|row| cells("td", &mut row.iter().map(String::as_str))).collect();
    format!(
        "<div class=\"scroll\"><table>\n{}{body}</table></div>\n",
        cells("th", &mut header.iter().copied())
    )
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn summary(report: &Report<'_>) -> String {
    let shipped = report.file(report.shipped.kind);
    let reported = shipped.reported();
    let facts = [
        (percent(reported.accuracy), format!("accuracy on {} {} clips", reported.clips, report.part)),
        (format!("{:.1} KiB", shipped.bytes as f64 / 1024.0), "model file".to_owned()),
        (format!("{:.2} ms", shipped.onnxruntime.latency.p50_ms), "a clip on one thread".to_owned()),
        (format!("{:.2} M", report.cost.macs as f64 / 1e6), "multiply-accumulates".to_owned()),
        (format!("{:.1} KiB", report.cost.peak_ram_kib()), "activations in int8".to_owned()),
        (report.cost.params.to_string(), "parameters".to_owned()),
    ];
    let facts = facts.map(|(value, name)| format!("<div><b>{}</b>{}</div>\n", escape(&value), escape(&name)));
    let mut text = format!(
        "<p><b>Ship {}</b>: {}.</p>\n<div class=\"facts\">\n{}</div>\n",
        escape(report.shipped.file),
        escape(&report.shipped.reason),
        facts.concat()
    );
    if report.part == "validation" {
        text.push_str(
            "<p><b>The split has no test part.</b> Scores are on the validation part, which had a part in selecting this model, \
             so they flatter it.</p>\n",
        );
    }
    text
}

fn accuracy(report: &Report<'_>) -> String {
    let names = ["float", "int8", "int8, TensorRT"];
    let bars = names.into_iter().zip(report.files()).map(|(name, file)| Part {
        name: name.to_owned(),
        value: file.reported().accuracy,
        interval: Some(file.accuracy_interval),
    });
    let bars: Vec<Part> = bars.collect();
    let rows: Vec<Vec<String>> = report
        .files()
        .map(|file| {
            let [low, high] = file.accuracy_interval.map(percent);
            let scores = file.reported();
            let numbers =
                [percent(scores.accuracy), format!("{low} to {high}"), format!("{:.3}", scores.macro_f1)];
            let validation = percent(file.validation.accuracy);
            std::iter::once(file.file.to_owned()).chain(numbers).chain([validation]).collect()
        })
        .into();
    let header = ["file", "accuracy", "95 % interval", "macro-F1", "on validation"];
    let chart = parts(&format!("Accuracy on the {} part, with its 95 % interval", report.part), &bars);
    let note = "<p>Intervals are Wilson's: where the accuracy on all such clips is likely to lie, given how few were heard. They take \
                clips as independent.</p>\n";
    section("Accuracy", &format!("{chart}{}{note}", table(&header, &rows)))
}

fn cost(report: &Report<'_>) -> String {
    let rows: Vec<Vec<String>> = report
        .files()
        .map(|file| {
            let latency = file.onnxruntime.latency;
            let kib = format!("{:.1}", file.bytes as f64 / 1024.0);
            let [p50, p99] = [latency.p50_ms, latency.p99_ms].map(|ms| format!("{ms:.3}"));
            vec![file.file.to_owned(), kib, p50, p99, percent(file.onnxruntime.top1_agreement)]
        })
        .into();
    let header = ["file", "KiB", "p50 ms", "p99 ms", "predicts as in tract"];
    let note = "<p>One clip at a time in ONNX Runtime on one thread, on the machine that exported.</p>\n";
    let mut calibrations = Vec::new();
    for file in [&report.int8, &report.tensorrt] {
        calibrations.extend(file.calibrations.iter().map(|attempt| {
            let numbers = [percent(attempt.accuracy), percent(attempt.top1_agreement)];
            let error = format!("{:.3}", attempt.logit_error);
            let chosen = if attempt.chosen { "taken" } else { "" };
            let names = [file.file, attempt.method].map(str::to_owned);
            names.into_iter().chain(numbers).chain([error, chosen.to_owned()]).collect()
        }));
    }
    let calibrations = table(
        &["file", "calibration", "accuracy on validation", "as float", "RMS error of a logit", ""],
        &calibrations,
    );
    let told =
        |quantisation| format!("<p><b>Quantisation-aware training</b>: {}.</p>\n", escape(quantisation));
    let told = report.quantisation.as_deref().map(told).unwrap_or_default();
    section("Size, time and quantisation", &format!("{}{note}{calibrations}{told}", table(&header, &rows)))
}

/// F1 of every class, and what each step cost it.
fn classes(report: &Report<'_>) -> String {
    let change = |from: f64, to: f64| format!("{:+.3}", to - from);
    let both = report.int8.classes.iter().zip(&report.tensorrt.classes);
    let rows: Vec<Vec<String>> = report
        .labels
        .iter()
        .zip(report.float.classes.iter().zip(both))
        .map(|(label, (float, (int8, tensorrt)))| {
            vec![
                label.clone(),
                float.support.to_string(),
                format!("{:.3}", float.f1),
                format!("{:.3}", int8.f1),
                change(float.f1, int8.f1),
                change(float.f1, tensorrt.f1),
            ]
        })
        .collect();
    let header = ["class", "clips", "F1 in float", "in int8", "int8 changed", "TensorRT changed"];
    section(&format!("Classes, on the {} part", report.part), &table(&header, &rows))
}

fn confusion(report: &Report<'_>, matrices: &[(&str, &Confusion)]) -> String {
    let drawn: Vec<String> = matrices
        .iter()
        .map(|&matrix| {
            format!("<div class=\"scroll\">{}</div>\n", picture::confusion(&[matrix], report.labels))
        })
        .collect();
    section("What is taken for what", &drawn.concat())
}

fn robustness(report: &Report<'_>) -> String {
    let Some(clean) = report.robustness.first() else {
        let why = "<p>Not measured: the recordings were not at hand where the model was exported. Export where the sweep's data.root \
                   is.</p>\n";
        return section("Under worse conditions", why);
    };
    let chart = |title: &str, strength: fn(Condition) -> Option<String>| {
        let bar =
            |name: String, measured: &Robustness| Part { name, value: measured.accuracy, interval: None };
        let worse = report
            .robustness
            .iter()
            .filter_map(|measured| Some(bar(strength(measured.condition)?, measured)));
        parts(title, &std::iter::once(bar("as recorded".to_owned(), clean)).chain(worse).collect::<Vec<_>>())
    };
    let charts = [
        chart("White noise, signal to noise", |condition| match condition {
            Condition::SnrDb(db) => Some(format!("{db} dB")),
            _ => None,
        }),
        chart("Recorded more quietly, in 16 bits", |condition| match condition {
            Condition::GainDb(db) => Some(format!("{db} dB")),
            _ => None,
        }),
        chart("Clipped, over full scale by", |condition| match condition {
            Condition::ClippingDb(db) => Some(format!("{db} dB")),
            _ => None,
        }),
        chart("Only the beginning", |condition| match condition {
            Condition::LengthS(seconds) => Some(format!("{seconds} s")),
            _ => None,
        }),
    ];
    let note = format!(
        "<p>Accuracy of {} on {} {} clips, from the waveform on.</p>\n",
        escape(report.shipped.file),
        clean.clips,
        report.part
    );
    section("Under worse conditions", &format!("{note}<div class=\"plots\">\n{}</div>\n", charts.concat()))
}

fn learning(report: &Report<'_>) -> String {
    if report.learning_curve.is_empty() {
        return section("Learning curve", "<p>Not recorded.</p>\n");
    }
    let values =
        |read: fn(&earshot_common::job::Epoch) -> f64| report.learning_curve.iter().map(read).collect();
    let loss = lines(
        "Loss",
        &[("training", values(|epoch| epoch.train_loss)), ("validation", values(|epoch| epoch.loss))],
    );
    let scores = lines(
        "On the validation part",
        &[("accuracy", values(|epoch| epoch.accuracy)), ("macro-F1", values(|epoch| epoch.macro_f1))],
    );
    let best = format!("<p>The weights are those of epoch {}.</p>\n", report.best_epoch);
    section("Learning curve", &format!("{best}<div class=\"plots\">\n{loss}{scores}</div>\n"))
}

fn found(report: &Report<'_>) -> String {
    let mut text = format!("<p>The best of {} completed trials", report.trials_completed);
    text.push_str(if report.refit {
        ", trained once more on nearly all clips that do not test.</p>\n"
    } else {
        ".</p>\n"
    });
    let rows: Vec<Vec<String>> = report
        .point
        .iter()
        .map(|(hyperparameter, value)| vec![hyperparameter.name().to_owned(), value.to_string()])
        .collect();
    if rows.is_empty() {
        text.push_str("<p>All hyperparameters are the reference's.</p>\n");
    } else {
        text.push_str(&table(&["hyperparameter", "value"], &rows));
    }
    let _ = writeln!(
        text,
        "<p>Every other value, the seeds and the hashes of data and weights are in provenance.json.</p>"
    );
    section("How it was found", &text)
}

fn rebuild() -> String {
    let steps = "coordinator verify --bundle .       # is it still what was exported?\n\
                 coordinator predict --bundle . --check\n\
                 coordinator rebuild --bundle .      # trains it again from its recordings, and compares\n";
    section("How to check it and build it again", &format!("<pre>{}</pre>\n", escape(steps)))
}

impl Report<'_> {
    /// All files, the float one first.
    fn files(&self) -> [&FileReport; 3] {
        [&self.float, &self.int8, &self.tensorrt]
    }
}
