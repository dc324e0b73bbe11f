//! Reports as they stream in: each checked, handed to the engine, and answered by itself.
//!
//! One call for all of a worker's reports, for a call each is most of what a report costs: headers both ways, a passage through
//! the gate and a deadline. What would have been a call's error is the report's answer.

use std::{pin::Pin, sync::Arc};

use earshot_common::{
    ids::{Token, WorkerId},
    job::Epoch,
    wire::{self, WireError},
};
use earshot_proto::earshot::v1::{
    Refusal, ReportRequest, ReportResponse, Verdict, report_response::Answer as ReportAnswer,
};
use futures::{Stream, StreamExt};
use tonic::{Request, Status, Streaming};

use super::{cluster::ClusterService, codes, owners};
use crate::{
    access::gate::{Admission, HeldPlace, Toll},
    state::{Decision, EventKind},
};

/// Reports of one stream that are on their way to the disk at once. A worker has one of each of its attempts; more wait on
/// the wire.
const AT_ONCE: usize = 256;

/// Answers, each when it is known.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

/// Whose reports these are, and where they go.
struct Reporting {
    cluster: ClusterService,
    by: Option<String>,
    admission: Option<Admission>,
    toll: Option<Toll>,
    /// Held until the stream has ended.
    _place: Option<HeldPlace>,
}

/// Answers the reports of one call until its worker has no more, its token has ended, or the service stops.
pub(super) fn answers(cluster: ClusterService, request: Request<Streaming<ReportRequest>>) -> Answers {
    let of = request.extensions();
    let (admission, toll, place) = (of.get().cloned(), of.get().cloned(), of.get().cloned());
    let by = owners::token_of(&request);
    let stopping = cluster.stopping.clone().cancelled_owned();
    let reporting = Arc::new(Reporting { cluster, by, admission, toll, _place: place });
    let answer = move |report| {
        let reporting = Arc::clone(&reporting);
        async move { reporting.answer(report?).await }
    };
    Box::pin(request.into_inner().take_until(stopping).map(answer).buffer_unordered(AT_ONCE))
}

impl Reporting {
    /// Answers a report.
    ///
    /// # Errors
    /// What ends the stream.
    async fn answer(&self, report: ReportRequest) -> Result<ReportResponse, Status> {
        self.admission.as_ref().map_or(Ok(()), Admission::check)?;
        let (token, epoch) = (report.token, report.epoch.map_or(0, |epoch| epoch.epoch));
        let answer = match self.take(report).await {
            Ok(verdict) => ReportAnswer::Verdict(verdict.into()),
            Err(status) => {
                let (code, message) = (status.code().into(), status.message().to_owned());
                ReportAnswer::Refusal(Refusal { code, message })
            }
        };
        Ok(ReportResponse { token, epoch, answer: Some(answer) })
    }

    async fn take(&self, report: ReportRequest) -> Result<Verdict, Status> {
        if let Some(toll) = &self.toll {
            toll.pay()?;
        }
        let (worker, token) = (WorkerId(report.worker), Token(report.token));
        self.cluster.owners.check(worker, self.by.as_deref()).await?;
        let epoch = report.epoch.ok_or(WireError::Missing("the epoch"));
        let epoch = epoch.and_then(Epoch::try_from).map_err(|error| codes::of_wire(&error))?;
        let midway = report.midway.map(|bytes| wire::blob_id(&bytes, "midway")).transpose();
        let midway = midway.map_err(|error| codes::of_wire(&error))?;
        self.cluster.check_blobs(midway).await?;
        let kind = EventKind::Reported { worker, token, epoch, midway };
        let Decision::Verdict(verdict) = self.cluster.submit(kind).await? else {
            return Err(codes::unexpected());
        };
        self.cluster.presence.heard(worker);
        Ok(verdict.into())
    }
}
