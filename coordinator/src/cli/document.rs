//! Protocol messages as documents. JSON and CSV hold every field by its name in the protocol; tables are for reading.

use std::collections::BTreeSet;

use earshot_common::sweep::Hyperparameter;
use earshot_proto::earshot::v1::{Assignment, Leaderboard, LeaderboardRow, Run, Status, SweepList, Trial};
use serde::Serialize;
use serde_json::{Map, Value};

use super::render::{Document, Grid};

/// Where a sweep stands.
pub(super) fn status(status: &Status) -> anyhow::Result<Document> {
    let mut workers = Grid::new(["worker", "name", "device", "slots", "busy", "state"]);
    workers.rows.extend(status.workers.iter().map(|worker| {
        let numbers = [worker.worker, worker.slots, worker.busy].map(|number| number.to_string());
        let [number, slots, busy] = numbers;
        vec![number, worker.name.clone(), worker.device.clone(), slots, busy, worker.state.clone()]
    }));
    let facts = vec![
        ("sweep", status.sweep.clone()),
        ("state", status.state.clone()),
        ("trials_total", status.trials_total.to_string()),
        ("trials_completed", status.trials_completed.to_string()),
        ("trials_failed", status.trials_failed.to_string()),
        ("trials_infeasible", status.trials_infeasible.to_string()),
        ("trials_stopped", status.trials_stopped.to_string()),
        ("trials_running", status.trials_running.to_string()),
        ("runs_waiting", status.runs_waiting.to_string()),
        ("runs_leased", status.runs_leased.to_string()),
        ("epochs", status.epochs.to_string()),
        ("expiries", status.expiries.to_string()),
        ("replays", status.replays.to_string()),
    ];
    let csv = one_row(&facts);
    Ok(Document { json: json(status)?, facts, grids: vec![workers], csv })
}

/// Sweeps, a row each.
pub(super) fn sweeps(list: &SweepList) -> anyhow::Result<Document> {
    let mut grid = Grid::new([
        "sweep",
        "state",
        "weight",
        "trials_total",
        "trials_completed",
        "trials_failed",
        "trials_infeasible",
        "trials_stopped",
        "runs_leased",
    ]);
    grid.rows.extend(list.sweeps.iter().map(|sweep| {
        let numbers = [
            sweep.weight,
            sweep.trials_total,
            sweep.trials_completed,
            sweep.trials_failed,
            sweep.trials_infeasible,
            sweep.trials_stopped,
            sweep.runs_leased,
        ];
        let words = [sweep.sweep.clone(), sweep.state.clone()];
        words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
    }));
    Ok(Document { json: json(list)?, facts: Vec::new(), grids: vec![grid.clone()], csv: grid })
}

/// Completed trials, the best first. What means are worth, and what int8 comes to, is left out of a table where it is not known.
pub(super) fn leaderboard(board: &Leaderboard) -> anyhow::Result<Document> {
    const METRICS: [&str; 11] = [
        "rank",
        "trial",
        "accuracy",
        "macro_f1",
        "loss",
        "epoch",
        "runs",
        "params",
        "macs",
        "int8_kib",
        "peak_ram_kib",
    ];
    const WORTH: [&str; 3] = ["standard_error", "corrected", "int8_accuracy"];
    let points: Vec<&[Assignment]> = board.rows.iter().map(|row| row.point.as_slice()).collect();
    let grid = |worth: &[&str], names: &[&str], cells: fn(&LeaderboardRow) -> Vec<String>| {
        let mut grid =
            Grid::new(METRICS.into_iter().chain(worth.iter().copied()).chain(names.iter().copied()));
        grid.rows.extend(board.rows.iter().map(|row| {
            let named = METRICS.iter().chain(&WORTH).zip(cells(row));
            let cells = named.filter(|(name, _)| METRICS.contains(name) || worth.contains(name));
            let cells = cells.map(|(_, cell)| cell);
            cells.chain(values(&row.point, names)).collect()
        }));
        grid
    };
    let rounded = |row: &LeaderboardRow| {
        let metrics = [row.accuracy, row.macro_f1, row.loss].map(|metric| format!("{metric:.4}"));
        let worth = [row.standard_error, row.corrected, row.int8_accuracy]
            .map(|number| number.map(|of| format!("{of:.4}")));
        cells(row, metrics, [row.int8_kib, row.peak_ram_kib].map(|kib| format!("{kib:.1}")), worth)
    };
    let exact = |row: &LeaderboardRow| {
        let metrics = [row.accuracy, row.macro_f1, row.loss].map(|metric| metric.to_string());
        let worth = [row.standard_error, row.corrected, row.int8_accuracy]
            .map(|number| number.map(|of| of.to_string()));
        cells(row, metrics, [row.int8_kib, row.peak_ram_kib].map(|kib| kib.to_string()), worth)
    };
    let is_known = |known: fn(&LeaderboardRow) -> bool| board.rows.iter().any(known);
    let estimated: &[&str] = if is_known(|row| row.corrected.is_some()) { &WORTH[..2] } else { &[] };
    let quantised: &[&str] = if is_known(|row| row.int8_accuracy.is_some()) { &WORTH[2..] } else { &[] };
    let shown = [estimated, quantised].concat();
    Ok(Document {
        json: json(board)?,
        facts: board_facts(board),
        grids: vec![grid(&shown, &varied(&points), rounded)],
        csv: grid(&WORTH, &names(&points), exact),
    })
}

