//! What pruning did: before and after, step by step, class by class, and what each layer could lose.

use super::{escape, percent, section, table};
use crate::export::{pruning::PruningReport, report::Report, score::Scores, sensitivity::Sensitivity};

/// Nothing where the sweep did not prune.
pub(super) fn pruning(report: &Report<'_>) -> String {
    let Some(pruning) = &report.pruning else { return String::new() };
    let text = format!("<p>Exported {}.</p>\n", escape(pruning.reason));
    let parts = [text, sides(report, pruning), steps(pruning), classes(report, pruning), scan(pruning)];
    section("Pruning", &parts.concat())
}

fn sides(report: &Report<'_>, pruning: &PruningReport<'_>) -> String {
    let side = |name: &str, scores: Scores, cost: earshot_common::model::Cost, kib: f64| {
        vec![
            name.to_owned(),
            percent(scores.accuracy),
            format!("{:.3}", scores.macro_f1),
            cost.params.to_string(),
            format!("{:.2} M", cost.macs as f64 / 1e6),
            format!("{kib:.1}"),
        ]
    };
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    // A float weight has four bytes.
    let whole = pruning.whole.cost;
    let mut rows = vec![side("float, before", pruning.whole.reported(), whole, kib(4 * whole.params))];
    let name = if pruning.exported.is_some() { "float, pruned" } else { "float, as exported" };
    rows.push(side(name, report.float.reported(), report.cost, kib(report.float.bytes)));
    rows.push(side("int8", report.int8.reported(), report.cost, kib(report.int8.bytes)));
    let accuracy = format!("accuracy, {} part", report.part);
    table(&["", &accuracy, "macro-F1", "parameters", "multiply-accumulates", "KiB"], &rows)
}

fn steps(pruning: &PruningReport<'_>) -> String {
    let rows: Vec<Vec<String>> = pruning
        .steps
        .iter()
        .map(|step| {
            let is_exported = pruning.exported == Some(step.step);
            vec![
                format!("step {}{}", step.step, if is_exported { ", exported" } else { "" }),
                percent(step.accuracy),
                format!("{:.1}", step.cost.int8_kib()),
                format!("{:.2} M", step.cost.macs as f64 / 1e6),
                step.why.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["", "accuracy on validation", "int8 KiB", "multiply-accumulates", "what was removed"], &rows)
}

/// F1 of every class, and what each step cost it.
fn classes(report: &Report<'_>, pruning: &PruningReport<'_>) -> String {
    let change = |from: f64, to: f64| format!("{:+.3}", to - from);
    let exported = report.float.classes.iter().zip(&report.int8.classes);
    let rows: Vec<Vec<String>> = report
        .labels
        .iter()
        .zip(pruning.whole.classes.iter().zip(exported))
        .map(|(label, (whole, (float, int8)))| {
            vec![
                label.clone(),
                format!("{:.3}", whole.f1),
                change(whole.f1, float.f1),
                change(whole.f1, int8.f1),
            ]
        })
        .collect();
    table(&["class", "F1 before", "pruned changed", "pruned, in int8"], &rows)
}

fn scan(pruning: &PruningReport<'_>) -> String {
    let Some(first) = pruning.sensitivity.first() else { return String::new() };
    let header: Vec<String> = ["layer", "groups"]
        .map(str::to_owned)
        .into_iter()
        .chain(first.points.iter().map(|point| format!("−{:.0} %", 100.0 * point.part)))
        .collect();
    let row = |layer: &Sensitivity| {
        let accuracies = layer.points.iter().map(|point| percent(point.accuracy));
        [layer.layer.clone(), layer.groups.to_string()].into_iter().chain(accuracies).collect()
    };
    let rows: Vec<Vec<String>> = pruning.sensitivity.iter().map(row).collect();
    let note = "<p>Accuracy on validation clips when a layer alone loses that part of its filters or units, the least important first, and nothing is \
                trained after.</p>\n";
    format!("{note}{}", table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows))
}
