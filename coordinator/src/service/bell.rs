//! Wakes idle workers when there may be something for them.
//!
//! One task looks at the state after every commit, so that a thousand waiting workers do not.

use tokio::{sync::watch, task::JoinSet};

use crate::engine::Engine;

/// What idle workers listen to. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Bell(watch::Receiver<u64>);

impl Bell {
    /// Starts the task that rings.
    pub(super) fn hang(engine: Engine, tasks: &mut JoinSet<()>) -> Self {
        let (rope, bell) = watch::channel(0);
        tasks.spawn(ring(engine, rope));
        Self(bell)
    }

    /// A listener of one's own. What rang before [`Listener::attend`] was last called is past.
    pub(super) fn listen(&self) -> Listener {
        Listener(self.0.clone())
    }
}

/// One idle worker's ear.
#[derive(Debug)]
pub(super) struct Listener(watch::Receiver<u64>);

impl Listener {
    /// To be called before asking for work, so that what comes while asking is heard.
    pub(super) fn attend(&mut self) {
        self.0.borrow_and_update();
    }

    /// Waits for the next ring; for ever when the engine has ended.
    pub(super) async fn heard(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn ring(engine: Engine, rope: watch::Sender<u64>) {
    let mut changes = engine.changes();
    loop {
        match engine.read(|state| state.has_work() || state.is_done()).await {
            Ok(true) => rope.send_modify(|rings| *rings += 1),
            Ok(false) => {}
            Err(_) => return,
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
