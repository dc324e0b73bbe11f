//! Plots as SVG: histograms of numbers, bars of names.

use super::escape;

/// Bins of a histogram.
const BINS: usize = 30;

/// Size of a histogram in units of its view box, and of the plot inside it.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 34.0;
const RIGHT: f64 = 352.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 140.0;

/// One bar of a chart.
pub(super) struct Bar {
    pub(super) name: String,
    /// Its length, from 0.
    pub(super) value: f64,
    /// What stands beside it.
    pub(super) shown: String,
}

/// How often values fall into bins of equal width.
pub(super) fn histogram(title: &str, unit: &str, values: &[f64]) -> String {
    let caption = format!("<figcaption>{} in {}</figcaption>", escape(title), escape(unit));
    let Some((low, high)) = range(values) else {
        return format!("<figure>{caption}<p>No values.</p></figure>\n");
    };
    let width = (high - low) / BINS as f64;
    let mut counts = [0_u64; BINS];
    for value in values {
        let bin = (((value - low) / width) as usize).min(BINS - 1);
        if let Some(count) = counts.get_mut(bin) {
            *count += 1;
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let step = (RIGHT - LEFT) / BINS as f64;
    let bar = |(bin, count): (usize, &u64)| {
        let height = (BOTTOM - TOP) * *count as f64 / most as f64;
        let (from, to) = (low + bin as f64 * width, low + (bin + 1) as f64 * width);
        format!(
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{count} from {from:.3} to {to:.3}</title></rect>",
            LEFT + bin as f64 * step + 0.5,
            BOTTOM - height,
            step - 1.0
        )
    };
    let drawn: Vec<String> = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(bar).collect();
    let ticks = (0..=4).map(|tick| {
        let part = f64::from(tick) / 4.0;
        let (x, value) = (LEFT + (RIGHT - LEFT) * part, low + (high - low) * part);
        let anchor = if tick == 4 { "end" } else { "middle" };
        format!(
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            BOTTOM + 16.0,
            short(value, high - low)
        )
    });
    let ticks: Vec<String> = ticks.collect();
    let label = format!("{title} in {unit}: {} clips from {low:.2} to {high:.2}", values.len());
    format!(
        "<figure>{caption}<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\
         <line x1=\"{LEFT}\" y1=\"{BOTTOM}\" x2=\"{RIGHT}\" y2=\"{BOTTOM}\"/>{}{}\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{most}</text></svg></figure>\n",
        escape(&label),
        drawn.concat(),
        ticks.concat(),
        LEFT - 4.0,
        TOP + 10.0,
    )
}

/// Lengths of named things. Names and numbers are text, so that long ones wrap on narrow screens.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let row = |bar: &Bar| {
        format!(
            "<tr><td>{}</td><td><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"bar\" width=\"{:.1}\" height=\"10\"/></svg></td><td>{}</td></tr>\n",
            escape(&bar.name),
            100.0 * (bar.value / most).clamp(0.0, 1.0),
            escape(&bar.shown)
        )
    };
    let rows: Vec<String> = bars.iter().map(row).collect();
    format!(
        "<figure><figcaption>{}</figcaption><table class=\"bars\">\n{}</table></figure>\n",
        escape(title),
        rows.concat()
    )
}

/// Smallest and largest value, apart from each other so that bins have a width.
fn range(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().reduce(f64::min)?;
    let high = values.iter().copied().reduce(f64::max)?;
    let least = 1e-3_f64.max(low.abs() * 1e-3);
    Some((low, if high - low < least { low + least } else { high }))
}

/// A number with as many digits as its axis needs.
fn short(value: f64, span: f64) -> String {
    let digits = (1.0 - span.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}
