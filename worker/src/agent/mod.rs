//! Everything that knows of the coordinator.
//!
//! - [`link`]: the connection, and how long to wait for what.
//! - [`backoff`]: pauses between tries.
//! - [`membership`]: who we are to the coordinator; joining, and joining again.
//! - [`held`]: the attempts the worker works at now, for heartbeats and for draining.
//! - [`attempt`]: one attempt, from its grant to its end.
//!
//! One task a slot asks for work, one task sends heartbeats; none of them trains. A call that cannot be answered is tried
//! again for as long as its answer matters, so a coordinator may stop and start again without losing an epoch.

use std::{iter, sync::Arc, time::Duration};

use earshot_proto::earshot::v1::{
    Grant, HeartbeatRequest, JoinRequest, LeaseRequest, LeaveRequest, lease_response::Answer,
};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    agent::{
        attempt::{Attempts, Health},
        backoff::{Backoff, Pace},
        held::Held,
        link::Link,
        membership::{Membership, Refused, is_locked_out},
    },
    blobs::Blobs,
    progress::Board,
    slot::Slot,
};

pub mod attempt;
pub mod backoff;
pub mod held;
pub mod link;
pub mod membership;
mod reports;

/// How long a draining worker goes on trying to hand in what it has.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Pauses before a slot asks again after a failure that may be the worker's: a full disk or too little memory does not go away at
/// once, and a worker that asked on would soon have used up the attempts of every run.
pub const AILING_PACE: Pace = Pace { first: Duration::from_secs(2), longest: Duration::from_mins(1) };

/// Pause before a worker without `--exit-when-done` asks a finished coordinator again.
pub const FINISHED_PAUSE: Duration = Duration::from_secs(5);

/// What a worker does once every run of every sweep has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDone {
    /// Ask again, for another sweep.
    Wait,
    /// Leave.
    Exit,
}

/// A worker's agent, ready to run.
#[derive(Debug)]
pub struct Agent {
    /// The connection.
    pub link: Link,
    /// How the worker introduces itself.
    pub introduction: JoinRequest,
    /// Blobs of that coordinator.
    pub blobs: Blobs,
    /// The slots, each with a training thread.
    pub slots: Vec<Slot>,
    /// What a person sees.
    pub board: Board,
    /// How often what a run has come to is kept, at the ends of epochs.
    pub midway_every: Duration,
    /// Runs of one shape that each slot asks for at once, to train them as one computation.
    pub fuse: usize,
    /// What to do at the end of all work.
    pub when_done: WhenDone,
    /// Pauses of a slot whose runs fail for the worker's sake.
    pub ailing_pace: Pace,
}

impl Agent {
    /// Works until there is nothing left to do, or until `shutdown` is cancelled; then drains.
    ///
    /// # Errors
    /// The coordinator refuses this worker for good.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Refused> {
        let held = Held::default();
        let deadline = CancellationToken::new();
        let membership = Arc::new(Membership::new(self.link.clone(), self.introduction, self.board.clone()));
        let attempts = Arc::new(Attempts {
            membership: Arc::clone(&membership),
            blobs: self.blobs,
            held: held.clone(),
            board: self.board,
            midway_every: self.midway_every,
            fuse: self.fuse,
            deadline: deadline.clone(),
        });

        let mut company = JoinSet::new();
        company.spawn(heartbeats(Arc::clone(&membership), held.clone()));
        company.spawn(drain(shutdown.clone(), held, deadline.clone()));
        let mut slots = JoinSet::new();
        for (index, slot) in self.slots.into_iter().enumerate() {
            let (attempts, shutdown) = (Arc::clone(&attempts), shutdown.clone());
            let (when_done, ailing) = (self.when_done, Backoff::new(self.ailing_pace));
            slots.spawn(async move { work(index, &slot, &attempts, &shutdown, when_done, ailing).await });
        }
        let mut refused = Ok(());
        while let Some(ended) = slots.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                // Refused once, refused everywhere: the others drain.
                Ok(Err(refusal)) => {
                    refused = Err(refusal);
                    shutdown.cancel();
                }
                Err(error) => tracing::error!("a slot's task failed: {error}"),
            }
        }
        // Heartbeats may be waiting for a coordinator that never comes, and hold the membership meanwhile.
        company.shutdown().await;
        leave(&membership).await;
        refused
    }
}

