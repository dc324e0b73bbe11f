//! The `Sweeps` service: what users ask.

use earshot_common::ids::{ReplayId, SweepId, TrialId};
use earshot_proto::earshot::v1::{
    CancelSweepRequest, Champion, Curve, GetChampionRequest, GetCurveRequest, GetImportanceRequest,
    GetLeaderboardRequest, GetReplayRequest, GetStatusRequest, GetTrialRequest, Importance, Leaderboard,
    ListSweepsRequest, PauseSweepRequest, Replay, ReplayTrialRequest, ResumeSweepRequest,
    Status as SweepStatus, SubmitSweepRequest, Sweep, SweepList, Trial, WatchStatusRequest, sweeps_server,
};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    codes,
    presence::Presence,
    submission::{Desk, Submissions},
    watching::{self, Statuses},
};
use crate::{
    access::gate::HeldPlace,
    engine::Engine,
    state::{Decision, EventKind, State},
    views::{self, Among, Board, ViewError},
};

#[derive(Debug)]
pub(super) struct SweepService {
    pub(super) engine: Engine,
    pub(super) presence: Presence,
    /// Where sweeps are handed in.
    pub(super) desk: Desk,
    /// Cancelled when the service stops: watching ends.
    pub(super) stopping: CancellationToken,
}

impl SweepService {
    async fn view<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> Result<T, ViewError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let seen = self.engine.read(look).await.map_err(|error| codes::of_engine(&error))?;
        seen.map(Response::new).map_err(|error| codes::of_view(&error))
    }

    /// Does something to the sweep of that name, or to the newest, and shows what has become of it.
    async fn change(
        &self,
        name: Option<String>,
        change: impl FnOnce(SweepId) -> EventKind,
    ) -> Result<Response<Sweep>, Status> {
        let found = self.view(move |state| views::find(state, name.as_deref()).map(|(id, _)| id)).await?;
        let id = found.into_inner();
        self.engine.submit(change(id)).await.map_err(|error| codes::of_engine(&error))?;
        self.view(move |state| state.sweep(id).map(views::sweep_view).ok_or(ViewError::NoSweep)).await
    }
}

#[tonic::async_trait]
impl sweeps_server::Sweeps for SweepService {
    type WatchStatusStream = Statuses;
    type SubmitSweepStream = Submissions;

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<SweepStatus>, Status> {
        let (present, name) = (self.presence.present(), request.into_inner().sweep);
        self.view(move |state| views::status(state, name.as_deref(), &present)).await
    }

    async fn watch_status(&self, request: Request<WatchStatusRequest>) -> Result<Response<Statuses>, Status> {
        let (engine, presence) = (self.engine.clone(), self.presence.clone());
        let (stopping, name) = (self.stopping.clone(), request.get_ref().sweep.clone());
        Ok(Response::new(watching::statuses(engine, presence, name, stopping, request.extensions())))
    }

    async fn get_leaderboard(
        &self,
        request: Request<GetLeaderboardRequest>,
    ) -> Result<Response<Leaderboard>, Status> {
        let GetLeaderboardRequest { top, sweep, pareto } = request.into_inner();
        let among = if pareto { Among::Front } else { Among::All };
        let board = self.view(move |state| Board::read(state, sweep.as_deref(), top, among)).await?;
        let message = spawn_blocking(move || board.into_inner().message()).await;
        message.map(Response::new).map_err(|_| codes::unexpected())
    }

    async fn get_trial(&self, request: Request<GetTrialRequest>) -> Result<Response<Trial>, Status> {
        let GetTrialRequest { trial, sweep } = request.into_inner();
        self.view(move |state| views::trial(state, sweep.as_deref(), TrialId(trial))).await
    }

    async fn get_champion(&self, request: Request<GetChampionRequest>) -> Result<Response<Champion>, Status> {
        let GetChampionRequest { sweep, trial } = request.into_inner();
        self.view(move |state| views::champion(state, sweep.as_deref(), trial.map(TrialId))).await
    }

    async fn get_curve(&self, request: Request<GetCurveRequest>) -> Result<Response<Curve>, Status> {
        let name = request.into_inner().sweep;
        self.view(move |state| views::curve(state, name.as_deref())).await
    }

    async fn get_importance(
        &self,
        request: Request<GetImportanceRequest>,
    ) -> Result<Response<Importance>, Status> {
        let name = request.into_inner().sweep;
        self.view(move |state| views::importance(state, name.as_deref())).await
    }

    async fn replay_trial(&self, request: Request<ReplayTrialRequest>) -> Result<Response<Replay>, Status> {
        let ReplayTrialRequest { trial, sweep } = request.into_inner();
        let trial = TrialId(trial);
        let found = self.view(move |state| {
            views::trial(state, sweep.as_deref(), trial)?;
            views::find(state, sweep.as_deref()).map(|(id, _)| id)
        });
        let sweep = found.await?.into_inner();
        let asked = self.engine.submit(EventKind::ReplayAsked { sweep, trial }).await;
        match asked.map_err(|error| codes::of_engine(&error))? {
            Decision::Replaying(id) => self.view(move |state| views::replay(state, id)).await,
            _ => Err(Status::internal("the coordinator failed inside")),
        }
    }

    async fn get_replay(&self, request: Request<GetReplayRequest>) -> Result<Response<Replay>, Status> {
        let id = ReplayId(request.into_inner().replay);
        self.view(move |state| views::replay(state, id)).await
    }

    async fn submit_sweep(
        &self,
        request: Request<SubmitSweepRequest>,
    ) -> Result<Response<Submissions>, Status> {
        let place = request.extensions().get::<HeldPlace>().cloned();
        self.desk.take(request.into_inner(), place).await.map(Response::new)
    }

    async fn list_sweeps(&self, _: Request<ListSweepsRequest>) -> Result<Response<SweepList>, Status> {
        self.view(|state| Ok(views::sweeps(state))).await
    }

    async fn pause_sweep(&self, request: Request<PauseSweepRequest>) -> Result<Response<Sweep>, Status> {
        self.change(request.into_inner().sweep, |sweep| EventKind::Paused { sweep }).await
    }

    async fn resume_sweep(&self, request: Request<ResumeSweepRequest>) -> Result<Response<Sweep>, Status> {
        self.change(request.into_inner().sweep, |sweep| EventKind::Resumed { sweep }).await
    }

    async fn cancel_sweep(&self, request: Request<CancelSweepRequest>) -> Result<Response<Sweep>, Status> {
        self.change(Some(request.into_inner().sweep), |sweep| EventKind::Cancelled { sweep }).await
    }
}
