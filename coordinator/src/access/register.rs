//! The tokens that were given out.
//!
//! They lie in a file beside the database, because redb has one opener at a time and tokens are made and revoked while the
//! coordinator runs. It is replaced as a whole, so that a reader sees the old list or the new one. A secret itself is nowhere:
//! 256 random bits need no slow hash, and BLAKE3 gives nothing of them away.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use earshot_common::credentials::{SECRET_BYTES, Secret};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};
use tempfile::NamedTempFile;

use super::{Caller, Role};

/// Raised when an older reader would get the file wrong.
const FORMAT_VERSION: u32 = 1;

/// Tokens at most: each is looked at in every call.
const TOKENS_MAX: usize = 1_000;

/// Bytes of the file at most.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Letters of a token's name at most.
const NAME_LENGTH_MAX: usize = 64;

/// Keeps the hashes of secrets apart from those of everything else.
const HASH_CONTEXT: &str = "earshot coordinator token v1";

/// What is wrong with the list of tokens, or with what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The disk refuses.
    #[error("the list of tokens {} cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not what this version writes.
    #[error("{} is no list of tokens of this version of Earshot: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Whoever can write the file can let himself in.
    #[error("{} can be written by others: `chmod 600` it, and see whether all of its tokens are yours", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// A name that is none.
    #[error(
        "{0:?} is no name for a token: take 1 to {NAME_LENGTH_MAX} letters, digits, dots, dashes and underscores"
    )]
    Name(String),
    /// Tokens are told apart by their names.
    #[error("there is a token {0:?} already; revoke it, or take another name")]
    Taken(String),
    /// Nothing to revoke.
    #[error("there is no token {0:?}; `coordinator token list` shows those there are")]
    Unknown(String),
    /// Too many.
    #[error("there are {TOKENS_MAX} tokens already; revoke some")]
    Full,
    /// No secret can be made.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// One token, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Of its secret, 64 hexadecimal digits.
    hash: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// From when on it lets nobody in; none: never.
    pub expires_at_ms: Option<u64>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Register {
    entries: Vec<Entry>,
    hashes: Vec<[u8; 32]>,
}

/// The file's contents.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    tokens: Vec<Entry>,
}

/// Why somebody is not let in. Which of them it was is for the coordinator's log.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Stranger {
    /// No token came.
    #[error("no token was shown")]
    Nothing,
    /// Made up, mistyped, or revoked.
    #[error("the token is none of those given out, or was revoked")]
    Unknown,
    /// It has ended.
    #[error("token {0:?} has expired")]
    Expired(String),
}

/// The file of a database's tokens: beside it, with another extension.
pub fn file_of(db: &Path) -> PathBuf {
    db.with_extension("tokens")
}

impl Register {
    /// Reads the file; without one there are no tokens.
    ///
    /// # Errors
    /// [`RegisterError::Io`], [`RegisterError::Malformed`], [`RegisterError::Writable`].
    pub fn read(path: &Path) -> Result<Self, RegisterError> {
        let failed = |source| RegisterError::Io { path: path.to_owned(), source };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        if metadata.mode() & 0o022 != 0 {
            return Err(RegisterError::Writable { path: path.to_owned() });
        }
        let malformed = |what: String| RegisterError::Malformed { path: path.to_owned(), what };
        if metadata.len() > FILE_BYTES_MAX {
            return Err(malformed(format!("it has {} bytes", metadata.len())));
        }
        let bytes = fs::read(path).map_err(failed)?;
        let written: Written =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if written.format != FORMAT_VERSION {
            return Err(malformed(format!("it is of format {}", written.format)));
        }
        Self::of(written.tokens).map_err(malformed)
    }

    fn of(entries: Vec<Entry>) -> Result<Self, String> {
        if entries.len() > TOKENS_MAX {
            return Err(format!("it has {} tokens", entries.len()));
        }
        if let Some(entry) = entries.iter().find(|entry| !is_name(&entry.name)) {
            return Err(format!("{:?} is no name", entry.name));
        }
        let hash = |entry: &Entry| {
            let hash = blake3::Hash::from_hex(&entry.hash);
            hash.map(|hash| *hash.as_bytes()).map_err(|error| format!("token {:?}: {error}", entry.name))
        };
        let hashes = entries.iter().map(hash).collect::<Result<_, _>>()?;
        Ok(Self { entries, hashes })
    }

    /// Every token, in the order they were made.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whose secret this is. Every entry is compared, each in constant time, so that how long it takes tells nothing.
    ///
    /// # Errors
    /// [`Stranger::Unknown`], [`Stranger::Expired`].
    pub fn admit(&self, secret: &Secret, now_ms: u64) -> Result<Caller, Stranger> {
        let hash = hash_of(secret);
        let mut found = None;
        for (entry, known) in self.entries.iter().zip(&self.hashes) {
            let is_same: Choice = known.ct_eq(hash.as_bytes());
            if bool::from(is_same) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Stranger::Unknown)?;
        if entry.expires_at_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            return Err(Stranger::Expired(entry.name.clone()));
        }
        Ok(Caller::Known { name: Arc::from(entry.name.as_str()), role: entry.role })
    }

    /// Makes a token and writes it down. Its secret is returned, and is nowhere else. Without a name it is called after its
    /// role, with the first number that is free.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn issue(path: &Path, wish: &Wish, now_ms: u64) -> Result<(Entry, Secret), RegisterError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(RegisterError::Random)?;
        let secret = Secret::new(bytes);
        let entry = change(path, |entries| {
            if entries.len() >= TOKENS_MAX {
                return Err(RegisterError::Full);
            }
            let is_taken = |name: &str| entries.iter().any(|entry| entry.name == name);
            let name = match &wish.name {
                Some(name) if !is_name(name) => return Err(RegisterError::Name(name.clone())),
                Some(name) if is_taken(name) => return Err(RegisterError::Taken(name.clone())),
                Some(name) => name.clone(),
                None => {
                    let mut names = (1_u32..).map(|number| format!("{}-{number}", wish.role));
                    names.find(|name| !is_taken(name)).ok_or(RegisterError::Full)?
                }
            };
            let expires_at_ms = wish.lasts_ms.map(|lasts_ms| now_ms.saturating_add(lasts_ms));
            let hash = hash_of(&secret).to_hex().to_string();
            let entry = Entry { name, role: wish.role, hash, created_at_ms: now_ms, expires_at_ms };
            entries.push(entry.clone());
            Ok(entry)
        })?;
        Ok((entry, secret))
    }

    /// Takes a token off the list.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn revoke(path: &Path, name: &str) -> Result<Entry, RegisterError> {
        change(path, |entries| {
            let at = entries.iter().position(|entry| entry.name == name);
            at.map(|at| entries.remove(at)).ok_or_else(|| RegisterError::Unknown(name.to_owned()))
        })
    }
}

