//! Ctrl-C and SIGTERM, as values.

use std::{io, process::ExitCode};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

/// By the shell's convention 128 + the signal's number.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Who asked for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Ctrl-C, SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl Stopped {
    /// The exit code of a command that was stopped before it was done.
    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::Interrupted => ExitCode::from(INTERRUPTED),
            Self::Terminated => ExitCode::from(TERMINATED),
        }
    }
}

/// Listens for both signals from now on, which takes away their deadly default.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to listen. Needs a tokio runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Stopped {
        tokio::select! {
            _ = self.interrupt.recv() => Stopped::Interrupted,
            _ = self.terminate.recv() => Stopped::Terminated,
        }
    }

    /// Ends the process at the next signal, as long as the returned set lives: an orderly end takes too long for the user.
    pub(super) fn exit_at_next(mut self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            self.next().await;
            std::process::exit(i32::from(INTERRUPTED));
        });
        tasks
    }
}
