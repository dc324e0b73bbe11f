//! A database's blobs against its log: what is missing or damaged, and what nothing names any more.
//!
//! Only for a database that no coordinator has open: a running one receives blobs before the results that name them.

use std::collections::BTreeSet;

use earshot_common::{
    blob::{BlobError, BlobStore},
    ids::BlobId,
};

use crate::state::State;

/// Where a database's blobs lie.
#[derive(Debug)]
pub struct Stores {
    /// Its own: splits, manifests, checkpoints, logits.
    pub own: BlobStore,
    /// The prepared folders of its sweeps: shards. They may serve other databases as well.
    pub prepared: Vec<BlobStore>,
}

/// What a look at every blob has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Blobs that were read and are what their names say.
    pub sound: usize,
    /// What is wrong with the others that the log names.
    pub problems: Vec<String>,
    /// In the own store, and named by nothing.
    pub garbage: BTreeSet<BlobId>,
}

/// Every blob that the log names.
pub fn reachable(state: &State) -> BTreeSet<BlobId> {
    state.sweeps().flat_map(|(_, sweep)| sweep.blobs()).chain(state.blobs_of_replays()).collect()
}

/// Reads every blob that the log names, and compares its bytes with its name.
///
/// # Errors
/// [`BlobError::Io`] when a store cannot be listed; what is wrong with one blob is in the findings.
pub fn check(state: &State, stores: &Stores) -> Result<Findings, BlobError> {
    let reachable = reachable(state);
    let mut findings = Findings { garbage: stores.own.ids()?, ..Findings::default() };
    findings.garbage.retain(|id| !reachable.contains(id));
    for id in reachable {
        let all = || stores.prepared.iter().chain([&stores.own]);
        let holder = all().find(|store| store.contains(id)).unwrap_or(&stores.own);
        match holder.read(id) {
            Ok(_) => findings.sound += 1,
            Err(error) => findings.problems.push(error.to_string()),
        }
    }
    Ok(findings)
}

/// Removes from a store what is not in `kept`: how many blobs, and their bytes.
///
/// # Errors
/// [`BlobError::Io`] when the disk refuses; what was removed until then stays so.
pub fn clear(store: &BlobStore, kept: &BTreeSet<BlobId>) -> Result<(usize, u64), BlobError> {
    let mut cleared = (0, 0);
    for id in store.ids()?.difference(kept) {
        cleared = (cleared.0 + 1, cleared.1 + store.remove(*id)?);
    }
    Ok(cleared)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use earshot_common::{
        ids::{FoldId, WorkerId},
        job::{Epoch, Outcome, RunResult},
        sweep::Sweep,
        views::{Augmentation, Range},
    };

    use super::*;
    use crate::state::{Dataset, Decision, Event, EventKind, dataset::DatasetView};

    /// A sweep of one run, completed, with all that it names.
    fn site() -> (tempfile::TempDir, State, Stores) {
        let folder = tempfile::tempdir().unwrap();
        let [own, prepared] =
            ["own", "prepared"].map(|name| BlobStore::open(folder.path().join(name)).unwrap());
        let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 1\n";
        let sweep = Box::new(Sweep::parse(text, Path::new("t.toml"), &[]).unwrap());
        let dataset = Dataset {
            labels: vec!["dog".into(), "rain".into()],
            frames: 40,
            shards: vec![prepared.put(b"shard").unwrap()],
            views: vec![DatasetView {
                augmentation: Augmentation::PitchShift,
                drawn: Range { min: -1.0, max: 1.0 },
                shards: vec![prepared.put(b"view").unwrap()],
            }],
            splits: [(FoldId(1), own.put(b"split").unwrap())].into(),
            manifest: own.put(b"manifest").unwrap(),
        };
        let mut state = State::default();
        let mut tell = |kind| state.apply(&Event { at_ms: 0, kind }).unwrap();
        let worker = WorkerId(0);
        tell(EventKind::Submitted { sweep, dataset });
        tell(EventKind::Joined { name: "w".into(), slots: 1, device: "cpu".into(), by: None });
        let Decision::Granted(grant) = tell(EventKind::Asked { worker, proposed: vec![] }) else {
            panic!("no grant")
        };
        let token = grant.token;
        let epoch =
            Epoch { epoch: 1, train_loss: 0.5, loss: 0.5, accuracy: 0.5, macro_f1: 0.5, int8_accuracy: None };
        tell(EventKind::Reported { worker, token, epoch, midway: None });
        let [checkpoint, logits] = [b"weights".as_slice(), b"logits"].map(|bytes| own.put(bytes).unwrap());
        let outcome = Outcome::Completed(RunResult { best_epoch: 1, checkpoint, logits });
        tell(EventKind::Finished { worker, token, outcome });
        (folder, state, Stores { own, prepared: vec![prepared] })
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let (_folder, state, stores) = site();
        assert_eq!(check(&state, &stores).unwrap(), Findings { sound: 6, ..Findings::default() });
        stores.own.remove(BlobId::of(b"logits")).unwrap();
        fs::write(stores.prepared[0].path(BlobId::of(b"shard")), b"shart").unwrap();
        let findings = check(&state, &stores).unwrap();
        assert_eq!((findings.sound, findings.problems.len()), (4, 2));
        for part in [format!("{} is not in the store", BlobId::of(b"logits")), "is corrupt".to_owned()] {
            assert!(findings.problems.iter().any(|problem| problem.contains(&part)), "{findings:?}");
        }
    }

    #[test]
    fn only_what_nothing_names_is_cleared() {
        let (_folder, state, stores) = site();
        let lost = stores.own.put(b"weights of an attempt that was fenced").unwrap();
        assert_eq!(check(&state, &stores).unwrap().garbage, BTreeSet::from([lost]));
        assert_eq!(clear(&stores.own, &reachable(&state)).unwrap(), (1, 37));
        assert_eq!(check(&state, &stores).unwrap(), Findings { sound: 6, ..Findings::default() });
    }
}
