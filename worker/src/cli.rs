//! The command line: flags to validated values, values to a running agent, its end to an exit code.

use std::{
    env,
    io::IsTerminal,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use earshot_common::{
    blob::BlobStore,
    credentials::{CredentialArgs, coordinator_url},
};
use earshot_proto::earshot::v1::{JoinRequest, PROTOCOL_VERSION};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use self::script::ScriptArgs;
use crate::{
    agent::{AILING_PACE, Agent, WhenDone, backoff::Pace, link::Link},
    blobs::Blobs,
    cpu::{Bf16, Precision},
    device::{CudaLibrary, DeviceChoice, Devices, load_cuda},
    features::FeatureCache,
    memory,
    progress::Board,
    room::{MIB, Room},
    slot::{MIDWAY_EVERY, Slot},
};

mod script;

/// Slots a worker has at most: far above any machine's cores, so that a slip of the finger does not start a million threads.
const SLOTS_MAX: usize = 512;

/// Runs a worker trains at once at most: the coordinator's limit.
const RUNS_MAX: usize = 1024;

/// Runs of one computation at most: beyond, a GPU gains nothing.
const FUSE_MAX: usize = 64;

/// The environment's say in what is logged; the first that is set counts.
const LOG_VARIABLES: [&str; 2] = ["EARSHOT_LOG", "RUST_LOG"];

/// What is logged unless the environment says otherwise.
const LOG_DEFAULT: &str = "info";

/// Exit code of a second Ctrl-C, by the shell's convention 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Threads of tokio: they only move messages and files, the cores belong to training.
const IO_THREADS: usize = 2;

/// Trains runs for a coordinator.
///
/// A worker takes runs from a coordinator into its slots, trains each on one core, or several at a time on a GPU, and reports every epoch. Start
/// as many workers as you have machines, in any order, before or after the coordinator: a worker waits for its coordinator,
/// and goes on training while it is away.
///
/// Ctrl-C drains: running attempts end at their next batch and are given back at once. A second Ctrl-C exits without that.
#[derive(Debug, Clone, Parser)]
#[command(
    subcommand_negates_reqs = true,
    name = "worker",
    version,
    after_help = "Examples:
  worker --coordinator http://localhost:7070
      as many slots as there are cores, or GPUs
  worker --coordinator http://localhost:7070 --device cuda --fuse 8
      up to eight runs of one shape at a time, as one computation
  worker --coordinator http://localhost:7070 --slots 2 --device cpu --name attic
      two slots, so that two cores stay free
  worker --coordinator https://lab.example:7070 --tls-ca ca.pem --token-file worker.token
      of another machine's coordinator
  worker --coordinator http://localhost:7070 --exit-when-done
      leaves once every run of the sweep has ended
  worker torchscript --bundle champion/
      not for a coordinator: writes an exported model for PyTorch

Exit codes: 0 drained or finished, 1 an error, 2 wrong usage, 130 a second Ctrl-C. EARSHOT_LOG=debug says more."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,

    #[command(flatten)]
    args: Args,
}

/// What it does instead.
#[derive(Debug, Clone, Subcommand)]
enum Verb {
    Torchscript(ScriptArgs),
}

/// How it trains for a coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the coordinator listens
    #[arg(long, value_name = "URL", env = "EARSHOT_COORDINATOR", value_parser = coordinator_url, required = true)]
    pub coordinator: Option<String>,

    /// How it shows who it is
    #[command(flatten)]
    pub credentials: CredentialArgs,

    /// Slots, each of which trains a run, or several fused ones, at a time [default: one per core; one to four per GPU, by its
    /// memory]
    #[arg(long, value_name = "N", value_parser = slots)]
    pub slots: Option<NonZeroUsize>,

    /// What to train on; auto takes the GPUs if there are any that libtorch can use
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,

    /// Runs of one shape that a slot trains as one computation at most: a number, auto or off. auto is up to 16 on a GPU, by its
    /// memory, and off on a CPU, where each run alone is several times as fast: there, fused runs are trained by libtorch
    #[arg(long, value_name = "N", default_value = "auto", value_parser = fuse)]
    pub fuse: Fuse,

    /// Multiply in 16 bits (bfloat16) in training on CPUs that have an instruction for it (AVX512-BF16), which is faster.
    /// The validation part is scored in 32 bits all the same
    #[arg(long)]
    pub bf16: bool,

    /// Memory that runs on the CPU may take together, with the features that they share, in MiB. A run that needs more than is
    /// left fails as "out of memory", and the worker goes on [default: what the machine has left, less a margin]
    #[arg(long, value_name = "N")]
    pub memory_mib: Option<NonZeroU64>,

    /// What the coordinator's status calls this worker [default: host name and process number]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,

    /// Folder for features fetched from the coordinator; safe to share between workers, and to delete when none runs
    /// [default: earshot/blobs in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,

    /// Exit once every run of every sweep has ended, instead of waiting for more
    #[arg(long)]
    pub exit_when_done: bool,

    /// Keep what a run has come to with the coordinator this often, at the ends of epochs: if this worker dies, another goes
    /// on from there
    #[arg(long, value_name = "N", default_value_t = MIDWAY_EVERY.as_secs())]
    pub keep_seconds: u64,

    /// How log lines look; json is one object a line, for machines, and shows no progress bars
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// What `--fuse` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    /// As many as suit the device.
    Auto,
    /// At most so many.
    Runs(usize),
}

