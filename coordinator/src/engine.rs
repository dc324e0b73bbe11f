//! The thin shell around the mind: one thread that applies events, commits them, and only then answers.
//!
//! Commands queue up while a commit is on its way to disk, and the next commit takes all of them: under load many events
//! share one fsync. If a commit fails the state in memory is ahead of the log, so the engine stops and nobody is answered.

use std::{mem, thread, time::Duration};

use earshot_common::ids::{Token, WorkerId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::{
    clock::Clock,
    leases::Leases,
    state::{Decision, Event, EventKind, Grant, Refusal, State},
    store::{EventLog, StoreError},
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
}

/// The engine's life, for the one who started it.
#[derive(Debug)]
pub struct Running {
    commands: mpsc::Sender<Command>,
    ended: oneshot::Receiver<Result<(), StoreError>>,
    /// Dropped with this, which ends the ticker.
    _ticker: JoinSet<()>,
}

/// The answer to a worker that asks for a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Train this.
    Granted(Box<Grant>),
    /// Nothing to do now; ask again when something has changed.
    NoWork,
    /// Every run of every sweep has ended.
    Done,
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
    Ask(WorkerId, oneshot::Sender<Result<Asked, Refusal>>),
    Heartbeat(WorkerId, Vec<Token>, oneshot::Sender<Result<Vec<Token>, Refusal>>),
    Read(Reader),
    Tick,
    Stop,
}

impl Engine {
    /// Folds the log and starts the mind's thread, and the ticker that looks at deadlines. Needs a tokio runtime.
    ///
    /// # Errors
    /// The log cannot be folded.
    pub fn start(log: EventLog, settings: Settings) -> Result<(Self, Running), StoreError> {
        let state = log.replay()?;
        let (commands, inbox) = mpsc::channel(QUEUE_LENGTH);
        let (changed, changes) = watch::channel(state.position());
        let (ended_sender, ended) = oneshot::channel();
        let mind = Mind::new(log, state, settings, changed);
        thread::spawn(move || {
            let _ = ended_sender.send(mind.run(inbox));
        });
        let mut ticker = JoinSet::new();
        ticker.spawn(tick(commands.clone()));
        let running = Running { commands: commands.clone(), ended, _ticker: ticker };
        Ok((Self { commands, changes, settings }, running))
    }

    /// How the engine was set.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Submits an event; it is on disk when this returns.
    ///
    /// # Errors
    /// The refusal, or [`EngineError::Stopped`].
    pub async fn submit(&self, kind: EventKind) -> Result<Decision, EngineError> {
        self.call(|reply| Command::Submit(kind, reply)).await
    }

    /// Asks for a run for this worker.
    ///
    /// # Errors
    /// The refusal, or [`EngineError::Stopped`].
    pub async fn ask(&self, worker: WorkerId) -> Result<Asked, EngineError> {
        self.call(|reply| Command::Ask(worker, reply)).await
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
struct Mind {
    log: EventLog,
    state: State,
    leases: Leases,
    clock: Clock,
    changed: watch::Sender<u64>,
    /// Events applied and not yet on disk.
    uncommitted: Vec<Event>,
    /// Answers that wait for that.
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

impl Mind {
    fn new(log: EventLog, state: State, settings: Settings, changed: watch::Sender<u64>) -> Self {
        let clock = Clock::start(state.at_ms());
        let mut leases = Leases::new(settings.lease_ms);
        for token in state.live_tokens() {
            leases.renew(token, clock.now_ms());
        }
        Self { log, state, leases, clock, changed, uncommitted: Vec::new(), answers: Vec::new() }
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
        match command {
            Command::Submit(kind, reply) => {
                let decision = self.apply(kind);
                self.answer(reply, decision);
            }
            Command::Ask(worker, reply) => {
                let asked = self.ask(worker);
                self.answer(reply, asked);
            }
            Command::Heartbeat(worker, tokens, reply) => {
                let revoked = self.heartbeat(worker, tokens);
                self.answer(reply, revoked);
            }
            Command::Read(reader) => reader(&self.state),
            Command::Tick => self.expire(),
            Command::Stop => {}
        }
    }

    fn apply(&mut self, kind: EventKind) -> Result<Decision, Refusal> {
        let event = Event { at_ms: self.clock.now_ms(), kind };
        let decision = self.state.apply(&event)?;
        if let Decision::Granted(grant) = &decision {
            self.leases.renew(grant.token, event.at_ms);
        }
        self.uncommitted.push(event);
        Ok(decision)
    }

    fn ask(&mut self, worker: WorkerId) -> Result<Asked, Refusal> {
        if self.state.worker(worker).is_none_or(|worker| worker.has_left) {
            return Err(Refusal::UnknownWorker(worker));
        }
        if self.state.has_work()
            && let Decision::Granted(grant) = self.apply(EventKind::Asked { worker })?
        {
            return Ok(Asked::Granted(grant));
        }
        Ok(if self.state.is_done() { Asked::Done } else { Asked::NoWork })
    }

    fn heartbeat(&mut self, worker: WorkerId, tokens: Vec<Token>) -> Result<Vec<Token>, Refusal> {
        if self.state.worker(worker).is_none_or(|worker| worker.has_left) {
            return Err(Refusal::UnknownWorker(worker));
        }
        let (held, revoked): (Vec<_>, Vec<_>) =
            tokens.into_iter().partition(|&token| self.state.holds(worker, token));
        let now_ms = self.clock.now_ms();
        for token in held {
            self.leases.renew(token, now_ms);
        }
        Ok(revoked)
    }

    fn expire(&mut self) {
        let live: Vec<Token> = self.state.live_tokens().collect();
        self.leases.retain(|token| live.contains(&token));
        for token in self.leases.expired(self.clock.now_ms()) {
            // Refused only if an earlier expiry of this round ended it too.
            if self.apply(EventKind::Expired { token }).is_ok() {
                tracing::warn!(%token, "a lease ended without a sign of life; its run is handed out again");
            }
        }
    }

    fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, value: T) {
        // Nobody waits for an answer whose caller has gone.
        self.answers.push(Box::new(move || drop(reply.send(value))));
    }

    /// Writes what was applied, then gives the answers that depend on it.
    fn commit(&mut self) -> Result<(), StoreError> {
        if !self.uncommitted.is_empty() {
            let first = self.state.position() - self.uncommitted.len() as u64;
            self.log.append(first, &self.uncommitted)?;
            self.uncommitted.clear();
            self.changed.send_replace(self.state.position());
        }
        for answer in mem::take(&mut self.answers) {
            answer();
        }
        Ok(())
    }
}