/// The token that somebody wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What it is to be for.
    pub role: Role,
    /// What it is to be called.
    pub name: Option<String>,
    /// For how long.
    pub lasts_ms: Option<u64>,
}

/// Reads, changes and replaces the file; two that do so at once wait for each other.
fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Vec<Entry>) -> Result<T, RegisterError>,
) -> Result<T, RegisterError> {
    let failed = |source| RegisterError::Io { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // The file itself is replaced, so the folder is what can be locked.
    let lock = File::open(folder).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let mut entries = Register::read(path)?.entries;
    let changed = change(&mut entries)?;
    let written = Written { format: FORMAT_VERSION, tokens: entries };
    let write = || -> io::Result<()> {
        // Temporary files are for their owner alone, and so is what becomes of this one.
        let mut file = NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &written)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        lock.sync_all()
    };
    write().map_err(failed)?;
    Ok(changed)
}

fn hash_of(secret: &Secret) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
    hasher.update(secret.reveal().as_bytes());
    hasher.finalize()
}

/// Names stand in logs, in tables and on command lines.
fn is_name(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let begins_well = text.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    begins_well && text.len() <= NAME_LENGTH_MAX && text.chars().all(is_letter)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread};

    use super::*;

    fn wish(role: Role, name: Option<&str>, lasts_ms: Option<u64>) -> Wish {
        Wish { role, name: name.map(str::to_owned), lasts_ms }
    }

    #[test]
    fn a_token_lets_in_until_it_is_revoked_or_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        assert_eq!(Register::read(&path).unwrap(), Register::default());
        let (entry, secret) = Register::issue(&path, &wish(Role::Worker, None, None), 5).unwrap();
        let (_, short) = Register::issue(&path, &wish(Role::User, Some("ann"), Some(10)), 5).unwrap();
        assert_eq!((entry.name.as_str(), entry.created_at_ms), ("worker-1", 5));

        let register = Register::read(&path).unwrap();
        let worker = Caller::Known { name: "worker-1".into(), role: Role::Worker };
        assert_eq!(register.admit(&secret, u64::MAX), Ok(worker));
        assert_eq!(register.admit(&short, 14), Ok(Caller::Known { name: "ann".into(), role: Role::User }));
        assert_eq!(register.admit(&short, 15), Err(Stranger::Expired("ann".into())));
        assert_eq!(register.admit(&Secret::new([0; SECRET_BYTES]), 14), Err(Stranger::Unknown));

        Register::revoke(&path, "worker-1").unwrap();
        let register = Register::read(&path).unwrap();
        assert_eq!(register.admit(&secret, 6), Err(Stranger::Unknown));
        assert!(matches!(Register::revoke(&path, "worker-1"), Err(RegisterError::Unknown(_))));
    }

    #[test]
    fn no_secret_is_written_and_only_the_owner_reads_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        let (_, secret) = Register::issue(&path, &wish(Role::Worker, None, None), 5).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(secret.reveal()) && !text.contains(&secret.reveal()[8..]), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn two_that_write_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        Register::issue(&path, &wish(Role::Worker, None, None), 5).unwrap();
                    }
                });
            }
        });
        assert_eq!(Register::read(&path).unwrap().entries().len(), 20);
    }

    #[test]
    fn names_are_plain_and_each_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        let issue = |name: &str| Register::issue(&path, &wish(Role::Worker, Some(name), None), 5).map(drop);
        for wrong in ["", "-x", "../x", "a b", "a\n", &"x".repeat(65)] {
            assert!(matches!(issue(wrong), Err(RegisterError::Name(_))), "{wrong:?}");
        }
        issue("attic").unwrap();
        assert!(matches!(issue("attic"), Err(RegisterError::Taken(_))));
    }

    #[test]
    fn what_is_no_list_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        let check = |text: &str, part: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = Register::read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("hunter2", "expected value");
        check(r#"{"format": 2, "tokens": []}"#, "of format 2");
        check(r#"{"format": 1, "tokens": [], "more": 1}"#, "unknown field");
        let entry = |hash: &str| {
            format!(
                r#"{{"format": 1, "tokens": [{{"name": "a", "role": "user", "hash": "{hash}", "created_at_ms": 1,
                "expires_at_ms": null}}]}}"#
            )
        };
        check(&entry("12"), "token \"a\"");
        fs::write(&path, entry(&"0".repeat(64))).unwrap();
        Register::read(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(Register::read(&path), Err(RegisterError::Writable { .. })));
    }
}
