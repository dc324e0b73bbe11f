//! A running coordinator, asked over the network.

use std::time::Duration;

use earshot_common::{
    credentials::{Credentials, CredentialsError, Line},
    ids::BlobId,
    wire,
};
use earshot_proto::earshot::v1::{
    CancelSweepRequest, Champion, Curve, FetchRequest, GetChampionRequest, GetCurveRequest,
    GetImportanceRequest, GetLeaderboardRequest, GetReplayRequest, GetStatusRequest, GetTrialRequest,
    Importance, Leaderboard, ListSweepsRequest, PauseSweepRequest, Replay, ReplayTrialRequest,
    ResumeSweepRequest, Status as SweepStatus, Submission, SubmitSweepRequest, Sweep, SweepList, Trial,
    WatchStatusRequest, blobs_client::BlobsClient, sweeps_client::SweepsClient,
};
use tonic::{Status, Streaming};

use crate::service::piece::{MESSAGE_BYTES_MAX, Whole};

/// How long making the connection may take; a coordinator in reach answers within milliseconds.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long one answer may take, a leaderboard of many trials or a blob included.
const ANSWER_TIME: Duration = Duration::from_mins(1);

/// How often the connection is tested while an answer is waited for, and how long that may take: whoever watches a sweep may
/// wait for hours.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Bytes of one answer at most: a leaderboard of a million trials, which is as many as a sweep may have.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Why a running coordinator did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It is not to be reached this way.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Nobody listens there, or nobody who speaks the protocol.
    #[error("no coordinator answers at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It answered with an error.
    #[error("the coordinator at {url} says: {}", status.message())]
    Refused {
        /// Where.
        url: String,
        /// What it said.
        status: Box<Status>,
    },
    /// A blob came damaged.
    #[error("blob {id} came damaged from {url} ({what}); try again")]
    Damaged {
        /// Where.
        url: String,
        /// The blob.
        id: BlobId,
        /// What was wrong.
        what: String,
    },
}

/// A connection to a running coordinator.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    sweeps: SweepsClient<Line>,
    blobs: BlobsClient<Line>,
}