fn board_facts(board: &Leaderboard) -> Vec<(&'static str, String)> {
    let mut facts = vec![("sweep", board.sweep.clone()), ("objective", board.objective.clone())];
    if !board.minimise.is_empty() {
        facts.push(("minimise", board.minimise.join(", ")));
    }
    facts
}

fn cells(
    row: &LeaderboardRow,
    metrics: [String; 3],
    kib: [String; 2],
    worth: [Option<String>; 3],
) -> Vec<String> {
    let [accuracy, macro_f1, loss] = metrics;
    let [rank, trial, epoch, runs] =
        [row.rank, row.trial, row.epoch, row.runs].map(|number| number.to_string());
    let [params, macs] = [row.params, row.macs].map(|number| number.to_string());
    let [int8_kib, peak_ram_kib] = kib;
    let [error, corrected, int8_accuracy] = worth.map(Option::unwrap_or_default);
    vec![
        rank,
        trial,
        accuracy,
        macro_f1,
        loss,
        epoch,
        runs,
        params,
        macs,
        int8_kib,
        peak_ram_kib,
        error,
        corrected,
        int8_accuracy,
    ]
}

/// One trial with its learning curves; a row of CSV is an epoch.
pub(super) fn trial(trial: &Trial) -> anyhow::Result<Document> {
    let point = trial.point.iter().map(|assignment| format!("{} = {}", assignment.name, assignment.value));
    let mut facts = vec![
        ("trial", trial.trial.to_string()),
        ("state", trial.state.clone()),
        ("point", point.collect::<Vec<_>>().join(", ")),
        ("params", trial.params.to_string()),
        ("macs", trial.macs.to_string()),
        ("int8_kib", format!("{:.1}", trial.int8_kib)),
        ("peak_ram_kib", format!("{:.1}", trial.peak_ram_kib)),
    ];
    if !trial.reason.is_empty() {
        facts.push(("reason", trial.reason.clone()));
    }
    if let Some(why) = &trial.why {
        facts.push(("why", why.words.clone()));
    }
    let mut judgements = Grid::new(["epoch", "verdict", "why"]);
    judgements.rows.extend(trial.judgements.iter().map(|judgement| {
        vec![judgement.epoch.to_string(), judgement.verdict.clone(), judgement.words.clone()]
    }));
    let mut runs = Grid::new(["fold", "state", "attempts", "worker", "best_epoch", "failures"]);
    runs.rows.extend(trial.runs.iter().map(|run| {
        let [attempts, best] = [run.attempts, run.best_epoch].map(|number| number.to_string());
        vec![fold(run), run.state.clone(), attempts, run.worker.clone(), best, run.failures.join("\n")]
    }));
    let rounded = epochs(trial, |metric| format!("{metric:.4}"));
    Ok(Document {
        json: json(trial)?,
        facts,
        grids: vec![runs, judgements, rounded],
        csv: explained(trial, epochs(trial, |metric| metric.to_string())),
    })
}

