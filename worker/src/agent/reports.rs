//! The stream of reports: all attempts of a worker share it, and each waits for its own answer.
//!
//! It is opened by the first report, and again by the first one after it broke; whoever waited then is told, and tries again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use earshot_common::{credentials::Line, job::Verdict};
use earshot_proto::earshot::v1::{
    self as proto, ReportRequest, ReportResponse, cluster_client::ClusterClient, report_response::Answer,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::agent::link::{late, within};

/// Reports that wait for the wire; more wait in their attempts.
const QUEUE_LENGTH: usize = 64;

/// The worker's stream of reports. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports(
    /// Held while opening, so that one attempt opens and the others wait for it.
    Arc<Mutex<Option<Arc<Open>>>>,
);

#[derive(Debug)]
struct Open {
    outbound: mpsc::Sender<ReportRequest>,
    waiting: Waiting,
    /// Ends with the stream's last user.
    _reader: JoinSet<()>,
}

/// Who waits for the answer to a report of this token and epoch; none once the stream has broken. A std mutex: nothing waits
/// while holding it.
type Waiting = Arc<StdMutex<Option<BTreeMap<(u64, u32), oneshot::Sender<Answered>>>>>;

type Answered = Result<Verdict, Status>;

impl Reports {
    /// Hands in a report, and waits so long at most for its answer.
    ///
    /// # Errors
    /// What the coordinator, or the connection to it, has against it.
    pub(crate) async fn report(
        &self,
        cluster: ClusterClient<Line>,
        request: ReportRequest,
        limit: Duration,
    ) -> Answered {
        let open = self.opened(cluster, limit).await?;
        if let Ok(answered) = time::timeout(limit, open.ask(request)).await {
            return answered;
        }
        // A stream that swallows one report will swallow others.
        self.give_up(&open).await;
        Err(late(limit))
    }

    async fn opened(&self, mut cluster: ClusterClient<Line>, limit: Duration) -> Result<Arc<Open>, Status> {
        let mut place = self.0.lock().await;
        if let Some(open) = place.as_ref().filter(|open| !open.is_broken()) {
            return Ok(Arc::clone(open));
        }
        *place = None;
        let (outbound, queue) = mpsc::channel(QUEUE_LENGTH);
        let answers = within(limit, cluster.report(ReceiverStream::new(queue))).await?;
        let waiting = Waiting::new(StdMutex::new(Some(BTreeMap::new())));
        let mut reader = JoinSet::new();
        reader.spawn(read(answers, Arc::clone(&waiting)));
        let open = Arc::new(Open { outbound, waiting, _reader: reader });
        Ok(Arc::clone(place.insert(open)))
    }

    async fn give_up(&self, open: &Arc<Open>) {
        self.0.lock().await.take_if(|current| Arc::ptr_eq(current, open));
    }
}

impl Open {
    fn is_broken(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    async fn ask(&self, request: ReportRequest) -> Answered {
        let key = (request.token, request.epoch.map_or(0, |epoch| epoch.epoch));
        let (sender, answer) = oneshot::channel();
        match self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => drop(waiting.insert(key, sender)),
            None => return Err(broken()),
        }
        self.outbound.send(request).await.map_err(|_| broken())?;
        answer.await.unwrap_or_else(|_| Err(broken()))
    }
}

/// Gives every answer to whoever waits for it, and the stream's end to all who wait then.
async fn read(mut answers: Streaming<ReportResponse>, waiting: Waiting) {
    let end = loop {
        let ReportResponse { token, epoch, answer } = match answers.message().await {
            Ok(Some(answered)) => answered,
            Ok(None) => break broken(),
            Err(status) => break status,
        };
        let answered = match answer {
            Some(Answer::Refusal(refusal)) => Err(Status::new(Code::from(refusal.code), refusal.message)),
            Some(Answer::Verdict(verdict)) => Ok(known(verdict)),
            None => Ok(Verdict::Continue),
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.as_mut().and_then(|waiting| waiting.remove(&(token, epoch))) {
            // Whoever waited may have been dropped.
            let _ = sender.send(answered);
        }
    };
    let left = waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    for sender in left.into_iter().flatten().map(|(_, sender)| sender) {
        let _ = sender.send(Err(end.clone()));
    }
}

/// A verdict that this worker does not know must not end training.
fn known(verdict: i32) -> Verdict {
    let known = proto::Verdict::try_from(verdict).ok();
    known.and_then(|verdict| Verdict::try_from(verdict).ok()).unwrap_or(Verdict::Continue)
}

fn broken() -> Status {
    Status::unavailable("the stream of reports has ended")
}
