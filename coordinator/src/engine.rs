//! The thin shell around the mind: one thread that applies events, commits them, and only then answers.
//!
//! Commands queue up while a commit is on its way to disk, and the next commit takes all of them: under load many events
//! share one fsync. If a commit fails the state in memory is ahead of the log, so the engine stops and nobody is answered.

use std::{mem, thread, time::Duration};

use earshot_common::ids::{Token, WorkerId};
use prometheus_client::metrics::histogram::Histogram;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

pub use crate::mind::Asked;
use crate::{
    clock::{Clock, Stopwatch},
    leases::Lost,
    mind::Mind,
    state::{Decision, EventKind, Refusal, State},
    store::{EventLog, Folded, StoreError},
    watch::tally::commit_times,
};

/// Commands that may wait; more make callers wait, which is how load is pushed back.
const QUEUE_LENGTH: usize = 4096;
/// Events of one commit at most, so that the first of them is not kept waiting by the last.
const BATCH_LENGTH: usize = 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);

/// What can be set about the engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A lease ends this long after its last sign of life.
    pub lease_ms: u64,
}

/// A handle to the mind's thread.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
    settings: Settings,
    commits: Histogram,
}

/// The engine's life, for the one who started it.
#[derive(Debug)]
pub struct Running {
    commands: mpsc::Sender<Command>,
    ended: oneshot::Receiver<Result<(), StoreError>>,
    /// Dropped with this, which ends the ticker.
    _ticker: JoinSet<()>,
}

/// Why the engine did not do it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum EngineError {
    /// The state machine refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine has stopped.
    #[error("the coordinator is stopping")]
    Stopped,
}

type Reader = Box<dyn FnOnce(&State) + Send>;

enum Command {
    Submit(EventKind, oneshot::Sender<Result<Decision, Refusal>>),
    Ask(WorkerId, usize, oneshot::Sender<Result<Asked, Refusal>>),
    Heartbeat(WorkerId, Vec<Token>, oneshot::Sender<Result<Vec<Token>, Refusal>>),
    Read(Reader),
    Tick,
    Stop,
}

impl Engine {
    /// Starts the mind's thread, and the ticker that looks at deadlines. Needs a tokio runtime.
    pub fn start(Folded { log, state }: Folded, settings: Settings) -> (Self, Running) {
        let (commands, inbox) = mpsc::channel(QUEUE_LENGTH);
        let (changed, changes) = watch::channel(state.position());
        let (ended_sender, ended) = oneshot::channel();
        let commits = commit_times();
        let shell = Shell::new(log, state, settings, changed, commits.clone());
        thread::spawn(move || {
            let _ = ended_sender.send(shell.run(inbox));
        });
        let mut ticker = JoinSet::new();
        ticker.spawn(tick(commands.clone()));
        let running = Running { commands: commands.clone(), ended, _ticker: ticker };
        (Self { commands, changes, settings, commits }, running)
    }

    /// How the engine was set.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// How long commits took, in seconds.
    pub fn commits(&self) -> &Histogram {
        &self.commits
    }

    /// Commands that wait.
    pub fn waiting(&self) -> u64 {
        (self.commands.max_capacity() - self.commands.capacity()) as u64
    }

    /// Submits an event; it is on disk when this returns.
    ///
    /// # Errors
    /// The refusal, or [`EngineError::Stopped`].
    pub async fn submit(&self, kind: EventKind) -> Result<Decision, EngineError> {
        self.call(|reply| Command::Submit(kind, reply)).await
    }

    /// Asks for a run for this worker, or for several to train as one computation.
    ///
    /// # Errors
    /// The refusal, or [`EngineError::Stopped`].
    pub async fn ask(&self, worker: WorkerId, runs: usize) -> Result<Asked, EngineError> {
        self.call(|reply| Command::Ask(worker, runs, reply)).await
    }

    /// Renews the leases of these attempts and returns those that this worker no longer holds.
    ///
    /// # Errors
    /// The refusal, or [`EngineError::Stopped`].
    pub async fn heartbeat(&self, worker: WorkerId, tokens: Vec<Token>) -> Result<Vec<Token>, EngineError> {
        self.call(|reply| Command::Heartbeat(worker, tokens, reply)).await
    }

