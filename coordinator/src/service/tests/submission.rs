//! Sweeps that are handed in while another runs.

use earshot_proto::earshot::v1::{Submission, SubmitSweepRequest};

use super::{access::Guarded, *};
use crate::access::Limits;

/// Recordings of two classes in two folds, in a folder of the site's.
fn record(folder: &Path) {
    let mut list = "filename,label,fold\n".to_owned();
    for number in 0..8 {
        let name = format!("{number}.wav");
        let samples =
            (0..4_000).map(|at| (f32::sin(at as f32 * (number + 1) as f32 * 0.05) * 20_000.0) as i16);
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut wav = hound::WavWriter::create(folder.join(&name), spec).unwrap();
        samples.for_each(|sample| wav.write_sample(sample).unwrap());
        wav.finalize().unwrap();
        let class = if number % 2 == 0 { "dog" } else { "rain" };
        list += &[name.as_str(), class, if number < 4 { "1" } else { "2" }].join(",");
        list.push('\n');
    }
    std::fs::write(folder.join("clips.csv"), list).unwrap();
}

fn file(name: &str, data: &Path, weight: u32) -> String {
    let data = data.display();
    format!(
        "name = \"{name}\"\nweight = {weight}\n[data]\nroot = \"{data}\"\nprocessed = \"{data}/processed\"\n\
         [front_end]\nsample_rate_hz = 8000\nduration_s = 0.5\n[split]\nkind = \"folds\"\nvalidation = [1]\n\
         [space]\ndropout = {{ choice = [0.1, 0.2] }}\n[schedule]\nepochs = 2\n"
    )
}

fn request(text: &str, overrides: &[&str]) -> SubmitSweepRequest {
    let overrides = overrides.iter().map(|&text| text.to_owned()).collect();
    SubmitSweepRequest { text: text.to_owned(), file: "more.toml".to_owned(), overrides }
}

/// Every answer to a submission, or the refusal.
async fn submit(site: &Site, request: SubmitSweepRequest) -> Result<Vec<Submission>, Status> {
    let mut answers = SweepsClient::new(site.channel.clone()).submit_sweep(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

/// A coordinator whose sweep uses this folder, so that others may.
async fn site(folder: &Path) -> Site {
    let data = earshot_common::sweep::Data { root: folder.to_owned(), processed: folder.join("processed") };
    Site::new(Some(Sweep { data, ..sweep() })).await
}

#[tokio::test]
async fn a_sweep_is_prepared_and_shares_the_workers_by_its_weight() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    let site = site(folder.path()).await;
    let worker = site.join().await;
    let answers =
        submit(&site, request(&file("more", folder.path(), 3), &["schedule.epochs=1"])).await.unwrap();
    let last = answers.last().unwrap();
    let shown = last.sweep.as_ref().unwrap();
    assert_eq!((shown.sweep.as_str(), shown.state.as_str(), shown.weight), ("more", "running", 3));
    assert_eq!(shown.trials_total, 2);
    assert!(answers.iter().rev().skip(1).all(|answer| answer.sweep.is_none() && !answer.doing.is_empty()));

    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    let listed = client.list().await.unwrap().sweeps;
    assert_eq!(
        listed.iter().map(|sweep| (sweep.sweep.as_str(), sweep.weight)).collect::<Vec<_>>(),
        [("t", 1), ("more", 3)]
    );
    // Its features are there for workers, and both sweeps are seen by their names.
    let shards =
        site.engine.read(|state| state.newest_sweep().unwrap().1.dataset().shards.clone()).await.unwrap();
    for shard in shards {
        assert!(!client.blob(shard).await.unwrap().is_empty());
    }
    let mut served = Vec::new();
    while let Answer::Grant(grant) = site.lease(worker).await {
        served.push(grant.sweep);
        let epochs = grant.job.unwrap().recipe.unwrap().epochs;
        for number in 1..=epochs {
            site.report(worker, grant.token, epoch(number)).await.unwrap();
        }
        let blobs = [b"weights".as_slice(), b"logits"].map(|bytes| site.blobs.put(bytes).unwrap());
        let [checkpoint, logits] = blobs;
        site.finish(worker, grant.token, RunResult { best_epoch: epochs, checkpoint, logits }).await.unwrap();
    }
    served.sort_unstable();
    assert_eq!(served, [0, 0, 1, 1]);
    for name in ["t", "more"] {
        assert_eq!(client.leaderboard(Some(name), 0, false).await.unwrap().rows.len(), 2);
        assert_eq!(client.status(Some(name)).await.unwrap().state, "completed");
        assert_eq!(client.champion(Some(name), None).await.unwrap().sweep, name);
    }
    let error = client.trial(Some("none"), 0).await.unwrap_err().to_string();
    assert!(error.contains("no sweep \"none\""), "{error}");
    site.stop().await;
}

#[tokio::test]
async fn what_cannot_run_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    let site = site(folder.path()).await;
    let good = file("more", folder.path(), 1);
    let refused = async |text: &str, overrides: &[&str], code: Code, part: &str| {
        check(submit(&site, request(text, overrides)).await, code, part);
    };
    refused(&good.replace("epochs", "epcohs"), &[], Code::InvalidArgument, "did you mean \"epochs\"?").await;
    refused(&good, &["weight=0"], Code::InvalidArgument, "weight must be from 1 to 1000").await;
    refused(&good, &["name=t"], Code::AlreadyExists, "\"t\" already").await;
    refused(&good, &["split.validation=[9]"], Code::InvalidArgument, "no fold 9").await;
    refused(&good, &["constraints.max_params=3"], Code::InvalidArgument, "no trial meets [constraints]")
        .await;
    for (key, path) in [("root", "/etc"), ("processed", "/tmp/anywhere"), ("processed", "../elsewhere")] {
        let outside = format!("data.{key}={path}");
        refused(&good, &[&outside], Code::PermissionDenied, &format!("data.{key} is")).await;
    }
    let long = SubmitSweepRequest { file: "x".repeat(300), ..request(&good, &[]) };
    check(submit(&site, long).await, Code::InvalidArgument, "255");
    let control = SubmitSweepRequest { file: "\u{1b}[2J".to_owned(), ..request(&good, &[]) };
    check(submit(&site, control).await, Code::InvalidArgument, "printable");
    check(submit(&site, request(&"#".repeat(70_000), &[])).await, Code::OutOfRange, "too large");
    std::fs::write(folder.path().join("clips.csv"), "nonsense").unwrap();
    refused(&good, &[], Code::FailedPrecondition, "the recordings cannot be prepared").await;
    let count = site.engine.read(|state| state.sweeps().count()).await.unwrap();
    assert_eq!(count, 1);
    site.stop().await;
}

#[tokio::test]
async fn only_users_hand_sweeps_in() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let text = file("more", guarded.site.folder.path(), 1);
    let answer =
        SweepsClient::new(guarded.line(Some(&guarded.attic))).submit_sweep(request(&text, &[])).await;
    check(answer, Code::PermissionDenied, "\"attic\" is for a worker");
    // A user gets as far as the check of the folders.
    let answer = SweepsClient::new(guarded.line(Some(&guarded.ann))).submit_sweep(request(&text, &[])).await;
    check(answer, Code::PermissionDenied, "data.root is");
    guarded.site.stop().await;
}
