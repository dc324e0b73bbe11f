//! Every error's gRPC code. Workers act on the code; the text is for people.

use earshot_common::{blob::BlobError, wire::WireError};
use tonic::Status;

use super::piece::PieceError;
use crate::{engine::EngineError, state::Refusal, views::ViewError};

pub(super) fn of_engine(error: &EngineError) -> Status {
    match error {
        EngineError::Refused(refusal) => of_refusal(refusal),
        EngineError::Stopped => Status::unavailable(error.to_string()),
    }
}

pub(super) fn of_refusal(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::UnknownWorker(_) | Refusal::UnknownSweep(_) | Refusal::UnknownTrial(_) => {
            Status::not_found(text)
        }
        Refusal::LeaseEnded(_)
        | Refusal::SweepEnded(_)
        | Refusal::NotCompleted(_)
        | Refusal::NotDue { .. }
        | Refusal::QuantisationNotDue(_) => Status::failed_precondition(text),
        Refusal::NameTaken(_) => Status::already_exists(text),
        Refusal::EpochOutOfOrder { .. } | Refusal::BestEpoch { .. } | Refusal::Slots { .. } => {
            Status::invalid_argument(text)
        }
    }
}

/// A decision of another kind than the event's: a defect.
pub(super) fn unexpected() -> Status {
    Status::internal("the coordinator failed inside")
}

pub(super) fn of_wire(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Says nothing of the coordinator's paths: those are in its log.
pub(super) fn of_blob(error: &BlobError) -> Status {
    match error {
        BlobError::Missing(id, _) => Status::not_found(format!("there is no blob {id}")),
        BlobError::Corrupt { expected, .. } => {
            tracing::error!("{error}");
            Status::data_loss(format!("the bytes of blob {expected} do not hash to its name"))
        }
        BlobError::Io { source, .. } => {
            tracing::error!("{error}: {source}");
            Status::internal("the coordinator's blob store failed; its log says why")
        }
    }
}

pub(super) fn of_piece(error: &PieceError) -> Status {
    let text = error.to_string();
    match error {
        PieceError::Digest { .. } => Status::data_loss(text),
        PieceError::Wire(_)
        | PieceError::OtherBlob
        | PieceError::OutOfPlace { .. }
        | PieceError::TooLarge(_)
        | PieceError::BlobTooLarge(_) => Status::invalid_argument(text),
    }
}

pub(super) fn of_view(error: &ViewError) -> Status {
    let text = error.to_string();
    match error {
        ViewError::NoTrial { .. } | ViewError::NoSweepNamed(_) | ViewError::NoReplay(_) => {
            Status::not_found(text)
        }
        ViewError::NoSweep | ViewError::NoneCompleted(_) | ViewError::NotCompleted(_) => {
            Status::failed_precondition(text)
        }
    }
}
