//! What a sweep file would do, without doing it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use earshot_common::{model::Cost, sweep::Sweep};
use earshot_data::{
    dataset::Dataset,
    manifest::{MANIFEST_FILE, Manifest},
};
use serde::Serialize;

use super::{
    ask::OutputArgs,
    document,
    render::{self, Document},
};
use crate::{dataset::costs, search::Outlook};

/// Classes of ESC-10, taken when there is no data to count them in.
const CLASSES_ASSUMED: u32 = 10;

/// About sweep files
#[derive(Debug, Clone, Subcommand)]
pub(super) enum SweepCommand {
    Check(CheckArgs),
}

/// Check a sweep file and show what it would train
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator sweep check sweeps/grid.toml
  coordinator sweep check sweeps/grid.toml --set schedule.epochs=50

A file that is wrong is refused with its line and with what would be right; the exit code is
then 2.")]
pub(super) struct CheckArgs {
    /// The sweep file
    #[arg(value_name = "FILE")]
    sweep: PathBuf,

    #[command(flatten)]
    overrides: Overrides,

    #[command(flatten)]
    output: OutputArgs,
}

/// Values laid over a sweep file's.
#[derive(Debug, Clone, Args)]
pub(super) struct Overrides {
    /// Put this value in the place of the sweep file's, as --set schedule.epochs=5; may be given again
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(super) set: Vec<String>,
}

/// What a sweep would train.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Plan {
    sweep: String,
    search: &'static str,
    /// Points of the space; none where there is no end to them, or they were not counted.
    points: Option<u64>,
    /// Trials that the budget allows, infeasible ones included.
    trials: u64,
    /// Of these, how many the constraints rule out.
    trials_infeasible: u64,
    /// Whether that, the runs and the ranges were estimated from points drawn from the space, because results will decide
    /// which points become trials.
    estimated: bool,
    /// Runs of the feasible trials.
    runs: u64,
    /// Epochs of these runs, if none stops early.
    epochs: u64,
    classes: u32,
    /// Where the number of classes comes from.
    classes_from: &'static str,
    /// Augmented views of each clip that some trial can ask for.
    views: u32,
    /// MiB of their shards for all clips; none as long as there are no clips.
    views_mib: Option<f64>,
    params: Range<u64>,
    macs: Range<u64>,
    int8_kib: Range<f64>,
}

/// Smallest and largest over the trials.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Range<T> {
    min: T,
    max: T,
}

