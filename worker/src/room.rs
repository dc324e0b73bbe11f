//! The memory that runs may take: counted before it is taken.
//!
//! Linux promises more memory than there is and kills the process that uses what it was promised, and a worker that is killed
//! can tell nobody why. So what a run needs is claimed first: its share of the features, as they are gathered, and the room
//! that its model trains in. A claim that does not fit fails that attempt, with a reason and a message, and the worker goes on.
//!
//! What is left is looked up at each claim, so memory that others on the machine take in the meantime counts. Between a
//! claim and the last page that is written under it they may still take some, and then the system does kill.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes of a MiB.
pub const MIB: u64 = 1024 * 1024;

/// Kept for all that is not claimed: messages, blobs on their way, libtorch's own.
const MARGIN: u64 = 64 * MIB;

/// There is not as much memory as a run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "out of memory: {what} would take {wanted_mib} MiB more, and {left_mib} MiB are left for runs; give this worker fewer --slots, \
     or leave the run to a larger machine"
)]
pub struct NoRoom {
    what: &'static str,
    wanted_mib: u64,
    left_mib: u64,
}

impl NoRoom {
    /// The system refuses what was claimed.
    pub(crate) fn refused(what: &'static str, bytes: u64) -> Self {
        Self { what, wanted_mib: bytes.div_ceil(MIB), left_mib: 0 }
    }
}

/// What the runs of a worker may take together, shared by its slots.
#[derive(Debug, Clone)]
pub struct Room(Arc<Mutex<Ledger>>);

#[derive(Debug)]
struct Ledger {
    /// All claims that are held.
    claimed: u64,
    /// Bytes that runs may take; none: what there is.
    limit: Option<u64>,
    /// Bytes of this process before any claim.
    before: u64,
}

/// Memory that is one's own until this is dropped.
#[derive(Debug)]
pub struct Claim {
    room: Room,
    bytes: u64,
}

impl Default for Room {
    /// All that the machine has.
    fn default() -> Self {
        Self::new(None)
    }
}

impl Room {
    /// Of so many bytes; none: of all that the machine, and the group that this process belongs to, have left.
    pub fn new(limit: Option<u64>) -> Self {
        let before = Usage::now().map_or(0, |usage| usage.resident);
        Self(Arc::new(Mutex::new(Ledger { claimed: 0, limit, before })))
    }

    /// A claim of nothing yet.
    pub fn claim(&self) -> Claim {
        Claim { room: self.clone(), bytes: 0 }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Takes more, for something that the message names.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing more is taken.
    pub fn grow(&mut self, what: &'static str, bytes: u64) -> Result<(), NoRoom> {
        let mut ledger = self.room.ledger();
        let left = ledger.left();
        if bytes > left {
            return Err(NoRoom { what, wanted_mib: bytes.div_ceil(MIB), left_mib: left / MIB });
        }
        ledger.claimed += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives so many bytes back.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.room.ledger().claimed -= bytes;
        self.bytes -= bytes;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

impl Ledger {
    /// Bytes that may still be claimed.
    fn left(&self) -> u64 {
        let here = Usage::now().map_or(u64::MAX, |usage| {
            // What runs have taken already is no longer available, but claimed; what was freed may be theirs again.
            let for_runs = (usage.available + usage.resident).saturating_sub(self.before);
            for_runs.saturating_sub(MARGIN + self.claimed)
        });
        self.limit.map_or(here, |limit| limit.saturating_sub(self.claimed).min(here))
    }
}

/// Bytes that this process has and could have.
struct Usage {
    resident: u64,
    available: u64,
}

impl Usage {
    /// None where the system does not tell.
    fn now() -> Option<Self> {
        let pid = sysinfo::get_current_pid().ok()?;
        let mut system = System::new().ok()?;
        system.refresh_memory();
        let kind = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
        let process = system.process(pid)?;
        let group = process.cgroup_limits();
        let in_group = group.map_or(u64::MAX, |group| group.total_memory.saturating_sub(group.rss));
        let addresses = getrlimit(Resource::As).current.unwrap_or(u64::MAX);
        let in_space = addresses.saturating_sub(process.virtual_memory());
        let available = system.available_memory().min(in_group).min(in_space);
        Some(Self { resident: process.memory(), available })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_share_what_there_is_and_give_it_back() {
        let room = Room::new(Some(10 * MIB));
        let (mut first, mut second) = (room.claim(), room.clone().claim());
        first.grow("one", 4 * MIB).unwrap();
        second.grow("another", 4 * MIB).unwrap();
        let refused = second.grow("a third", 3 * MIB).unwrap_err();
        assert_eq!(refused, NoRoom { what: "a third", wanted_mib: 3, left_mib: 2 });
        first.shrink(MIB);
        second.grow("a third", 3 * MIB).unwrap();
        drop(second);
        first.grow("the rest", 7 * MIB).unwrap();
        assert!(first.grow("one byte", 1).is_err());
        drop(first);
        assert_eq!(room.ledger().claimed, 0);
    }

    #[test]
    fn a_machine_has_some_memory_but_not_all() {
        let room = Room::default();
        let total = System::new().map(|mut system| {
            system.refresh_memory();
            system.total_memory()
        });
        room.claim().grow("a little", MIB).unwrap();
        assert!(room.claim().grow("all there is", total.unwrap()).is_err());
    }
}
