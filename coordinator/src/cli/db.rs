//! Commands about a database as such. They open the file themselves, so no coordinator may have it open.

use std::{
    collections::BTreeSet,
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use earshot_common::blob::BlobStore;
use earshot_data::{
    manifest::{MANIFEST_FILE, Manifest},
    prepare::BLOBS,
};
use serde::Serialize;

use super::{
    ask::OutputArgs,
    document,
    render::{self, Document, Grid},
    source::DB,
};
use crate::{
    blobs,
    retrace::{self, Searches},
    state::{Decision, Event, State},
    store::{EventLog, Folded},
    upkeep::{self, Stores},
};

/// Problems that are printed as a table; JSON has all of them.
const PROBLEMS_SHOWN: usize = 20;

/// About a database: verify it, print it, tidy its blobs
#[derive(Debug, Clone, Subcommand)]
pub(super) enum DbCommand {
    Check(CheckArgs),
    Export(ExportArgs),
    Gc(GcArgs),
}

/// Verify the log, what follows from it, the decisions that were made of it, and every blob that it names
///
/// Nothing is changed or mended. Stop the coordinator first.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 all is well, 1 something is missing or damaged, as printed.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Print the log as JSON lines
///
/// One line for each entry: its position, its time, what happened. Stop the coordinator first.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator db export > log.jsonl
  coordinator db export --decisions | grep granted     what each entry led to")]
pub(super) struct ExportArgs {
    /// The database
    #[arg(long, value_name = "FILE", default_value = DB)]
    db: PathBuf,

    /// Make every decision again and print it beside its entry
    #[arg(long)]
    decisions: bool,
}

/// Remove blobs that nothing names: what attempts left that lost their lease
///
/// Stop the coordinator first. With --processed, shards of earlier front ends go as well.
#[derive(Debug, Clone, Args)]
pub(super) struct GcArgs {
    /// The database
    #[arg(long, value_name = "FILE", default_value = DB)]
    db: PathBuf,

    /// Also remove from this prepared folder what neither this database nor the folder's own manifest names; other
    /// databases may still need it
    #[arg(long, value_name = "DIR")]
    processed: Option<PathBuf>,
}

/// Where a database and its features lie.
#[derive(Debug, Clone, Args)]
struct PlaceArgs {
    /// The database
    #[arg(long, value_name = "FILE", default_value = DB)]
    db: PathBuf,

    /// The prepared folder, if it is not where the sweeps say
    #[arg(long, value_name = "DIR")]
    processed: Option<PathBuf>,
}

/// What `db check` prints.
#[derive(Debug, Serialize)]
struct Report {
    entries: u64,
    sweeps: usize,
    blobs: usize,
    garbage: usize,
    problems: Vec<String>,
}

pub(super) fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let Folded { log, state } = EventLog::open_existing(&args.place.db)?.fold()?;
    let stores = stores(&args.place, &state)?;
    let mut findings = upkeep::check(&state, &stores)?;
    let retraced = retrace::retrace(&log, Searches::Believed, |_| ())?;
    findings.problems.extend(retraced.difference.map(|found| {
        format!(
            "entry {}, {}: it leads to another decision than was made; `coordinator replay` says which",
            found.position, found.event
        )
    }));
    let is_sound = findings.problems.is_empty();
    let report = Report {
        entries: state.position(),
        sweeps: state.sweeps().count(),
        blobs: findings.sound,
        garbage: findings.garbage.len(),
        problems: findings.problems,
    };
    render::print(&document(&report)?, args.output.format)?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn document(report: &Report) -> anyhow::Result<Document> {
    let facts = vec![
        ("entries", report.entries.to_string()),
        ("sweeps", report.sweeps.to_string()),
        ("blobs", report.blobs.to_string()),
        ("garbage", report.garbage.to_string()),
        ("problems", report.problems.len().to_string()),
    ];
    let mut problems = Grid::new(["problem"]);
    problems.rows.extend(report.problems.iter().take(PROBLEMS_SHOWN).map(|problem| vec![problem.clone()]));
    let csv = document::one_row(&facts);
    Ok(Document { json: serde_json::to_value(report)?, facts, grids: vec![problems], csv })
}

/// The blob stores of a database: its own, and the prepared folders that its sweeps name.
fn stores(place: &PlaceArgs, state: &State) -> anyhow::Result<Stores> {
    let named: BTreeSet<PathBuf> = match &place.processed {
        Some(processed) => BTreeSet::from([processed.clone()]),
        None => state.sweeps().map(|(_, sweep)| sweep.sweep().data.processed.clone()).collect(),
    };
    let prepared = named.iter().map(|processed| prepared(processed)).collect::<Result<_, _>>()?;
    Ok(Stores { own: BlobStore::open(blobs::folder_of(&place.db))?, prepared })
}

fn prepared(processed: &Path) -> anyhow::Result<BlobStore> {
    let folder = processed.join(BLOBS);
    if !folder.is_dir() {
        bail!(
            "there are no prepared features in {}; run this where the sweep was started, or name the prepared folder with \
             --processed DIR",
            processed.display()
        );
    }
    Ok(BlobStore::open(folder)?)
}

pub(super) fn gc(args: &GcArgs) -> anyhow::Result<ExitCode> {
    // Held until the end, so that no coordinator starts meanwhile.
    let Folded { log: _log, state } = EventLog::open_existing(&args.db)?.fold()?;
    let mut kept = upkeep::reachable(&state);
    let (blobs, bytes) = upkeep::clear(&BlobStore::open(blobs::folder_of(&args.db))?, &kept)?;
    println!("{blobs} blobs of {bytes} bytes removed from {}", blobs::folder_of(&args.db).display());
    if let Some(processed) = &args.processed {
        let store = prepared(processed)?;
        let path = processed.join(MANIFEST_FILE);
        let manifest = Manifest::load(&path)
            .with_context(|| format!("{} is no prepared folder that can be tidied", processed.display()))?;
        kept.extend(manifest.blobs());
        let (blobs, bytes) = upkeep::clear(&store, &kept)?;
        println!("{blobs} blobs of {bytes} bytes removed from {}", processed.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A line of `db export`.
#[derive(Debug, Serialize)]
struct Line {
    position: u64,
    #[serde(flatten)]
    event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let log = EventLog::open_existing(&args.db)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut state = args.decisions.then(State::default);
    // A reader that has seen enough, as `head` does, is no error.
    let mut is_read = Ok(());
    log.for_each(|position, event| {
        if is_read.is_err() {
            return Ok(());
        }
        let decision = match &mut state {
            Some(state) => Some(log.decide(state, position, &event)?),
            None => None,
        };
        is_read = serde_json::to_writer(&mut out, &Line { position, event, decision })
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"));
        Ok(())
    })?;
    match is_read.and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the log"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
