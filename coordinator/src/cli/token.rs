//! Tokens: made, listed, revoked. Works on the file beside the database, whether a coordinator runs or not.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use earshot_common::credentials::Secret;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    ask::OutputArgs,
    document,
    render::{self, Document, Grid},
    source::DB,
};
use crate::{
    access::{
        Role,
        register::{Entry, Register, Wish, file_of},
    },
    clock::Clock,
};

/// Tokens that let workers and users in, where a coordinator asks for them
#[derive(Debug, Clone, Subcommand)]
pub(super) enum TokenCommand {
    New(NewArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make a token, and show its secret, once
///
/// A coordinator asks for tokens if there was one when it started; after that, new ones let in and revoked ones no longer
/// do within a second.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator token new --name attic --out attic.token           for workers; one for all of them will do
  coordinator token new --role user --name ann --expires 30d     for somebody who looks and steers

The holder gives it to `worker` and `coordinator` with --token-file FILE, or in EARSHOT_TOKEN.")]
pub(super) struct NewArgs {
    /// What it is for: a worker takes runs and gives results, a user looks at sweeps, steers and exports them
    #[arg(long, value_enum, default_value = "worker")]
    role: Role,

    /// What `list` and the log call it [default: its role and a number]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How long it lets in, in minutes, hours, days or weeks, for example 30d [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    expires: Option<u64>,

    /// Write the secret to this file, for its owner only, instead of showing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    database: DatabaseArgs,
}

/// Every token: its name, role and end
#[derive(Debug, Clone, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Let nobody in with this token any more
#[derive(Debug, Clone, Args)]
pub(super) struct RevokeArgs {
    /// Its name, as `list` shows it
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    database: DatabaseArgs,
}

/// Whose tokens.
#[derive(Debug, Clone, Args)]
struct DatabaseArgs {
    /// Database of the coordinator; its tokens lie beside it, in a file with the extension .tokens
    #[arg(long, value_name = "FILE", default_value = DB)]
    db: PathBuf,
}

/// A token as `list` prints it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    role: Role,
    state: &'static str,
    created_at_ms: u64,
    expires_at_ms: Option<u64>,
}

pub(super) fn run(command: TokenCommand) -> anyhow::Result<ExitCode> {
    let now_ms = Clock::start(0).now_ms();
    match command {
        TokenCommand::New(args) => new(args, now_ms),
        TokenCommand::List(args) => list(&args, now_ms),
        TokenCommand::Revoke(args) => {
            let entry = Register::revoke(&file_of(&args.database.db), &args.name)?;
            eprintln!("token {} of a {} lets nobody in any more", entry.name, entry.role);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn new(args: NewArgs, now_ms: u64) -> anyhow::Result<ExitCode> {
    let file = file_of(&args.database.db);
    let wish = Wish { role: args.role, name: args.name, lasts_ms: args.expires };
    let (entry, secret) = Register::issue(&file, &wish, now_ms)?;
    let shown = if let Some(path) = &args.out {
        keep(path, &secret).with_context(|| format!("cannot write {}", path.display()))
    } else {
        println!("{}", secret.reveal());
        Ok(())
    };
    if let Err(error) = shown {
        // Nobody knows its secret.
        Register::revoke(&file, &entry.name)?;
        return Err(error);
    }
    let end = entry
        .expires_at_ms
        .map_or_else(|| "until it is revoked".to_owned(), |ms| format!("until {}", date(ms)));
    let place = args.out.map_or_else(
        || "it is shown only this once".to_owned(),
        |path| format!("it is in {} and nowhere else", path.display()),
    );
    eprintln!("token {} lets a {} in {end}; {place}", entry.name, entry.role);
    Ok(ExitCode::SUCCESS)
}

fn keep(path: &Path, secret: &Secret) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", secret.reveal())?;
    file.sync_all()
}

fn list(args: &ListArgs, now_ms: u64) -> anyhow::Result<ExitCode> {
    let register = Register::read(&file_of(&args.database.db))?;
    render::print(&listed(register.entries(), now_ms)?, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

fn listed(entries: &[Entry], now_ms: u64) -> anyhow::Result<Document> {
    let tokens: Vec<Listed> = entries
        .iter()
        .map(|entry| Listed {
            name: &entry.name,
            role: entry.role,
            state: if entry.expires_at_ms.is_some_and(|end_ms| end_ms <= now_ms) {
                "expired"
            } else {
                "valid"
            },
            created_at_ms: entry.created_at_ms,
            expires_at_ms: entry.expires_at_ms,
        })
        .collect();
    let grid = |columns: [&str; 5], time: fn(u64) -> String| {
        let mut grid = Grid::new(columns);
        grid.rows.extend(tokens.iter().map(|token| {
            let end = token.expires_at_ms.map(time).unwrap_or_default();
            vec![
                token.name.to_owned(),
                token.role.to_string(),
                token.state.to_owned(),
                time(token.created_at_ms),
                end,
            ]
        }));
        grid
    };
    Ok(Document {
        json: document::json(&serde_json::json!({ "tokens": tokens }))?,
        facts: Vec::new(),
        grids: vec![grid(["name", "role", "state", "created", "expires"], date)],
        csv: grid(["name", "role", "state", "created_at_ms", "expires_at_ms"], |ms| ms.to_string()),
    })
}

/// As RFC 3339 writes it, to the second; the number itself if it is in no calendar.
fn date(ms: u64) -> String {
    let date =
        i64::try_from(ms / 1000).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_else(|| ms.to_string())
}

/// Milliseconds of a number with a unit.
fn milliseconds(text: &str) -> Result<u64, String> {
    let minutes = |unit: char| match unit {
        'm' => Some(1),
        'h' => Some(60),
        'd' => Some(24 * 60),
        'w' => Some(7 * 24 * 60),
        _ => None,
    };
    let parse = || {
        let unit = text.chars().last()?;
        let number: u64 = text.strip_suffix(unit)?.parse().ok().filter(|&number| number > 0)?;
        number.checked_mul(minutes(unit)? * 60_000)
    };
    parse().ok_or_else(|| "give a number above 0 and m, h, d or w, for example 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_units() {
        for (text, expected) in [
            ("1m", Some(60_000)),
            ("12h", Some(43_200_000)),
            ("30d", Some(2_592_000_000)),
            ("2w", Some(1_209_600_000)),
            ("", None),
            ("d", None),
            ("0d", None),
            ("-1d", None),
            ("30", None),
            ("1y", None),
            ("3é", None),
            ("99999999999999999w", None),
        ] {
            assert_eq!(milliseconds(text).ok(), expected, "{text:?}");
        }
        assert_eq!(date(1_700_000_000_999), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn what_has_expired_is_listed_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tokens");
        for lasts_ms in [None, Some(10)] {
            Register::issue(&path, &Wish { role: Role::User, name: None, lasts_ms }, 1_000).unwrap();
        }
        let document = listed(Register::read(&path).unwrap().entries(), 1_010).unwrap();
        let csv = ["user-1,user,valid,1000,", "user-2,user,expired,1000,1010"];
        assert_eq!(document.csv.rows.iter().map(|row| row.join(",")).collect::<Vec<_>>(), csv);
        assert_eq!(document.json["tokens"][1]["expires_at_ms"], 1010);
        assert!(!document.json.to_string().contains("hash"), "{}", document.json);
    }
}
