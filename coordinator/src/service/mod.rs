//! The network: what workers and users ask, over gRPC.
//!
//! - `cluster`: workers join, lease, finish, show life, leave; `reports`: what they report meanwhile, as a stream.
//! - `blobs`: content-addressed bytes, in verified pieces; `piece` is one of them.
//! - `sweeps`: what users ask, answered by [`crate::views`]; `watching`: a status each time it has changed.
//! - [`presence`]: which workers were heard lately, and which know that all is done.
//! - `submission`: a sweep is handed in while others run.
//! - `bell`: wakes idle workers when there may be something for them.
//! - `owners`: whose token may speak for which worker.
//! - `job`: a single job for a single worker, without an engine's sweep.
//! - `codes`: every error's gRPC code, in one place.
//!
//! Deliberately absent: decisions. A handler checks what came off the wire, asks the engine, and puts the answer on the wire.

mod bell;
mod blobs;
mod cluster;
mod codes;
pub(crate) mod job;
mod owners;
pub(crate) mod piece;
pub mod presence;
mod reports;
mod submission;
mod sweeps;
#[cfg(test)]
mod tests;
mod watching;

use std::{future::Future, time::Duration};

use earshot_proto::earshot::v1::{
    FILE_DESCRIPTOR_SET, blobs_server::BlobsServer, cluster_server::ClusterServer,
    sweeps_server::SweepsServer,
};
use tokio::{pin, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::{
    bell::Bell, blobs::BlobService, cluster::ClusterService, owners::Owners, presence::Presence,
    submission::Desk, sweeps::SweepService,
};
use crate::{
    access::{Entrance, doorstep::Doorstep, gate::GateLayer},
    blobs::Blobs,
    engine::Engine,
};

/// How often an idle connection is tested, and how long the answer may take: a partitioned worker's connection is given up
/// instead of waiting for the system to notice.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls of one connection at once: each of a worker's slots, of which it has 1,024 at most, polls or moves a blob, and
/// heartbeats must always find room beside them.
const STREAMS_MAX: u32 = 2048;

/// Bytes of a request that carries no blob. The largest are a sweep file, and a heartbeat that names every slot's attempt.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a request's headers: a token and a few names.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// How long calls under way may take to end once the service stops. Long polls end at once.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the service ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket failed.
    #[error("the coordinator's socket failed")]
    Transport(#[from] tonic::transport::Error),
    /// The protocol's own description cannot be read: a defect of the build.
    #[error("the reflection service cannot read the protocol's description")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves the protocol at `entrance` until `shutdown` completes; then ends long polls, and other calls when they are done.
///
/// # Errors
/// [`ServeError`] when it ends for another reason.
pub async fn serve(
    entrance: Entrance,
    engine: Engine,
    blobs: Blobs,
    presence: Presence,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let stopping = CancellationToken::new();
    let Entrance { listener, tls, access, limits, tally } = entrance;
    let mut tasks = JoinSet::new();
    let bell = Bell::hang(engine.clone(), &mut tasks);
    let owners = Owners::new(engine.clone());
    let cluster = ClusterService {
        engine: engine.clone(),
        blobs: blobs.clone(),
        presence: presence.clone(),
        owners: owners.clone(),
        bell,
        stopping: stopping.clone(),
    };
    let cluster = ClusterServer::new(cluster).max_decoding_message_size(REQUEST_BYTES_MAX);
    let desk = Desk::new(engine.clone(), blobs.clone(), stopping.clone());
    let sweeps = SweepService { engine: engine.clone(), presence, desk, stopping: stopping.clone() };
    let sweeps = SweepsServer::new(sweeps).max_decoding_message_size(REQUEST_BYTES_MAX);
    let blobs =
        BlobsServer::new(BlobService { blobs, engine }).max_decoding_message_size(piece::MESSAGE_BYTES_MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ClusterServer<ClusterService>>().await;
    health.set_serving::<SweepsServer<SweepService>>().await;
    health.set_serving::<BlobsServer<BlobService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let server = match tls {
        Some(tls) => Server::builder().tls_config(tls)?,
        None => Server::builder(),
    };
    let server = server
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .layer(GateLayer::new(access, limits, tally.clone()))
        .add_service(cluster)
        .add_service(sweeps)
        .add_service(blobs)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(
            Doorstep::new(listener, limits, tally),
            stopping.clone().cancelled_owned(),
        );
    pin!(server);
    tokio::select! {
        ended = &mut server => Ok(ended?),
        () = shutdown => {
            stopping.cancel();
            // A call that does not end in time is cut off: its client tries again, and saying anything twice is harmless.
            Ok(time::timeout(DRAIN, server).await.unwrap_or(Ok(()))?)
        }
    }
}