pub(super) fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let sweep = Sweep::load(&args.sweep, &args.overrides.set)?;
    let plan = plan(&sweep, &Found::of(&sweep));
    render::print(&document(&plan)?, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// What is known of the data before it is prepared.
struct Found {
    classes: u32,
    /// None: no data yet.
    clips: Option<usize>,
    from: &'static str,
}

impl Found {
    fn of(sweep: &Sweep) -> Self {
        let manifest = Manifest::load(&sweep.data.processed.join(MANIFEST_FILE)).ok();
        let prepared = manifest.filter(|manifest| manifest.front_end == sweep.front_end);
        let (classes, clips, from) = match (prepared, Dataset::read(&sweep.data.root)) {
            (Some(manifest), _) => {
                (manifest.classes.len() as u32, Some(manifest.clips.len()), "the prepared data")
            }
            (None, Ok(dataset)) => {
                (dataset.classes.len() as u32, Some(dataset.clips.len()), "the recordings")
            }
            (None, Err(_)) => (CLASSES_ASSUMED, None, "an assumption, there is no data yet"),
        };
        Self { classes, clips, from }
    }
}

/// MiB of the features of so many views.
fn views_mib(sweep: &Sweep, views: usize) -> f64 {
    let front_end = &sweep.front_end;
    let view_bytes = usize::from(front_end.n_mfcc) * front_end.frames() * size_of::<f32>();
    (views * view_bytes) as f64 / f64::from(1 << 20)
}

fn plan(sweep: &Sweep, found: &Found) -> Plan {
    let classes = found.classes;
    let views = sweep.bank().levels.len();
    let outlook = Outlook::of(sweep);
    let is_exact = outlook.is_exact;
    let (mut seen, mut ruled_out, mut costed) = (0_u64, 0_u64, Vec::new());
    for cost in costs(outlook, sweep.front_end.frames() as u32, classes) {
        seen += 1;
        let is_feasible = cost.as_ref().is_ok_and(|cost| sweep.constraints.broken_by(cost).is_none());
        ruled_out += u64::from(!is_feasible);
        costed.extend(cost);
    }
    let counts = |of: fn(&Cost) -> u64| {
        let values = || costed.iter().map(of);
        Range { min: values().min().unwrap_or(0), max: values().max().unwrap_or(0) }
    };
    let int8_bytes = counts(|cost| cost.int8_bytes);
    let [min, max] = [int8_bytes.min, int8_bytes.max].map(|bytes| bytes as f64 / 1024.0);
    let trials = sweep.trials();
    let share = ruled_out as f64 / seen.max(1) as f64;
    let infeasible = if is_exact { ruled_out } else { (share * trials as f64).round() as u64 };
    let runs = (trials - infeasible) * sweep.split.folds().len() as u64;
    Plan {
        sweep: sweep.name.clone(),
        search: sweep.search.name(),
        points: sweep.space.size(),
        trials,
        trials_infeasible: infeasible,
        estimated: !is_exact,
        runs,
        epochs: runs * u64::from(sweep.schedule.epochs),
        classes,
        classes_from: found.from,
        views: views as u32,
        views_mib: found.clips.map(|clips| views_mib(sweep, clips * views)),
        params: counts(|cost| cost.params),
        macs: counts(|cost| cost.macs),
        int8_kib: Range { min, max },
    }
}

fn document(plan: &Plan) -> anyhow::Result<Document> {
    let about = |number: u64| if plan.estimated { format!("about {number}") } else { number.to_string() };
    let facts = vec![
        ("sweep", plan.sweep.clone()),
        ("search", plan.search.to_owned()),
        ("points", plan.points.map_or_else(|| "not counted".to_owned(), |points| points.to_string())),
        ("trials", plan.trials.to_string()),
        ("trials_infeasible", about(plan.trials_infeasible)),
        ("runs", about(plan.runs)),
        ("epochs", about(plan.epochs)),
        ("classes", format!("{} (from {})", plan.classes, plan.classes_from)),
        ("views", views_fact(plan)),
        ("params", span(plan.params, |number| number.to_string())),
        ("macs", span(plan.macs, |number| number.to_string())),
        ("int8_kib", span(plan.int8_kib, |number| format!("{number:.1}"))),
    ];
    let csv = document::one_row(&facts);
    Ok(Document { json: document::json(plan)?, facts, grids: Vec::new(), csv })
}

fn views_fact(plan: &Plan) -> String {
    match (plan.views, plan.views_mib) {
        (0, _) => "none".to_owned(),
        (views, Some(mib)) => format!("{views} of each clip ({mib:.0} MiB)"),
        (views, None) => format!("{views} of each clip"),
    }
}

fn span<T>(range: Range<T>, text: impl Fn(T) -> String) -> String {
    let [min, max] = [range.min, range.max].map(text);
    if min == max { min } else { format!("{min} to {max}") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(more: &str, classes: u32, expected: impl Fn(&Plan) -> bool) {
        let text = format!(
            "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1, 2]\n[schedule]\nepochs = 10\n\
             [space]\nlearning_rate = {{ choice = [1e-2, 1e-3, 1e-4] }}\nfilters = {{ choice = [[16, 32], [32, 64]] }}\n{more}"
        );
        let sweep = Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap();
        let plan = plan(&sweep, &Found { classes, clips: Some(400), from: "a test" });
        assert!(expected(&plan), "{plan:?}");
    }

    #[test]
    fn a_plan_counts_what_would_be_trained() {
        check("", 50, |plan| (plan.points, plan.trials, plan.runs, plan.epochs) == (Some(6), 6, 12, 120));
        // The reference model, see `common`.
        check("", 50, |plan| plan.params.min == 160 + 4_640 + 657_472 + 3_250);
        check("[budget]\ntrials = 3\n", 10, |plan| (plan.points, plan.trials, plan.runs) == (Some(6), 3, 6));
    }

    #[test]
    fn views_are_counted_with_their_size() {
        check("", 10, |plan| plan.views == 0 && views_fact(plan) == "none");
        // Four strata; a row is 64 × 431 numbers of four bytes.
        check("noise_p = { choice = [0.0, 0.5] }\n", 10, |plan| {
            views_fact(plan) == "4 of each clip (168 MiB)"
        });
        check("noise_p = 0.5\npitch_p = 0.5\n[views]\nlevels = 3\n", 10, |plan| plan.views == 6);
    }

    #[test]
    fn an_endless_space_is_sampled() {
        let more = "dropout = { float = [0.1, 0.5] }\n[search]\nmethod = \"random\"\n[budget]\ntrials = 20\n\
                    [constraints]\nmax_params = 700000\n";
        // Half of the points have the narrow filters.
        check(more, 10, |plan| {
            plan.estimated
                && plan.points.is_none()
                && plan.trials == 20
                && (8..=12).contains(&plan.trials_infeasible)
        });
    }

    #[test]
    fn infeasible_trials_are_counted_and_not_trained() {
        check("[constraints]\nmax_params = 700000\n", 10, |plan| {
            (plan.trials_infeasible, plan.runs) == (3, 6)
        });
    }
}
