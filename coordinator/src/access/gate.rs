//! Before every call: whose it is, whether that may be asked, and whether not too often.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use earshot_common::credentials::Secret;
use http::{Request, Response, header::AUTHORIZATION};
use tokio::{sync::watch, time};
use tonic::{Status, body::Body, transport::server::TlsConnectInfo};
use tower::{Layer, Service};

use super::{
    Access, Caller, Limits,
    allowance::{Allowances, Bucket, Excess, Key, Place},
    doorstep::Peer,
    policy::{self, Kind},
    register::{Register, Stranger},
};
use crate::{
    clock::Clock,
    watch::tally::{Refused, Tally},
};

/// Refusals a second that are logged at most: whoever cannot come in shall not fill the disk either.
const REFUSALS_LOGGED_HZ: f64 = 1.0;
const REFUSALS_LOGGED_BURST: f64 = 20.0;

/// The token that a call came with, for answers that go on after it was let in: it may be revoked meanwhile, or expire.
#[derive(Debug, Clone)]
pub struct Admission {
    register: watch::Receiver<Arc<Register>>,
    secret: Secret,
    clock: Clock,
}

impl Admission {
    /// Checks that it would be let in now.
    ///
    /// # Errors
    /// It was revoked, or has expired.
    pub fn check(&self) -> Result<(), Status> {
        let admitted = self.register.borrow().admit(&self.secret, self.clock.now_ms());
        admitted.map(drop).map_err(|_| Status::unauthenticated("the token was revoked, or has expired"))
    }
}

/// What each message of a stream has to pass once the call was let in, as if it were a call of its own.
#[derive(Debug, Clone)]
pub struct Toll {
    gate: Arc<Gate>,
    peer: Peer,
    key: Key,
}

impl Toll {
    /// Takes a call out of the caller's allowance.
    ///
    /// # Errors
    /// There is none left.
    pub fn pay(&self) -> Result<(), Status> {
        self.gate.meter(&self.peer, self.key.clone(), Kind::Call, self.gate.clock.now_ms()).map(|_| ())
    }
}

/// A place among the blobs on their way, or among what has no end, for as long as one of its copies lives.
#[derive(Debug, Clone)]
pub struct HeldPlace(#[expect(dead_code, reason = "it is held, and given back when dropped")] Arc<Place>);

/// Puts the gate before a service.
#[derive(Debug, Clone)]
pub struct GateLayer(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    access: Access,
    allowances: Allowances,
    clock: Clock,
    tally: Tally,
    call_time: Duration,
    /// A std mutex: nothing waits while holding it.
    logged: std::sync::Mutex<Bucket>,
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub struct Gated<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl GateLayer {
    /// A gate for those whom `access` lets in.
    pub fn new(access: Access, limits: Limits, tally: Tally) -> Self {
        let clock = Clock::start(0);
        let logged = Bucket::full(REFUSALS_LOGGED_BURST, clock.now_ms()).into();
        let allowances = Allowances::new(limits);
        Self(Arc::new(Gate { access, allowances, clock, tally, call_time: limits.call_time, logged }))
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: Arc::clone(&self.0), inner }
    }
}

impl Gate {
    /// Lets a request pass, with who makes it among its extensions; says how long its answer may take, if that is limited.
    fn pass(self: &Arc<Self>, request: &mut Request<Body>) -> Result<Option<Duration>, Status> {
        let peer = peer(request).ok_or_else(|| Status::internal("the coordinator failed inside"))?;
        let path = request.uri().path().to_owned();
        self.tally.called(&path);
        let kind = policy::kind(&path);
        let now_ms = self.clock.now_ms();
        let caller = match self.caller(request, kind, now_ms) {
            Ok(caller) => caller,
            // Answered, but the connection stays one of a stranger.
            Err(_) if kind == Kind::Health => return Ok(Some(self.call_time)),
            Err(stranger) => {
                peer.refuse();
                self.tally.refused(Refused::Stranger);
                self.log(&peer, &stranger, now_ms);
                return Err(Status::unauthenticated(
                    "this coordinator asks for a token that is on its list and has not expired; give one with --token-file \
                     or EARSHOT_TOKEN (`coordinator token new` makes them)",
                ));
            }
        };
        peer.let_in();
        let key = Key::of(&caller, peer.address());
        let place = self.meter(&peer, key.clone(), kind, now_ms)?;
        if !policy::allows(&caller, &path) {
            self.tally.refused(Refused::NotAllowed);
            return Err(not_allowed(&caller));
        }
        request.extensions_mut().insert(caller);
        if kind == Kind::Stream {
            request.extensions_mut().insert(Toll { gate: Arc::clone(self), peer, key });
        }
        if let Some(place) = place {
            request.extensions_mut().insert(HeldPlace(Arc::new(place)));
        }
        Ok((kind != Kind::Transfer).then_some(self.call_time))
    }

    /// Takes a call of this kind out of the connection's allowance and the caller's.
    fn meter(&self, peer: &Peer, key: Key, kind: Kind, now_ms: u64) -> Result<Option<Place>, Status> {
        let place =
            if peer.take_call(now_ms) { self.allowances.take(key, kind, now_ms) } else { Err(Excess::Calls) };
        place.map_err(|excess| {
            self.tally.refused(Refused::Excess);
            Status::resource_exhausted(excess.to_string())
        })
    }

    /// Whose request it is. One without an end is given its token along.
    fn caller(&self, request: &mut Request<Body>, kind: Kind, now_ms: u64) -> Result<Caller, Stranger> {
        let Access::Tokens(register) = &self.access else { return Ok(Caller::Anyone) };
        let header = request.headers().get(AUTHORIZATION).ok_or(Stranger::Nothing)?;
        let secret =
            header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).and_then(Secret::parse);
        let secret = secret.ok_or(Stranger::Unknown)?;
        let caller = register.borrow().admit(&secret, now_ms)?;
        if matches!(kind, Kind::Watch | Kind::Stream) {
            let admission = Admission { register: register.clone(), secret, clock: self.clock };
            request.extensions_mut().insert(admission);
        }
        Ok(caller)
    }

    fn log(&self, peer: &Peer, stranger: &Stranger, now_ms: u64) {
        let mut logged = self.logged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if logged.take(REFUSALS_LOGGED_HZ, REFUSALS_LOGGED_BURST, now_ms) {
            tracing::warn!(peer = %peer.address(), "a call was refused: {stranger}");
        }
    }
}

fn not_allowed(caller: &Caller) -> Status {
    let Caller::Known { name, role } = caller else { return Status::permission_denied("not allowed") };
    Status::permission_denied(format!(
        "token {name:?} is for a {role}, who may not do this; `coordinator token new --role` makes one of the other role"
    ))
}

/// The connection that a request came over, which TLS wraps.
fn peer(request: &Request<Body>) -> Option<Peer> {
    let extensions = request.extensions();
    let plain = extensions.get::<Peer>();
    plain.or_else(|| extensions.get::<TlsConnectInfo<Peer>>().map(TlsConnectInfo::get_ref)).cloned()
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let passed = self.gate.pass(&mut request);
        let limit = match passed {
            Ok(limit) => limit,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let answer = self.inner.call(request);
        let Some(limit) = limit else { return Box::pin(answer) };
        Box::pin(async move {
            match time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(late(limit).into_http()),
            }
        })
    }
}

fn late(limit: Duration) -> Status {
    Status::deadline_exceeded(format!("the call was not over within {} s", limit.as_secs()))
}
