//! Commands that show what a sweep has taught.

use std::process::ExitCode;

use clap::Args;
use earshot_proto::earshot::v1::{Curve, Importance};

use super::{
    ask::{OutputArgs, answer},
    document::json,
    render::{Document, Grid},
    source::{OfArgs, Source, SourceArgs},
};

/// The best result so far, each time a trial completed
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator curve                              was it worth going on?
  coordinator curve --format csv > curve.csv     to plot best against trials, epochs or at_ms

Epochs are all that the sweep has spent until then, those of stopped trials included.")]
pub(super) struct CurveArgs {
    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// How much each hyperparameter matters for being among the best trials
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator importance
  coordinator importance --format json

Computed as PED-ANOVA (Watanabe et al. 2023): how far the values of the best tenth of the
completed trials are from those of all. With fewer than about fifty trials, read it with care.")]
pub(super) struct ImportanceArgs {
    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn curve(args: &CurveArgs) -> anyhow::Result<ExitCode> {
    answer(args.output, async {
        let mut source = Source::open(&args.source).await?;
        curve_document(&source.curve(&args.of).await?)
    })
}

pub(super) fn importance(args: &ImportanceArgs) -> anyhow::Result<ExitCode> {
    answer(args.output, async {
        let mut source = Source::open(&args.source).await?;
        importance_document(&source.importance(&args.of).await?)
    })
}

fn curve_document(curve: &Curve) -> anyhow::Result<Document> {
    let grid = |number: fn(f64) -> String| {
        let mut grid = Grid::new(["trials", "epochs", "at_ms", "trial", "score", "best_trial", "best"]);
        grid.rows.extend(curve.points.iter().map(|point| {
            vec![
                point.trials.to_string(),
                point.epochs.to_string(),
                point.at_ms.to_string(),
                point.trial.to_string(),
                number(point.score),
                point.best_trial.to_string(),
                number(point.best),
            ]
        }));
        grid
    };
    Ok(Document {
        json: json(curve)?,
        facts: vec![("sweep", curve.sweep.clone()), ("objective", curve.objective.clone())],
        grids: vec![grid(|score| format!("{score:.4}"))],
        csv: grid(|score| score.to_string()),
    })
}

fn importance_document(importance: &Importance) -> anyhow::Result<Document> {
    let grid = |number: fn(f64) -> String| {
        let mut grid = Grid::new(["name", "importance"]);
        let rows = importance.rows.iter();
        grid.rows.extend(rows.map(|row| vec![row.name.clone(), number(row.importance)]));
        grid
    };
    Ok(Document {
        json: json(importance)?,
        facts: vec![
            ("sweep", importance.sweep.clone()),
            ("objective", importance.objective.clone()),
            ("trials", importance.trials.to_string()),
            ("good", importance.good.to_string()),
        ],
        grids: vec![grid(|share| format!("{share:.3}"))],
        csv: grid(|share| share.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use earshot_proto::earshot::v1::{CurvePoint, ImportanceRow};

    use super::{
        super::render::{Format, render},
        *,
    };

    #[test]
    fn a_curve_has_a_row_for_each_trial() {
        let point = CurvePoint {
            trials: 1,
            epochs: 20,
            at_ms: 1500,
            trial: 3,
            score: 0.125,
            best_trial: 3,
            best: 0.125,
        };
        let curve = Curve { sweep: "grid".into(), objective: "accuracy".into(), points: vec![point] };
        let document = curve_document(&curve).unwrap();
        let csv = render(&document, Format::Csv).unwrap();
        assert_eq!(csv, "trials,epochs,at_ms,trial,score,best_trial,best\n1,20,1500,3,0.125,3,0.125\n");
        assert_eq!(document.json["points"][0]["at_ms"], 1500);
    }

    #[test]
    fn importances_are_shares() {
        let rows = vec![ImportanceRow { name: "dropout".into(), importance: 0.75 }];
        let importance =
            Importance { sweep: "grid".into(), objective: "loss".into(), trials: 30, good: 3, rows };
        let document = importance_document(&importance).unwrap();
        assert_eq!(render(&document, Format::Csv).unwrap(), "name,importance\ndropout,0.75\n");
        assert!(render(&document, Format::Table).unwrap().contains("good       3"));
    }
}
