//! Where a coordinator listens, with which certificate, and who may come in.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::{
    net::{TcpListener, lookup_host},
    task::JoinSet,
};
use tonic::transport::{Server, ServerTlsConfig};

use super::source::ADDRESS;
use crate::{
    access::{
        Access, Entrance, Limits, certificates,
        exposure::{self, Precautions},
        files, keeper,
        register::{self, Register},
    },
    watch::tally::Tally,
};

/// Flags of the address and of what guards it.
#[derive(Debug, Clone, Args)]
pub(super) struct EntranceArgs {
    /// Where to listen; port 0 takes a free one. Other addresses than this machine's own take tokens and TLS
    #[arg(long, value_name = "HOST:PORT", default_value = ADDRESS)]
    listen: String,

    /// Certificate to listen with, PEM, those in between behind it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Answer only clients whose certificates this authority signed, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// Tell numbers to Prometheus at http://HOST:PORT/metrics, without TLS and tokens; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,

    /// Listen where others can reach it without tokens, or without TLS: whoever reaches it can then read and change the
    /// sweep, or listen on the way
    #[arg(long)]
    insecure: bool,
}

/// An entrance that may be opened.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    args: &'a EntranceArgs,
    tls: Option<ServerTlsConfig>,
    /// The list of tokens, if they are asked for.
    tokens: Option<PathBuf>,
}

impl EntranceArgs {
    /// Reads what guards the entrance, and checks that it will do for the address, before anything else is done.
    ///
    /// Tokens are asked for if some were made for this database: they are worth nothing if they are not asked for.
    pub(super) async fn plan(&self, db: &Path) -> anyhow::Result<Plan<'_>> {
        let file = register::file_of(db);
        let has_tokens = !Register::read(&file)?.entries().is_empty();
        let plan = Plan { args: self, tls: self.tls()?, tokens: has_tokens.then_some(file) };
        if let Err(error) = files::allow_many() {
            tracing::warn!("cannot raise the limit of open files, so fewer workers can connect: {error}");
        }
        for address in addresses(&self.listen).await? {
            exposure::check(address, plan.precautions())?;
        }
        if let Some(metrics) = &self.metrics {
            for address in addresses(metrics).await? {
                self.check_metrics(address)?;
            }
        }
        Ok(plan)
    }

    /// Numbers are no secrets, but nobody is told without its user's will.
    fn check_metrics(&self, address: SocketAddr) -> anyhow::Result<()> {
        ensure!(
            self.insecure || address.ip().to_canonical().is_loopback(),
            "metrics at {address} could be read by whoever reaches it: let them be scraped from this machine, or add --insecure"
        );
        Ok(())
    }

    fn tls(&self) -> anyhow::Result<Option<ServerTlsConfig>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let client_ca = self.tls_client_ca.as_ref().map(read).transpose()?;
        let tls = certificates::server_tls(&read(cert)?, &read(key)?, client_ca.as_deref());
        let usable = Server::builder().tls_config(tls.clone());
        usable
            .context("the certificate and its key cannot be used; are they PEM files, and of each other?")?;
        Ok(Some(tls))
    }
}

impl Plan<'_> {
    /// Listens. `watchers` keeps the list of tokens up to date.
    pub(super) async fn open(self, watchers: &mut JoinSet<()>, tally: Tally) -> anyhow::Result<Entrance> {
        let listen = &self.args.listen;
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen at {listen}; another coordinator may, choose an address with --listen HOST:PORT")
        })?;
        // A name may mean another address by now.
        let address = listener.local_addr()?;
        exposure::check(address, self.precautions())?;
        self.warn(address);
        let access = match self.tokens {
            Some(file) => Access::Tokens(keeper::keep(file, watchers)?),
            None => Access::Open,
        };
        Ok(Entrance { listener, tls: self.tls, access, limits: Limits::default(), tally })
    }

    /// Listens for those who ask for numbers, if anybody may.
    pub(super) async fn metrics(&self) -> anyhow::Result<Option<TcpListener>> {
        let Some(listen) = &self.args.metrics else { return Ok(None) };
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("cannot listen at {listen} for metrics"))?;
        self.args.check_metrics(listener.local_addr()?)?;
        Ok(Some(listener))
    }

    fn precautions(&self) -> Precautions {
        Precautions {
            has_tls: self.tls.is_some(),
            has_tokens: self.tokens.is_some(),
            is_insecure: self.args.insecure,
        }
    }

    fn warn(&self, address: SocketAddr) {
        let secure = Precautions { is_insecure: false, ..self.precautions() };
        if let Err(exposed) = exposure::check(address, secure) {
            tracing::warn!(
                "{address} can be reached from other machines, without {}: listen there only where you trust everybody who \
                 reaches it",
                exposed.missing
            );
        }
    }
}

async fn addresses(listen: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let found =
        lookup_host(listen).await.with_context(|| format!("{listen} is no HOST:PORT to listen at"))?;
    Ok(found.collect())
}
