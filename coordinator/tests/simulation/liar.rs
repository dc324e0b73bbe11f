//! Calls that no honest worker makes. All but one kind must be refused, whatever has happened when they arrive.

use earshot_common::{
    ids::{Token, WorkerId},
    job::{Epoch, Outcome},
};
use earshot_proto::earshot::v1 as proto;

use crate::{
    agent::{finish, report, result},
    message::{Envelope, Request, Sender},
    site::Site,
    world::Stage,
};

/// One lie, if there is anything to lie about.
pub(crate) fn lie(site: &Site, stage: &mut Stage) -> Option<Envelope> {
    let alive: Vec<(Token, WorkerId)> = site.oracle.alive().collect();
    let (token, holder) = *alive.get(stage.dice.below(alive.len() as u64 + 1) as usize)?;
    let other = WorkerId(stage.dice.below(u64::from(holder.0) + 3) as u32);
    let covered = &mut stage.covered;
    let epoch =
        Epoch { epoch: 1, train_loss: 0.1, loss: 0.1, accuracy: 1.0, macro_f1: 1.0, int8_accuracy: None };
    let wonderful = Outcome::Completed(result(Token(u64::MAX), 1));
    let mut sender = Sender::Liar;
    let request = match stage.dice.below(9) {
        0 if other != holder => {
            covered.lies_of_others_attempts += 1;
            if stage.dice.chance(0.5) {
                report(other, token, (&epoch).into())
            } else {
                finish(other, token, &wonderful)
            }
        }
        1 => {
            let (worker, token) = site.oracle.some_ended(&mut stage.dice)?;
            covered.lies_of_stale_tokens += 1;
            if stage.dice.chance(0.5) {
                report(worker, token, (&epoch).into())
            } else {
                finish(worker, token, &wonderful)
            }
        }
        2 => {
            covered.lies_of_future_tokens += 1;
            finish(holder, Token(u64::MAX - 1), &wonderful)
        }
        3 => {
            covered.lies_of_epochs_out_of_order += 1;
            report(holder, token, (&Epoch { epoch: 77, ..epoch }).into())
        }
        4 => {
            covered.lies_of_numbers_that_are_none += 1;
            let loss = *stage.dice.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
            report(holder, token, proto::Epoch { loss, ..(&epoch).into() })
        }
        5 => {
            covered.lies_of_wrong_shapes += 1;
            match stage.dice.below(3) {
                0 => report(holder, token, proto::Epoch { accuracy: 1.5, ..(&epoch).into() }),
                1 => Request::Report(proto::ReportRequest {
                    worker: holder.0,
                    token: token.0,
                    epoch: None,
                    midway: None,
                }),
                _ => {
                    let result =
                        proto::Result { best_epoch: 1, checkpoint: vec![1; 31], logits: vec![1; 32] };
                    let outcome = Some(proto::finish_request::Outcome::Result(result));
                    Request::Finish(proto::FinishRequest { worker: holder.0, token: token.0, outcome })
                }
            }
        }
        6 => {
            covered.lies_of_best_epochs += 1;
            finish(holder, token, &Outcome::Completed(result(token, 99)))
        }
        7 => {
            covered.lies_of_strangers += 1;
            Request::Heartbeat { worker: WorkerId(u32::MAX), tokens: vec![token] }
        }
        _ => {
            // It may well have a free slot, and then it gets a run that it never trains.
            covered.lies_of_free_slots += 1;
            sender = Sender::Thief;
            Request::Lease { worker: holder, runs: 1 + stage.dice.below(3) as usize }
        }
    };
    let call = stage.call();
    Some(Envelope { sender, call, sent_at_ms: stage.now_ms, request })
}
