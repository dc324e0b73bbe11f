//! A sweep's status, each time it has changed.

use std::{pin::Pin, time::Duration};

use earshot_proto::earshot::v1::Status as SweepStatus;
use futures::stream;
use tokio::{sync::watch, time};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Status};

use super::{codes, presence::Presence};
use crate::{
    access::gate::{Admission, HeldPlace},
    engine::Engine,
    views,
};

/// The shortest time between two looks: people read no faster, and looking costs time of the engine's thread.
const REFRESH: Duration = Duration::from_millis(250);

/// The longest: a worker that falls silent is no event.
const LOOK: Duration = Duration::from_secs(2);

/// Statuses, each another than the one before; the last is that of the sweep's end, or of the coordinator's.
pub(super) type Statuses = Pin<Box<dyn Stream<Item = Result<SweepStatus, Status>> + Send>>;

struct Watching {
    engine: Engine,
    presence: Presence,
    /// The sweep's name; none: the newest.
    name: Option<String>,
    changes: watch::Receiver<u64>,
    stopping: CancellationToken,
    admission: Option<Admission>,
    told: Option<SweepStatus>,
    is_last: bool,
    /// Held until nobody watches any more.
    _place: Option<HeldPlace>,
}

/// Watches a sweep; `of` is what the gate said of the call.
pub(super) fn statuses(
    engine: Engine,
    presence: Presence,
    name: Option<String>,
    stopping: CancellationToken,
    of: &Extensions,
) -> Statuses {
    let changes = engine.changes();
    let (admission, place) = (of.get::<Admission>().cloned(), of.get::<HeldPlace>().cloned());
    let watching = Watching {
        engine,
        presence,
        name,
        changes,
        stopping,
        admission,
        told: None,
        is_last: false,
        _place: place,
    };
    Box::pin(stream::unfold(watching, |mut watching| async move {
        let next = watching.next().await?;
        Some((next, watching))
    }))
}

impl Watching {
    async fn next(&mut self) -> Option<Result<SweepStatus, Status>> {
        while !self.is_last {
            // The mind may still be asked when the service stops: it ends after it.
            self.is_last = self.stopping.is_cancelled();
            self.changes.borrow_and_update();
            if let Err(status) = self.admission.as_ref().map_or(Ok(()), Admission::check) {
                self.is_last = true;
                return Some(Err(status));
            }
            let status = match self.look().await {
                Ok(status) => status,
                Err(status) => {
                    self.is_last = true;
                    return Some(Err(status));
                }
            };
            // A sweep that is handed in meanwhile is another.
            self.name = Some(status.sweep.clone());
            self.is_last |= has_ended(&status);
            if self.told.as_ref() != Some(&status) {
                self.told = Some(status.clone());
                return Some(Ok(status));
            }
            self.wait().await;
        }
        None
    }

    async fn look(&self) -> Result<SweepStatus, Status> {
        let (present, name) = (self.presence.present(), self.name.clone());
        let seen = self.engine.read(move |state| views::status(state, name.as_deref(), &present)).await;
        seen.map_err(|error| codes::of_engine(&error))?.map_err(|error| codes::of_view(&error))
    }

    /// Waits until there may be something new.
    async fn wait(&mut self) {
        let changed = async {
            // An engine that has ended is met at the next look.
            let _ = time::timeout(LOOK, self.changes.changed()).await;
            time::sleep(REFRESH).await;
        };
        tokio::select! {
            () = changed => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

fn has_ended(status: &SweepStatus) -> bool {
    matches!(status.state.as_str(), "completed" | "cancelled")
}