    /// Looks at the state. What is seen may not be on disk yet, but is before anything later is answered.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let reader = |reply: oneshot::Sender<Result<T, Refusal>>| {
            Command::Read(Box::new(move |state| drop(reply.send(Ok(look(state))))))
        };
        self.call(reader).await
    }

    /// Changes after every commit.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    async fn call<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| EngineError::Stopped)?;
        Ok(answer.await.map_err(|_| EngineError::Stopped)??)
    }
}

impl Running {
    /// Asks the engine to stop once it has done what is queued.
    pub async fn stop(&self) {
        // A closed queue means that it has stopped already.
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Waits for the engine's end.
    ///
    /// # Errors
    /// The commit that failed, or [`StoreError::Died`].
    pub async fn stopped(&mut self) -> Result<(), StoreError> {
        // Only a panic drops the sender without a word.
        (&mut self.ended).await.unwrap_or(Err(StoreError::Died))
    }
}

async fn tick(commands: mpsc::Sender<Command>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if commands.send(Command::Tick).await.is_err() {
            return;
        }
    }
}

/// What the thread owns.
struct Shell {
    mind: Mind,
    log: EventLog,
    clock: Clock,
    changed: watch::Sender<u64>,
    commits: Histogram,
    /// Answers that wait for the next commit.
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

impl Shell {
    fn new(
        log: EventLog,
        state: State,
        settings: Settings,
        changed: watch::Sender<u64>,
        commits: Histogram,
    ) -> Self {
        let clock = Clock::start(state.at_ms());
        let mind = Mind::wake(state, settings.lease_ms, clock.now_ms());
        Self { mind, log, clock, changed, commits, answers: Vec::new() }
    }

    fn run(mut self, mut inbox: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        while inbox.blocking_recv_many(&mut batch, BATCH_LENGTH) > 0 {
            let mut is_stopping = false;
            for command in batch.drain(..) {
                is_stopping |= matches!(command, Command::Stop);
                self.handle(command);
            }
            self.commit()?;
            if is_stopping {
                return Ok(());
            }
        }
        Ok(())
    }

    fn handle(&mut self, command: Command) {
        let now_ms = self.clock.now_ms();
        match command {
            Command::Submit(kind, reply) => {
                let decision = self.mind.apply(kind, now_ms);
                self.answer(reply, decision);
            }
            Command::Ask(worker, runs, reply) => {
                let asked = self.mind.ask(worker, runs, now_ms);
                self.answer(reply, asked);
            }
            Command::Heartbeat(worker, tokens, reply) => {
                let revoked = self.mind.heartbeat(worker, &tokens, now_ms);
                self.answer(reply, revoked);
            }
            Command::Read(reader) => reader(self.mind.state()),
            Command::Tick => self.mind.expire(now_ms).into_iter().for_each(warn_of),
            Command::Stop => {}
        }
    }

    fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, value: T) {
        // Nobody waits for an answer whose caller has gone.
        self.answers.push(Box::new(move || drop(reply.send(value))));
    }

    /// Writes what was applied, then gives the answers that depend on it.
    fn commit(&mut self) -> Result<(), StoreError> {
        let (first, events) = self.mind.uncommitted();
        if !events.is_empty() {
            let stopwatch = Stopwatch::start();
            self.log.append(first, events, self.mind.decided())?;
            self.commits.observe(stopwatch.elapsed_ns() as f64 * 1e-9);
            self.mind.committed();
            self.changed.send_replace(self.mind.state().position());
        }
        for answer in mem::take(&mut self.answers) {
            answer();
        }
        Ok(())
    }
}

fn warn_of(lost: Lost) {
    match lost {
        Lost::Silent(token) => {
            tracing::warn!(%token, "a lease ended without a sign of life; its run is handed out again");
        }
        Lost::Unclaimed(token) => {
            tracing::warn!(%token, "a grant never reached its worker; its run is handed out again");
        }
    }
}
