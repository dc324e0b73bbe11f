//! Connections before anybody was let in over them.
//!
//! A connection costs a file and memory before anything is known of who made it. So those over which nobody was let in yet are
//! few, and stay for a short time, however slowly they speak: the time runs from the connection's first moment, through the
//! handshake of TLS, to the end of the first call's headers.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::{Limits, allowance::Bucket};
use crate::watch::tally::Tally;

/// Pause after the system had no more files to give, so that the loop does not spin until it has.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections off the listener, as far as there is room.
#[derive(Debug)]
pub struct Doorstep {
    listener: TcpListener,
    limits: Limits,
    room: Arc<Room>,
    tally: Tally,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Who is on the doorstep, and how many are inside.
#[derive(Debug, Default)]
struct Room {
    /// A std mutex: nothing waits while holding it.
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    connections: usize,
    strangers: usize,
    /// Strangers by their address; no entry for none.
    by_peer: BTreeMap<IpAddr, usize>,
}

/// What the gate knows and says of a connection. Cheap to clone; every request carries one.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Standing>);

#[derive(Debug)]
struct Standing {
    address: IpAddr,
    room: Arc<Room>,
    is_let_in: AtomicBool,
    refusals: AtomicU32,
    limits: Limits,
    /// Calls that it may still make; full until the first. A std mutex: nothing waits while holding it.
    calls: Mutex<Option<Bucket>>,
}

/// A connection, cut off if its time is up or its calls were refused too often.
#[derive(Debug)]
pub struct Guest {
    stream: TcpStream,
    peer: Peer,
    /// Gone once somebody was let in.
    deadline: Option<Pin<Box<Sleep>>>,
    tally: Tally,
}

impl Doorstep {
    /// Nobody is there yet.
    pub fn new(listener: TcpListener, limits: Limits, tally: Tally) -> Self {
        Self { listener, limits, room: Arc::default(), tally, pause: None }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The connection, if there is room for it; otherwise it is closed at once.
    fn receive(&self, stream: TcpStream, address: SocketAddr) -> Option<Guest> {
        let address = address.ip().to_canonical();
        if let Err(full) = self.room.enter(address, &self.limits) {
            self.tally.turned_away();
            tracing::debug!(%address, "a connection was closed at once: {full}");
            return None;
        }
        let standing = Standing {
            address,
            room: Arc::clone(&self.room),
            is_let_in: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            limits: self.limits,
            calls: Mutex::default(),
        };
        let deadline = Some(Box::pin(sleep(self.limits.stranger_time)));
        // Small answers must not wait for more bytes to send with them. An old connection may have gone already.
        let _ = stream.set_nodelay(true);
        self.tally.connected();
        Some(Guest { stream, peer: Peer(Arc::new(standing)), deadline, tally: self.tally.clone() })
    }
}

impl Stream for Doorstep {
    type Item = io::Result<Guest>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, address)) => {
                    if let Some(guest) = self.receive(stream, address) {
                        return Poll::Ready(Some(Ok(guest)));
                    }
                }
                // Of one connection, not of the listener.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("cannot take a connection: {error}");
                    self.pause = Some(Box::pin(sleep(EXHAUSTED_PAUSE)));
                }
            }
        }
    }
}

