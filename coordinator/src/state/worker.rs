//! Workers, as far as the mind knows them.

use earshot_common::ids::Token;
use serde::Serialize;

/// Slots of one worker at most: a typing error, not a machine, has more.
pub(super) const SLOTS_MAX: u32 = 1024;

/// A worker that joined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    /// For people.
    pub name: String,
    /// Runs it trains at once.
    pub slots: u32,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Name of the token that let it in, where tokens are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Attempts it holds.
    pub held: Vec<Token>,
    /// Whether it said goodbye.
    pub has_left: bool,
}

impl Worker {
    /// Whether it could train another run.
    pub fn has_room(&self) -> bool {
        self.held.len() < self.slots as usize
    }
}
