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
    leases: BTreeMap<Token, Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    begun_ms: u64,
    ends_ms: u64,
    /// What its worker has said of it so far.
    word: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// Nothing: it may not know yet, or be dead.
    None,
    /// It works at the attempt.
    Claimed,
    /// It lives and did not name the attempt: the grant never reached it.
    PassedOver,
}

/// An attempt whose lease has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its worker fell silent.
    Silent(Token),
    /// Its worker lives and never knew of it.
    Unclaimed(Token),
}

impl Leases {
    /// No leases yet.
    pub fn new(lease_ms: u64) -> Self {
        Self { lease_ms, leases: BTreeMap::new() }
    }

    /// Starts a lease.
    pub fn begin(&mut self, token: Token, now_ms: u64) {
        let ends_ms = now_ms + self.lease_ms;
        self.leases.insert(token, Lease { begun_ms: now_ms, ends_ms, word: Word::None });
    }

    /// The worker has named the attempt.
    pub fn renew(&mut self, token: Token, now_ms: u64) {
        if let Some(lease) = self.leases.get_mut(&token) {
            lease.ends_ms = now_ms + self.lease_ms;
            lease.word = Word::Claimed;
        }
    }

    /// The worker has shown life without naming the attempt. In the first half of a lease that means nothing: the grant and
    /// this word may have crossed on their way.
    pub fn pass_over(&mut self, token: Token, now_ms: u64) {
        if let Some(lease) = self.leases.get_mut(&token)
            && lease.word == Word::None
            && now_ms >= lease.begun_ms + self.lease_ms / 2
        {
            lease.word = Word::PassedOver;
        }
    }

    /// Nobody was listened to for so long: no lease loses that time.
    pub fn defer(&mut self, deaf_ms: u64, now_ms: u64) {
        for lease in self.leases.values_mut() {
            lease.begun_ms = (lease.begun_ms + deaf_ms).min(now_ms);
            lease.ends_ms = (lease.ends_ms + deaf_ms).min(now_ms + self.lease_ms);
        }
    }

    /// Forgets leases that `is_live` does not know any more.
    pub fn retain(&mut self, is_live: impl Fn(Token) -> bool) {
        self.leases.retain(|&token, _| is_live(token));
    }

    /// When the lease of an attempt ends; none for one without a lease.
    pub fn ends_ms(&self, token: Token) -> Option<u64> {
        self.leases.get(&token).map(|lease| lease.ends_ms)
    }

    /// Leases whose time has passed.
    pub fn expired(&self, now_ms: u64) -> Vec<Lost> {
        let past = self.leases.iter().filter(|(_, lease)| lease.ends_ms <= now_ms);
        past.map(|(&token, lease)| match lease.word {
            Word::PassedOver => Lost::Unclaimed(token),
            Word::None | Word::Claimed => Lost::Silent(token),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_unless_renewed() {
        let mut leases = Leases::new(100);
        leases.begin(Token(1), 0);
        leases.begin(Token(2), 0);
        leases.renew(Token(1), 60);
        leases.renew(Token(3), 60);
        assert_eq!(leases.expired(99), []);
        assert_eq!(leases.expired(100), [Lost::Silent(Token(2))]);
        leases.retain(|token| token != Token(2));
        assert_eq!(leases.expired(160), [Lost::Silent(Token(1))]);
        assert_eq!((leases.ends_ms(Token(1)), leases.ends_ms(Token(3))), (Some(160), None));
    }

    #[test]
    fn only_a_word_of_the_second_half_says_that_a_grant_never_arrived() {
        let mut leases = Leases::new(100);
        for (token, word_at_ms) in [(1, 49), (2, 50)] {
            leases.begin(Token(token), 0);
            leases.pass_over(Token(token), word_at_ms);
        }
        leases.begin(Token(3), 0);
        leases.renew(Token(3), 10);
        leases.pass_over(Token(3), 90);
        let expected = [Lost::Silent(Token(1)), Lost::Unclaimed(Token(2)), Lost::Silent(Token(3))];
        assert_eq!(leases.expired(110), expected);
    }
}
