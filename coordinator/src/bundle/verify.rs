//! Whether a bundle is still what was exported, and still does what it did: every byte, in both runtimes.

use serde::Serialize;

use super::{Bundle, BundleError, Runtime, golden};

/// One thing that was verified.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The file of the bundle.
    pub file: String,
    /// `bytes`: against the provenance's hash; `tract`, `onnxruntime`: that runtime's numbers, against the golden files.
    pub check: &'static str,
    /// What is wrong; none when nothing is.
    pub problem: Option<String>,
}

/// Verifies every file's bytes and, if all are sound, features and logits against the golden files in tract and in ONNX Runtime.
///
/// # Errors
/// A file that cannot be used at all, or ONNX Runtime is not there.
pub fn verify(bundle: &Bundle) -> Result<Vec<Finding>, BundleError> {
    let files = bundle.files().map(|file| Finding {
        file: file.to_owned(),
        check: "bytes",
        problem: bundle.read(file).err().map(|error| error.to_string()),
    });
    let mut findings: Vec<Finding> = files.collect();
    if findings.iter().any(|finding| finding.problem.is_some()) {
        // What rotten bytes compute says nothing more.
        return Ok(findings);
    }
    for comparison in golden::check(bundle)? {
        findings.push(Finding::of("tract", &comparison));
    }
    for kind in bundle.kinds() {
        let shape = bundle.model(kind)?.shape();
        let mut runtime = Runtime::load(kind.file(), &bundle.read(kind.file())?, shape)?;
        for comparison in golden::check_logits(bundle, kind, |features| runtime.logits(features))? {
            findings.push(Finding::of("onnxruntime", &comparison));
        }
    }
    Ok(findings)
}

impl Finding {
    fn of(check: &'static str, comparison: &golden::Comparison) -> Self {
        let problem = (!comparison.holds()).then(|| {
            format!("off by {:.1e}, allowed is {:.1e}", comparison.difference, comparison.tolerance)
        });
        Self { file: comparison.file.clone(), check, problem }
    }
}
