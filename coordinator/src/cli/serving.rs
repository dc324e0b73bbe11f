//! A coordinator at work: its service, what people see of it, and its end.

use std::{process::ExitCode, time::Duration};

use earshot_common::ids::WorkerId;
use earshot_proto::earshot::v1::Leaderboard;
use indicatif::HumanDuration;
use tokio::{pin, task::JoinSet, time};
use tokio_util::sync::CancellationToken;

use super::{
    document,
    render::{self, Format},
    screen::Screen,
    signals::{Signals, Stopped},
};
use crate::{
    access::Entrance,
    blobs::Blobs,
    engine::{Engine, EngineError, Running},
    errands,
    service::{self, presence::Presence},
    state::State,
    views::{self, ViewError},
};

/// Exit code of a sweep that is complete without a completed trial.
const NONE_COMPLETED: u8 = 3;

/// How long workers may take to hear that all is done; a waiting one hears it at once, a dead one never.
const GRACE: Duration = Duration::from_secs(5);

/// How often what people see is brought up to date at most.
const REFRESH: Duration = Duration::from_millis(500);

/// Rows of the leaderboard that are printed at the end.
const TOP: u32 = 10;

/// What to do once every run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenDone {
    /// Go on answering users.
    Serve,
    /// End.
    Exit,
}

/// Why serving ended.
enum End {
    Done,
    Stopped(Stopped),
}

/// Everything that a served sweep consists of.
pub(super) struct Serving {
    pub(super) engine: Engine,
    pub(super) running: Running,
    pub(super) blobs: Blobs,
    pub(super) presence: Presence,
    pub(super) screen: Screen,
}

impl Serving {
    /// Serves until the sweep is done, if that is the end, or until a signal; then stops in order.
    pub(super) async fn until_done(
        mut self,
        entrance: Entrance,
        mut signals: Signals,
        when_done: WhenDone,
    ) -> anyhow::Result<ExitCode> {
        tracing::info!("serving at {}", entrance.listener.local_addr()?);
        let stop = CancellationToken::new();
        let (engine, presence) = (self.engine.clone(), self.presence.clone());
        let service =
            service::serve(entrance, engine, self.blobs.clone(), presence, stop.clone().cancelled_owned());
        pin!(service);
        let mut tasks = JoinSet::new();
        tasks.spawn(show(self.engine.clone(), self.presence.clone(), self.screen.clone()));
        tasks.spawn(errands::run(self.engine.clone(), self.blobs.clone()));
        let done = done(self.engine.clone(), self.presence.clone(), when_done);
        let end = tokio::select! {
            ended = &mut service => return ended.map(|()| ExitCode::FAILURE).map_err(Into::into),
            ended = self.running.stopped() => return ended.map(|()| ExitCode::FAILURE).map_err(Into::into),
            stopped = signals.next() => End::Stopped(stopped),
            // If not, the engine has stopped: it says why, just above.
            Ok(()) = done => End::Done,
        };
        tasks.shutdown().await;
        let _impatient = signals.exit_at_next();
        stop.cancel();
        service.await?;
        let exit_code = self.conclude(&end).await?;
        self.running.stop().await;
        self.running.stopped().await?;
        Ok(exit_code)
    }

    /// Says where the sweep stands at the end.
    async fn conclude(&self, end: &End) -> anyhow::Result<ExitCode> {
        let look = |state: &State| {
            let names = state.sweeps().map(|(_, sweep)| sweep.sweep().name.as_str());
            let boards: Result<_, _> = names.map(|name| views::leaderboard(state, Some(name), TOP)).collect();
            boards.map(|boards: Vec<_>| (state.is_done(), boards))
        };
        let (is_complete, boards) = self.engine.read(look).await??;
        match end {
            End::Stopped(stopped) if !is_complete => {
                tracing::info!("stopped; everything is kept, start again to continue");
                Ok(stopped.exit_code())
            }
            End::Stopped(_) | End::Done => conclude(&boards),
        }
    }
}

