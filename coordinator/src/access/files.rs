//! How many files, and so connections, the process may have open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are asked for at most: every connection and every blob on its way, several times over.
const FILES_MAX: u64 = 65_536;

/// Raises the limit as far as the system lets an ordinary user, and says what it is now. Shells set it low (1,024 often) for
/// programs that `select`, which none here does.
///
/// # Errors
/// The system's refusal; then the limit is as it was.
pub fn allow_many() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(FILES_MAX).min(FILES_MAX);
    let now = current.unwrap_or(FILES_MAX);
    if now >= wanted {
        return Ok(now);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_lowered() {
        let before = getrlimit(Resource::Nofile).current;
        let now = allow_many().unwrap();
        assert!(before.is_none_or(|before| now >= before.min(FILES_MAX)));
        assert_eq!(getrlimit(Resource::Nofile).current.map(|current| current >= now), before.map(|_| true));
    }
}
