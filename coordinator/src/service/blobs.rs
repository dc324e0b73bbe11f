//! The `Blobs` service: verified pieces in and out. The disk is only touched on threads that may block.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use earshot_common::{
    blob::{BlobError, Incoming},
    ids::BlobId,
    wire,
};
use earshot_proto::earshot::v1::{BlobChunk, FetchRequest, PutResponse, blobs_server};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    codes,
    piece::{PIECE_BYTES_MAX, Whole},
};
use crate::{
    access::{Caller, Role, gate::HeldPlace},
    blobs::{BlobReader, Blobs},
    engine::Engine,
};

/// How long the next piece of an upload may take, so that a client that stopped sending does not hold its file for ever.
const PIECE_TIME: Duration = Duration::from_secs(30);

/// How long a whole upload may take: the largest blob at 3.6 Mbit/s.
const PUT_TIME: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub(super) struct BlobService {
    pub(super) blobs: Blobs,
    pub(super) engine: Engine,
}

#[tonic::async_trait]
impl blobs_server::Blobs for BlobService {
    type FetchStream = Pieces;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Pieces>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let transfer = request.extensions().get::<HeldPlace>().cloned();
        let id =
            wire::blob_id(&request.into_inner().blob, "the blob").map_err(|error| codes::of_wire(&error))?;
        self.check_readable(caller, id).await?;
        let blobs = self.blobs.clone();
        let reader = blocking(move || blobs.reader(id).map_err(|error| codes::of_blob(&error))).await?;
        let whole = Whole { id, size: reader.size() };
        Ok(Response::new(Pieces { whole, reading: Some(read(whole, reader)), _transfer: transfer }))
    }

    async fn put(&self, request: Request<Streaming<BlobChunk>>) -> Result<Response<PutResponse>, Status> {
        self.check_writable(request.extensions().get::<Caller>().cloned()).await?;
        time::timeout(PUT_TIME, self.receive(request.into_inner())).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!("the blob was not here within {} s", PUT_TIME.as_secs())))
        })
    }
}

impl BlobService {
    /// Users read everything, workers what they need for the runs that they hold: not what others have made of theirs.
    async fn check_readable(&self, caller: Option<Caller>, id: BlobId) -> Result<(), Status> {
        let Some(Caller::Known { name, role: Role::Worker }) = caller else { return Ok(()) };
        let needs = self.engine.read(move |state| state.needs(&name, id)).await;
        if needs.map_err(|error| codes::of_engine(&error))? {
            return Ok(());
        }
        Err(Status::permission_denied(format!("no run that this token's workers hold needs blob {id}")))
    }

    /// Only what belongs to a run is taken, so that nobody fills the disk between runs.
    async fn check_writable(&self, caller: Option<Caller>) -> Result<(), Status> {
        let Some(Caller::Known { name, .. }) = caller else { return Ok(()) };
        let is_at_work = self.engine.read(move |state| state.is_at_work(&name)).await;
        if is_at_work.map_err(|error| codes::of_engine(&error))? {
            return Ok(());
        }
        Err(Status::permission_denied("this token's workers hold no run, so there is nothing to hand in"))
    }

    async fn receive(&self, mut pieces: Streaming<BlobChunk>) -> Result<Response<PutResponse>, Status> {
        let mut piece = next(&mut pieces).await?.ok_or_else(|| Status::invalid_argument("no piece came"))?;
        let whole = Whole::of(&piece).map_err(|error| codes::of_piece(&error))?;
        let blobs = self.blobs.clone();
        let mut incoming = blocking(move || blobs.begin().map_err(|error| codes::of_blob(&error))).await?;
        loop {
            incoming = blocking(move || write(whole, incoming, &piece)).await?;
            match next(&mut pieces).await? {
                Some(next) => piece = next,
                None => break,
            }
        }
        if incoming.size() != whole.size {
            let text = format!("{} bytes of a blob of {} came", incoming.size(), whole.size);
            return Err(Status::invalid_argument(text));
        }
        blocking(move || incoming.commit(whole.id).map_err(|error| codes::of_blob(&error))).await?;
        Ok(Response::new(PutResponse {}))
    }
}

fn write(whole: Whole, mut incoming: Incoming, piece: &BlobChunk) -> Result<Incoming, Status> {
    whole.check(piece, incoming.size()).map_err(|error| codes::of_piece(&error))?;
    incoming.write(&piece.data).map_err(|error| codes::of_blob(&error))?;
    Ok(incoming)
}

async fn next(pieces: &mut Streaming<BlobChunk>) -> Result<Option<BlobChunk>, Status> {
    let late = |_| Status::deadline_exceeded(format!("no piece came for {} s", PIECE_TIME.as_secs()));
    time::timeout(PIECE_TIME, pieces.message()).await.map_err(late)?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Status {
    Status::internal("the coordinator failed inside; its log says where")
}

/// A blob on its way out: while one piece is sent, the next is read, and no more are in memory.
#[derive(Debug)]
pub(super) struct Pieces {
    whole: Whole,
    reading: Option<Reading>,
    /// Held until the last piece is on its way.
    _transfer: Option<HeldPlace>,
}

/// What follows: a piece and where it came from, or nothing after the last.
type Reading = JoinHandle<Result<Option<(BlobChunk, BlobReader)>, BlobError>>;

fn read(whole: Whole, mut reader: BlobReader) -> Reading {
    spawn_blocking(move || {
        let offset = reader.offset();
        let data = reader.next_piece(PIECE_BYTES_MAX)?;
        Ok((!data.is_empty()).then(|| (whole.piece(offset, data), reader)))
    })
}

impl Stream for Pieces {
    type Item = Result<BlobChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let read_now = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(match read_now {
            Ok(Ok(Some((piece, reader)))) => {
                self.reading = Some(read(self.whole, reader));
                Some(Ok(piece))
            }
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(Err(codes::of_blob(&error))),
            Err(_) => Some(Err(panicked())),
        })
    }
}
