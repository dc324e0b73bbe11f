//! Serves a sweep: checks it, prepares its data, opens its database, and waits.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use earshot_common::sweep::Sweep;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::{runtime::Builder, task::JoinSet};

use super::{
    data,
    entrance::EntranceArgs,
    screen::{LogFormat, Screen},
    serving::{self, WhenDone},
    signals::Signals,
    source::DB,
    sweep::Overrides,
};
use crate::{
    blobs::Blobs,
    dataset,
    engine::{Engine, EngineError, Settings},
    preparing,
    service::presence::Presence,
    state::{Dataset, EventKind, State},
    store::{EventLog, Folded},
    watch::{
        scrape::{self, Watched},
        tally::Tally,
    },
};

/// Serve a sweep to workers until it is done, or until Ctrl-C
///
/// The sweep file is checked first, then the data is prepared as far as it is not, then workers may come. Everything that
/// was answered is on disk: a coordinator that is stopped, or killed, continues its sweep when started again with the same
/// database.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator start --sweep sweeps/grid.toml
  coordinator start --sweep sweeps/grid.toml --set data.root=ESC-50 --db esc50.redb
  coordinator start --sweep sweeps/grid.toml --exit-when-done --listen 0.0.0.0:7070 \
      --tls-cert tls/server.pem --tls-key tls/server.key
          for other machines; see `coordinator token new` and `coordinator tls init`

Exit codes: 0 the sweep is complete, 1 an error, 2 wrong usage or a sweep that cannot run,
3 complete without a single completed trial, 130 and 143 stopped before by Ctrl-C and SIGTERM.")]
pub(super) struct StartArgs {
    /// The sweep file
    #[arg(long, value_name = "FILE")]
    sweep: PathBuf,

    #[command(flatten)]
    overrides: Overrides,

    #[command(flatten)]
    entrance: EntranceArgs,

    /// Write the address here once workers may come
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,

    /// Database of the sweep, made if there is none; its blobs lie beside it, in a folder with the extension .blobs
    #[arg(long, value_name = "FILE", default_value = DB)]
    db: PathBuf,

    /// Exit once the sweep is complete and the workers know it
    #[arg(long)]
    exit_when_done: bool,

    /// A worker that is silent for so long loses its runs to others
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    lease_seconds: u32,

    #[command(flatten)]
    on_bad: data::OnBadArgs,

    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// The database holds a sweep, and not this one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} holds another sweep: {}; name another database with --db FILE, start that sweep again as it was, or hand this one in beside it with `coordinator submit`",
    db.display(),
    differences.join(", ")
)]
pub(super) struct AnotherSweep {
    db: PathBuf,
    /// Where they differ, at least one.
    differences: Vec<String>,
}

/// Differences that are named; more would not help.
const DIFFERENCES_SHOWN: usize = 5;

pub(super) fn run(args: &StartArgs) -> anyhow::Result<ExitCode> {
    let sweep = Sweep::load(&args.sweep, &args.overrides.set)?;
    let screen = Screen::start(args.log_format);
    Builder::new_multi_thread().enable_all().build()?.block_on(start(args, sweep, screen))
}

async fn start(args: &StartArgs, sweep: Sweep, screen: Screen) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let plan = args.entrance.plan(&args.db).await?;
    let earlier = args.db.exists().then(|| continued(&args.db, &sweep)).transpose()?;
    let prepared = data::prepared(&preparing::options_of(&sweep), args.on_bad, &screen, &mut signals).await?;
    let manifest = match prepared {
        Ok(manifest) => manifest,
        Err(stopped) => return Ok(stopped.exit_code()),
    };
    let blobs = Blobs::open(&args.db, &sweep.data.processed)?;
    let dataset = dataset::dataset(&sweep, &manifest, &blobs)?;
    for warning in preparing::leaks(&sweep, &manifest)? {
        tracing::warn!("{warning}");
    }
    let mut watchers = JoinSet::new();
    let tally = Tally::default();
    let metrics = plan.metrics().await?;
    let entrance = plan.open(&mut watchers, tally.clone()).await?;
    let address = entrance.listener.local_addr()?;

    let folded = earlier.map_or_else(|| EventLog::open(&args.db)?.fold(), Ok)?;
    add_features(&blobs, &folded.state)?;
    let lease_ms = u64::from(args.lease_seconds) * 1000;
    let (engine, running) = Engine::start(folded, Settings { lease_ms });
    submit(&engine, &args.db, sweep, dataset).await?;
    if let Some(file) = &args.address_file {
        write_address(file, address)
            .with_context(|| format!("cannot write the address to {}", file.display()))?;
    }
    let presence = Presence::new(lease_ms);
    if let Some(listener) = metrics {
        let watched = Watched { engine: engine.clone(), presence: presence.clone(), tally };
        tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
        watchers.spawn(async move {
            if let Err(error) = scrape::serve(listener, watched).await {
                tracing::error!("no metrics are told any more: {error}");
            }
        });
    }
    let when_done = if args.exit_when_done { WhenDone::Exit } else { WhenDone::Serve };
    serving::Serving { engine, running, blobs, presence, screen }
        .until_done(entrance, signals, when_done)
        .await
}

/// Opens a database that is there and checks that it may hold this sweep, before anything is prepared for it.
fn continued(db: &Path, sweep: &Sweep) -> anyhow::Result<Folded> {
    let folded = EventLog::open_existing(db)?.fold()?;
    check_same(db, &folded.state, sweep, None)?;
    Ok(folded)
}

