//! The sweep file as it is written, and the checks that make a [`Sweep`] of it.
//!
//! - `space`: `[space]` and `[[forbid]]`; `search`: `[search]` and what it asks of a space; `stop`: `[stop]`; `prune`: `[prune]`;
//!   `quantise`: `[quantise]`; the other sections here.

mod prune;
mod quantise;
mod search;
mod space;
mod stop;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml_edit::{Document, DocumentMut, Item, Table};

use super::{
    Budget, Constraints, CostMetric, Data, Domain, Gates, Hyperparameter, Objective, Schedule, Sizes, Space,
    Split, Stop, Sweep, SweepError, Views, error::hint,
};
use crate::{frontend::FrontEnd, ids::FoldId, views::LEVELS_MAX};

/// Points of a grid at most: a larger one would outlast its user.
const GRID_SIZE_MAX: u64 = 1_000_000;
/// Attempts of a run before it counts as failed, where the file does not say.
const ATTEMPTS_DEFAULT: u32 = 3;
/// The largest weight: enough for any ratio, and small enough to be counted with.
const WEIGHT_MAX: u32 = 1_000;
/// `random_state` where the file does not say.
const SEED_DEFAULT: u32 = 42;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSweep {
    name: String,
    #[serde(default = "seed_default")]
    seed: u64,
    #[serde(default = "super::weight_default")]
    weight: u32,
    #[serde(default)]
    data: RawData,
    #[serde(default)]
    front_end: FrontEnd,
    split: RawSplit,
    #[serde(default)]
    space: BTreeMap<String, toml::Value>,
    #[serde(default)]
    forbid: Vec<BTreeMap<String, toml::Value>>,
    #[serde(default)]
    views: RawViews,
    #[serde(default)]
    search: search::RawSearch,
    schedule: RawSchedule,
    stop: Option<stop::RawStop>,
    #[serde(default)]
    objective: RawObjective,
    #[serde(default)]
    constraints: Constraints,
    #[serde(default)]
    budget: RawBudget,
    prune: Option<prune::RawPrune>,
    quantise: Option<quantise::RawQuantise>,
    #[serde(default)]
    export: Gates,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawData {
    root: PathBuf,
    processed: PathBuf,
}

impl Default for RawData {
    fn default() -> Self {
        Self { root: "data/raw".into(), processed: "data/processed".into() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawSplitKind {
    Folds,
    Grouped,
    Holdout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSplit {
    kind: RawSplitKind,
    validation: Option<Vec<u32>>,
    test: Option<Vec<u32>>,
    test_size: Option<f64>,
    validation_size: Option<f64>,
    seed: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawViews {
    levels: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSchedule {
    epochs: u32,
    patience: Option<u32>,
    #[serde(default)]
    refit: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawObjective {
    #[serde(default = "metric_default")]
    metric: Objective,
    #[serde(default)]
    minimise: Vec<CostMetric>,
}

impl Default for RawObjective {
    fn default() -> Self {
        Self { metric: metric_default(), minimise: Vec::new() }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawBudget {
    trials: Option<u32>,
    attempts: Option<u32>,
}

fn metric_default() -> Objective {
    Objective::Accuracy
}

fn seed_default() -> u64 {
    SEED_DEFAULT.into()
}

/// A complaint about one key, before its line is known. The path is as in `space.dropout`.
type Complaint = (&'static str, String);

pub(super) fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Sweep, SweepError> {
    let text = &overridden(text, path, overrides)?;
    let raw: RawSweep = toml::from_str(text)
        .map_err(|error| SweepError::new(path, with_hint(error.message())).at(text, error.span()))?;
    let document = Document::parse(text.as_str()).map_err(|error| SweepError::new(path, error.message()))?;
    let blame = |key: &str, message: String| SweepError::new(path, message).at(text, span_of(&document, key));
    let space = space::space(&raw.space, &raw.forbid).map_err(|(key, message)| blame(&key, message))?;
    space
        .check_augmentations()
        .map_err(|(blamed, message)| blame(&format!("space.{}", blamed.name()), message))?;
    let sweep = validate(raw, space).map_err(|(key, message)| blame(key, message))?;
    search::check_size(sweep.search, &sweep.space, sweep.budget)
        .map_err(|(key, message)| blame(&key, message))?;
    Ok(sweep)
}

/// Lays `section.key=value` over the file's text; values are TOML, and bare words are strings.
fn overridden(text: &str, path: &Path, overrides: &[String]) -> Result<String, SweepError> {
    if overrides.is_empty() {
        return Ok(text.to_owned());
    }
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        SweepError::new(path, error.message()).at(text, error.span())
    })?;
    for assignment in overrides {
        let wrong = || SweepError::new(path, format!("--set wants section.key=value, got {assignment:?}"));
        let (key, value) = assignment.split_once('=').ok_or_else(wrong)?;
        let value: toml_edit::Value = value.parse().unwrap_or_else(|_| value.into());
        let (parents, leaf) =
            key.rsplit_once('.').map_or((None, key), |(parents, leaf)| (Some(parents), leaf));
        let mut table = document.as_table_mut();
        for part in parents.iter().flat_map(|parents| parents.split('.')) {
            table = table.entry(part).or_insert(toml_edit::table()).as_table_mut().ok_or_else(wrong)?;
        }
        table.insert(leaf, Item::Value(value));
    }
    Ok(document.to_string())
}

/// Adds the nearest known name to serde's "unknown field" and "unknown variant".
fn with_hint(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(unknown) if message.starts_with("unknown") => {
            let kind = if message.starts_with("unknown field") { "key" } else { "value" };
            format!("unknown {kind} {unknown:?}; {}", hint(unknown, quoted))
        }
        _ => message.to_owned(),
    }
}

/// Where a key stands: the deepest part of its path that the file has.
fn span_of(document: &Document<&str>, key: &str) -> Option<std::ops::Range<usize>> {
    let mut span = None;
    let mut item: &Item = document.as_item();
    for part in key.split('.') {
        // One of several tables of a name, as in `[[forbid]]`, goes by its number.
        if let (Some(tables), Ok(index)) = (item.as_array_of_tables(), part.parse()) {
            span = tables.get(index).and_then(Table::span).or(span);
            break;
        }
        let Some((found, next)) = item.as_table_like().and_then(|table| table.get_key_value(part)) else {
            break;
        };
        span = found.span().or_else(|| next.span()).or(span);
        item = next;
    }
    span
}

fn validate(raw: RawSweep, space: Space) -> Result<Sweep, Complaint> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.chars().all(is_plain) {
        return Err(("name", format!("name must be 1 to 64 letters, digits, - or _, got {:?}", raw.name)));
    }
    if !(1..=WEIGHT_MAX).contains(&raw.weight) {
        return Err(("weight", format!("weight must be from 1 to {WEIGHT_MAX}, got {}", raw.weight)));
    }
    raw.front_end
        .validate()
        .map_err(|(field, message)| (front_end_key(field), format!("{field} {message}")))?;
    check_points(&space, &raw.front_end)?;
    let budget = budget(&raw.budget)?;
    let schedule = schedule(&raw.schedule)?;
    let split = split(raw.split)?;
    let folds = split.folds().len();
    let stop = raw.stop.map(|raw| stop::stop(raw, &schedule, folds)).transpose()?;
    let export = gates(&raw.export)?;
    let quantise = raw.quantise.map(|raw| quantise::quantise(raw, &export)).transpose()?;
    if raw.objective.metric == Objective::Int8Accuracy && matches!(stop, Some(Stop::Median { .. })) {
        let message = "int8_accuracy is measured at rungs and at a run's end, and method = \"median\" judges after every epoch; take \
                       \"asha\" or \"hyperband\"";
        return Err(("stop.method", message.to_owned()));
    }
    let prune = raw.prune.map(|raw| prune::prune(&raw, &space)).transpose()?;
    let search = search::search(&raw.search)?;
    search::check_rungs(search, stop)?;
    Ok(Sweep {
        name: raw.name,
        seed: raw.seed,
        weight: raw.weight,
        data: Data { root: raw.data.root, processed: raw.data.processed },
        front_end: raw.front_end,
        split,
        space,
        views: views(&raw.views)?,
        search,
        schedule,
        stop,
        objective: raw.objective.metric,
        minimise: minimise(&raw.objective.minimise)?,
        constraints: constraints(&raw.constraints)?,
        budget,
        prune,
        quantise,
        export,
    })
}

fn front_end_key(field: &'static str) -> &'static str {
    match field {
        "sample_rate_hz" => "front_end.sample_rate_hz",
        "duration_s" => "front_end.duration_s",
        "n_fft" => "front_end.n_fft",
        "hop_length" => "front_end.hop_length",
        "n_mels" => "front_end.n_mels",
        "n_mfcc" => "front_end.n_mfcc",
        "trim_top_db" => "front_end.trim_top_db",
        _ => "front_end",
    }
}

/// Every combination of coefficients and blocks must build. Those that conditions or `[[forbid]]` may rule out are left to
/// the search, which knows an infeasible point when it meets one.
fn check_points(space: &Space, front_end: &FrontEnd) -> Result<(), Complaint> {
    /// Any count will do: classes do not change whether a model builds.
    const CLASSES: u32 = 2;
    for (masks, param, key) in [
        (Hyperparameter::TimeMasks, Hyperparameter::TimeMaskParam, "space.time_masks"),
        (Hyperparameter::FreqMasks, Hyperparameter::FreqMaskParam, "space.freq_masks"),
    ] {
        if space.names(masks) && space.extent(param) == Some((0.0, 0.0)) {
            let (masks, param) = (masks.name(), param.name());
            return Err((key, format!("{masks} has no effect without {param}, the width of a mask at most")));
        }
    }
    let most = space.extent(Hyperparameter::NMfcc).map_or(0.0, |(_, most)| most);
    if most > f64::from(front_end.n_mfcc) {
        let message = format!("n_mfcc is {most}, but the front end keeps {} coefficients", front_end.n_mfcc);
        return Err(("space.n_mfcc", message));
    }
    if space.is_entangled(Hyperparameter::NMfcc) || space.is_entangled(Hyperparameter::Filters) {
        return Ok(());
    }
    let values = |hyperparameter| space.values(hyperparameter).unwrap_or_default();
    for n_mfcc in &values(Hyperparameter::NMfcc) {
        for filters in &values(Hyperparameter::Filters) {
            let shape = Space::new(BTreeMap::from([
                (Hyperparameter::NMfcc, Domain::Fixed(n_mfcc.clone())),
                (Hyperparameter::Filters, Domain::Fixed(filters.clone())),
            ]));
            let built = shape.point(0).map(|point| point.model(front_end.frames() as u32, CLASSES).layers());
            if let Some(Err(error)) = built {
                let message = format!("filters = {filters} with n_mfcc = {n_mfcc} cannot be built: {error}");
                return Err(("space.filters", message));
            }
        }
    }
    Ok(())
}

fn split(raw: RawSplit) -> Result<Split, Complaint> {
    let sizes_given = [
        ("split.test_size", raw.test_size.is_some()),
        ("split.validation_size", raw.validation_size.is_some()),
        ("split.seed", raw.seed.is_some()),
    ];
    let folds_given = [("split.validation", raw.validation.is_some()), ("split.test", raw.test.is_some())];
    let (make, kind): (fn(Sizes) -> Split, _) = match raw.kind {
        RawSplitKind::Folds => {
            refuse_given("folds", &sizes_given)?;
            let (validation, test) =
                fold_lists(raw.validation.unwrap_or_default(), raw.test.unwrap_or_default())?;
            return Ok(Split::Folds { validation, test });
        }
        RawSplitKind::Grouped => (Split::Grouped, "grouped"),
        RawSplitKind::Holdout => (Split::Holdout, "holdout"),
    };
    refuse_given(kind, &folds_given)?;
    let sizes = Sizes {
        test_size: raw.test_size.unwrap_or(0.2),
        validation_size: raw.validation_size.unwrap_or(0.2),
        seed: raw.seed.unwrap_or(SEED_DEFAULT),
    };
    if !(0.0..=0.9).contains(&sizes.test_size) {
        return Err(("split.test_size", format!("test_size must be from 0 to 0.9, got {}", sizes.test_size)));
    }
    if !(sizes.validation_size > 0.0 && sizes.validation_size <= 0.9) {
        let message =
            format!("validation_size must be above 0 and at most 0.9, got {}", sizes.validation_size);
        return Err(("split.validation_size", message));
    }
    Ok(make(sizes))
}

/// Keys that another kind of split would heed must not be given for this one.
fn refuse_given(kind: &str, given: &[(&'static str, bool)]) -> Result<(), Complaint> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((key, _)) => {
            let name = key.trim_start_matches("split.");
            Err((key, format!("{name} has no meaning for kind = {kind:?}; remove it")))
        }
        None => Ok(()),
    }
}

fn fold_lists(validation: Vec<u32>, test: Vec<u32>) -> Result<(Vec<u32>, Vec<u32>), Complaint> {
    if validation.is_empty() {
        let message = "validation needs at least one fold, as validation = [1]; selection must see clips that did not train";
        return Err(("split.validation", message.into()));
    }
    let mut seen = BTreeSet::new();
    if let Some(fold) = validation.iter().chain(&test).find(|fold| !seen.insert(**fold)) {
        let message = format!("fold {fold} is listed twice; a fold either validates once or tests");
        return Err((if test.contains(fold) { "split.test" } else { "split.validation" }, message));
    }
    if let Some(fold) = seen.iter().find(|&&fold| !FoldId(fold).is_fold()) {
        return Err(("split.validation", format!("there is no fold {fold}")));
    }
    Ok((validation, test))
}

fn views(raw: &RawViews) -> Result<Views, Complaint> {
    match raw.levels {
        None => Ok(Views::default()),
        Some(levels) if (1..=LEVELS_MAX).contains(&levels) => Ok(Views { levels }),
        Some(levels) => Err(("views.levels", format!("levels must be from 1 to {LEVELS_MAX}, got {levels}"))),
    }
}

fn schedule(raw: &RawSchedule) -> Result<Schedule, Complaint> {
    if !(1..=100_000).contains(&raw.epochs) {
        return Err(("schedule.epochs", format!("epochs must be from 1 to 100000, got {}", raw.epochs)));
    }
    if let Some(patience) = raw.patience.filter(|patience| !(1..raw.epochs).contains(patience)) {
        let message = format!(
            "patience must be from 1 to below epochs ({}), got {patience}; leave it out to turn early stopping off",
            raw.epochs
        );
        return Err(("schedule.patience", message));
    }
    Ok(Schedule { epochs: raw.epochs, patience: raw.patience, refit: raw.refit })
}

fn gates(raw: &Gates) -> Result<Gates, Complaint> {
    for (key, limit) in
        [("export.max_int8_kib", raw.max_int8_kib), ("export.max_latency_ms", raw.max_latency_ms)]
    {
        if let Some(limit) = limit.filter(|limit| !(*limit > 0.0 && limit.is_finite())) {
            return Err((key, format!("{} must be above 0, got {limit}", key.trim_start_matches("export."))));
        }
    }
    match raw.max_drop {
        Some(drop) if !(0.0..=1.0).contains(&drop) => {
            Err(("export.max_drop", format!("max_drop must be from 0 to 1, as accuracy is, got {drop}")))
        }
        _ => Ok(*raw),
    }
}

fn minimise(raw: &[CostMetric]) -> Result<Vec<CostMetric>, Complaint> {
    let repeated =
        raw.iter().enumerate().find(|(index, cost)| raw.iter().take(*index).any(|other| other == *cost));
    if let Some((_, cost)) = repeated {
        return Err(("objective.minimise", format!("{} is listed twice", cost.name())));
    }
    if raw.len() > CostMetric::MOST {
        let message = format!(
            "at most {} costs can be kept small at once, got {}; put limits on the others in [constraints]",
            CostMetric::MOST,
            raw.len()
        );
        return Err(("objective.minimise", message));
    }
    Ok(raw.to_vec())
}

fn constraints(raw: &Constraints) -> Result<Constraints, Complaint> {
    let positive = |key: &'static str, limit: Option<f64>| match limit {
        Some(limit) if !(limit > 0.0 && limit.is_finite()) => {
            Err((key, format!("{} must be above 0, got {limit}", key.trim_start_matches("constraints."))))
        }
        _ => Ok(()),
    };
    positive("constraints.max_params", raw.max_params.map(|limit| limit as f64))?;
    positive("constraints.max_macs", raw.max_macs.map(|limit| limit as f64))?;
    positive("constraints.max_int8_kib", raw.max_int8_kib)?;
    positive("constraints.max_peak_ram_kib", raw.max_peak_ram_kib)?;
    Ok(*raw)
}

fn budget(raw: &RawBudget) -> Result<Budget, Complaint> {
    if raw.trials == Some(0) {
        return Err(("budget.trials", "trials must be at least 1; leave it out to train every point".into()));
    }
    let attempts = raw.attempts.unwrap_or(ATTEMPTS_DEFAULT);
    if !(1..=100).contains(&attempts) {
        return Err(("budget.attempts", format!("attempts must be from 1 to 100, got {attempts}")));
    }
    Ok(Budget { trials: raw.trials, attempts })
}