impl Client {
    /// Connects to `http://HOST:PORT`, or `https://HOST:PORT`.
    ///
    /// # Errors
    /// [`ClientError::Credentials`] or [`ClientError::Unreachable`].
    pub async fn connect(url: &str, credentials: &Credentials) -> Result<Self, ClientError> {
        let endpoint = credentials
            .endpoint(url)?
            .connect_timeout(CONNECT_TIME)
            .timeout(ANSWER_TIME)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true);
        let connected = endpoint.connect().await;
        let channel = connected.map_err(|source| ClientError::Unreachable { url: url.to_owned(), source })?;
        let line = credentials.line(channel);
        Ok(Self {
            url: url.to_owned(),
            sweeps: SweepsClient::new(line.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            blobs: BlobsClient::new(line).max_decoding_message_size(MESSAGE_BYTES_MAX),
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where a sweep stands; as everywhere here, the newest where none is named.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn status(&mut self, sweep: Option<&str>) -> Result<SweepStatus, ClientError> {
        let answer = self.sweeps.get_status(GetStatusRequest { sweep: sweep.map(str::to_owned) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// The status now, and each time it has changed.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn watch(&mut self, sweep: Option<&str>) -> Result<Streaming<SweepStatus>, ClientError> {
        let answer = self.sweeps.watch_status(WatchStatusRequest { sweep: sweep.map(str::to_owned) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// The next answer of several; none after the last.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn next<T>(&self, answers: &mut Streaming<T>) -> Result<Option<T>, ClientError> {
        answers.message().await.map_err(|status| self.refused(status))
    }

    /// Hands a sweep in, and hears how far its preparation has got.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn submit(
        &mut self,
        request: SubmitSweepRequest,
    ) -> Result<Streaming<Submission>, ClientError> {
        let answer = self.sweeps.submit_sweep(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// Completed trials, the best first, `top` at most; 0: all. With `pareto` only those on the front.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn leaderboard(
        &mut self,
        sweep: Option<&str>,
        top: u32,
        pareto: bool,
    ) -> Result<Leaderboard, ClientError> {
        let request = GetLeaderboardRequest { top, sweep: sweep.map(str::to_owned), pareto };
        let answer = self.sweeps.get_leaderboard(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// One trial.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn trial(&mut self, sweep: Option<&str>, trial: u32) -> Result<Trial, ClientError> {
        let answer = self.sweeps.get_trial(GetTrialRequest { trial, sweep: sweep.map(str::to_owned) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// The best result so far, each time a trial completed.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn curve(&mut self, sweep: Option<&str>) -> Result<Curve, ClientError> {
        let answer = self.sweeps.get_curve(GetCurveRequest { sweep: sweep.map(str::to_owned) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// How much each hyperparameter matters.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn importance(&mut self, sweep: Option<&str>) -> Result<Importance, ClientError> {
        let answer =
            self.sweeps.get_importance(GetImportanceRequest { sweep: sweep.map(str::to_owned) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// Trains a completed trial again, or joins the replay of it that is under way.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn replay_trial(&mut self, sweep: Option<&str>, trial: u32) -> Result<Replay, ClientError> {
        let answer =
            self.sweeps.replay_trial(ReplayTrialRequest { trial, sweep: sweep.map(str::to_owned) }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// How far a replay has got.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn replay(&mut self, replay: u64) -> Result<Replay, ClientError> {
        let answer = self.sweeps.get_replay(GetReplayRequest { replay }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// A trial with all that an export needs; without a number, the best.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn champion(
        &mut self,
        sweep: Option<&str>,
        trial: Option<u32>,
    ) -> Result<Champion, ClientError> {
        let request = GetChampionRequest { sweep: sweep.map(str::to_owned), trial };
        let answer = self.sweeps.get_champion(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// Every sweep, oldest first.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn list(&mut self) -> Result<SweepList, ClientError> {
        let answer = self.sweeps.list_sweeps(ListSweepsRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// Hands out no more of a sweep's runs for now; without a name, of the newest.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn pause(&mut self, sweep: Option<String>) -> Result<Sweep, ClientError> {
        let answer = self.sweeps.pause_sweep(PauseSweepRequest { sweep }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// Lets a paused sweep go on; without a name, the newest.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn resume(&mut self, sweep: Option<String>) -> Result<Sweep, ClientError> {
        let answer = self.sweeps.resume_sweep(ResumeSweepRequest { sweep }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// Ends a sweep for good.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn cancel(&mut self, sweep: String) -> Result<Sweep, ClientError> {
        let answer = self.sweeps.cancel_sweep(CancelSweepRequest { sweep }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.refused(status))
    }

    /// A blob, verified.
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::Damaged`].
    pub async fn blob(&mut self, id: BlobId) -> Result<Vec<u8>, ClientError> {
        let answer = self.blobs.fetch(FetchRequest { blob: wire::blob_bytes(id) }).await;
        let mut pieces = answer.map_err(|status| self.refused(status))?.into_inner();
        let damaged = |what: String| ClientError::Damaged { url: self.url.clone(), id, what };
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.message().await.map_err(|status| self.refused(status))? {
            let whole = Whole { id, size: piece.size };
            whole.check(&piece, bytes.len() as u64).map_err(|error| damaged(error.to_string()))?;
            bytes.extend_from_slice(&piece.data);
        }
        if BlobId::of(&bytes) != id {
            return Err(damaged("the pieces together do not hash to its name".to_owned()));
        }
        Ok(bytes)
    }

    fn refused(&self, status: Status) -> ClientError {
        ClientError::Refused { url: self.url.clone(), status: Box::new(status) }
    }
}