/// Sweeps that were handed in meanwhile brought folders of their own.
fn add_features(blobs: &Blobs, state: &State) -> anyhow::Result<()> {
    for (_, sweep) in state.sweeps().filter(|(_, sweep)| !sweep.has_ended()) {
        let processed = &sweep.sweep().data.processed;
        if processed.is_dir() {
            blobs.add(processed)?;
        } else {
            tracing::warn!(
                "the features of sweep {} are not in {}: start the coordinator in the folder where that was made",
                sweep.sweep().name,
                processed.display()
            );
        }
    }
    Ok(())
}

/// Hands the sweep in, unless the database holds it already.
async fn submit(engine: &Engine, db: &Path, sweep: Sweep, dataset: Dataset) -> anyhow::Result<()> {
    let path = db.to_owned();
    let (given, features) = (sweep.clone(), dataset.clone());
    let look = move |state: &State| {
        check_same(&path, state, &given, Some(&features))?;
        Ok::<_, AnotherSweep>(state.newest_sweep().is_some())
    };
    if engine.read(look).await?? {
        tracing::info!("continuing the sweep in {}", db.display());
        return Ok(());
    }
    match engine.submit(EventKind::Submitted { sweep: Box::new(sweep), dataset }).await {
        Ok(_) => Ok(()),
        Err(error @ (EngineError::Refused(_) | EngineError::Stopped)) => Err(error.into()),
    }
}

/// Whether the database is empty or holds this sweep, perhaps beside others, with these features. Where the data lies does not matter, only what
/// it is.
fn check_same(
    db: &Path,
    state: &State,
    sweep: &Sweep,
    dataset: Option<&Dataset>,
) -> Result<(), AnotherSweep> {
    let of_that_name = state.sweep_named(&sweep.name);
    let Some((_, known)) = of_that_name.or_else(|| state.newest_sweep()) else {
        return Ok(());
    };
    let mut differences = Vec::new();
    let elsewhere = Sweep { data: known.sweep().data.clone(), ..sweep.clone() };
    if elsewhere.hash() != known.sweep().hash() {
        let [theirs, ours] =
            [known.sweep(), &elsewhere].map(|sweep| serde_json::to_value(sweep).unwrap_or_default());
        differ("", &theirs, &ours, &mut differences);
    }
    if let Some(ours) = dataset {
        let theirs = known.dataset();
        let parts = [
            ("the classes", theirs.labels == ours.labels),
            ("the recordings", theirs.shards == ours.shards && theirs.frames == ours.frames),
            ("the augmented views", theirs.views == ours.views),
            ("the rows of the split", theirs.splits == ours.splits),
        ];
        let changed = parts.into_iter().filter(|(_, is_same)| !is_same);
        differences.extend(changed.map(|(what, _)| format!("{what} have changed since it began")));
    }
    differences.truncate(DIFFERENCES_SHOWN);
    if differences.is_empty() { Ok(()) } else { Err(AnotherSweep { db: db.to_owned(), differences }) }
}

/// Names the fields in which two sweeps differ, as they stand in the file.
fn differ(path: &str, theirs: &Value, ours: &Value, differences: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let names = theirs.keys().chain(ours.keys().filter(|name| !theirs.contains_key(*name)));
            for name in names {
                let [theirs, ours] = [theirs, ours].map(|fields| fields.get(name).unwrap_or(&Value::Null));
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                differ(&path, theirs, ours, differences);
            }
        }
        _ if theirs == ours => {}
        _ => differences.push(format!("{path} is {theirs} there and {ours} here")),
    }
}

/// Whole or not at all: whoever waits for the file reads an address.
fn write_address(path: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    writeln!(file, "{address}")?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use earshot_common::ids::BlobId;

    use super::*;
    use crate::state::Event;

    fn sweep(overrides: &[&str]) -> Sweep {
        let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\ndropout = { choice = [0.1, 0.2] }\n\
                    [schedule]\nepochs = 10\n";
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Sweep::parse(text, Path::new("t.toml"), &overrides).unwrap()
    }

    fn dataset(shard: &[u8]) -> Dataset {
        Dataset {
            labels: vec!["dog".into(), "rain".into()],
            frames: 40,
            shards: vec![BlobId::of(shard)],
            views: vec![],
            splits: BTreeMap::new(),
            manifest: BlobId::of(b"manifest"),
        }
    }

    fn check(overrides: &[&str], shard: &[u8], expected: Result<(), &str>) {
        let mut state = State::default();
        let kind = EventKind::Submitted { sweep: Box::new(sweep(&[])), dataset: dataset(b"shard") };
        state.apply(&Event { at_ms: 0, kind }).unwrap();
        let found = check_same(Path::new("x.redb"), &state, &sweep(overrides), Some(&dataset(shard)));
        match (found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn only_the_same_sweep_is_continued() {
        check(&[], b"shard", Ok(()));
        check(&["data.root=elsewhere"], b"shard", Ok(()));
        check(&["schedule.epochs=12"], b"shard", Err("schedule.epochs is 10 there and 12 here"));
        check(&["name=other"], b"shard", Err("name is \"t\" there and \"other\" here"));
        check(&["space.dropout=0.1"], b"shard", Err("space.dropout"));
        check(
            &[],
            b"another",
            Err("the recordings have changed since it began; name another database with --db"),
        );
    }

    #[test]
    fn the_address_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("address");
        write_address(&path, SocketAddr::from(([127, 0, 0, 1], 7070))).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "127.0.0.1:7070\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
