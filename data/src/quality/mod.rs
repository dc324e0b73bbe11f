//! What is there: every clip measured, and what its user should know before training on it.
//!
//! In reading order: `measure` is one clip, `survey` is all of them, `duplicates` and `leakage` compare them, `findings` says
//! what matters, `report` is the whole, and [`page`] shows it. Nothing is changed and nothing is kept: a report is made from
//! the recordings, not from what was prepared of them.

mod duplicates;
mod findings;
mod leakage;
mod measure;
pub mod page;
mod report;
mod survey;
#[cfg(test)]
mod tests;

pub use self::{
    duplicates::Duplicates,
    findings::{Finding, Severity},
    leakage::{ChosenSplit, FoldLeakage, Leakage, SharedSource},
    measure::{Levels, Measures, TOP_DB_DEFAULT},
    report::{ClassReport, Report, Totals},
    survey::{ClipReport, Survey, survey},
};