impl Room {
    fn enter(&self, peer: IpAddr, limits: &Limits) -> Result<(), &'static str> {
        let mut count = self.lock();
        if count.connections >= limits.connections_max {
            return Err("there are too many");
        }
        if count.strangers >= limits.strangers_max {
            return Err("there are too many over which nobody was let in");
        }
        let of_peer = count.by_peer.entry(peer).or_default();
        if *of_peer >= limits.strangers_per_peer_max {
            return Err("there are too many from this address over which nobody was let in");
        }
        *of_peer += 1;
        count.strangers += 1;
        count.connections += 1;
        Ok(())
    }

    /// A stranger is none any more.
    fn know(&self, peer: IpAddr) {
        let mut count = self.lock();
        count.strangers = count.strangers.saturating_sub(1);
        if let Some(of_peer) = count.by_peer.get_mut(&peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                count.by_peer.remove(&peer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Where the connection comes from.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// Somebody was let in over it: it may stay.
    pub(super) fn let_in(&self) {
        if !self.0.is_let_in.swap(true, Ordering::AcqRel) {
            self.0.room.know(self.0.address);
        }
    }

    /// A call was refused for want of a token.
    pub(super) fn refuse(&self) {
        self.0.refusals.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes a call out of the connection's allowance, if there is one.
    pub(super) fn take_call(&self, now_ms: u64) -> bool {
        let Limits { connection_calls_hz: hz, connection_calls_burst: burst, .. } = self.0.limits;
        let mut calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get_or_insert_with(|| Bucket::full(burst, now_ms)).take(hz, burst, now_ms)
    }

    fn is_let_in(&self) -> bool {
        self.0.is_let_in.load(Ordering::Acquire)
    }

    fn is_unwanted(&self) -> bool {
        self.0.refusals.load(Ordering::Acquire) >= self.0.limits.refusals_max
    }
}

impl Guest {
    /// Where it comes from.
    pub fn address(&self) -> IpAddr {
        self.peer.address()
    }

    /// Whether the connection may go on.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.peer.is_unwanted() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "too many of its calls were refused",
            ));
        }
        if let Some(deadline) = &mut self.deadline {
            if self.peer.is_let_in() {
                self.deadline = None;
            } else if deadline.as_mut().poll(context).is_ready() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody was let in over it in time"));
            }
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The gate may still hold the peer of a call that is being answered; it can no longer let anybody in.
        self.peer.let_in();
        self.tally.disconnected();
        let mut count = self.peer.0.room.lock();
        count.connections = count.connections.saturating_sub(1);
    }
}

impl Connected for Guest {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio_stream::StreamExt;

    use super::*;

    async fn doorstep(limits: Limits) -> (Doorstep, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Doorstep::new(listener, limits, Tally::default()), address)
    }

    #[tokio::test]
    async fn a_stranger_is_cut_off_and_one_who_was_let_in_stays() {
        let stranger_time = Duration::from_millis(20);
        let (mut doorstep, address) = doorstep(Limits { stranger_time, ..Limits::default() }).await;
        let _clients =
            [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let mut stranger = doorstep.next().await.unwrap().unwrap();
        let mut known = doorstep.next().await.unwrap().unwrap();
        known.peer.let_in();
        assert_eq!(stranger.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let silent = tokio::time::timeout(2 * stranger_time, known.read_u8()).await;
        assert!(silent.is_err(), "{silent:?}");
        for _ in 0..Limits::default().refusals_max {
            known.peer.refuse();
        }
        assert_eq!(known.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_and_leaving_makes_room() {
        let limits = Limits { strangers_per_peer_max: 2, connections_max: 3, ..Limits::default() };
        let (mut doorstep, address) = doorstep(limits).await;
        let mut clients = Vec::new();
        let mut arrive = async |doorstep: &mut Doorstep| {
            clients.push(TcpStream::connect(address).await.unwrap());
            let next = tokio::time::timeout(Duration::from_millis(50), doorstep.next());
            next.await.ok().map(|guest| guest.unwrap().unwrap())
        };
        let first = arrive(&mut doorstep).await.unwrap();
        let second = arrive(&mut doorstep).await.unwrap();
        assert!(arrive(&mut doorstep).await.is_none(), "two strangers of one address");
        second.peer.let_in();
        second.peer.let_in();
        let third = arrive(&mut doorstep).await.unwrap();
        third.peer.let_in();
        assert!(arrive(&mut doorstep).await.is_none(), "three connections");
        drop(first);
        assert!(arrive(&mut doorstep).await.is_some());
        drop((second, third));
        let count = doorstep.room.lock();
        assert_eq!((count.connections, count.strangers, count.by_peer.len()), (0, 0, 0));
    }
}
