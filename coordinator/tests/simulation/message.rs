//! What workers and the coordinator say to each other. Epochs and outcomes travel as protocol messages, so that what is
//! malformed is refused where it is in the product.

use coordinator::{
    mind::Asked,
    state::{Decision, EventKind, Refusal},
};
use earshot_common::ids::{Token, WorkerId};
use earshot_proto::earshot::v1 as proto;

/// Tells answers apart: those to calls that were given up find nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call(pub(crate) u64);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Agent(usize),
    User,
    /// Lies are thrown in; nobody waits for the answer.
    Liar,
    /// As a liar, but what it asks for may be its right.
    Thief,
}

#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) sender: Sender,
    pub(crate) call: Call,
    pub(crate) sent_at_ms: u64,
    pub(crate) request: Request,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Join { slots: u32 },
    Lease { worker: WorkerId, runs: usize },
    Report(proto::ReportRequest),
    Finish(proto::FinishRequest),
    Heartbeat { worker: WorkerId, tokens: Vec<Token> },
    Leave { worker: WorkerId },
    User(EventKind),
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Asked(Asked),
    Decided(Decision),
    Revoked(Vec<Token>),
    Refused(Refusal),
    Malformed,
}
