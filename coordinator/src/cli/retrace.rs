//! Makes every decision of a database again, and says whether they are those that were made.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{
    ask::OutputArgs,
    document,
    render::{self, Document, Grid},
    screen::{LogFormat, Screen},
    source::DB,
};
use crate::{
    retrace::{self, Retraced, Searches, What},
    store::EventLog,
};

/// Positions between two looks at the spinner.
const TOLD_EVERY: u64 = 64;

/// What another proposal need not mean.
const ROUNDING: &str = "searches compute in floating point: another build of Earshot, or another kind of processor, may propose \
                        other points; --without-search believes the log";

/// Recompute every decision of a database from its log, and compare with those that were made
///
/// Reads the log entry by entry and decides again what each led to: which run is granted to whom, which trial goes on, is stopped,
/// promoted or trained once more, and what the search proposes. Nothing is trained, and nothing is changed. Stop the coordinator
/// first.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator replay                                  earshot.redb
  coordinator replay esc50.redb --format json
  coordinator replay esc50.redb --without-search      on another kind of processor than the coordinator's

`coordinator trial replay N` is another thing: it trains a trial again, and compares its numbers.

Exit codes: 0 the log reproduces every decision, 1 it does not, and the first entry that differs is
printed, or the log cannot be read, 2 wrong usage.")]
pub(super) struct ReplayArgs {
    /// The database
    #[arg(value_name = "DB", default_value = DB)]
    db: PathBuf,

    /// Believe what the log says that searches proposed: they may round otherwise on this machine, and some think for a fifth of
    /// a second
    #[arg(long)]
    without_search: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    database: String,
    state: &'static str,
    entries: u64,
    compared: u64,
    proposed: u64,
    decisions: Vec<Row>,
    difference: Option<Difference>,
}

#[derive(Debug, Serialize)]
struct Row {
    event: &'static str,
    decision: &'static str,
    entries: u64,
    compared: u64,
    proposed: u64,
}

#[derive(Debug, Serialize)]
struct Difference {
    position: u64,
    event: &'static str,
    what: &'static str,
    recorded: String,
    found: String,
}

pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let log = EventLog::open_existing(&args.db)?;
    let screen = Screen::start(LogFormat::Text);
    let spinner = screen.spinner();
    let tell = |position: u64| {
        if position.is_multiple_of(TOLD_EVERY) {
            spinner.set_message(format!("entry {position}"));
        }
    };
    let searches = if args.without_search { Searches::Believed } else { Searches::Asked };
    let retraced = retrace::retrace(&log, searches, tell)?;
    drop(spinner);
    let is_reproduced = retraced.difference.is_none();
    render::print(&document(args.db.display().to_string(), retraced)?, args.output.format)?;
    Ok(if is_reproduced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn document(database: String, retraced: Retraced) -> anyhow::Result<Document> {
    let is_of_search = retraced.difference.as_ref().is_some_and(|found| found.what == What::Proposals);
    let report = Report::of(database, retraced);
    let mut facts = vec![
        ("database", report.database.clone()),
        ("state", report.state.to_owned()),
        ("entries", report.entries.to_string()),
        ("compared", report.compared.to_string()),
        ("proposed", report.proposed.to_string()),
    ];
    if let Some(Difference { position, event, what, recorded, found }) = &report.difference {
        facts.push(("first difference", format!("entry {position}, {event}: another {what}")));
        facts.push(("recorded", recorded.clone()));
        facts.push(("found", found.clone()));
    }
    if is_of_search {
        facts.push(("note", ROUNDING.to_owned()));
    }
    let mut grid = Grid::new(["event", "decision", "entries", "compared", "proposed"]);
    grid.rows.extend(report.decisions.iter().map(|row| {
        let [entries, compared, proposed] =
            [row.entries, row.compared, row.proposed].map(|number| number.to_string());
        vec![row.event.to_owned(), row.decision.to_owned(), entries, compared, proposed]
    }));
    Ok(Document { json: document::json(&report)?, facts, grids: vec![grid.clone()], csv: grid })
}

impl Report {
    fn of(database: String, Retraced { entries, counts, difference }: Retraced) -> Self {
        let decisions: Vec<Row> = counts
            .into_iter()
            .map(|((event, decision), count)| Row {
                event,
                decision,
                entries: count.entries,
                compared: count.compared,
                proposed: count.proposed,
            })
            .collect();
        let difference = difference.map(|found| Difference {
            position: found.position,
            event: found.event,
            what: found.what.name(),
            recorded: found.recorded,
            found: found.found,
        });
        Self {
            database,
            state: if difference.is_none() { "reproduced" } else { "different" },
            entries,
            compared: decisions.iter().map(|row| row.compared).sum(),
            proposed: decisions.iter().map(|row| row.proposed).sum(),
            decisions,
            difference,
        }
    }
}
