//! The register as a running coordinator sees it: read again soon after its file was changed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time,
};

use super::register::{Register, RegisterError};

/// How often the file is looked at: a token that is revoked lets in for so long at most.
pub const LOOK: Duration = Duration::from_millis(500);

/// What tells one version of the file from another: each is a new file, so its number would do on most disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    bytes: u64,
    mode: u32,
    changed_at: (i64, i64),
}

/// Reads the register, and again whenever its file changes, as long as `tasks` lives.
///
/// # Errors
/// As [`Register::read`], the first time. Later, a list that is wrong lets nobody in until it is mended, and a disk that fails
/// leaves the last one in force.
pub fn keep(path: PathBuf, tasks: &mut JoinSet<()>) -> Result<watch::Receiver<Arc<Register>>, RegisterError> {
    let seen = version(&path).ok().flatten();
    let (sender, receiver) = watch::channel(Arc::new(Register::read(&path)?));
    tasks.spawn(watch(path, seen, sender));
    Ok(receiver)
}

async fn watch(path: PathBuf, mut seen: Option<Version>, sender: watch::Sender<Arc<Register>>) {
    loop {
        time::sleep(LOOK).await;
        let at = path.clone();
        let looked = spawn_blocking(move || {
            // The version first: what changes in between is seen the next time.
            let found = version(&at)?;
            Ok::<_, io::Error>((found != seen).then(|| (found, Register::read(&at))))
        });
        let (found, register) = match looked.await {
            Ok(Ok(Some(changed))) => changed,
            Ok(Ok(None)) => continue,
            Ok(Err(error)) => {
                tracing::warn!("cannot look at the list of tokens {}: {error}", path.display());
                continue;
            }
            Err(_) => return,
        };
        let register = match register {
            Ok(register) => {
                tracing::info!(tokens = register.entries().len(), "the list of tokens was read again");
                register
            }
            Err(RegisterError::Io { source, .. }) => {
                tracing::warn!("cannot read the list of tokens {}: {source}", path.display());
                continue;
            }
            Err(error) => {
                tracing::error!("nobody is let in any more: {error}");
                Register::default()
            }
        };
        seen = found;
        sender.send_replace(Arc::new(register));
    }
}

fn version(path: &Path) -> io::Result<Option<Version>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(Version {
            inode: metadata.ino(),
            bytes: metadata.len(),
            mode: metadata.mode(),
            changed_at: (metadata.ctime(), metadata.ctime_nsec()),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Role, register::Wish};

    #[tokio::test]
    async fn changes_are_seen_and_a_broken_list_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        let mut tasks = JoinSet::new();
        let mut register = keep(path.clone(), &mut tasks).unwrap();
        let wish = Wish { role: Role::Worker, name: None, lasts_ms: None };
        for tokens in 1..=2 {
            Register::issue(&path, &wish, 1).unwrap();
            register.changed().await.unwrap();
            assert_eq!(register.borrow_and_update().entries().len(), tokens);
        }
        fs::write(&path, "scribble").unwrap();
        register.changed().await.unwrap();
        assert!(register.borrow_and_update().entries().is_empty());
        fs::remove_file(&path).unwrap();
        register.changed().await.unwrap();
        Register::issue(&path, &wish, 1).unwrap();
        register.changed().await.unwrap();
        assert_eq!(register.borrow().entries().len(), 1);
    }
}
