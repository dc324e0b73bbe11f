//! The attempts the worker works at now.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::control::{Control, State};

/// Tokens and their controls. Cheap to clone; a std mutex, because nothing waits while holding it.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<BTreeMap<u64, Arc<Control>>>>);

/// One attempt's entry, taken out when dropped.
#[derive(Debug)]
pub struct Entry {
    held: Held,
    token: u64,
}

impl Held {
    /// Enters an attempt.
    pub fn enter(&self, token: u64, control: Arc<Control>) -> Entry {
        self.lock().insert(token, control);
        Entry { held: self.clone(), token }
    }

    /// Tokens of all attempts.
    pub fn tokens(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// The coordinator has given this attempt to somebody else.
    pub fn revoke(&self, token: u64) {
        if let Some(control) = self.lock().get(&token) {
            tracing::warn!(token, "the lease has ended; dropping the attempt");
            control.advance(State::Revoked);
        }
    }

    /// The worker is leaving.
    pub fn drain(&self) {
        for control in self.lock().values() {
            control.advance(State::Draining);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Control>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.held.lock().remove(&self.token);
    }
}
