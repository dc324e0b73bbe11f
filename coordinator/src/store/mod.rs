//! The event log on disk: one redb file, described byte for byte in `coordinator/LOG.md`.
//!
//! Entries are appended in batches, each batch one durable commit. Nothing is ever changed or removed.
//!
//! Of every decision a digest is kept beside its entry, to be held against the decision that the entry leads to when the log is read
//! again ([`crate::retrace`]).
//!
//! Deliberately absent: tables of what follows from the log. Trials, rankings and counts are the fold of it, kept in memory,
//! and so can never disagree with it.

mod error;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction,
};

pub use self::error::StoreError;
use crate::state::{Decision, Digest, Event, State};

/// Raised when entries appear, or change their meaning, in a way that an older reader would get wrong.
pub const FORMAT_VERSION: u64 = 8;
/// The oldest format that is read. Its entries mean the same in every later one, so opening a log of it only marks it.
pub const FORMAT_OLDEST: u64 = 1;

/// Bytes of the file that redb keeps in memory at most. Entries are read once, when the log is opened; what is appended to is its
/// last page.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// `format` → version.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Position from 0 without gaps → the event as JSON.
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
/// Position of a batch's first entry → the digest of what was decided of each of its entries, one after the other.
const DECISIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("decisions");

/// The log.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    database: Database,
}

/// A log with what it says.
#[derive(Debug)]
pub struct Folded {
    /// The log.
    pub log: EventLog,
    /// Its fold.
    pub state: State,
}

impl EventLog {
    /// Opens the log, making it if there is none.
    ///
    /// # Errors
    /// [`StoreError`]: in use, damaged, or of another format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        // redb trusts a file that was closed properly; a disk may have changed it since.
        builder.set_check_integrity_on_open(true);
        // An empty file is what is left of a log, not a new one.
        let opened = if path.exists() { builder.open(path) } else { builder.create(path) };
        let database = opened.map_err(|error| open_error(path, error))?;
        let log = Self { path: path.to_owned(), database };
        log.settle_format()?;
        Ok(log)
    }

    /// Opens a log that is there.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or as [`EventLog::open`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        if path.exists() { Self::open(path) } else { Err(StoreError::Missing(path.to_owned())) }
    }

    /// Appends entries from `position` on, with what was decided of each, and syncs them to disk, all or none.
    ///
    /// # Errors
    /// [`StoreError::Commit`].
    pub fn append(&self, position: u64, events: &[Event], decided: &[Digest]) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let transaction = self.begin_write()?;
            {
                let mut table = transaction.open_table(EVENTS)?;
                for (position, event) in (position..).zip(events) {
                    let json = serde_json::to_vec(event).map_err(io::Error::from)?;
                    table.insert(position, json.as_slice())?;
                }
                let digests: Vec<u8> = decided.iter().flat_map(|digest| digest.0).collect();
                transaction.open_table(DECISIONS)?.insert(position, digests.as_slice())?;
            }
            Ok(transaction.commit()?)
        };
        commit().map_err(|source| StoreError::Commit { path: self.path.clone(), source: Box::new(source) })
    }

    /// Folds the whole log.
    ///
    /// # Errors
    /// [`StoreError::Entry`] for one that is missing, unreadable or refused.
    pub fn replay(&self) -> Result<State, StoreError> {
        let mut state = State::default();
        self.for_each(|position, event| self.decide(&mut state, position, &event).map(drop))?;
        Ok(state)
    }

    /// Makes an entry's decision again; `state` is the fold of the entries before it.
    ///
    /// # Errors
    /// [`StoreError::Entry`] if it does not follow from those.
    pub fn decide(&self, state: &mut State, position: u64, event: &Event) -> Result<Decision, StoreError> {
        state.apply(event).map_err(|refusal| {
            self.entry(position, &format!("does not follow from those before it ({refusal})"))
        })
    }

    /// Folds the whole log and keeps both together.
    ///
    /// # Errors
    /// As [`EventLog::replay`].
    pub fn fold(self) -> Result<Folded, StoreError> {
        Ok(Folded { state: self.replay()?, log: self })
    }

    /// Visits every entry in order.
    ///
    /// # Errors
    /// [`StoreError::Entry`] for one that is missing or unreadable, or what `visit` returns.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(u64, Event) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let damaged = |error: redb::Error| unusable(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| damaged(error.into()))?;
        let table = transaction.open_table(EVENTS).map_err(|error| damaged(error.into()))?;
        for (expected, entry) in (0..).zip(table.iter().map_err(|error| damaged(error.into()))?) {
            let (position, json) = entry.map_err(|error| damaged(error.into()))?;
            if position.value() != expected {
                return Err(self.entry(expected, "is missing"));
            }
            let event = serde_json::from_slice(json.value())
                .map_err(|error| self.entry(expected, &format!("is not an event: {error}")))?;
            visit(expected, event)?;
        }
        Ok(())
    }

    /// What was decided of each entry at the time, by its position; nothing of entries that were written before that was kept.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn decided(&self) -> Result<BTreeMap<u64, Digest>, StoreError> {
        let read = || -> Result<BTreeMap<u64, Digest>, redb::Error> {
            let mut decided = BTreeMap::new();
            let table = match self.database.begin_read()?.open_table(DECISIONS) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(decided),
                Err(error) => return Err(error.into()),
            };
            for batch in table.iter()? {
                let (first, digests) = batch?;
                let digests = digests.value().as_chunks().0.iter().map(|&bytes| Digest(bytes));
                decided.extend((first.value()..).zip(digests));
            }
            Ok(decided)
        };
        read().map_err(|source| StoreError::Damaged { path: self.path.clone(), source: Box::new(source) })
    }

    /// Begins a commit in two phases. In one, a commit that was answered and damaged since would look like one that the power
    /// failed under, and would be rolled back without a word.
    fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }

    fn entry(&self, position: u64, what: &str) -> StoreError {
        StoreError::Entry { path: self.path.clone(), position, what: what.to_owned() }
    }

    /// Marks the log as of this version's format, unless it is of another that this version does not know.
    fn settle_format(&self) -> Result<(), StoreError> {
        let found = self.mark_format().map_err(|error| unusable(&self.path, error))?;
        match found {
            None | Some(FORMAT_OLDEST..=FORMAT_VERSION) => Ok(()),
            Some(found) => Err(StoreError::Format { path: self.path.clone(), found }),
        }
    }

    /// The format that the file had; none for a new one. A format that is not known stays as it is.
    fn mark_format(&self) -> Result<Option<u64>, redb::Error> {
        let transaction = self.begin_write()?;
        let found = transaction.open_table(META)?.get("format")?.map(|version| version.value());
        match found {
            None => {
                transaction.open_table(META)?.insert("format", FORMAT_VERSION)?;
                transaction.open_table(EVENTS)?;
                transaction.commit()?;
            }
            Some(FORMAT_OLDEST..FORMAT_VERSION) => {
                transaction.open_table(META)?.insert("format", FORMAT_VERSION)?;
                transaction.commit()?;
            }
            Some(_) => transaction.abort()?,
        }
        Ok(found)
    }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        error => unusable(path, error.into()),
    }
}

/// Tells a disk that refuses from a file that is not what it should be.
fn unusable(path: &Path, source: redb::Error) -> StoreError {
    let is_refused = match &source {
        redb::Error::Io(error) => {
            !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        redb::Error::PreviousIo => true,
        _ => false,
    };
    let (path, source) = (path.to_owned(), Box::new(source));
    if is_refused { StoreError::Disk { path, source } } else { StoreError::Damaged { path, source } }
}