fn conclude(boards: &[Leaderboard]) -> anyhow::Result<ExitCode> {
    if boards.iter().all(|board| board.rows.is_empty()) {
        tracing::error!(
            "the sweep has ended, and no trial of it completed; `coordinator trial show N` says why"
        );
        return Ok(ExitCode::from(NONE_COMPLETED));
    }
    for board in boards {
        render::print(&document::leaderboard(board)?, Format::Table)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until every run has ended, and then until that is the end of serving.
async fn done(engine: Engine, presence: Presence, when_done: WhenDone) -> Result<(), EngineError> {
    loop {
        until(&engine, |is_done| is_done).await?;
        match when_done {
            WhenDone::Exit => {
                tracing::info!("the sweep is complete");
                return everybody_knows(engine, presence).await;
            }
            WhenDone::Serve => {
                tracing::info!("the sweep is complete; answering until Ctrl-C");
                // Another may be handed in.
                until(&engine, |is_done| !is_done).await?;
            }
        }
    }
}

/// Waits until all is done, or until it is not.
async fn until(engine: &Engine, wanted: fn(bool) -> bool) -> Result<(), EngineError> {
    let mut changes = engine.changes();
    while !wanted(engine.read(State::is_done).await?) {
        changes.changed().await.map_err(|_| EngineError::Stopped)?;
    }
    Ok(())
}

/// Waits until no worker that can be reached waits for an answer.
async fn everybody_knows(engine: Engine, presence: Presence) -> Result<(), EngineError> {
    let mut changes = engine.changes();
    let mut tellings = presence.tellings();
    let know = async {
        loop {
            tellings.borrow_and_update();
            changes.borrow_and_update();
            let workers = engine.read(|state| {
                let present = state.workers().filter(|(_, worker)| !worker.has_left);
                present.map(|(id, worker)| (id, worker.slots)).collect::<Vec<(WorkerId, u32)>>()
            });
            let heard = presence.present();
            let mut waiting = workers.await?.into_iter().filter(|(id, _)| heard.contains(id));
            if waiting.all(|(id, slots)| presence.knows_the_end(id, slots)) {
                return Ok(());
            }
            tokio::select! {
                _ = tellings.changed() => {}
                left = changes.changed() => left.map_err(|_| EngineError::Stopped)?,
            }
        }
    };
    time::timeout(GRACE, know).await.unwrap_or(Ok(()))
}

/// Shows how far the newest sweep has got, until its engine ends.
async fn show(engine: Engine, presence: Presence, screen: Screen) {
    let bar = screen.bar("{bar:24} {pos}/{len} trials, {msg}");
    let mut changes = engine.changes();
    let mut told = None;
    loop {
        changes.borrow_and_update();
        let heard = presence.present();
        let look = move |state: &_| {
            Ok::<_, ViewError>((views::status(state, None, &heard)?, views::leaderboard(state, None, 1)?))
        };
        let Ok(Ok((status, board))) = engine.read(look).await else {
            return;
        };
        let ended =
            status.trials_completed + status.trials_failed + status.trials_infeasible + status.trials_stopped;
        let workers = status.workers.iter().filter(|worker| worker.state == "present").count();
        let best = best(&board);
        bar.set_length(u64::from(status.trials_total));
        bar.set_position(u64::from(ended));
        let left = if ended == 0 { String::new() } else { format!(", {} left", HumanDuration(bar.eta())) };
        bar.set_message(format!("{best}, {workers} workers, {} epochs{left}", status.epochs));
        let now = (status.sweep.clone(), ended);
        if told.as_ref() != Some(&now) && !screen.has_bars() {
            let (total, failed) = (status.trials_total, status.trials_failed);
            tracing::info!(failed, "{ended}/{total} trials, {best}");
        }
        told = Some(now);
        // Looking costs time of the engine's thread, so not after every commit.
        time::sleep(REFRESH).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn best(board: &Leaderboard) -> String {
    match board.rows.first() {
        Some(row) => {
            let score = match board.objective.as_str() {
                "loss" => row.loss,
                "macro_f1" => row.macro_f1,
                _ => row.accuracy,
            };
            format!("best {} {score:.4} (trial {})", board.objective, row.trial)
        }
        None => "none completed yet".to_owned(),
    }
}
