//! Who we are to the coordinator.
//!
//! Whoever needs the worker's number asks [`Membership::session`], which joins if need be: at the start, and whenever the
//! coordinator said that it does not know us. Attempts go on meanwhile; whether it still wants them is the coordinator's
//! answer to their own calls.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use earshot_common::ids::WorkerId;
use earshot_proto::earshot::v1::JoinRequest;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use crate::{
    agent::{
        backoff::Backoff,
        link::{Link, within},
    },
    progress::Board,
};

/// The coordinator will not have this worker, now or later.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the coordinator at {url} refuses this worker: {message}")]
pub struct Refused {
    /// Where it is.
    pub url: String,
    /// What it said.
    pub message: String,
}

/// What the coordinator told us when we joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Our number.
    pub worker: WorkerId,
    /// How often to send a heartbeat.
    pub heartbeat: Duration,
    /// How long a call for work waits at most.
    pub poll: Duration,
}

/// The worker's standing with its coordinator.
#[derive(Debug)]
pub struct Membership {
    link: Link,
    introduction: JoinRequest,
    board: Board,
    /// Held while joining, so that one task joins and the others wait for it.
    session: Mutex<Option<Session>>,
    /// Whether the last call was answered; a break is told once, not once a try.
    is_connected: AtomicBool,
}

impl Membership {
    /// Not joined yet.
    pub fn new(link: Link, introduction: JoinRequest, board: Board) -> Self {
        Self { link, introduction, board, session: Mutex::new(None), is_connected: AtomicBool::new(true) }
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Our standing, if we have one.
    pub async fn current(&self) -> Option<Session> {
        *self.session.lock().await
    }

    /// Our standing; joins, for as long as it takes, if we have none.
    ///
    /// # Errors
    /// [`Refused`] when trying again would not help.
    pub async fn session(&self) -> Result<Session, Refused> {
        let mut place = self.session.lock().await;
        if let Some(session) = *place {
            return Ok(session);
        }
        let mut backoff = Backoff::new(self.link.pace);
        loop {
            let mut cluster = self.link.cluster();
            match within(self.link.answer_time, cluster.join(self.introduction.clone())).await {
                Ok(answer) => {
                    let session = Session {
                        worker: WorkerId(answer.worker),
                        heartbeat: Duration::from_millis(u64::from(answer.heartbeat_ms.max(1))),
                        poll: Duration::from_millis(u64::from(answer.poll_ms)),
                    };
                    self.is_connected.store(true, Ordering::Relaxed);
                    *place = Some(session);
                    self.board.say(&format!("joined {} as worker {}", self.link.url, session.worker));
                    return Ok(session);
                }
                Err(status) if is_final(status.code()) => return Err(self.refused(&status)),
                Err(status) => self.lost(&status),
            }
            backoff.wait().await;
        }
    }

    /// That the coordinator will not have us.
    pub fn refused(&self, status: &Status) -> Refused {
        Refused { url: self.link.url.clone(), message: status.message().to_owned() }
    }

    /// The coordinator does not know this standing: the next to ask joins anew.
    pub async fn forget(&self, session: Session) {
        let mut place = self.session.lock().await;
        if *place == Some(session) {
            tracing::warn!(worker = %session.worker, "the coordinator does not know this worker any more; joining again");
            *place = None;
        }
    }

    /// A call failed in a way that may pass.
    pub fn lost(&self, status: &Status) {
        if self.is_connected.swap(false, Ordering::Relaxed) {
            let url = &self.link.url;
            tracing::warn!("no answer from {url}: {}; trying again until there is one", reason(status));
        } else {
            tracing::debug!("still no answer: {}", reason(status));
        }
    }

    /// A call was answered.
    pub fn found(&self) {
        if !self.is_connected.swap(true, Ordering::Relaxed) {
            tracing::info!("{} answers again", self.link.url);
        }
    }
}

/// Whether joining is refused for good: another protocol version, or something that is no coordinator.
fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented)
        || is_locked_out(code)
}

/// Whether our token lets us in no more: it was revoked, has expired, or is not a worker's.
pub(super) fn is_locked_out(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
}

/// What went wrong, in the words of the innermost cause: tonic's own are "transport error".
fn reason(status: &Status) -> String {
    let mut cause = status.source();
    while let Some(inner) = cause.and_then(Error::source) {
        cause = Some(inner);
    }
    cause.map_or_else(|| status.message().to_owned(), ToString::to_string)
}
