//! Clips to labels, by a bundle.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    ask::OutputArgs,
    chain, document,
    render::{self, Document, Grid},
};
use crate::bundle::{self, Bundle, Classifier, Comparison, Heard, Kind, Latency};

/// Largest file that is taken for a clip.
const CLIP_BYTES_MAX: u64 = 1 << 30;

/// Classify clips with an exported bundle, by its own front end and model
///
/// A clip that cannot be read is told and left out, the others are printed; then the exit code is 1. `--check` holds this
/// build's features and logits against the bundle's golden files.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator predict --bundle champion dog.wav rain.ogg
  coordinator predict --bundle champion --model float --top 1 --format csv *.wav
  coordinator predict --bundle champion --check")]
pub(super) struct PredictArgs {
    /// Folder that `coordinator export --out` wrote
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,

    /// WAV, FLAC, Ogg or MP3 files
    #[arg(value_name = "CLIP", required_unless_present = "check")]
    clips: Vec<PathBuf>,

    /// Most likely labels to print of each clip
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,

    /// Which model [default: the one that is shipped]
    #[arg(long)]
    model: Option<Kind>,

    /// Compare features and logits with the bundle's golden files instead
    #[arg(long, conflicts_with_all = ["clips", "model", "top"])]
    check: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Answer {
    model: &'static str,
    clips: Vec<Classified>,
    failures: Vec<Failure>,
    front_end: Option<Latency>,
    inference: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct Classified {
    clip: String,
    predictions: Vec<Prediction>,
    front_end_ms: f64,
    inference_ms: f64,
}

#[derive(Debug, Serialize)]
struct Prediction {
    label: String,
    probability: f32,
}

#[derive(Debug, Serialize)]
struct Failure {
    clip: String,
    error: String,
}

pub(super) fn run(args: &PredictArgs) -> anyhow::Result<ExitCode> {
    let bundle = Bundle::open(&args.bundle)?;
    let (document, is_good) = if args.check {
        let comparisons = bundle::check(&bundle)?;
        (compared(&comparisons)?, comparisons.iter().all(Comparison::holds))
    } else {
        let answer = predict(args, &bundle)?;
        for failure in &answer.failures {
            eprintln!("error: {}: {}", failure.clip, failure.error);
        }
        (predicted(&answer)?, answer.failures.is_empty())
    };
    render::print(&document, args.output.format)?;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn predict(args: &PredictArgs, bundle: &Bundle) -> anyhow::Result<Answer> {
    let kind = args.model.unwrap_or(bundle.shipped());
    let mut classifier = Classifier::new(bundle, kind)?;
    let (mut clips, mut failures) = (Vec::new(), Vec::new());
    let (mut front_end_ns, mut model_ns) = (Vec::new(), Vec::new());
    for path in &args.clips {
        let clip = path.display().to_string();
        match read(path).and_then(|bytes| Ok(classifier.classify(&bytes)?)) {
            Ok(heard) => {
                front_end_ns.push(heard.front_end_ns);
                model_ns.push(heard.model_ns);
                clips.push(Classified {
                    clip,
                    predictions: best(&heard, bundle.labels(), args.top.into()),
                    front_end_ms: heard.front_end_ns as f64 / 1e6,
                    inference_ms: heard.model_ns as f64 / 1e6,
                });
            }
            Err(error) => failures.push(Failure { clip, error: chain(&error) }),
        }
    }
    let (front_end, inference) = (Latency::of(front_end_ns), Latency::of(model_ns));
    Ok(Answer { model: kind.file(), clips, failures, front_end, inference })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let metadata = fs::metadata(path).context("cannot be read")?;
    anyhow::ensure!(metadata.is_file(), "is no file");
    anyhow::ensure!(metadata.len() <= CLIP_BYTES_MAX, "is larger than any clip");
    fs::read(path).context("cannot be read")
}

/// The `top` most likely labels, the likeliest first; of equals, the first class.
fn best(heard: &Heard, labels: &[String], top: usize) -> Vec<Prediction> {
    let mut ranked: Vec<(&String, f32)> = labels.iter().zip(heard.probabilities.iter().copied()).collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let top = ranked.into_iter().take(top);
    top.map(|(label, probability)| Prediction { label: label.clone(), probability }).collect()
}

fn predicted(answer: &Answer) -> anyhow::Result<Document> {
    let grid = |number: fn(f32) -> String| {
        let mut grid = Grid::new(["clip", "rank", "label", "probability"]);
        grid.rows.extend(answer.clips.iter().flat_map(|clip| {
            clip.predictions.iter().zip(1..).map(move |(prediction, rank): (_, usize)| {
                let cells = [rank.to_string(), prediction.label.clone(), number(prediction.probability)];
                std::iter::once(clip.clip.clone()).chain(cells).collect()
            })
        }));
        grid
    };
    let mut facts = vec![("model", answer.model.to_owned())];
    for (name, latency) in [("front_end", answer.front_end), ("inference", answer.inference)] {
        if let Some(Latency { p50_ms, p99_ms, .. }) = latency {
            facts.push((name, format!("p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms")));
        }
    }
    Ok(Document {
        json: document::json(answer)?,
        facts,
        grids: vec![grid(|probability| format!("{probability:.4}"))],
        csv: grid(|probability| probability.to_string()),
    })
}

fn compared(comparisons: &[Comparison]) -> anyhow::Result<Document> {
    let grid = |number: fn(f32) -> String| {
        let mut grid = Grid::new(["file", "numbers", "difference", "tolerance", "holds"]);
        grid.rows.extend(comparisons.iter().map(|comparison| {
            let numbers = [comparison.difference, comparison.tolerance].map(number);
            let [difference, tolerance] = numbers;
            let holds = if comparison.holds() { "yes" } else { "no" };
            let numbers = comparison.numbers.to_string();
            vec![comparison.file.clone(), numbers, difference, tolerance, holds.to_owned()]
        }));
        grid
    };
    Ok(Document {
        json: serde_json::json!({ "comparisons": document::json(&comparisons)? }),
        facts: Vec::new(),
        grids: vec![grid(|number| format!("{number:.1e}"))],
        csv: grid(|number| number.to_string()),
    })
}
