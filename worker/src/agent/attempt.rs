//! One attempt, from its grant to its end.

use std::{sync::Arc, time::Duration};

use earshot_common::{
    job::{Epoch, Failure, Job, Outcome, Reason, RunResult, Verdict},
    wire,
};
use earshot_proto::earshot::v1::{FinishRequest, Grant, ReportRequest};
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    agent::{
        backoff::Backoff,
        held::Held,
        link::{Link, within},
        membership::{Membership, Session, is_locked_out},
    },
    blobs::{Blobs, BlobsError, BlockingBlobs},
    control::{Control, State},
    progress::{Board, Line},
    slot::{End, Event, Slot, Work},
};

/// Times that a result's blob is sent again when it arrives damaged.
const DAMAGED_TRIES_MAX: u32 = 5;

/// What attempts share.
#[derive(Debug)]
pub struct Attempts {
    /// Our standing.
    pub membership: Arc<Membership>,
    /// The coordinator's blobs.
    pub blobs: Blobs,
    /// Where running attempts are entered.
    pub held: Held,
    /// What a person sees.
    pub board: Board,
    /// How often what a run has come to is kept.
    pub midway_every: Duration,
    /// Runs that a slot trains as one computation at most.
    pub fuse: usize,
    /// Cancelled when a draining worker should wait no longer.
    pub deadline: CancellationToken,
}

/// One attempt in the agent's hands.
struct Attempt {
    of: Arc<Attempts>,
    token: u64,
    control: Arc<Control>,
    line: Line,
}

/// The coordinator has ended the attempt's lease, or the worker waits no longer.
struct Dropped;

/// What an attempt's end says of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Nothing bad.
    Sound,
    /// The next attempt may well fail for the same reason, whatever its run: the disk is full, or memory is short.
    Ailing,
}

impl Health {
    fn of(end: &End) -> Self {
        match end {
            End::Failed(Failure { reason: Reason::Disk | Reason::OutOfMemory | Reason::Worker, .. }) => {
                Self::Ailing
            }
            End::Failed(_) | End::Trained { .. } | End::Halted => Self::Sound,
        }
    }
}

impl Attempts {
    /// Trains the granted runs in this slot, several as one computation, and hands in what comes of them. When it returns, the
    /// slot is free again. Says whether the worker itself may be the reason of a failure.
    pub async fn run(
        self: &Arc<Self>,
        index: usize,
        slot: &Slot,
        grants: Vec<Grant>,
        shutdown: &CancellationToken,
    ) -> Health {
        let mut works = Vec::new();
        let mut attempts = JoinSet::new();
        for (place, grant) in grants.into_iter().enumerate() {
            let control = Arc::new(Control::default());
            let entry = self.held.enter(grant.token, Arc::clone(&control));
            if shutdown.is_cancelled() {
                control.advance(State::Draining); // granted while everything else was being drained
            }
            let line = self.board.begin(index * self.fuse + place, &grant);
            let (events, inbox) = mpsc::unbounded_channel();
            let attempt =
                Attempt { of: Arc::clone(self), token: grant.token, control: Arc::clone(&control), line };
            match self.work(grant, control, events.clone()) {
                Ok(work) => works.push(work),
                // The receiver is not gone yet, so somebody listens.
                Err(message) => drop(events.send(Event::failed(Reason::Worker, message))),
            }
            attempts.spawn(async move {
                let _entry = entry;
                attempt.follow(inbox).await
            });
        }
        if slot.submit_all(works).is_err() {
            tracing::error!("slot {index} trains no more: its thread has ended"); // as each attempt will say
        }
        let mut health = Health::Sound;
        while let Some(ended) = attempts.join_next().await {
            health = health.max(ended.unwrap_or(Health::Ailing));
        }
        health
    }

    /// What the slot is to do, or why it cannot.
    fn work(
        &self,
        grant: Grant,
        control: Arc<Control>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Work, String> {
        let job = grant.job.ok_or("the grant has no job")?;
        let job = Job::try_from(job).map_err(|error| format!("this worker cannot read the job: {error}"))?;
        let source = BlockingBlobs { blobs: self.blobs.clone(), runtime: Handle::current() };
        Ok(Work { job, control, source: Box::new(source), midway_every: self.midway_every, events })
    }
}

impl Attempt {
    /// Reports epochs as they come, then the end. Epochs wait in the channel while the coordinator is away.
    async fn follow(self, mut inbox: mpsc::UnboundedReceiver<Event>) -> Health {
        let mut is_held = false;
        let end = loop {
            match inbox.recv().await {
                Some(Event::Epoch(epoch, midway)) => {
                    self.line.epoch(&epoch);
                    // A dropped attempt still has to wait for its slot.
                    match self.report(epoch, midway).await {
                        Ok(Verdict::Stop) => self.control.advance(State::Stopping),
                        Ok(Verdict::Pause) => {
                            is_held = true;
                            self.control.advance(State::Revoked);
                        }
                        Ok(Verdict::Continue) | Err(Dropped) => {}
                    }
                }
                Some(Event::Ended(end)) => break end,
                None => {
                    let message = "the slot's training thread has ended".to_owned();
                    break End::Failed(Failure { reason: Reason::Worker, message });
                }
            }
        };
        let health = Health::of(&end);
        let said = match &end {
            End::Trained { best_epoch, .. } => format!("completed, best epoch {best_epoch}"),
            End::Failed(failure) => format!("failed: {}", failure.message),
            End::Halted if self.control.state() == State::Draining => {
                "given back: the worker is leaving".to_owned()
            }
            End::Halted => "dropped: its lease has ended".to_owned(),
        };
        let handed_in = self.hand_in(end).await;
        self.line.end(match handed_in {
            Ok(()) => &said,
            Err(Dropped) if is_held => "held: other trials are better so far",
            Err(Dropped) => "dropped: its lease has ended",
        });
        health
    }

