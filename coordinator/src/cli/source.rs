//! Who answers: the running coordinator, or the database itself when none runs.
//!
//! - `--db FILE`: the file is opened; if a running coordinator holds it, that one is asked.
//! - `--coordinator URL`: that coordinator is asked, and nobody else.
//! - neither: the coordinator at the usual address, or the usual file when nobody listens there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use earshot_common::{
    credentials::{CredentialArgs, Credentials, coordinator_url},
    ids::TrialId,
    sweep::Sweep,
};
use earshot_proto::earshot::v1::{Champion, Curve, Importance, Leaderboard, Status, SweepList, Trial};
use tokio::time;

use crate::{
    client::{Client, ClientError},
    state::State,
    store::{EventLog, StoreError},
    views::{self, Among, Board},
};

/// Where a coordinator listens unless told otherwise.
pub(super) const ADDRESS: &str = "127.0.0.1:7070";
/// The database unless told otherwise.
pub(super) const DB: &str = "earshot.redb";

/// Pauses while another command reads the same file, which takes it moments.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const BUSY_TRIES: u32 = 30;

/// Flags of every command that asks about a sweep.
#[derive(Debug, Clone, Args)]
pub(super) struct SourceArgs {
    /// Ask the coordinator that runs there [default: http://127.0.0.1:7070, or earshot.redb if nobody listens there]
    #[arg(long, value_name = "URL", env = "EARSHOT_COORDINATOR", value_parser = coordinator_url)]
    pub(super) coordinator: Option<String>,

    /// Read this database; a running coordinator that holds it is asked instead
    #[arg(long, value_name = "FILE")]
    pub(super) db: Option<PathBuf>,

    #[command(flatten)]
    pub(super) credentials: CredentialArgs,
}

/// Of which sweep.
#[derive(Debug, Clone, Args)]
pub(super) struct OfArgs {
    /// The sweep's name [default: the newest]
    #[arg(long = "sweep", id = "of", value_name = "NAME")]
    of: Option<String>,
}

impl OfArgs {
    /// Its name; none: the newest.
    pub(super) fn sweep(&self) -> Option<&str> {
        self.of.as_deref()
    }
}

/// Who answers.
pub(super) enum Source {
    /// A running coordinator.
    Running(Box<Client>),
    /// The database.
    File {
        /// What it holds.
        state: Box<State>,
        /// Where it is.
        db: PathBuf,
    },
}

impl Source {
    /// Finds out who answers.
    pub(super) async fn open(args: &SourceArgs) -> anyhow::Result<Self> {
        let usual = format!("http://{ADDRESS}");
        let url = args.coordinator.as_deref().unwrap_or(&usual);
        let credentials = args.credentials.credentials()?;
        match (&args.db, &args.coordinator) {
            (Some(db), _) => Self::of_file_or_its_holder(db, url, &credentials).await,
            (None, Some(_)) => Ok(Self::Running(Box::new(Client::connect(url, &credentials).await?))),
            (None, None) => match Client::connect(url, &credentials).await {
                Ok(client) => Ok(Self::Running(Box::new(client))),
                Err(ClientError::Unreachable { .. }) if Path::new(DB).exists() => {
                    Self::of_file_or_its_holder(Path::new(DB), url, &credentials).await
                }
                Err(ClientError::Unreachable { url, source }) => Err(anyhow!(source).context(format!(
                    "no coordinator answers at {url}, and there is no {DB} in this folder; name a coordinator with \
                     --coordinator URL or a database with --db FILE"
                ))),
                Err(error) => Err(error.into()),
            },
        }
    }

    async fn of_file_or_its_holder(db: &Path, url: &str, credentials: &Credentials) -> anyhow::Result<Self> {
        let mut tries = 0;
        loop {
            match EventLog::open_existing(db) {
                Ok(log) => {
                    return Ok(Self::File { state: Box::new(log.replay()?), db: db.to_owned() });
                }
                Err(busy @ StoreError::InUse(_)) => {
                    if let Ok(client) = Client::connect(url, credentials).await {
                        eprintln!("{} is in use by a running coordinator; asking {url}", db.display());
                        return Ok(Self::Running(Box::new(client)));
                    }
                    tries += 1;
                    if tries == BUSY_TRIES {
                        return Err(anyhow!(busy).context(format!("no coordinator answers at {url}")));
                    }
                    time::sleep(BUSY_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where a sweep stands.
    pub(super) async fn status(&mut self, of: &OfArgs) -> anyhow::Result<Status> {
        match self {
            Self::Running(client) => Ok(client.status(of.sweep()).await?),
            // Without a coordinator nobody is present.
            Self::File { state, .. } => Ok(views::status(state, of.sweep(), &BTreeSet::new())?),
        }
    }

    /// Every sweep.
    pub(super) async fn list(&mut self) -> anyhow::Result<SweepList> {
        match self {
            Self::Running(client) => Ok(client.list().await?),
            Self::File { state, .. } => Ok(views::sweeps(state)),
        }
    }

    /// The running coordinator, for what only that can do.
    pub(super) fn running(self) -> anyhow::Result<Client> {
        match self {
            Self::Running(client) => Ok(*client),
            Self::File { db, .. } => bail!(
                "no coordinator has {} open; start it with `coordinator start --sweep FILE --db {}`",
                db.display(),
                db.display()
            ),
        }
    }

    /// Completed trials, the best first; with `pareto` only those on the front.
    pub(super) async fn leaderboard(
        &mut self,
        of: &OfArgs,
        top: u32,
        pareto: bool,
    ) -> anyhow::Result<Leaderboard> {
        match self {
            Self::Running(client) => Ok(client.leaderboard(of.sweep(), top, pareto).await?),
            Self::File { state, .. } => {
                let among = if pareto { Among::Front } else { Among::All };
                Ok(Board::read(state, of.sweep(), top, among)?.message())
            }
        }
    }

    /// One trial.
    pub(super) async fn trial(&mut self, of: &OfArgs, trial: u32) -> anyhow::Result<Trial> {
        match self {
            Self::Running(client) => Ok(client.trial(of.sweep(), trial).await?),
            Self::File { state, .. } => Ok(views::trial(state, of.sweep(), TrialId(trial))?),
        }
    }

    /// The best result so far, each time a trial completed.
    pub(super) async fn curve(&mut self, of: &OfArgs) -> anyhow::Result<Curve> {
        match self {
            Self::Running(client) => Ok(client.curve(of.sweep()).await?),
            Self::File { state, .. } => Ok(views::curve(state, of.sweep())?),
        }
    }

    /// How much each hyperparameter matters.
    pub(super) async fn importance(&mut self, of: &OfArgs) -> anyhow::Result<Importance> {
        match self {
            Self::Running(client) => Ok(client.importance(of.sweep()).await?),
            Self::File { state, .. } => Ok(views::importance(state, of.sweep())?),
        }
    }

    /// A trial, without a number the best, with its sweep.
    pub(super) async fn champion(
        &mut self,
        of: &OfArgs,
        trial: Option<u32>,
    ) -> anyhow::Result<(Champion, Sweep)> {
        let champion = match self {
            Self::Running(client) => client.champion(of.sweep(), trial).await?,
            Self::File { state, .. } => views::champion(state, of.sweep(), trial.map(TrialId))?,
        };
        let sweep =
            serde_json::from_str(&champion.sweep_json).context("the champion's sweep cannot be read")?;
        Ok((champion, sweep))
    }
}
