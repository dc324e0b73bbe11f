//! What a sweep has taught: how its best result came about, and which hyperparameters decided.

use earshot_common::sweep::Point;
use earshot_proto::earshot::v1 as proto;

use super::{ViewError, find};
use crate::{
    search,
    state::{State, Trial},
};

/// A sweep's best result so far, each time a trial completed.
///
/// # Errors
/// As [`find`].
pub fn curve(state: &State, name: Option<&str>) -> Result<proto::Curve, ViewError> {
    let (_, sweep) = find(state, name)?;
    let objective = sweep.sweep().objective;
    let mut best: Option<(f64, u32)> = None;
    let completed = sweep.completions().iter().filter_map(|completion| {
        let score = sweep.trial(completion.trial)?.score(objective)?;
        let (best_score, best_trial) = *match &mut best {
            Some(best) if best.0 >= score => best,
            best => best.insert((score, completion.trial.0)),
        };
        Some(proto::CurvePoint {
            trials: 0,
            epochs: completion.epochs,
            at_ms: completion.after_ms,
            trial: completion.trial.0,
            score: objective.shown(score),
            best_trial,
            best: objective.shown(best_score),
        })
    });
    let points = (1..).zip(completed).map(|(trials, point)| proto::CurvePoint { trials, ..point }).collect();
    Ok(proto::Curve { sweep: sweep.sweep().name.clone(), objective: objective.name().to_owned(), points })
}

/// How much each hyperparameter of a sweep matters for being among its best trials.
///
/// # Errors
/// As [`find`].
pub fn importance(state: &State, name: Option<&str>) -> Result<proto::Importance, ViewError> {
    let (_, sweep) = find(state, name)?;
    let objective = sweep.sweep().objective;
    let scored = |trial: &'_ Trial| trial.score(objective).filter(|score| score.is_finite());
    let trials: Vec<(&Point, f64)> =
        sweep.trials().filter_map(|(_, trial)| Some((&*trial.point, scored(trial)?))).collect();
    let found = search::importance(&sweep.sweep().space, &trials);
    let rows = found
        .shares
        .iter()
        .map(|(name, share)| proto::ImportanceRow { name: name.name().to_owned(), importance: *share });
    Ok(proto::Importance {
        sweep: sweep.sweep().name.clone(),
        objective: objective.name().to_owned(),
        trials: found.trials as u32,
        good: found.good as u32,
        rows: rows.collect(),
    })
}