/// The fold's number, "refit", "aware", or the step of pruning, as "pruned-1".
fn fold(run: &Run) -> String {
    match run {
        Run { refit: true, .. } => "refit".to_owned(),
        Run { aware: true, .. } => "aware".to_owned(),
        Run { pruned: 0, fold, .. } => fold.to_string(),
        Run { pruned, .. } => format!("pruned-{pruned}"),
    }
}

fn epochs(trial: &Trial, number: impl Fn(f64) -> String) -> Grid {
    let mut grid = Grid::new(["trial", "fold", "epoch", "train_loss", "loss", "accuracy", "macro_f1"]);
    let rows = trial.runs.iter().flat_map(|run: &Run| run.epochs.iter().map(move |epoch| (run, epoch)));
    grid.rows.extend(rows.map(|(run, epoch)| {
        let counts = [trial.trial.to_string(), fold(run), epoch.epoch.to_string()];
        let metrics = [epoch.train_loss, epoch.loss, epoch.accuracy, epoch.macro_f1].map(&number);
        counts.into_iter().chain(metrics).collect()
    }));
    grid
}

/// Epochs with why the trial was proposed, and what was decided after each.
fn explained(trial: &Trial, mut epochs: Grid) -> Grid {
    epochs.columns.extend(["verdict", "verdict_why", "why"].map(str::to_owned));
    let column = epochs.columns.iter().position(|column| column == "epoch");
    let why = trial.why.as_ref().map(|why| why.words.clone()).unwrap_or_default();
    for row in &mut epochs.rows {
        let epoch = column.and_then(|column| row.get(column)).cloned().unwrap_or_default();
        let judged = || trial.judgements.iter().filter(|judged| judged.epoch.to_string() == epoch);
        let verdicts: Vec<&str> = judged().map(|judged| judged.verdict.as_str()).collect();
        let words: Vec<&str> = judged().map(|judged| judged.words.as_str()).collect();
        row.extend([verdicts.join("\n"), words.join("\n"), why.clone()]);
    }
    epochs
}

/// Facts as the single row of a grid.
pub(super) fn one_row(facts: &[(&'static str, String)]) -> Grid {
    let mut grid = Grid::new(facts.iter().map(|(name, _)| *name));
    grid.rows.push(facts.iter().map(|(_, value)| value.clone()).collect());
    grid
}

/// A message as JSON, with its points as objects.
pub(super) fn json(message: &impl Serialize) -> anyhow::Result<Value> {
    let mut json = serde_json::to_value(message)?;
    points_to_objects(&mut json);
    Ok(json)
}

/// `"point": [{"name": "dropout", "value": "0.3"}]` becomes `"point": {"dropout": 0.3}`: easier to read and to query.
fn points_to_objects(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Array(assignments) if name == "point" => {
                        *value = Value::Object(object(assignments));
                    }
                    _ => points_to_objects(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(points_to_objects),
        _ => {}
    }
}

fn object(assignments: &[Value]) -> Map<String, Value> {
    let text = |assignment: &Value, key| assignment.get(key).and_then(Value::as_str).map(str::to_owned);
    let entries = assignments.iter().filter_map(|assignment| {
        let (name, value) = (text(assignment, "name")?, text(assignment, "value")?);
        // A value as it stands in a sweep file is a number, a list of numbers or a quoted word: JSON all the same.
        Some((name, serde_json::from_str(&value).unwrap_or(Value::String(value))))
    });
    entries.collect()
}

/// Names that some point has, in the hyperparameters' order: what is inactive at a point is not in it.
fn names<'a>(points: &[&'a [Assignment]]) -> Vec<&'a str> {
    let all = points.iter().flat_map(|point| point.iter().map(|assignment| assignment.name.as_str()));
    let different: BTreeSet<&str> = all.collect();
    let mut names: Vec<&str> = different.into_iter().collect();
    names.sort_by_key(|name| Hyperparameter::from_name(name));
    names
}

