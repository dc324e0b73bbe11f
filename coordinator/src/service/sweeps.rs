//! The `Sweeps` service: what users ask.

use earshot_common::ids::TrialId;
use earshot_proto::earshot::v1::{
    Champion, GetChampionRequest, GetLeaderboardRequest, GetStatusRequest, GetTrialRequest, Leaderboard,
    Status as SweepStatus, Trial, sweeps_server,
};
use tonic::{Request, Response, Status};

use super::{codes, presence::Presence};
use crate::{
    engine::Engine,
    state::State,
    views::{self, ViewError},
};

#[derive(Debug)]
pub(super) struct SweepService {
    pub(super) engine: Engine,
    pub(super) presence: Presence,
}

impl SweepService {
    async fn view<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> Result<T, ViewError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let seen = self.engine.read(look).await.map_err(|error| codes::of_engine(&error))?;
        seen.map(Response::new).map_err(|error| codes::of_view(&error))
    }
}

#[tonic::async_trait]
impl sweeps_server::Sweeps for SweepService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<SweepStatus>, Status> {
        let present = self.presence.present();
        self.view(move |state| views::status(state, &present)).await
    }

    async fn get_leaderboard(
        &self,
        request: Request<GetLeaderboardRequest>,
    ) -> Result<Response<Leaderboard>, Status> {
        let top = request.into_inner().top;
        self.view(move |state| views::leaderboard(state, top)).await
    }

    async fn get_trial(&self, request: Request<GetTrialRequest>) -> Result<Response<Trial>, Status> {
        let trial = TrialId(request.into_inner().trial);
        self.view(move |state| views::trial(state, trial)).await
    }

    async fn get_champion(&self, _: Request<GetChampionRequest>) -> Result<Response<Champion>, Status> {
        self.view(views::champion).await
    }
}
