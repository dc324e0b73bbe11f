//! The confusion matrices as one SVG picture: self-contained, readable without colour.

use std::fmt::Write;

use earshot_common::metrics::Confusion;

/// Side of a cell in pixels, when there is room and when there are many classes.
const CELL_PX: usize = 34;
const CELL_SMALL_PX: usize = 16;
/// Classes from which cells are small.
const MANY_CLASSES: usize = 20;
/// Width of a letter of the labels, about, and the letters shown of one.
const LETTER_PX: usize = 7;
const LETTERS_MAX: usize = 20;
/// Colours of a cell that holds all clips of its true class, predicted right and wrong; none is white.
const RIGHT: [u8; 3] = [33, 102, 172];
const WRONG: [u8; 3] = [202, 88, 44];

/// Draws matrices side by side, each under its title: true classes down, predicted classes across, cells shaded by the part
/// of the true class.
pub(super) fn confusion(matrices: &[(&str, &Confusion)], labels: &[String]) -> String {
    let classes = labels.len();
    let cell = if classes > MANY_CLASSES { CELL_SMALL_PX } else { CELL_PX };
    let letters = labels.iter().map(|label| label.chars().count().min(LETTERS_MAX)).max();
    let gutter = letters.unwrap_or_default() * LETTER_PX + 20;
    let panel = gutter + classes * cell + 20;
    let top = gutter + 40;
    let (width, height) = (panel * matrices.len(), top + classes * cell + 40);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (index, (title, confusion)) in matrices.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} {top})\">", index * panel + gutter);
        let caption =
            format!("{title}: {:.1} % of {} clips", 100.0 * confusion.accuracy(), confusion.total());
        text(&mut svg, [0, 16 - top as i64], "font-size=\"15\"", &caption);
        for (class, label) in labels.iter().enumerate() {
            let middle = (class * cell + cell / 2) as i64;
            let attributes = "text-anchor=\"end\" dominant-baseline=\"middle\"";
            text(&mut svg, [-6, middle], attributes, &shortened(label));
            let attributes = format!("transform=\"rotate(-90 {middle} -6)\" dominant-baseline=\"middle\"");
            text(&mut svg, [middle, -6], &attributes, &shortened(label));
            row(&mut svg, confusion, class, cell);
        }
        let side = classes * cell;
        let _ = writeln!(svg, "<rect width=\"{side}\" height=\"{side}\" fill=\"none\" stroke=\"#333\"/>");
        let attributes = "fill=\"#555\"";
        text(&mut svg, [0, side as i64 + 20], attributes, "down: true class, across: predicted");
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// One true class's cells.
fn row(svg: &mut String, confusion: &Confusion, truth: usize, cell: usize) {
    let support = confusion.class_scores(truth).support.max(1);
    for predicted in 0..confusion.classes() {
        let count = confusion.count(truth, predicted);
        if count == 0 {
            continue;
        }
        let part = count as f64 / support as f64;
        let full = if truth == predicted { RIGHT } else { WRONG };
        let [red, green, blue] = full.map(|channel| 255.0 - part * (255.0 - f64::from(channel)));
        let (x, y) = (predicted * cell, truth * cell);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{cell}\" height=\"{cell}\" fill=\"rgb({red:.0},{green:.0},{blue:.0})\"/>"
        );
        let colour = if part > 0.5 { "#fff" } else { "#000" };
        let attributes = format!(
            "text-anchor=\"middle\" dominant-baseline=\"central\" fill=\"{colour}\" font-size=\"{}\"",
            (cell / 3).max(8)
        );
        let middle = [x + cell / 2, y + cell / 2].map(|position| position as i64);
        text(svg, middle, &attributes, &count.to_string());
    }
}

fn text(svg: &mut String, [x, y]: [i64; 2], attributes: &str, content: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" {attributes}>{}</text>", escaped(content));
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= LETTERS_MAX {
        return label.to_owned();
    }
    label.chars().take(LETTERS_MAX - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