/// Names of the values that are not the same in all rows; of a single row, all.
fn varied<'a>(points: &[&'a [Assignment]]) -> Vec<&'a str> {
    let is_varied = |name: &&str| {
        let values: BTreeSet<_> = points.iter().flat_map(|point| values(point, &[*name])).collect();
        values.len() > 1 || points.len() == 1
    };
    names(points).into_iter().filter(is_varied).collect()
}

fn values(point: &[Assignment], names: &[&str]) -> Vec<String> {
    // Words without their quotes: a cell is text anyway.
    let cell = |found: &Assignment| found.value.trim_matches('"').to_owned();
    let value = |name: &str| point.iter().find(|assignment| assignment.name == name).map(cell);
    names.iter().map(|name| value(name).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use earshot_proto::earshot::v1::{Epoch, Judgement, Why, Worker};

    use super::{
        super::render::{Format, render},
        *,
    };

    fn board() -> Leaderboard {
        let row = |rank, trial, dropout: &str| LeaderboardRow {
            rank,
            trial,
            accuracy: 0.812_345,
            macro_f1: 0.75,
            loss: 0.5,
            epoch: 9,
            runs: 1,
            params: 1234,
            macs: 56_789,
            int8_kib: 1.25,
            peak_ram_kib: 3.5,
            standard_error: None,
            corrected: None,
            int8_accuracy: None,
            point: [
                ("learning_rate", "0.001"),
                ("filters", "[16, 32]"),
                ("dropout", dropout),
                ("fc_units", "\"none\""),
            ]
            .map(|(name, value)| Assignment { name: name.into(), value: value.into() })
            .into(),
        };
        Leaderboard {
            sweep: "grid".into(),
            objective: "accuracy".into(),
            minimise: vec![],
            rows: vec![row(1, 7, "0.2"), row(2, 3, "0.3")],
        }
    }

    fn check(document: &Document, format: Format, expected: &str) {
        let text = render(document, format).unwrap();
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn a_leaderboard_table_shows_what_varies() {
        check(
            &leaderboard(&board()).unwrap(),
            Format::Table,
            "\
sweep      grid
objective  accuracy

╭──────┬───────┬──────────┬──────────┬────────┬───────┬──────┬────────┬───────┬──────────┬──────────────┬─────────╮
│ rank │ trial │ accuracy │ macro_f1 │ loss   │ epoch │ runs │ params │ macs  │ int8_kib │ peak_ram_kib │ dropout │
├──────┼───────┼──────────┼──────────┼────────┼───────┼──────┼────────┼───────┼──────────┼──────────────┼─────────┤
│ 1    │ 7     │ 0.8123   │ 0.7500   │ 0.5000 │ 9     │ 1    │ 1234   │ 56789 │ 1.2      │ 3.5          │ 0.2     │
│ 2    │ 3     │ 0.8123   │ 0.7500   │ 0.5000 │ 9     │ 1    │ 1234   │ 56789 │ 1.2      │ 3.5          │ 0.3     │
╰──────┴───────┴──────────┴──────────┴────────┴───────┴──────┴────────┴───────┴──────────┴──────────────┴─────────╯
",
        );
    }

    #[test]
    fn csv_has_a_column_for_every_hyperparameter() {
        check(
            &leaderboard(&board()).unwrap(),
            Format::Csv,
            "rank,trial,accuracy,macro_f1,loss,epoch,runs,params,macs,int8_kib,peak_ram_kib,standard_error,corrected,int8_accuracy,learning_rate,filters,dropout,fc_units\n\
             1,7,0.812345,0.75,0.5,9,1,1234,56789,1.25,3.5,,,,0.001,\"[16, 32]\",0.2,none\n\
             2,3,0.812345,0.75,0.5,9,1,1234,56789,1.25,3.5,,,,0.001,\"[16, 32]\",0.3,none\n",
        );
    }

    #[test]
    fn a_column_is_empty_where_its_hyperparameter_is_inactive() {
        let mut board = board();
        let decay = Assignment { name: "weight_decay".into(), value: "0.01".into() };
        board.rows[1].point.push(decay);
        let csv = render(&leaderboard(&board).unwrap(), Format::Csv).unwrap();
        assert!(csv.contains("learning_rate,weight_decay,filters,"), "{csv}");
        assert!(csv.contains(",0.001,,\"[16, 32]\",") && csv.contains(",0.001,0.01,\"[16, 32]\","), "{csv}");
    }

    #[test]
    fn json_has_points_as_objects_of_numbers() {
        let json = leaderboard(&board()).unwrap().json;
        let expected = serde_json::json!({ "learning_rate": 0.001, "filters": [16, 32], "dropout": 0.2, "fc_units": "none" });
        assert_eq!(json["rows"][0]["point"], expected);
        assert_eq!(
            (&json["rows"][0]["accuracy"], &json["objective"]),
            (&Value::from(0.812_345), &Value::from("accuracy"))
        );
    }

    #[test]
    fn what_means_are_worth_is_shown_where_it_is_known() {
        let mut board = board();
        (board.rows[0].standard_error, board.rows[0].corrected) = (Some(0.0125), Some(0.75));
        let document = leaderboard(&board).unwrap();
        assert!(
            render(&document, Format::Table).unwrap().contains("│ 0.0125         │ 0.7500    │ 0.2     │")
        );
        assert!(render(&document, Format::Csv).unwrap().contains(",3.5,0.0125,0.75,,0.001,"));
        assert_eq!(document.json["rows"][1]["corrected"], Value::Null);
        board.rows[0].int8_accuracy = Some(0.625);
        let document = leaderboard(&board).unwrap();
        assert!(render(&document, Format::Csv).unwrap().contains(",3.5,0.0125,0.75,0.625,0.001,"));
        assert!(
            render(&document, Format::Table).unwrap().contains("│ 0.7500    │ 0.6250        │ 0.2     │")
        );
    }

    #[test]
    fn an_empty_leaderboard_still_says_of_what() {
        let empty = leaderboard(&Leaderboard { rows: vec![], ..board() }).unwrap();
        check(&empty, Format::Table, "sweep      grid\nobjective  accuracy\n");
        check(
            &empty,
            Format::Csv,
            "rank,trial,accuracy,macro_f1,loss,epoch,runs,params,macs,int8_kib,peak_ram_kib,standard_error,corrected,int8_accuracy\n",
        );
    }

    #[test]
    fn a_trial_shows_its_runs_and_epochs() {
        let epoch = Epoch {
            epoch: 1,
            train_loss: 2.0,
            loss: 1.5,
            accuracy: 0.25,
            macro_f1: 0.125,
            int8_accuracy: None,
        };
        let run = Run {
            fold: 1,
            refit: false,
            pruned: 0,
            aware: false,
            state: "leased".into(),
            attempts: 2,
            worker: "attic".into(),
            best_epoch: 0,
            epochs: vec![epoch],
            failures: vec!["attempt 1 on attic: the worker fell silent".into()],
        };
        let judgement =
            Judgement { epoch: 1, verdict: "held".into(), score: 0.25, words: "not among the best".into() };
        let why = Why { by: "random".into(), words: "drawn".into(), ..Why::default() };
        let shown = Trial {
            trial: 4,
            state: "running".into(),
            runs: vec![run],
            why: Some(why),
            judgements: vec![judgement],
            ..Trial::default()
        };
        let document = trial(&shown).unwrap();
        check(
            &document,
            Format::Csv,
            "trial,fold,epoch,train_loss,loss,accuracy,macro_f1,verdict,verdict_why,why\n\
             4,1,1,2,1.5,0.25,0.125,held,not among the best,drawn\n",
        );
        let table = render(&document, Format::Table).unwrap();
        assert!(
            table.contains("fell silent")
                && table.contains("why       ")
                && table.contains("not among")
                && table.contains("│ 1.5000 │")
                && !table.contains("reason"),
            "{table}"
        );
    }

    #[test]
    fn a_status_is_one_row_of_csv() {
        let worker = Worker {
            worker: 0,
            name: "attic".into(),
            device: "cpu".into(),
            slots: 2,
            busy: 1,
            state: "present".into(),
        };
        let document =
            status(&Status { sweep: "grid".into(), workers: vec![worker], ..Status::default() }).unwrap();
        assert_eq!((document.csv.rows.len(), document.grids[0].rows.len()), (1, 1));
        assert_eq!(document.json["workers"][0]["name"], "attic");
    }
}
