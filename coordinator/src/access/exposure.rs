//! What listening on an address takes.

use std::net::SocketAddr;

/// What a coordinator listens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precautions {
    /// It has a certificate.
    pub has_tls: bool,
    /// It asks for tokens.
    pub has_tokens: bool,
    /// Its user wants it to listen all the same.
    pub is_insecure: bool,
}

/// An address that others can reach, without what that takes.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "{address} can be reached from other machines, and that takes {missing}: make tokens with `coordinator token new` and \
     certificates with `coordinator tls init`, or add --insecure where you trust everybody who reaches it"
)]
pub struct Exposed {
    /// Where.
    pub address: SocketAddr,
    /// What there is not.
    pub missing: &'static str,
}

/// Whether these precautions will do for this address: on loopback any do, elsewhere only all of them.
///
/// # Errors
/// [`Exposed`].
pub fn check(address: SocketAddr, precautions: Precautions) -> Result<(), Exposed> {
    let Precautions { has_tls, has_tokens, is_insecure } = precautions;
    if is_insecure || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let missing = match (has_tls, has_tokens) {
        (true, true) => return Ok(()),
        (false, true) => "TLS",
        (true, false) => "tokens",
        (false, false) => "tokens and TLS",
    };
    Err(Exposed { address, missing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_is(address: &str, flags: [bool; 3], expected: Result<(), &str>) {
        let [has_tls, has_tokens, is_insecure] = flags;
        let found = check(address.parse().unwrap(), Precautions { has_tls, has_tokens, is_insecure });
        assert_eq!(found.map_err(|exposed| exposed.missing), expected, "{address} {flags:?}");
    }

    #[test]
    fn only_loopback_needs_nothing() {
        for loopback in ["127.0.0.1:7070", "127.9.9.9:1", "[::1]:7070", "[::ffff:127.0.0.1]:7070"] {
            check_is(loopback, [false; 3], Ok(()));
        }
        for open in ["0.0.0.0:7070", "[::]:7070", "10.0.0.1:7070", "[::ffff:10.0.0.1]:7070"] {
            check_is(open, [false; 3], Err("tokens and TLS"));
            check_is(open, [true, false, false], Err("tokens"));
            check_is(open, [false, true, false], Err("TLS"));
            check_is(open, [true, true, false], Ok(()));
            check_is(open, [false, false, true], Ok(()));
        }
    }
}
