//! The connection to the coordinator.

use std::{future::Future, time::Duration};

use earshot_common::{
    credentials::{Credentials, CredentialsError, Line},
    job::Verdict,
};
use earshot_proto::earshot::v1::{ReportRequest, cluster_client::ClusterClient};
use tokio::time;
use tonic::{Response, Status};

use crate::agent::{backoff::Pace, reports::Reports};

/// How often the connection is tested when nothing else is said. A channel with timeouts alone did not notice a healed
/// partition; pings did.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long the answer to a ping may take before the connection is given up and made anew.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take that the coordinator does not hold back on purpose.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// The connection, and how long to wait for what. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    /// Where the coordinator is, for people.
    pub url: String,
    /// Connects by itself when first used, and again whenever it breaks.
    pub line: Line,
    /// Pauses between tries.
    pub pace: Pace,
    /// How long an answer may take.
    pub answer_time: Duration,
    reports: Reports,
}

impl Link {
    /// A connection to this URL, made when it is first used.
    ///
    /// # Errors
    /// The text is not a URL, or the credentials are not for it.
    pub fn new(url: &str, credentials: &Credentials, pace: Pace) -> Result<Self, CredentialsError> {
        let endpoint = credentials
            .endpoint(url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let line = credentials.line(endpoint.connect_lazy());
        Ok(Self { url: url.to_owned(), line, pace, answer_time: ANSWER_TIME, reports: Reports::default() })
    }

    /// A client of the worker-facing service.
    pub fn cluster(&self) -> ClusterClient<Line> {
        ClusterClient::new(self.line.clone())
    }

    /// Hands in a report.
    ///
    /// # Errors
    /// What the coordinator, or the connection to it, has against it.
    pub async fn report(&self, request: ReportRequest) -> Result<Verdict, Status> {
        self.reports.report(self.cluster(), request, self.answer_time).await
    }
}

/// The answer to a call, if it comes in time.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(late(limit)),
    }
}

/// No answer has come in time.
pub(crate) fn late(limit: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()))
}
