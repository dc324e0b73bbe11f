//! Why a trial was proposed, and why it was stopped or went on.

use earshot_common::sweep::Objective;
use earshot_proto::earshot::v1 as proto;

use crate::{
    search::Why,
    state::{Basis, Judged, Judgement},
};

pub(super) fn why(why: Why, objective: Objective) -> proto::Why {
    let mut message =
        proto::Why { by: why.name().to_owned(), words: why.words(objective), ..proto::Why::default() };
    match why {
        Why::Improvement { mean, deviation, best, .. } => {
            message.expected = Some(objective.shown(mean));
            message.deviation = Some(deviation);
            message.best = Some(objective.shown(best));
        }
        Why::Volume { mean, deviation, .. } => {
            message.expected = Some(objective.shown(mean));
            message.deviation = Some(deviation);
        }
        Why::Density { log_ratio, .. } => message.log_ratio = Some(log_ratio),
        Why::Grid | Why::Random | Why::Sobol | Why::Startup { .. } | Why::Exhausted => {}
    }
    message
}

pub(super) fn judgement(judgement: &Judgement, objective: Objective) -> proto::Judgement {
    let verdict = match judgement.verdict {
        Judged::GoesOn => "goes_on",
        Judged::Held => "held",
        Judged::Promoted => "promoted",
        Judged::Stopped => "stopped",
    };
    proto::Judgement {
        epoch: judgement.epoch,
        verdict: verdict.to_owned(),
        score: objective.shown(judgement.score),
        words: words(judgement, objective),
    }
}

fn words(judgement: &Judgement, objective: Objective) -> String {
    let metric = objective.name();
    let number = |score: f64| format!("{:.4}", objective.shown(score));
    let own = number(judgement.score);
    match judgement.basis {
        Basis::Rung { came, places, promoted, best } => {
            let rung = format!("of {came} that came to this rung {places} may go on and {promoted} did");
            match judgement.verdict {
                Judged::GoesOn => format!("{rung}; its {metric} of {own} is the best of the others"),
                Judged::Promoted if places == 0 => format!(
                    "nothing else is left to train, and its {metric} of {own} is the best of the {came} that came to this rung"
                ),
                Judged::Promoted => format!("{rung}; of those that wait its {metric} of {own} is the best"),
                Judged::Held | Judged::Stopped if best > judgement.score => {
                    format!("{rung}; its {metric} is {own}, and the best that waits has {}", number(best))
                }
                Judged::Held | Judged::Stopped => {
                    format!("{rung}; of those that wait its {metric} of {own} is the best")
                }
            }
        }
        Basis::Race { best, folds, difference, behind } => format!(
            "its {metric} on {folds} of the folds is {:.4} from that of trial {best}, the best; that it is behind is {:.1}% sure",
            difference.abs(),
            100.0 * behind
        ),
        Basis::Early => "too few trials had every fold to judge it".to_owned(),
        Basis::Median { others, median } => {
            let median = number(median);
            format!(
                "its best {metric} of {own} is behind {median}, the median of {others} others at this epoch"
            )
        }
    }
}
