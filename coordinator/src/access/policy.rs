//! Which role may call what.
//!
//! The protocol's services were cut along these lines: workers speak `Cluster`, users `Sweeps`, both read `Blobs`.

use super::{Caller, Role};

/// What a call is, as far as access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says whether the coordinator serves: load balancers ask, who hold no token.
    Health,
    /// A worker joins.
    Join,
    /// A blob goes out or comes in.
    Transfer,
    /// Is answered for as long as there is something to tell.
    Watch,
    /// Asks for as long as there is something to ask.
    Stream,
    /// Anything else.
    Call,
}

/// What kind of call a path is.
pub(super) fn kind(path: &str) -> Kind {
    match path {
        "/grpc.health.v1.Health/Check" => Kind::Health,
        "/earshot.v1.Cluster/Join" => Kind::Join,
        "/earshot.v1.Blobs/Fetch" | "/earshot.v1.Blobs/Put" => Kind::Transfer,
        "/earshot.v1.Sweeps/WatchStatus" | "/earshot.v1.Sweeps/SubmitSweep" => Kind::Watch,
        "/earshot.v1.Cluster/Report" => Kind::Stream,
        _ => Kind::Call,
    }
}

/// Whether this caller may call this path. What is not named here is for whoever holds a token: reflection, and what does
/// not exist.
pub(super) fn allows(caller: &Caller, path: &str) -> bool {
    let Caller::Known { role, .. } = caller else { return true };
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match (service, path) {
        ("earshot.v1.Cluster", _) | (_, "/earshot.v1.Blobs/Put") => *role == Role::Worker,
        ("earshot.v1.Sweeps", _) => *role == Role::User,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, worker: bool, user: bool) {
        let caller = |role| Caller::Known { name: "t".into(), role };
        let found = [Role::Worker, Role::User].map(|role| allows(&caller(role), path));
        assert_eq!(found, [worker, user], "{path}");
        assert!(allows(&Caller::Anyone, path));
    }

    #[test]
    fn each_role_has_its_service() {
        for call in ["Join", "Lease", "Report", "Finish", "Heartbeat", "Leave", "AnythingNew"] {
            check(&format!("/earshot.v1.Cluster/{call}"), true, false);
        }
        for call in ["GetStatus", "GetChampion", "PauseSweep", "CancelSweep", "AnythingNew"] {
            check(&format!("/earshot.v1.Sweeps/{call}"), false, true);
            check(&format!("//earshot.v1.Sweeps/{call}"), false, true);
        }
        check("/earshot.v1.Blobs/Fetch", true, true);
        check("/earshot.v1.Blobs/Put", true, false);
        check("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true, true);
    }
}
