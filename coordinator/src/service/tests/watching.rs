use super::{access::Guarded, *};
use crate::access::{
    Limits,
    register::{Register, file_of},
};

#[tokio::test]
async fn a_watched_sweep_is_told_of_until_its_end() {
    let site = Site::new(Some(sweep())).await;
    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    let mut statuses = client.watch(None).await.unwrap();
    let first = client.next(&mut statuses).await.unwrap().unwrap();
    assert_eq!((first.state.as_str(), first.epochs), ("running", 0));
    let worker = site.join().await;
    for _ in 0..2 {
        site.train(worker).await;
    }
    let mut told = vec![first];
    let rest = async {
        while let Some(status) = client.next(&mut statuses).await.unwrap() {
            told.push(status);
        }
    };
    time::timeout(Duration::from_secs(20), rest).await.unwrap();
    assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "{told:#?}");
    let last = told.last().unwrap();
    assert_eq!((last.state.as_str(), last.trials_completed, last.epochs), ("completed", 2, 4));
    site.stop().await;
}

#[tokio::test]
async fn watching_ends_with_the_coordinator_and_says_where_the_sweep_stood() {
    let site = Site::new(Some(sweep())).await;
    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    let mut statuses = client.watch(None).await.unwrap();
    client.next(&mut statuses).await.unwrap().unwrap();
    let worker = site.join().await;
    site.train(worker).await;
    site.stop.cancel();
    let mut last = None;
    let rest = async {
        while let Ok(Some(status)) = client.next(&mut statuses).await {
            last = Some(status);
        }
    };
    time::timeout(Duration::from_secs(20), rest).await.unwrap();
    assert_eq!(last.map(|status| (status.state, status.epochs)), Some(("running".to_owned(), 2)));
    site.stop().await;
}

/// A status that goes on is no way around a token's end, and nobody watches without end as often as he likes.
#[tokio::test]
async fn watching_ends_when_its_token_is_revoked_and_is_limited() {
    let guarded = Guarded::new(Some(sweep()), Limits { watches_max: 1, ..Limits::default() }).await;
    let credentials = Credentials { secret: Some(guarded.ann.clone()), ..Credentials::default() };
    let mut client = Client::connect(&guarded.site.url(), &credentials).await.unwrap();
    let mut statuses = client.watch(None).await.unwrap();
    client.next(&mut statuses).await.unwrap().unwrap();
    match client.watch(None).await {
        Err(ClientError::Refused { status, .. }) => {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    Register::revoke(&file_of(&guarded.site.folder.path().join("t.redb")), "ann").unwrap();
    let ended = async {
        loop {
            match client.next(&mut statuses).await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    };
    match time::timeout(Duration::from_secs(20), ended).await.unwrap() {
        Err(ClientError::Refused { status, .. }) => {
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    guarded.site.stop().await;
}
