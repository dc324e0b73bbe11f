//! Whose token may speak for which worker: the one that it joined with.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use earshot_common::ids::WorkerId;
use tonic::{Request, Status};

use super::codes;
use crate::{
    access::Caller,
    engine::{Engine, EngineError},
    state::Refusal,
};

/// The tokens of workers. What the log says of those that joined before a restart is asked of the engine once. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Owners {
    engine: Engine,
    /// A std mutex: nothing waits while holding it.
    known: Arc<Mutex<BTreeMap<WorkerId, Option<Arc<str>>>>>,
}

/// Name of the token that a call came with; none where nobody is asked for one.
pub(super) fn token_of<T>(request: &Request<T>) -> Option<String> {
    match request.extensions().get::<Caller>() {
        Some(Caller::Known { name, .. }) => Some(name.to_string()),
        Some(Caller::Anyone) | None => None,
    }
}

impl Owners {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, known: Arc::default() }
    }

    /// A worker has joined with this token.
    pub(super) fn enter(&self, worker: WorkerId, by: Option<String>) {
        self.lock().insert(worker, by.map(Arc::from));
    }

    /// Whether this token may speak for this worker. To others a worker is unknown, as if it had never joined.
    pub(super) async fn check(&self, worker: WorkerId, by: Option<&str>) -> Result<(), Status> {
        let Some(by) = by else { return Ok(()) };
        let known = self.lock().get(&worker).cloned();
        let owner = match known {
            Some(owner) => owner,
            None => self.look_up(worker).await?,
        };
        if owner.as_deref() == Some(by) {
            return Ok(());
        }
        Err(codes::of_engine(&EngineError::Refused(Refusal::UnknownWorker(worker))))
    }

    async fn look_up(&self, worker: WorkerId) -> Result<Option<Arc<str>>, Status> {
        let found = self.engine.read(move |state| state.worker(worker).map(|worker| worker.by.clone())).await;
        let Some(owner) = found.map_err(|error| codes::of_engine(&error))? else { return Ok(None) };
        let owner: Option<Arc<str>> = owner.map(Arc::from);
        self.lock().insert(worker, owner.clone());
        Ok(owner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Option<Arc<str>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
