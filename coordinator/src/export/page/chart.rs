//! Charts as SVG.

use std::fmt::Write;

use super::escape;

/// Size in units of the view box, and of the plot inside it.
const WIDTH: f64 = 360.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 348.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 150.0;
const HEIGHT: f64 = 178.0;

/// Height of a row of bars, and where its label and its bar begin and end.
const ROW: f64 = 22.0;
const BAR_LEFT: f64 = 110.0;
const BAR_RIGHT: f64 = 300.0;

/// One row of a chart of parts, from 0 to 1.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) value: f64,
    /// Where it is likely to lie.
    pub(super) interval: Option<[f64; 2]>,
}

/// Parts of one as bars, in percent.
pub(super) fn parts(title: &str, parts: &[Part]) -> String {
    let height = ROW * parts.len() as f64 + 6.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">");
    let at = |part: f64| BAR_LEFT + part.clamp(0.0, 1.0) * (BAR_RIGHT - BAR_LEFT);
    for (row, part) in parts.iter().enumerate() {
        let top = ROW * row as f64 + 4.0;
        let middle = top + ROW / 2.0 - 2.0;
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"one\" x=\"{BAR_LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.0}\"/>",
            BAR_LEFT - 8.0,
            middle + 4.0,
            escape(&part.name),
            at(part.value) - BAR_LEFT,
            ROW - 6.0
        );
        if let Some([low, high]) = part.interval {
            let _ = write!(
                svg,
                "<line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
                at(low),
                at(high)
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\">{:.1} %</text>",
            BAR_RIGHT + 8.0,
            middle + 4.0,
            100.0 * part.value
        );
    }
    svg.push_str("</svg>");
    figure(title, &svg)
}

/// Lines over epochs, from 1; the first is drawn in one colour, the second in the other.
pub(super) fn lines(title: &str, lines: &[(&str, Vec<f64>)]) -> String {
    let values = || lines.iter().flat_map(|(_, values)| values).copied().filter(|value| value.is_finite());
    let epochs = lines.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return figure(title, "<p>No values.</p>");
    }
    let span = if high > low { high - low } else { 1.0 };
    let x = |epoch: usize| LEFT + (RIGHT - LEFT) * epoch as f64 / (epochs.max(2) - 1) as f64;
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value - low) / span;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for value in [low, high] {
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{value:.2}</text>",
            y(value),
            LEFT - 5.0,
            y(value) + 4.0
        );
    }
    for ((name, values), (class, left)) in lines.iter().zip([("one", LEFT), ("other", LEFT + 90.0)]) {
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_finite())
            .map(|(epoch, &value)| format!("{:.1},{:.1}", x(epoch), y(value)))
            .collect();
        let bottom = HEIGHT - 6.0;
        let _ = write!(
            svg,
            "<polyline class=\"{class}\" points=\"{}\"/>\
             <line class=\"{class}\" x1=\"{left}\" x2=\"{:.0}\" y1=\"{:.0}\" y2=\"{:.0}\"/>\
             <text x=\"{:.0}\" y=\"{bottom:.0}\">{}</text>",
            points.join(" "),
            left + 14.0,
            bottom - 4.0,
            bottom - 4.0,
            left + 19.0,
            escape(name)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{RIGHT}\" y=\"{:.0}\" text-anchor=\"end\">epochs 1 to {epochs}</text></svg>",
        HEIGHT - 6.0
    );
    figure(title, &svg)
}

fn figure(title: &str, body: &str) -> String {
    format!("<figure><figcaption>{}</figcaption>{body}</figure>\n", escape(title))
}
