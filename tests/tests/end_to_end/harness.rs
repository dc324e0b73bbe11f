//! Real processes on loopback. Every process is killed when its handle is dropped.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up; only a failure waits this long.
const PATIENCE: Duration = Duration::from_mins(4);
const POLL: Duration = Duration::from_millis(50);

/// The binary of that name, beside the test's own.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.exists(), "{} is missing: run `cargo build -p coordinator -p worker` first", path.display());
    path
}

/// Where a process runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Host<'a> {
    /// On this machine.
    Here,
    /// In a network namespace of that name.
    Namespace(&'a str),
    /// On this machine, in the control group of that folder.
    Group(&'a Path),
}

impl Host<'_> {
    fn program(self, name: &str) -> Command {
        match self {
            Self::Here => Command::new(binary(name)),
            Self::Namespace(namespace) => {
                // It becomes the program, so a signal to it reaches that.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary(name));
                command
            }
            Self::Group(folder) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
                    .arg(folder)
                    .arg(binary(name));
                command
            }
        }
    }
}

/// Waits until `ready` gives something.
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        if let Some(value) = ready() {
            return value;
        }
        thread::sleep(POLL);
    }
    panic!("waited {PATIENCE:?} for {what}");
}

/// Synthetic clips, made once for all tests, and the folder they lie in.
pub(crate) fn clips() -> &'static Path {
    static CLIPS: OnceLock<TempDir> = OnceLock::new();
    let folder = CLIPS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("raw");
        run(Command::new(binary("coordinator"))
            .args(["data", "synth", "--clips-per-class", "10", "--out"])
            .arg(&root));
        run(Command::new(binary("coordinator"))
            .args(["data", "prepare", "--data"])
            .arg(&root)
            .arg("--out")
            .arg(folder.path().join("processed")));
        folder
    });
    folder.path()
}

/// Runs a command to its end, which must be good, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A folder for one test's coordinator, restarts included.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    /// How long a worker of it may be silent.
    pub(crate) lease_seconds: u32,
}

impl Site {
    /// `epochs`: how long each of the four trials trains.
    pub(crate) fn new(epochs: u32) -> Self {
        let space = "learning_rate = { choice = [1e-3, 3e-4] }\nfilters = { choice = [[8, 16], [16, 32]] }\n";
        Self::with(space, epochs)
    }