/// What `--log-format` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Runs the worker and says how it ended.
pub fn main(cli: Cli) -> ExitCode {
    // Before any other thread starts.
    memory::keep_freed();
    tch::set_num_interop_threads(1);
    tch::set_num_threads(1);
    let ended = match cli.verb {
        Some(Verb::Torchscript(args)) => args.run(),
        None => run(cli.args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through tracing: it must be seen whatever EARSHOT_LOG says.
            eprintln!("worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let coordinator = args.coordinator.context("--coordinator is missing")?;
    let cuda = load_cuda();
    let devices = Devices::choose(args.device)?;
    let slots = args.slots.map_or_else(|| devices.slots_default(), NonZeroUsize::get);
    let fuse = match args.fuse {
        Fuse::Auto => devices.fuse_default(slots).min(RUNS_MAX / slots).max(1),
        Fuse::Runs(runs) => runs,
    };
    anyhow::ensure!(
        slots * fuse <= RUNS_MAX,
        "--slots times --fuse is {}, more than {RUNS_MAX}",
        slots * fuse
    );
    let precision = precision(args.bf16, devices, fuse)?;
    let board = match args.log_format {
        LogFormat::Text if std::io::stderr().is_terminal() => Board::bars(slots * fuse),
        LogFormat::Text | LogFormat::Json => Board::default(),
    };
    start_log(args.log_format, &board);
    match cuda {
        CudaLibrary::Absent => {}
        CudaLibrary::Loaded(path) => tracing::debug!("loaded {}", path.display()),
        CudaLibrary::Refused(path, error) => tracing::warn!("cannot load {}: {error}", path.display()),
    }

    let room = Room::new(args.memory_mib.map(|mib| mib.get().saturating_mul(MIB)));
    let cache = args.cache.map_or_else(default_cache, Ok)?;
    let store = BlobStore::open(&cache)
        .context("the blob cache cannot be used; choose another folder with --cache")?;
    let runtime = Builder::new_multi_thread().worker_threads(IO_THREADS).enable_all().build()?;
    let _inside = runtime.enter(); // the connection belongs to the runtime
    let pace = Pace::default();
    let link = Link::new(&coordinator, &args.credentials.credentials()?, pace)?;
    let agent = Agent {
        blobs: Blobs::new(store, link.line.clone(), pace),
        link,
        introduction: JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            name: args.name.unwrap_or_else(default_name),
            slots: u32::try_from(slots * fuse)?,
            device: devices.name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        slots: start_slots(slots, devices, precision, room)?,
        board,
        midway_every: Duration::from_secs(args.keep_seconds),
        fuse,
        when_done: if args.exit_when_done { WhenDone::Exit } else { WhenDone::Wait },
        ailing_pace: AILING_PACE,
    };
    tracing::info!(slots, fuse, device = devices.name(), cache = %cache.display(), "joining {coordinator}");
    until_done(&runtime, agent)
}

/// What `--bf16` asks for, if it can be had.
fn precision(wants_bf16: bool, devices: Devices, fuse: usize) -> anyhow::Result<Precision> {
    if !wants_bf16 {
        return Ok(Precision::F32);
    }
    anyhow::ensure!(
        matches!(devices, Devices::Cpu { .. }) && fuse == 1,
        "--bf16 is of runs that a CPU trains one by one; leave it out, or take --device cpu without --fuse"
    );
    let bf16 =
        Bf16::detect().context("--bf16: this processor has no AVX512-BF16 instructions; leave it out")?;
    Ok(Precision::Bf16(bf16))
}

fn start_slots(
    slots: usize,
    devices: Devices,
    precision: Precision,
    room: Room,
) -> anyhow::Result<Vec<Slot>> {
    let features = FeatureCache::new(room);
    let mut cores = cores_to_bind(slots, devices).into_iter();
    (0..slots)
        .map(|slot| Slot::start(slot, devices.of_slot(slot, precision), cores.next(), features.clone()))
        .collect::<Result<_, _>>()
        .context("the system gives no more threads; use fewer --slots")
}

/// Slots are bound to cores only when they are as many as the cores: then no slot ever moves away from its cache. With fewer,
/// two workers on one machine would both choose the first cores.
fn cores_to_bind(slots: usize, devices: Devices) -> Vec<core_affinity::CoreId> {
    match devices {
        Devices::Cpu { cores } if cores == slots => {
            core_affinity::get_core_ids().filter(|ids| ids.len() == slots).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Runs the agent; Ctrl-C and SIGTERM drain it, the second of them exits.
fn until_done(runtime: &Runtime, agent: Agent) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = shutdown.clone();
    runtime.block_on(async move {
        let mut listener = JoinSet::new();
        listener.spawn(async move {
            heard(&mut interrupt, &mut terminate).await;
            tracing::info!("draining; once more to exit at once");
            token.cancel();
            heard(&mut interrupt, &mut terminate).await;
            std::process::exit(INTERRUPTED);
        });
        agent.run(shutdown).await
    })?;
    Ok(())
}

async fn heard(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// What the environment wants logged. A filter that cannot be read is said to be so, and does not count.
fn filter() -> EnvFilter {
    let wanted = LOG_VARIABLES.into_iter().find_map(|name| env::var(name).ok().map(|text| (name, text)));
    let Some((name, text)) = wanted else { return EnvFilter::new(LOG_DEFAULT) };
    EnvFilter::try_new(text).unwrap_or_else(|error| {
        eprintln!(
            "{name} is no filter of log lines: {error}; one is, for example, debug, or warn,worker=debug"
        );
        EnvFilter::new(LOG_DEFAULT)
    })
}

fn start_log(format: LogFormat, board: &Board) {
    let filter = filter();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(board.writer());
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn slots(text: &str) -> Result<NonZeroUsize, String> {
    let slots: Option<NonZeroUsize> = text.parse().ok();
    slots
        .filter(|slots| slots.get() <= SLOTS_MAX)
        .ok_or_else(|| format!("give a number from 1 to {SLOTS_MAX}"))
}

fn fuse(text: &str) -> Result<Fuse, String> {
    match text {
        "auto" => Ok(Fuse::Auto),
        "off" => Ok(Fuse::Runs(1)),
        number => {
            let runs = number.parse().ok().filter(|runs| (1..=FUSE_MAX).contains(runs));
            runs.map(Fuse::Runs).ok_or_else(|| format!("give a number from 1 to {FUSE_MAX}, auto or off"))
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = 100;
    if text.trim().is_empty() || text.chars().count() > LENGTH_MAX || text.chars().any(char::is_control) {
        return Err(format!("give 1 to {LENGTH_MAX} printable characters"));
    }
    Ok(text.to_owned())
}

fn default_name() -> String {
    format!("{}-{}", gethostname::gethostname().to_string_lossy(), std::process::id())
}

fn default_cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let folder = folder.context("neither XDG_CACHE_HOME nor HOME names a folder; choose one with --cache")?;
    Ok(folder.join(Path::new("earshot/blobs")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], expected: Result<(), &str>) {
        let parsed = Cli::try_parse_from([&["worker"], args].concat());
        match (parsed, expected) {
            (Ok(cli), Ok(())) => assert!(cli.verb.is_some() != cli.args.coordinator.is_some(), "{cli:?}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (parsed, expected) => panic!("{args:?}: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn wrong_flags_are_refused_with_what_would_be_right() {
        let url = ["--coordinator", "http://127.0.0.1:7070"];
        let with = |more: &[&'static str]| [&url[..], more].concat();
        check(&url, Ok(()));
        check(&with(&["--slots", "4", "--device", "cpu", "--name", "attic"]), Ok(()));
        check(&with(&["--slots", "0"]), Err("from 1 to 512"));
        check(&with(&["--slots", "many"]), Err("from 1 to 512"));
        check(&with(&["--fuse", "8"]), Ok(()));
        check(&with(&["--fuse", "off"]), Ok(()));
        check(&with(&["--fuse", "65"]), Err("from 1 to 64, auto or off"));
        check(&with(&["--bf16", "--device", "cpu"]), Ok(()));
        check(&with(&["--device", "tpu"]), Err("possible values: auto, cpu, cuda"));
        check(&with(&["--name", " "]), Err("printable"));
        check(&["--coordinator", "127.0.0.1:7070"], Err("http://HOST:PORT"));
        check(&["--coordinator", "https://host:7070", "--tls-ca", "ca.pem", "--token-file", "t"], Ok(()));
        check(&with(&["--tls-cert", "a.pem"]), Err("--tls-key <FILE>"));
        check(&with(&["--token", "earshot_00"]), Err("--token"));
        check(&["--coordinator", "http://"], Err("http://HOST:PORT"));
        check(&["--slots", "2"], Err("--coordinator <URL>"));
        check(&["torchscript", "--bundle", "champion"], Ok(()));
        check(&["torchscript"], Err("--bundle <DIR>"));
        check(&["torchscripts"], Err("unrecognized subcommand"));
    }
    #[test]
    fn sixteen_bits_are_for_processors_that_have_them() {
        let cpu = Devices::Cpu { cores: 2 };
        assert!(matches!(precision(false, cpu, 1).unwrap(), Precision::F32));
        match (precision(true, cpu, 1), Bf16::detect()) {
            (Ok(Precision::Bf16(_)), Some(_)) => {}
            (Err(error), None) => assert!(error.to_string().contains("no AVX512-BF16")),
            (precision, bf16) => panic!("{precision:?} where {bf16:?}"),
        }
        for (devices, fuse) in [(cpu, 2), (Devices::Cuda { gpus: 1, memory_mib: None }, 1)] {
            let refused = precision(true, devices, fuse).unwrap_err().to_string();
            assert!(refused.contains("--device cpu"), "{refused}");
        }
    }
}
