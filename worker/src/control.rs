//! What the agent tells a running attempt.
//!
//! ```text
//!  Running ──► Stopping ──► Draining ──► Revoked
//! ```
//! Only ever to the right: a revoked attempt cannot be wanted again.

use tokio::sync::watch;

/// How much an attempt is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Train on.
    Running,
    /// End now with what there is: the coordinator has seen enough.
    Stopping,
    /// End now with nothing: the worker is leaving.
    Draining,
    /// End now, and tell nobody: the lease is no longer held.
    Revoked,
}

/// One attempt's state, read by its training thread at every batch and awaited by its calls to the coordinator.
#[derive(Debug)]
pub struct Control(watch::Sender<State>);

impl Default for Control {
    fn default() -> Self {
        Self(watch::Sender::new(State::Running))
    }
}

impl Control {
    /// How much the attempt is wanted now.
    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    /// Moves on to a later state; an earlier one is ignored.
    pub fn advance(&self, state: State) {
        self.0.send_if_modified(|current| {
            let later = state > *current;
            if later {
                *current = state;
            }
            later
        });
    }

    /// Waits until the state is this one or a later one.
    pub async fn reached(&self, state: State) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = self.0.subscribe().wait_for(|current| *current >= state).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn states_only_move_on() {
        let control = Control::default();
        control.advance(State::Draining);
        control.advance(State::Stopping);
        assert_eq!(control.state(), State::Draining);
        control.reached(State::Stopping).await;
        control.reached(State::Draining).await;
    }
}
