//! Certificates for a cluster that has no authority of its own.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use crate::{
    access::certificates::{self, Files, Subject},
    clock::Clock,
};

/// Certificates for TLS, signed by an authority of one's own
#[derive(Debug, Clone, Subcommand)]
pub(super) enum TlsCommand {
    Init(InitArgs),
    Server(ServerArgs),
    Client(ClientArgs),
}

/// Make an authority, and with it a certificate for the coordinator
///
/// Workers and users need `ca.pem`, the coordinator `server.pem` and `server.key`. Keep `ca.key` to yourself: whoever has
/// it can pass for the coordinator. Certificates last two years, the authority ten.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator tls init --dir tls --host lab.example 10.0.0.1
  coordinator start --sweep sweeps/grid.toml --listen 0.0.0.0:7070 \\
      --tls-cert tls/server.pem --tls-key tls/server.key
  worker --coordinator https://lab.example:7070 --tls-ca tls/ca.pem --token-file worker.token")]
pub(super) struct InitArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Make another certificate for the coordinator, with the authority that is there
#[derive(Debug, Clone, Args)]
pub(super) struct ServerArgs {
    /// Folder of the authority and of what it signs
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Host names and IP addresses by which workers and users reach the coordinator
    #[arg(long, value_name = "NAME", required = true, num_args = 1..)]
    host: Vec<String>,
}

/// Make a certificate for a worker or a user of a coordinator that asks for one (`start --tls-client-ca`)
#[derive(Debug, Clone, Args)]
pub(super) struct ClientArgs {
    /// Folder of the authority and of what it signs
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Whose it is; its files are named after it
    #[arg(long, value_name = "NAME")]
    name: String,
}

pub(super) fn run(command: TlsCommand) -> anyhow::Result<ExitCode> {
    let now_ms = Clock::start(0).now_ms();
    match command {
        TlsCommand::Init(InitArgs { server: ServerArgs { dir, host } }) => {
            let [authority, server] = certificates::found(&dir, &Subject::Server(host), now_ms)?;
            tell("the authority", &authority);
            tell("the coordinator's certificate", &server);
        }
        TlsCommand::Server(ServerArgs { dir, host }) => {
            tell("the coordinator's certificate", &certificates::sign(&dir, &Subject::Server(host), now_ms)?);
        }
        TlsCommand::Client(ClientArgs { dir, name }) => {
            tell("the client's certificate", &certificates::sign(&dir, &Subject::Client(name), now_ms)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(what: &str, Files { cert, key }: &Files) {
    eprintln!("{what}: {}, its key: {}", cert.display(), key.display());
}
