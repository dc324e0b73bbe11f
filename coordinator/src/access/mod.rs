//! Who may ask the coordinator for what, and how much of it.
//!
//! - [`register`]: the tokens that were given out: their names, roles, ends and hashes, in a file beside the database.
//! - [`keeper`]: the register as a running coordinator sees it, read again when the file changes.
//! - `policy`: which role may call what.
//! - `allowance`: how often, and how many blobs at once.
//! - [`gate`]: puts the three before every call.
//! - [`doorstep`]: connections before anybody was let in over them: how many, and for how long.
//! - [`exposure`]: what listening on an address takes; [`files`]: how many connections the system allows.
//! - [`certificates`]: a certificate authority of one's own, for TLS.
//!
//! Deliberately absent: what belongs to whom. A call says whose token it came with ([`Caller`]); whether that token may speak
//! for a worker or read a blob is for the service to find out in the state.

mod allowance;
pub mod certificates;
pub mod doorstep;
pub mod exposure;
pub mod files;
pub mod gate;
pub mod keeper;
mod policy;
pub mod register;

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::ServerTlsConfig;

use self::register::Register;
use crate::watch::tally::Tally;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes runs, and gives results.
    Worker,
    /// Looks at sweeps, steers and exports them.
    User,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::User => "user",
        })
    }
}

/// Who makes a call, as far as the coordinator knows. Every request that passed the gate carries one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody is asked for a token.
    Anyone,
    /// The holder of a token.
    Known {
        /// The token's name.
        name: Arc<str>,
        /// What it is for.
        role: Role,
    },
}

/// Whether tokens are asked for.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever reaches the address may do everything.
    Open,
    /// Only holders of these tokens.
    Tokens(watch::Receiver<Arc<Register>>),
}

/// What one peer, or one token, may take of the coordinator.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a connection may stay over which nobody was let in: time for TLS, and for the first call's headers.
    pub stranger_time: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// Of these, such over which nobody was let in yet.
    pub strangers_max: usize,
    /// Of these, from one address: a room of workers behind one router may start at the same moment.
    pub strangers_per_peer_max: usize,
    /// Calls refused for want of a token before a connection is closed.
    pub refusals_max: u32,
    /// Calls a second over one connection, in the long run. A worker has one, and with a slot a core sends a few hundred.
    pub connection_calls_hz: f64,
    /// As above, at once.
    pub connection_calls_burst: f64,
    /// Calls a second of one token, over all of its connections: a thousand workers may share it.
    pub calls_hz: f64,
    /// As above, at once.
    pub calls_burst: f64,
    /// Workers that join a second with one token: each stays in the log for ever.
    pub joins_hz: f64,
    /// As above, at once.
    pub joins_burst: f64,
    /// Blobs on their way of one token; each holds a file, and two pieces in memory.
    pub transfers_max: usize,
    /// Answers without an end of one token: those who watch, and sweeps on their way in.
    pub watches_max: usize,
    /// Questions without an end of one token: each of a thousand workers reports through one.
    pub streams_max: usize,
    /// How long the answer to a call other than a blob's may take, its request's arrival included.
    pub call_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stranger_time: Duration::from_secs(10),
            connections_max: 4096,
            strangers_max: 1024,
            strangers_per_peer_max: 256,
            refusals_max: 16,
            connection_calls_hz: 5_000.0,
            connection_calls_burst: 20_000.0,
            calls_hz: 50_000.0,
            calls_burst: 100_000.0,
            joins_hz: 10.0,
            joins_burst: 1_000.0,
            transfers_max: 256,
            watches_max: 64,
            streams_max: 4096,
            call_time: Duration::from_secs(30),
        }
    }
}

/// Where and how the coordinator is entered.
#[derive(Debug)]
pub struct Entrance {
    /// Where it listens.
    pub listener: TcpListener,
    /// With which certificate; none: without TLS.
    pub tls: Option<ServerTlsConfig>,
    /// Who may come in.
    pub access: Access,
    /// How much they may take.
    pub limits: Limits,
    /// Where calls and connections are counted.
    pub tally: Tally,
}

impl Entrance {
    /// Open to whoever reaches it.
    pub fn open(listener: TcpListener) -> Self {
        Self { listener, tls: None, access: Access::Open, limits: Limits::default(), tally: Tally::default() }
    }
}