    /// Brings the end to the coordinator.
    async fn hand_in(&self, end: End) -> Result<(), Dropped> {
        let outcome = match end {
            End::Trained { best_epoch, checkpoint, logits } => {
                match (self.put(&checkpoint).await?, self.put(&logits).await?) {
                    (Ok(checkpoint), Ok(logits)) => {
                        Outcome::Completed(RunResult { best_epoch, checkpoint, logits })
                    }
                    (Err(failure), _) | (_, Err(failure)) => Outcome::Failed(failure),
                }
            }
            End::Failed(failure) => Outcome::Failed(failure),
            End::Halted if self.control.state() == State::Draining => Outcome::Failed(Failure {
                reason: Reason::Drained,
                message: "the worker is leaving".to_owned(),
            }),
            End::Halted => return Err(Dropped),
        };
        self.finish(&outcome).await
    }

    async fn report(&self, epoch: Epoch, midway: Option<Arc<Vec<u8>>>) -> Result<Verdict, Dropped> {
        let token = self.token;
        let midway = match midway {
            // What cannot be handed in is only not there when it would be wanted.
            Some(bytes) => self.put(&bytes).await?.ok().map(wire::blob_bytes),
            None => None,
        };
        let midway = &midway;
        let response = self.insist(move |link, session| async move {
            let midway = midway.clone();
            let request =
                ReportRequest { worker: session.worker.0, token, epoch: Some((&epoch).into()), midway };
            link.report(request).await
        });
        response.await
    }

    async fn finish(&self, outcome: &Outcome) -> Result<(), Dropped> {
        let token = self.token;
        let response = self.insist(move |link, session| {
            let request = FinishRequest { worker: session.worker.0, token, outcome: Some(outcome.into()) };
            async move { within(link.answer_time, link.cluster().finish(request)).await }
        });
        response.await.map(|_| ())
    }

    /// Gives the coordinator a blob, for as long as the attempt is wanted.
    async fn put(&self, bytes: &[u8]) -> Result<Result<earshot_common::ids::BlobId, Failure>, Dropped> {
        let mut backoff = Backoff::new(self.of.membership.link().pace);
        let mut damaged = 0;
        loop {
            let put = tokio::select! {
                biased;
                () = self.dropped() => return Err(Dropped),
                put = self.of.blobs.put(bytes) => put,
            };
            match put {
                Ok(id) => return Ok(Ok(id)),
                Err(BlobsError::Unavailable(status)) => self.of.membership.lost(&status),
                Err(BlobsError::Corrupt { .. }) if damaged < DAMAGED_TRIES_MAX => damaged += 1,
                Err(error) => {
                    let message = format!("the result cannot be handed in: {}", crate::slot::chain(&error));
                    return Ok(Err(Failure { reason: Reason::Worker, message }));
                }
            }
            tokio::select! {
                () = self.dropped() => return Err(Dropped),
                () = backoff.wait() => {}
            }
        }
    }

    /// Makes a call again and again until the coordinator answers it, or nobody wants the answer any more.
    async fn insist<T, Answer>(&self, call: impl Fn(Link, Session) -> Answer) -> Result<T, Dropped>
    where
        Answer: Future<Output = Result<T, Status>>,
    {
        let membership = &self.of.membership;
        let tries = async {
            let mut backoff = Backoff::new(membership.link().pace);
            loop {
                let session = membership.session().await.map_err(|_| Dropped)?;
                match call(membership.link().clone(), session).await {
                    Ok(answer) => {
                        membership.found();
                        return Ok(answer);
                    }
                    Err(status) if status.code() == Code::NotFound => membership.forget(session).await,
                    Err(status) if is_fenced(status.code()) => {
                        tracing::warn!(token = self.token, "the attempt is over: {}", status.message());
                        self.control.advance(State::Revoked);
                        return Err(Dropped);
                    }
                    Err(status) => membership.lost(&status),
                }
                backoff.wait().await;
            }
        };
        tokio::select! {
            biased;
            () = self.dropped() => Err(Dropped),
            answer = tries => answer,
        }
    }

    /// Waits until it makes no sense to hand anything in.
    async fn dropped(&self) {
        tokio::select! {
            () = self.control.reached(State::Revoked) => {}
            () = self.of.deadline.cancelled() => {}
        }
    }
}

/// Whether the coordinator will never take a call of this attempt: its lease has ended, the call itself is wrong, or our token
/// lets us in no more.
fn is_fenced(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange) || is_locked_out(code)
}
