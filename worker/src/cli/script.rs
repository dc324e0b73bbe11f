//! `worker torchscript`: a bundle's float model for PyTorch.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::torchscript::{self, SCRIPT_FILE, Written};

/// Writes a bundle's float model as TorchScript
///
/// PyTorch loads the file with torch.jit.load, PyTorch Mobile with Module.load. It reads MFCCs (batch, 1, n_mfcc, frames), as
/// model.onnx does, and gives logits (batch, classes). It is held against the bundle's golden files before it gets its name.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  worker torchscript --bundle champion/
      writes champion/model.pt
  worker torchscript --bundle champion/ --out app/src/main/assets/model.pt --format json

Exit codes: 0 written, 1 an error, 2 wrong usage.")]
pub(super) struct ScriptArgs {
    /// The exported folder
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,

    /// The file to write [default: model.pt in the bundle]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// How it is printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

impl ScriptArgs {
    /// Writes the file and prints what was written.
    ///
    /// # Errors
    /// See [`torchscript::write`].
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let out = self.out.clone().unwrap_or_else(|| self.bundle.join(SCRIPT_FILE));
        let written = torchscript::write(&self.bundle, &out)?;
        println!("{}", self.format.render(&written)?);
        Ok(())
    }
}

impl Format {
    fn render(self, written: &Written) -> serde_json::Result<String> {
        let Written { file, bytes, clips, difference } = written;
        let file = file.display();
        Ok(match self {
            Self::Json => serde_json::to_string_pretty(written)?,
            Self::Csv => {
                let file = file.to_string().replace('"', "\"\"");
                format!("file,bytes,clips,difference\n\"{file}\",{bytes},{clips},{difference:e}")
            }
            Self::Table => {
                format!(
                    "file        {file}\nbytes       {bytes}\nclips       {clips}\ndifference  {difference:.1e}"
                )
            }
        })
    }
}
