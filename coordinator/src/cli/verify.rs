//! Whether a bundle is still what was exported.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    ask::OutputArgs,
    document,
    render::{self, Document, Grid},
};
use crate::bundle::{self, Bundle, Finding};

/// Verify an exported bundle: every byte, and what its models say in tract and in ONNX Runtime
///
/// Exit code 1 when anything is not as it was exported.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator verify --bundle champion
  coordinator verify --bundle champion --format json")]
pub(super) struct VerifyArgs {
    /// Folder that `coordinator export --out` wrote
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let findings = bundle::verify(&Bundle::open(&args.bundle)?)?;
    render::print(&verified(&findings)?, args.output.format)?;
    let is_good = findings.iter().all(|finding| finding.problem.is_none());
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verified(findings: &[Finding]) -> anyhow::Result<Document> {
    let mut grid = Grid::new(["file", "check", "problem"]);
    grid.rows.extend(findings.iter().map(|finding| {
        let problem = finding.problem.clone().unwrap_or_default();
        vec![finding.file.clone(), finding.check.to_owned(), problem]
    }));
    let problems = findings.iter().filter(|finding| finding.problem.is_some()).count();
    Ok(Document {
        json: serde_json::json!({ "findings": document::json(&findings)? }),
        facts: vec![("checks", findings.len().to_string()), ("problems", problems.to_string())],
        grids: vec![grid.clone()],
        csv: grid,
    })
}
