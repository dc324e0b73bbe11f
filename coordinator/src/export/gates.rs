//! Which model is meant to be shipped, and whether it keeps to the sweep's budget.

use earshot_common::sweep::Gates;
use serde::Serialize;

use super::score::Scored;
use crate::bundle::Kind;

/// What decides, of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    pub(super) bytes: u64,
    /// Median on one thread.
    pub(super) latency_ms: f64,
    /// On the reported part, from 0 to 1: what a limit is held against.
    pub(super) accuracy: f64,
    /// On the validation part, from 0 to 1: what may choose.
    pub(super) validation_accuracy: f64,
}

/// The model that is meant to be shipped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shipped {
    /// Which one.
    pub kind: Kind,
    /// Its file.
    pub file: &'static str,
    /// Why that one.
    pub reason: String,
}

/// A limit of the sweep's `[export]` that the shipped model breaks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Missed {
    /// Key in the sweep file.
    pub gate: &'static str,
    /// What it allows.
    pub limit: f64,
    /// What was measured.
    pub measured: f64,
}

impl Figures {
    fn kib(self) -> f64 {
        self.bytes as f64 / 1024.0
    }

    /// The same model with the scores of another.
    pub(super) fn scoring_as(self, scored: &Scored) -> Self {
        let (accuracy, validation_accuracy) = (scored.reported().accuracy(), scored.validation.accuracy());
        Self { accuracy, validation_accuracy, ..self }
    }
}

/// What a part of the validation accuracy that is lost, or gained, is called in a sentence.
pub(crate) fn change(drop: f64) -> String {
    let verb = if drop < 0.0 { "gains" } else { "loses" };
    format!("{verb} {:.2} points of validation accuracy", 100.0 * drop.abs())
}

/// int8 where it is worth it: it is shipped unless it is slower than float, or loses more accuracy on the validation part than is
/// allowed, and the float file is not too large. The test part has no say.
pub(super) fn ship(float: Figures, int8: Figures, gates: &Gates) -> Shipped {
    let times =
        format!("{:.3} ms against {:.3} ms in float on one thread", int8.latency_ms, float.latency_ms);
    let (is_slower, drop) =
        (int8.latency_ms > float.latency_ms, float.validation_accuracy - int8.validation_accuracy);
    let loses = gates.max_drop.is_some_and(|limit| drop > limit);
    let fits = gates.max_int8_kib.is_none_or(|limit| float.kib() <= limit);
    let shipped = |kind: Kind, reason| Shipped { kind, file: kind.file(), reason };
    let size = format!("the float file of {:.1} KiB", float.kib());
    match (is_slower, loses, fits) {
        (_, true, true) => {
            shipped(Kind::Float, format!("int8 {}, more than max_drop allows, and {size} fits", change(drop)))
        }
        (true, _, true) => shipped(Kind::Float, format!("int8 is slower, {times}, and {size} fits")),
        (true, _, false) => shipped(
            Kind::Int8,
            format!("int8 is slower, {times}, but {size} is larger than max_int8_kib allows"),
        ),
        (false, _, _) => {
            let sizes = format!("{:.1} KiB against {:.1} KiB", int8.kib(), float.kib());
            shipped(Kind::Int8, format!("int8 is faster, {times}, and has {sizes}"))
        }
    }
}

/// The limits that the shipped model breaks.
pub(super) fn missed(shipped: Figures, float: Figures, gates: &Gates) -> Vec<Missed> {
    let measured = [
        ("max_int8_kib", gates.max_int8_kib, shipped.kib()),
        ("max_latency_ms", gates.max_latency_ms, shipped.latency_ms),
        ("max_drop", gates.max_drop, float.accuracy - shipped.accuracy),
    ];
    let missed = measured.into_iter().filter_map(|(gate, limit, measured)| {
        let limit = limit.filter(|limit| measured > *limit)?;
        Some(Missed { gate, limit, measured })
    });
    missed.collect()
}

/// As a table of text.
pub(super) fn table(missed: &[Missed]) -> String {
    let row = |[gate, limit, measured]: [&str; 3]| format!("  {gate:<16}{limit:>12}{measured:>12}");
    let header = row(["gate", "limit", "measured"]);
    let rows = missed.iter().map(|missed| {
        let [limit, measured] = [missed.limit, missed.measured].map(|number| format!("{number:.4}"));
        row([missed.gate, &limit, &measured])
    });
    std::iter::once(header).chain(rows).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOAT: Figures =
        Figures { bytes: 400 << 10, latency_ms: 2.0, accuracy: 0.9, validation_accuracy: 0.9 };
    const FAST: Figures =
        Figures { bytes: 100 << 10, latency_ms: 1.0, accuracy: 0.89, validation_accuracy: 0.89 };
    const SLOW: Figures = Figures { latency_ms: 3.0, ..FAST };

    fn gates(max_int8_kib: Option<f64>, max_drop: Option<f64>) -> Gates {
        Gates { max_int8_kib, max_drop, ..Gates::default() }
    }

    fn check(int8: Figures, gates: &Gates, expected: Kind, reason: &str) {
        let shipped = ship(FLOAT, int8, gates);
        assert!(shipped.kind == expected && shipped.reason.contains(reason), "{shipped:?}");
    }

    #[test]
    fn int8_is_shipped_where_it_is_worth_it() {
        check(FAST, &gates(None, None), Kind::Int8, "100.0 KiB against 400.0 KiB");
        check(SLOW, &gates(None, None), Kind::Float, "int8 is slower, 3.000 ms against 2.000 ms");
        check(SLOW, &gates(Some(400.0), None), Kind::Float, "fits");
        check(SLOW, &gates(Some(399.0), None), Kind::Int8, "larger than max_int8_kib");
        check(FAST, &gates(None, Some(0.005)), Kind::Float, "loses 1.00 points");
        check(FAST, &gates(None, Some(0.02)), Kind::Int8, "faster");
        check(FAST, &gates(Some(200.0), Some(0.005)), Kind::Int8, "faster");
        // The test part does not choose.
        let worse_on_test = Figures { accuracy: 0.5, ..FAST };
        check(worse_on_test, &gates(None, Some(0.02)), Kind::Int8, "faster");
    }

    #[test]
    fn every_broken_limit_is_told() {
        let gates = Gates { max_int8_kib: Some(99.0), max_latency_ms: Some(0.5), max_drop: Some(0.001) };
        let broken = missed(FAST, FLOAT, &gates);
        let names: Vec<&str> = broken.iter().map(|missed| missed.gate).collect();
        assert_eq!(names, ["max_int8_kib", "max_latency_ms", "max_drop"]);
        assert_eq!(table(&broken).lines().count(), 4);
        assert!(table(&broken).contains("max_latency_ms        0.5000      1.0000"), "{}", table(&broken));
        let wide = Gates { max_int8_kib: Some(100.0), max_latency_ms: Some(1.0), max_drop: Some(0.011) };
        assert!(missed(FAST, FLOAT, &wide).is_empty());
    }
}