/// One slot's life: ask, train, hand in, ask again.
async fn work(
    index: usize,
    slot: &Slot,
    attempts: &Arc<Attempts>,
    shutdown: &CancellationToken,
    when_done: WhenDone,
    mut ailing: Backoff,
) -> Result<(), Refused> {
    let mut backoff = Backoff::new(attempts.membership.link().pace);
    loop {
        let answer = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            answer = ask(&attempts.membership, attempts.fuse, &mut backoff) => answer?,
        };
        match answer {
            (Answer::Grant(grant), others) => {
                let grants = iter::once(grant).chain(others).collect();
                match attempts.run(index, slot, grants, shutdown).await {
                    Health::Sound => ailing.reset(),
                    // Others get the chance to train what failed here, before it has failed here too often.
                    Health::Ailing => tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = ailing.wait() => {}
                    },
                }
            }
            (Answer::Idle(_), _) => {}
            (Answer::Finished(_), _) if when_done == WhenDone::Exit => return Ok(()),
            (Answer::Finished(_), _) => tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = time::sleep(FINISHED_PAUSE) => {}
            },
        }
    }
}

/// Asks for work until the coordinator answers; with a grant, there may be others.
async fn ask(
    membership: &Membership,
    runs: usize,
    backoff: &mut Backoff,
) -> Result<(Answer, Vec<Grant>), Refused> {
    loop {
        let session = membership.session().await?;
        let request = LeaseRequest { worker: session.worker.0, runs: runs as u32 };
        let patience = session.poll + membership.link().answer_time;
        let mut cluster = membership.link().cluster();
        match link::within(patience, cluster.lease(request)).await {
            Ok(response) => {
                backoff.reset();
                membership.found();
                if let Some(answer) = response.answer {
                    return Ok((answer, response.others));
                }
                tracing::warn!("the coordinator answered a request for work with nothing");
            }
            Err(status) if status.code() == Code::NotFound => membership.forget(session).await,
            Err(status) if is_locked_out(status.code()) => return Err(membership.refused(&status)),
            Err(status) => membership.lost(&status),
        }
        backoff.wait().await;
    }
}

/// Says that the worker lives and what it works at, whatever its slots do.
async fn heartbeats(membership: Arc<Membership>, held: Held) {
    loop {
        let Ok(session) = membership.session().await else {
            return; // refused for good; the slots say so
        };
        time::sleep(session.heartbeat).await;
        let request = HeartbeatRequest { worker: session.worker.0, tokens: held.tokens() };
        let mut cluster = membership.link().cluster();
        match link::within(membership.link().answer_time, cluster.heartbeat(request)).await {
            Ok(response) => {
                membership.found();
                response.revoked.into_iter().for_each(|token| held.revoke(token));
            }
            Err(status) if status.code() == Code::NotFound => membership.forget(session).await,
            Err(status) => membership.lost(&status),
        }
    }
}

/// On shutdown: ends what is running, and after a while also what only waits to be handed in.
async fn drain(shutdown: CancellationToken, held: Held, deadline: CancellationToken) {
    shutdown.cancelled().await;
    held.drain();
    time::sleep(DRAIN).await;
    deadline.cancel();
}

/// Gives back whatever the coordinator still thinks we hold. Best effort: leases end by themselves.
async fn leave(membership: &Membership) {
    let Some(session) = membership.current().await else {
        return;
    };
    let request = LeaveRequest { worker: session.worker.0 };
    let mut cluster = membership.link().cluster();
    if let Err(status) = link::within(membership.link().answer_time, cluster.leave(request)).await {
        tracing::debug!("could not say goodbye: {}", status.message());
    }
}
