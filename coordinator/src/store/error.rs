//! Why a log cannot be used.

use std::path::PathBuf;

use super::{FORMAT_OLDEST, FORMAT_VERSION};

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
    /// The disk refuses to read it, or to write to it.
    #[error(
        "{path} cannot be opened; nothing in it is lost, mend the disk or the file's permissions and try again"
    )]
    Disk {
        /// The file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
    /// Written by another version of Earshot.
    #[error(
        "{path} has log format {found}, this Earshot reads formats {FORMAT_OLDEST} to {FORMAT_VERSION}; use the Earshot \
         that wrote it"
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
