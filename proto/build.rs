//! Compiles the protocol and the ONNX subset with protox, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What a user's command prints is a message of the user-facing service, so that it prints the same whether it asked the
/// running coordinator or opened the database itself.
const PRINTED: [&str; 20] = [
    "Status",
    "Worker",
    "SweepList",
    "Sweep",
    "Leaderboard",
    "LeaderboardRow",
    "Assignment",
    "Trial",
    "Run",
    "Epoch",
    "Replay",
    "ReplayedRun",
    "Difference",
    "Trainer",
    "Why",
    "Judgement",
    "Curve",
    "CurvePoint",
    "Importance",
    "ImportanceRow",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=earshot");
    println!("cargo:rerun-if-changed=onnx.proto");

    let earshot = protox::compile(
        ["earshot/v1/cluster.proto", "earshot/v1/sweeps.proto", "earshot/v1/blobs.proto"],
        ["."],
    )?;
    fs::write(out.join("earshot_descriptor.bin"), earshot.encode_to_vec())?;
    let mut config = tonic_prost_build::configure().bytes(".earshot.v1.BlobChunk.data");
    for message in PRINTED {
        config = config.type_attribute(format!(".earshot.v1.{message}"), "#[derive(serde::Serialize)]");
    }
    // A grant carries its whole job, an answer without one nothing; there is one answer a lease.
    config =
        config.type_attribute(".earshot.v1.LeaseResponse.answer", "#[allow(clippy::large_enum_variant)]");
    config.compile_fds(earshot)?;

    let onnx = protox::compile(["onnx.proto"], ["."])?;
    tonic_prost_build::configure().build_client(false).build_server(false).compile_fds(onnx)?;
    Ok(())
}
