//! Answers `GET /metrics`.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;

use super::{
    metrics::{self, Numbers, Snapshot},
    tally::Tally,
};
use crate::{
    access::{
        Limits,
        doorstep::{Doorstep, Guest},
    },
    engine::{Engine, EngineError},
    service::presence::Presence,
};

/// What the numbers are of.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The state, and its commits.
    pub engine: Engine,
    /// Who was heard lately.
    pub presence: Presence,
    /// What was counted.
    pub tally: Tally,
}

/// Answers at `listener` until it is dropped. Nobody is ever let in there, so a connection lasts for one scrape or two,
/// and slow ones are cut off.
///
/// # Errors
/// The socket's.
pub async fn serve(listener: TcpListener, watched: Watched) -> io::Result<()> {
    let router = Router::new().route("/metrics", get(move || answer(watched.clone())));
    let doorstep = Scraped(Doorstep::new(listener, Limits::default(), Tally::default()));
    axum::serve(doorstep, router).await
}

async fn answer(watched: Watched) -> Response {
    match text(&watched).await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn text(watched: &Watched) -> Result<String, EngineError> {
    let heard = watched.presence.present();
    let snapshot = watched.engine.read(move |state| Snapshot::of(state, &heard)).await?;
    let numbers = Numbers {
        snapshot,
        tally: &watched.tally,
        commits: watched.engine.commits(),
        commands_waiting: watched.engine.waiting(),
    };
    // A string takes whatever is written to it.
    Ok(numbers.text().unwrap_or_default())
}

/// A doorstep as axum wants it.
struct Scraped(Doorstep);

impl Listener for Scraped {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            // The doorstep neither fails nor ends.
            if let Some(Ok(guest)) = self.0.next().await {
                let address = SocketAddr::new(guest.address(), 0);
                return (guest, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