    /// `space`: what stands under `[space]`, and sections behind it.
    pub(crate) fn with(space: &str, epochs: u32) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), lease_seconds: 3 };
        let root = clips().join("raw");
        let processed = clips().join("processed");
        let text = format!(
            "name = \"four\"\n[data]\nroot = \"{}\"\nprocessed = \"{}\"\n\
             [split]\nkind = \"folds\"\nvalidation = [1]\ntest = [5]\n\
             [space]\n{space}[schedule]\nepochs = {epochs}\n",
            root.display(),
            processed.display()
        );
        fs::write(site.path("four.toml"), text).unwrap();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a coordinator on this site's database that ends with the sweep; `listen` is `127.0.0.1:0` or an address to take
    /// again.
    pub(crate) fn coordinator(&self, listen: &str) -> Coordinator {
        self.start(listen, &["--exit-when-done"])
    }

    /// Starts one that answers on when the sweep is complete.
    pub(crate) fn serving(&self, listen: &str) -> Coordinator {
        self.start(listen, &[])
    }

    /// Starts one with flags of the test's own.
    pub(crate) fn start(&self, listen: &str, more: &[&str]) -> Coordinator {
        self.start_at(Host::Here, listen, more)
    }

    /// Starts one on another host.
    pub(crate) fn start_at(&self, host: Host<'_>, listen: &str, more: &[&str]) -> Coordinator {
        let address_file = self.path("address");
        let _ = fs::remove_file(&address_file);
        let child = host
            .program("coordinator")
            .arg("start")
            .arg("--sweep")
            .arg(self.path("four.toml"))
            .args(["--listen", listen, "--lease-seconds", &self.lease_seconds.to_string()])
            .args(more)
            .arg("--address-file")
            .arg(&address_file)
            .arg("--db")
            .arg(self.path("sweep.redb"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::options().create(true).append(true).open(self.path("coordinator.log")).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let address = until("the coordinator's address", || {
            assert!(process.is_running(), "{}", self.log("coordinator.log"));
            fs::read_to_string(&address_file).ok().filter(|text| !text.is_empty())
        });
        let address = address.trim().to_owned();
        Coordinator { process, url: format!("http://{address}"), address }
    }

    pub(crate) fn worker(&self, name: &str, coordinator: &Coordinator) -> Process {
        self.start_worker(name, coordinator, &[])
    }

    /// One that hands in what its run has come to after every epoch.
    pub(crate) fn keeping_worker(&self, name: &str, coordinator: &Coordinator) -> Process {
        self.start_worker(name, coordinator, &["--keep-seconds", "0"])
    }

    /// Starts one with flags of the test's own.
    pub(crate) fn start_worker(&self, name: &str, coordinator: &Coordinator, more: &[&str]) -> Process {
        self.start_worker_at(Host::Here, name, &coordinator.url, more)
    }

    /// Starts one on another host, from where the coordinator may have another URL.
    pub(crate) fn start_worker_at(&self, host: Host<'_>, name: &str, url: &str, more: &[&str]) -> Process {
        let child = host
            .program("worker")
            .args(["--coordinator", url])
            .args(["--slots", "1", "--device", "cpu", "--exit-when-done", "--name", name, "--cache"])
            .arg(self.path(&format!("{name}.cache")))
            .args(more)
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(
                fs::File::options()
                    .create(true)
                    .append(true)
                    .open(self.path(&format!("{name}.log")))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        Process(child)
    }

    /// What a command prints as JSON, read from the database file.
    pub(crate) fn offline(&self, verb: &[&str]) -> Value {
        let db = self.path("sweep.redb");
        let text =
            run(Command::new(binary("coordinator")).args(verb).args(["--format", "json", "--db"]).arg(db));
        serde_json::from_str(&text).unwrap()
    }

    /// What the log says of every trial of one run that completed: the run's result. None completed twice.
    pub(crate) fn results(&self) -> BTreeMap<u32, Value> {
        let db = self.path("sweep.redb");
        let lines =
            run(Command::new(binary("coordinator")).args(["db", "export", "--decisions", "--db"]).arg(db));
        let mut trials = BTreeMap::new();
        let mut results = BTreeMap::new();
        for line in lines.lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            if let Some(trial) = entry["decision"]["granted"]["run"]["trial"].as_u64() {
                trials.insert(entry["position"].as_u64().unwrap(), trial as u32);
            }
            if let Some(result) = entry["event"]["finished"]["outcome"].get("completed") {
                let token = entry["event"]["finished"]["token"].as_u64().unwrap();
                let earlier = results.insert(trials[&token], result.clone());
                assert_eq!(earlier, None, "trial {} completed twice", trials[&token]);
            }
        }
        results
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits for the sweep's end and for every worker's.
    pub(crate) fn completes(&self, mut coordinator: Coordinator, workers: impl IntoIterator<Item = Process>) {
        let code = coordinator.process.exit_code("the coordinator to end");
        assert_eq!(code, Some(0), "{}", self.log("coordinator.log"));
        for mut worker in workers {
            assert_eq!(worker.exit_code("a worker to end"), Some(0));
        }
    }
}

/// The only run of a trial.
pub(crate) fn run_of(trial: &Value) -> &Value {
    let runs = trial["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1, "{trial:#}");
    &runs[0]
}

pub(crate) struct Coordinator {
    pub(crate) process: Process,
    /// Where it listens.
    pub(crate) address: String,
    /// How it is reached.
    pub(crate) url: String,
}

impl Coordinator {
    /// What a command prints as JSON, asked of this coordinator; none when it does not answer.
    pub(crate) fn ask(&self, verb: &[&str]) -> Option<Value> {
        self.ask_as(verb, &[])
    }

    /// As [`Coordinator::ask`], with more flags.
    pub(crate) fn ask_as(&self, verb: &[&str], more: &[&str]) -> Option<Value> {
        let output = Command::new(binary("coordinator"))
            .args(verb)
            .args(["--format", "json", "--coordinator", &self.url])
            .args(more)
            .output()
            .unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Starts `trial replay`, and waits until the coordinator knows of it.
    pub(crate) fn replay(&self, site: &Site, trial: u32) -> Replaying {
        let output = site.path("replay.json");
        let child = Command::new(binary("coordinator"))
            .args(["trial", "replay", &trial.to_string(), "--format", "json"])
            .args(["--coordinator", &self.url])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&output).unwrap())
            .stderr(fs::File::create(site.path("replay.log")).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        until("the replay to be asked for", || {
            assert!(process.is_running(), "{}", site.log("replay.log"));
            (self.ask(&["status"])?["replays"] == 1).then_some(())
        });
        Replaying { process, output }
    }

    /// Waits until some trials have completed, others have not, and runs are leased; returns the status.
    pub(crate) fn mid_sweep(&self) -> Value {
        until("the middle of the sweep", || {
            let status = self.ask(&["status"])?;
            let count = |name: &str| status[name].as_u64().unwrap();
            assert!(count("trials_completed") < 4, "the sweep was over before its middle was seen");
            (count("trials_completed") >= 1 && count("runs_leased") >= 1).then_some(status)
        })
    }
}

/// A `trial replay` that waits for its answer.
pub(crate) struct Replaying {
    process: Process,
    output: PathBuf,
}

impl Replaying {
    /// Its exit code and what it prints.
    pub(crate) fn answer(mut self) -> (Option<i32>, Value) {
        let code = self.process.exit_code("the replay to end");
        (code, serde_json::from_slice(&fs::read(&self.output).unwrap()).unwrap())
    }
}

pub(crate) struct Process(Child);

impl Process {
    /// To be killed with its handle.
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    pub(crate) fn exit_code(&mut self, what: &str) -> Option<i32> {
        until(what, || self.0.try_wait().unwrap()).code()
    }

    pub(crate) fn signal(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.0.id().to_string()]));
    }

    /// SIGKILL, and the process's end.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
