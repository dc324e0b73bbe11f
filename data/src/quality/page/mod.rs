//! A report as one HTML file that needs nothing else: no scripts, styles and plots inside it.

use std::fmt::Write;

use super::{ClassReport, ClipReport, Report};

mod plot;

use plot::{Bar, bars, histogram};

const STYLE: &str = include_str!("style.css");

/// Clips in the table at the end; JSON and CSV have all of them.
const CLIPS_SHOWN: usize = 50;

/// Clips named beside a finding.
const CLIPS_NAMED: usize = 12;

/// The report as HTML.
pub fn page(report: &Report) -> String {
    let title = escape(&format!("Recordings in {}", report.data));
    let sections = [
        totals(report),
        findings(report),
        lengths(report),
        levels(report),
        classes(report),
        leakage(report),
        clips(report),
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

fn totals(report: &Report) -> String {
    let totals = &report.totals;
    let facts = [
        (totals.clips.to_string(), "usable clips"),
        (report.problems.len().to_string(), "problems"),
        (totals.classes.to_string(), "classes"),
        (totals.sources.to_string(), "sources"),
        (minutes(totals.duration_s), "recorded"),
        (minutes(totals.trimmed_s), "after trimming"),
    ];
    let facts = facts.map(|(value, name)| format!("<div><b>{}</b>{name}</div>\n", escape(&value)));
    format!("<p>{}</p>\n<div class=\"facts\">\n{}</div>\n", escape(&report.layout), facts.concat())
}

fn findings(report: &Report) -> String {
    if report.findings.is_empty() {
        return section("Findings", "<p>Nothing to report.</p>\n");
    }
    let row = |finding: &super::Finding| {
        let named: Vec<String> = finding.clips.iter().take(CLIPS_NAMED).map(|clip| escape(clip)).collect();
        let more = finding.clips.len().saturating_sub(CLIPS_NAMED);
        let more = if more > 0 { format!(" … and {more} more") } else { String::new() };
        let clips = if named.is_empty() {
            String::new()
        } else {
            format!("<details><summary>clips</summary>{}{more}</details>", named.join(", "))
        };
        format!(
            "<tr><td class=\"{severity}\">{severity}</td><td class=\"kind\">{}</td><td>{}{clips}</td></tr>\n",
            escape(&finding.kind),
            escape(&finding.message),
            severity = finding.severity,
        )
    };
    let rows: Vec<String> = report.findings.iter().map(row).collect();
    section("Findings", &table(&["severity", "kind", "what was found"], &rows.concat()))
}

fn lengths(report: &Report) -> String {
    let values = |of: fn(&ClipReport) -> f64| report.clips.iter().map(of).collect::<Vec<f64>>();
    let plots = [
        histogram("Duration", "s", &values(|clip| clip.measures.duration_s)),
        histogram("Duration after trimming", "s", &values(|clip| clip.measures.trimmed_s)),
        histogram("Silence before", "s", &values(|clip| clip.measures.leading_silence_s)),
        histogram("Silence after", "s", &values(|clip| clip.measures.trailing_silence_s)),
    ];
    section("Lengths", &format!("<div class=\"plots\">\n{}</div>\n", plots.concat()))
}

fn levels(report: &Report) -> String {
    let values =
        |of: fn(&ClipReport) -> Option<f64>| report.clips.iter().filter_map(of).collect::<Vec<f64>>();
    let plots = [
        histogram("Peak", "dBFS", &values(|clip| clip.measures.peak_dbfs)),
        histogram("RMS", "dBFS", &values(|clip| clip.measures.rms_dbfs)),
        histogram("Noise floor", "dBFS", &values(|clip| clip.measures.noise_floor_dbfs)),
        histogram("Offset", "% of full scale", &values(|clip| Some(100.0 * clip.measures.dc_offset))),
    ];
    section("Levels", &format!("<div class=\"plots\">\n{}</div>\n", plots.concat()))
}

fn classes(report: &Report) -> String {
    let classes = &report.classes;
    let counts = classes.iter().map(|class| Bar {
        name: class.class.clone(),
        value: class.clips as f64,
        shown: format!("{} clips, {} sources", class.clips, class.sources),
    });
    let silent =
        |class: &ClassReport| 100.0 * (1.0 - class.trimmed_s / class.duration_s.max(f64::MIN_POSITIVE));
    let silence = classes.iter().filter(|class| class.clips > 0).map(|class| Bar {
        name: class.class.clone(),
        value: silent(class),
        shown: format!("{:.0}%, {} of {} clips short", silent(class), class.short, class.clips),
    });
    let plots = [
        bars("Clips of each class", &counts.collect::<Vec<_>>()),
        bars("Silence at the ends, of the class's audio", &silence.collect::<Vec<_>>()),
    ];
    section("Classes", &format!("<div class=\"plots\">\n{}</div>\n", plots.concat()))
}

fn leakage(report: &Report) -> String {
    let leakage = &report.leakage;
    if leakage.split.is_empty() {
        return section("Leakage", "<p>No split was chosen, and the dataset has no folds.</p>\n");
    }
    let row = |fold: &super::FoldLeakage| {
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            fold.validation_fold,
            fold.sources.len(),
            fold.validation_clips,
            fold.duplicates.len()
        )
    };
    let rows: Vec<String> = leakage.folds.iter().map(row).collect();
    let head =
        ["validation fold", "sources on two sides", "validation clips of these", "duplicates on two sides"];
    let split = format!("<p>{}</p>\n", escape(&leakage.split));
    let body = if leakage.refusal.is_empty() {
        table(&head, &rows.concat())
    } else {
        format!("<p class=\"error\">{}</p>\n", escape(&leakage.refusal))
    };
    section("Leakage", &(split + &body))
}

fn clips(report: &Report) -> String {
    let level = |level: Option<f64>| level.map_or("–".to_owned(), |level| format!("{level:.1}"));
    let row = |clip: &ClipReport| {
        let measures = &clip.measures;
        let mut row = format!("<tr><td>{}</td><td>{}</td>", escape(&clip.file), escape(&clip.class));
        let numbers = [
            format!("{:.2}", measures.duration_s),
            format!("{:.2}", measures.trimmed_s),
            level(measures.peak_dbfs),
            level(measures.rms_dbfs),
            level(measures.noise_floor_dbfs),
            measures.clipped_runs.to_string(),
            format!("{:.4}", measures.dc_offset),
        ];
        for number in numbers {
            // Writing to a text cannot fail.
            let _ = write!(row, "<td>{number}</td>");
        }
        row + "</tr>\n"
    };
    let rows: Vec<String> = report.worst_clips().into_iter().take(CLIPS_SHOWN).map(row).collect();
    let head = [
        "file",
        "class",
        "seconds",
        "trimmed",
        "peak dBFS",
        "RMS dBFS",
        "noise dBFS",
        "clipped runs",
        "offset",
    ];
    let title = if report.clips.len() > CLIPS_SHOWN { "Clips to listen to first" } else { "Clips" };
    section(title, &table(&head, &rows.concat()))
}

fn table(head: &[&str], rows: &str) -> String {
    let head: Vec<String> = head.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n",
        head.concat()
    )
}

fn minutes(seconds: f64) -> String {
    if seconds < 600.0 { format!("{seconds:.0} s") } else { format!("{:.1} min", seconds / 60.0) }
}
