//! The status again and again, until the sweep has ended.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use earshot_proto::earshot::v1::Status;
use tokio::{runtime::Builder, time};
use tonic::Code;

use super::{
    document,
    render::{self, Document, Format},
    source::{OfArgs, Source, SourceArgs},
};
use crate::client::{Client, ClientError};

/// How long a coordinator that is being started again may be away.
const AWAY_TRIES: u32 = 120;
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// Moves to the terminal's upper left corner and clears it, as `watch` and `top` do (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows a sweep's status until it has ended.
pub(super) fn run(source: &SourceArgs, of: &OfArgs, format: Format) -> anyhow::Result<ExitCode> {
    let canvas = Canvas::new(format, io::stdout().is_terminal());
    Builder::new_current_thread().enable_all().build()?.block_on(watch(source, of, canvas))?;
    Ok(ExitCode::SUCCESS)
}

async fn watch(source: &SourceArgs, of: &OfArgs, mut canvas: Canvas) -> anyhow::Result<()> {
    let running = Source::open(source).await?.running();
    let mut client = running.context("there is nothing to watch without a running coordinator")?;
    let mut tries = 0;
    loop {
        let broken = match watch_once(&mut client, of, &mut canvas, &mut tries).await {
            Ok(End::Ended | End::NobodyListens) => return Ok(()),
            Ok(End::Broken) => None,
            Err(error) if is_passing(&error) => Some(error),
            Err(error) => return Err(error.into()),
        };
        tries += 1;
        if tries >= AWAY_TRIES {
            let error = broken.map_or_else(|| anyhow::anyhow!("the coordinator stopped"), Into::into);
            return Err(error.context("the sweep is kept, and goes on when its coordinator runs"));
        }
        time::sleep(AWAY_PAUSE).await;
    }
}

/// How one connection's watching ended.
enum End {
    /// With the sweep.
    Ended,
    /// Before it.
    Broken,
    /// Whoever read what is printed has seen enough.
    NobodyListens,
}

async fn watch_once(
    client: &mut Client,
    of: &OfArgs,
    canvas: &mut Canvas,
    tries: &mut u32,
) -> Result<End, ClientError> {
    let mut statuses = client.watch(of.sweep()).await?;
    while let Some(status) = client.next(&mut statuses).await? {
        *tries = 0;
        if !canvas.show(&status) {
            return Ok(End::NobodyListens);
        }
        if matches!(status.state.as_str(), "completed" | "cancelled") {
            return Ok(End::Ended);
        }
    }
    Ok(End::Broken)
}

/// Whether the coordinator may be on its way back.
fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status, .. }
        if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled))
}

/// Where statuses are shown: drawn over each other on a terminal, one after the other elsewhere.
struct Canvas {
    format: Format,
    is_terminal: bool,
    shown: Option<String>,
}

impl Canvas {
    fn new(format: Format, is_terminal: bool) -> Self {
        Self { format, is_terminal, shown: None }
    }

    /// Shows a status unless it looks as the last one did; says whether anybody listens.
    fn show(&mut self, status: &Status) -> bool {
        // What an answer is made of always has a form in every format.
        let Ok(text) = document::status(status).and_then(|document| self.text(&document)) else {
            return true;
        };
        if self.shown.as_ref() == Some(&text) {
            return true;
        }
        let drawn = if self.is_terminal && self.format == Format::Table {
            format!("{CLEAR}{text}")
        } else {
            text.clone()
        };
        self.shown = Some(text);
        let mut out = io::stdout().lock();
        out.write_all(drawn.as_bytes()).and_then(|()| out.flush()).is_ok()
    }

    /// One line for each status where machines read; the first of CSV is the header.
    fn text(&self, document: &Document) -> anyhow::Result<String> {
        let text = match self.format {
            Format::Json => return Ok(format!("{}\n", serde_json::to_string(&document.json)?)),
            Format::Table | Format::Csv => render::render(document, self.format)?,
        };
        let is_first = self.shown.is_none();
        Ok(match self.format {
            Format::Csv if !is_first => text.split_inclusive('\n').skip(1).collect(),
            Format::Table if !is_first && !self.is_terminal => format!("\n{text}"),
            _ => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(format: Format, is_terminal: bool) -> [String; 2] {
        let mut canvas = Canvas::new(format, is_terminal);
        [1, 2].map(|epochs| {
            let status = Status { sweep: "t".into(), state: "running".into(), epochs, ..Status::default() };
            let text = canvas.text(&document::status(&status).unwrap()).unwrap();
            canvas.shown = Some(text.clone());
            text
        })
    }

    #[test]
    fn machines_get_a_line_a_change() {
        for text in texts(Format::Json, false) {
            assert_eq!(text.lines().count(), 1, "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
        let [first, second] = texts(Format::Csv, false);
        assert!(first.starts_with("sweep,state,") && first.lines().count() == 2, "{first}");
        assert!(second.starts_with("t,running,") && second.lines().count() == 1, "{second}");
        let [first, second] = texts(Format::Table, true);
        assert_eq!(first.lines().count(), second.lines().count());
    }
}
