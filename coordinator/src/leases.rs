//! When each lease ends unless its worker shows life.
//!
//! Deadlines are not in the log: a heartbeat decides nothing, only its absence does. After a restart every live attempt gets
//! a whole lease, since nobody could renew while the coordinator was away.

use std::collections::BTreeMap;

use earshot_common::ids::Token;

/// Deadlines of the live attempts. Times are milliseconds of one clock, passed in.
#[derive(Debug)]
pub struct Leases {
    lease_ms: u64,
    deadlines: BTreeMap<Token, u64>,
}

impl Leases {
    /// No leases yet.
    pub fn new(lease_ms: u64) -> Self {
        Self { lease_ms, deadlines: BTreeMap::new() }
    }

    /// Starts or renews a lease.
    pub fn renew(&mut self, token: Token, now_ms: u64) {
        self.deadlines.insert(token, now_ms + self.lease_ms);
    }

    /// Forgets leases that `is_live` does not know any more.
    pub fn retain(&mut self, is_live: impl Fn(Token) -> bool) {
        self.deadlines.retain(|&token, _| is_live(token));
    }

    /// Leases whose time has passed.
    pub fn expired(&self, now_ms: u64) -> Vec<Token> {
        self.deadlines.iter().filter(|(_, deadline)| **deadline <= now_ms).map(|(&token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_unless_renewed() {
        let mut leases = Leases::new(100);
        leases.renew(Token(1), 0);
        leases.renew(Token(2), 0);
        leases.renew(Token(1), 60);
        assert_eq!(leases.expired(99), []);
        assert_eq!(leases.expired(100), [Token(2)]);
        leases.retain(|token| token != Token(2));
        assert_eq!(leases.expired(160), [Token(1)]);
    }
}
