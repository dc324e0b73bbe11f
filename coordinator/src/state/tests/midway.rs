use super::*;

fn kept(cluster: &mut Cluster, worker: WorkerId, token: Token, number: u32) -> BlobId {
    let blob = BlobId::of(format!("{token} after {number}").as_bytes());
    let midway = Some(blob);
    let epoch = epoch(number, 0.5);
    cluster.does(EventKind::Reported { worker, token, epoch, midway });
    blob
}

#[test]
fn the_next_attempt_goes_on_where_the_last_one_was_kept() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    let lost = cluster.ask(worker).unwrap();
    assert_eq!(lost.job.resume, None);
    let blob = kept(&mut cluster, worker, lost.token, 1);
    cluster.report(worker, lost.token, epoch(2, 0.5)).unwrap();
    assert!(cluster.only().blobs().contains(&blob));
    cluster.does(EventKind::Expired { token: lost.token });
    assert!(cluster.only().blobs().contains(&blob), "it is still needed");

    let again = cluster.ask(worker).unwrap();
    assert_eq!((again.run, again.job.resume), (lost.run, Some(blob)));
    assert_eq!(cluster.only().run(again.run).unwrap().epochs, [epoch(1, 0.5)]);
    let order = Err(Refusal::EpochOutOfOrder { expected: 2, got: 3 });
    assert_eq!(cluster.report(worker, again.token, epoch(3, 0.5)), order);
    cluster.report(worker, again.token, epoch(2, 0.6)).unwrap();
    cluster.finish(worker, again.token, Outcome::Completed(result(1))).unwrap();
    assert_eq!(cluster.status(0), TrialStatus::Completed);
    assert!(!cluster.only().blobs().contains(&blob), "nobody needs it any more");
}

#[test]
fn after_a_failure_a_run_begins_anew() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", ""));
    for (reason, resumes) in [(Reason::Drained, true), (Reason::Data, false)] {
        let grant = cluster.ask(worker).unwrap();
        let blob = kept(&mut cluster, worker, grant.token, 1);
        cluster.fail(worker, grant.token, reason);
        let next = cluster.ask(worker).unwrap();
        assert_eq!((next.run, next.job.resume), (grant.run, resumes.then_some(blob)), "{reason:?}");
        cluster.fail(worker, next.token, Reason::Worker);
        assert_eq!(cluster.only().run(grant.run).unwrap().midway, None);
        if cluster.status(0) == TrialStatus::Failed {
            break;
        }
    }
}

#[test]
fn a_replay_goes_on_from_its_own() {
    let (mut cluster, worker) = Cluster::new(sweep("[1]", "[budget]\ntrials = 1\n"));
    let grant = cluster.ask(worker).unwrap();
    kept(&mut cluster, worker, grant.token, 1);
    cluster.report(worker, grant.token, epoch(2, 0.5)).unwrap();
    cluster.finish(worker, grant.token, Outcome::Completed(result(2))).unwrap();
    let run = RunId { sweep: SweepId(0), trial: TrialId(0), fold: FoldId(1) };
    cluster.does(EventKind::ReplayAsked { sweep: run.sweep, trial: run.trial });
    let lost = cluster.ask(worker).unwrap();
    assert_eq!(lost.job.resume, None, "all of it is trained again");
    let blob = kept(&mut cluster, worker, lost.token, 1);
    assert!(cluster.state.blobs_of_replays().eq([blob]));
    cluster.does(EventKind::Expired { token: lost.token });
    let again = cluster.ask(worker).unwrap();
    assert_eq!((again.replay, again.job.resume), (lost.replay, Some(blob)));
    cluster.report(worker, again.token, epoch(2, 0.5)).unwrap();
    cluster.finish(worker, again.token, Outcome::Completed(result(2))).unwrap();
    let replayed = &cluster.state.replay(lost.replay.unwrap()).unwrap().runs[&run.fold];
    let finding = replayed.finding(cluster.only().run(run).unwrap());
    assert_eq!((finding, cluster.state.blobs_of_replays().count()), (Finding::Identical, 0));
}
