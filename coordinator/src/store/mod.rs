//! The event log on disk: one redb file, described byte for byte in `coordinator/LOG.md`.
//!
//! Entries are appended in batches, each batch one durable commit. Nothing is ever changed or removed.

use std::{
    io,
    path::{Path, PathBuf},
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::state::{Event, Refusal, State};

/// Raised when an entry's meaning changes in a way that an older reader would get wrong.
pub const FORMAT_VERSION: u64 = 1;

/// `format` → version.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Position from 0 without gaps → the event as JSON.
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// The log.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    database: Database,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{0} is in use by a running coordinator; ask that one with --coordinator URL, or stop it first")]
    InUse(PathBuf),
    /// No such file.
    #[error("there is no database at {0}; name one with --db FILE, or start a sweep first")]
    Missing(PathBuf),
    /// Not a database, or a damaged one.
    #[error(
        "{path} cannot be read as an Earshot database; restore it from a copy, or start anew with another --db FILE"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
    /// Written by another version of Earshot.
    #[error(
        "{path} has log format {found}, this Earshot reads format {FORMAT_VERSION}; use the Earshot that wrote it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// An entry that cannot be.
    #[error("{path}: log entry {position} {what}; the file is damaged, restore it from a copy")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Which entry.
        position: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The thread that owns the log panicked; its message has been printed.
    #[error(
        "the coordinator failed inside; nothing that was answered is lost, start it again and report this as a bug"
    )]
    Died,
    /// The disk refused a commit.
    #[error("cannot write to {path}; nothing that was answered is lost, mend the disk and start again")]
    Commit {
        /// The file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
}

impl EventLog {
    /// Opens the log, making it if there is none.
    ///
    /// # Errors
    /// [`StoreError`]: in use, damaged, or of another format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| open_error(path, error))?;
        let log = Self { path: path.to_owned(), database };
        log.check_format()?;
        Ok(log)
    }

    /// Opens a log that is there.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or as [`EventLog::open`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        if path.exists() { Self::open(path) } else { Err(StoreError::Missing(path.to_owned())) }
    }

    /// Appends entries from `position` on and syncs them to disk, all or none.
    ///
    /// # Errors
    /// [`StoreError::Commit`].
    pub fn append(&self, position: u64, events: &[Event]) -> Result<(), StoreError> {
        let commit = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(EVENTS)?;
                for (position, event) in (position..).zip(events) {
                    let json = serde_json::to_vec(event).map_err(io::Error::from)?;
                    table.insert(position, json.as_slice())?;
                }
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
        self.for_each(|position, event| match state.apply(&event) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.entry(position, &refused(&refusal))),
        })?;
        Ok(state)
    }

    /// Visits every entry in order.
    ///
    /// # Errors
    /// [`StoreError::Entry`] for one that is missing or unreadable, or what `visit` returns.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(u64, Event) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let damaged =
            |source: redb::Error| StoreError::Damaged { path: self.path.clone(), source: Box::new(source) };
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

    fn entry(&self, position: u64, what: &str) -> StoreError {
        StoreError::Entry { path: self.path.clone(), position, what: what.to_owned() }
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let found = self
            .read_or_write_format()
            .map_err(|source| StoreError::Damaged { path: self.path.clone(), source: Box::new(source) })?;
        if found == FORMAT_VERSION {
            Ok(())
        } else {
            Err(StoreError::Format { path: self.path.clone(), found })
        }
    }

    fn read_or_write_format(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_write()?;
        let found = {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get("format")?.map(|version| version.value());
            if found.is_none() {
                meta.insert("format", FORMAT_VERSION)?;
                transaction.open_table(EVENTS)?;
            }
            found
        };
        match found {
            Some(version) => transaction.abort().map(|()| version).map_err(Into::into),
            None => transaction.commit().map(|()| FORMAT_VERSION).map_err(Into::into),
        }
    }
}

fn refused(refusal: &Refusal) -> String {
    format!("does not follow from those before it ({refusal})")
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        error => StoreError::Damaged { path: path.to_owned(), source: Box::new(error.into()) },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::state::EventKind;

    fn joined(at_ms: u64) -> Event {
        Event { at_ms, kind: EventKind::Joined { name: "w".into(), slots: 1, device: "cpu".into() } }
    }

    #[test]
    fn entries_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.redb");
        let log = EventLog::open(&path).unwrap();
        log.append(0, &[joined(1), joined(2)]).unwrap();
        log.append(2, &[joined(3)]).unwrap();
        let before = log.replay().unwrap();
        drop(log);
        let after = EventLog::open_existing(&path).unwrap().replay().unwrap();
        assert_eq!((after.position(), after.workers().count()), (3, 3));
        assert_eq!(before, after);
    }

    #[test]
    fn a_second_opener_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.redb");
        let _log = EventLog::open(&path).unwrap();
        assert!(matches!(EventLog::open(&path), Err(StoreError::InUse(_))));
    }

    #[test]
    fn what_is_no_log_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.redb");
        assert!(matches!(EventLog::open_existing(&path), Err(StoreError::Missing(_))));
        fs::write(&path, b"these are somebody's notes").unwrap();
        assert!(matches!(EventLog::open(&path), Err(StoreError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"these are somebody's notes");
    }

    #[test]
    fn a_gap_or_an_impossible_entry_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let gap = EventLog::open(&folder.path().join("gap.redb")).unwrap();
        gap.append(0, &[joined(1)]).unwrap();
        gap.append(2, &[joined(2)]).unwrap();
        assert!(matches!(gap.replay(), Err(StoreError::Entry { position: 1, .. })));

        let impossible = EventLog::open(&folder.path().join("impossible.redb")).unwrap();
        let worker = earshot_common::ids::WorkerId(7);
        impossible.append(0, &[Event { at_ms: 1, kind: EventKind::Left { worker } }]).unwrap();
        let error = impossible.replay().unwrap_err();
        assert!(error.to_string().contains("worker 7 is unknown"), "{error}");
    }
}
