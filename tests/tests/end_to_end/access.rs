use std::{net::TcpStream, path::Path, process::Command};

use crate::{
    harness::{Coordinator, Site, binary, run, until},
    sweep::assert_each_trial_completed_once,
};

/// Long enough that the middle of the sweep is seen.
const EPOCHS: u32 = 25;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Site {
    /// Runs `coordinator token …` on this site's tokens.
    fn token(&self, verb: &[&str]) -> String {
        run(Command::new(binary("coordinator"))
            .arg("token")
            .args(verb)
            .arg("--db")
            .arg(self.path("sweep.redb")))
    }

    /// Makes a token, and the file that it is in.
    fn new_token(&self, role: &str, name: &str) -> String {
        let file = self.path(&format!("{name}.token"));
        self.token(&["new", "--role", role, "--name", name, "--out", text(&file)]);
        text(&file).to_owned()
    }

    /// Starts a coordinator on every address of this machine, as far as it may.
    fn exposed(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(binary("coordinator"))
            .args(["start", "--listen", "0.0.0.0:0", "--db"])
            .arg(self.path("sweep.redb"))
            .arg("--sweep")
            .arg(self.path("four.toml"))
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn an_address_that_others_reach_takes_tokens_and_tls() {
    let site = Site::new(3);
    let (code, message) = site.exposed(&[]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("takes tokens and TLS") && message.contains("--insecure"), "{message}");
    site.new_token("worker", "workers");
    let (code, message) = site.exposed(&[]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("takes TLS:"), "{message}");
    assert!(!site.path("sweep.redb").exists(), "nothing was begun");
    let coordinator = site.start("0.0.0.0:0", &["--insecure"]);
    assert!(site.log("coordinator.log").contains("without TLS"), "{}", site.log("coordinator.log"));
    drop(coordinator);
}

#[test]
fn a_sweep_behind_tokens_and_tls_completes_whoever_knocks() {
    let site = Site::new(EPOCHS);
    let tls = site.path("tls");
    run(Command::new(binary("coordinator")).args(["tls", "init", "--host", "127.0.0.1", "--dir"]).arg(&tls));
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| tls.join(name));
    let [first, second] = ["first", "second"].map(|name| site.new_token("worker", name));
    let user = site.new_token("user", "ann");
    let flags = ["--exit-when-done", "--tls-cert", text(&cert), "--tls-key", text(&key)];
    let started = site.start("0.0.0.0:0", &flags);
    let address = started.address.replace("0.0.0.0", "127.0.0.1");
    let coordinator = Coordinator { url: format!("https://{address}"), address, process: started.process };
    let knock: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&coordinator.address).unwrap()).collect();

    let tls_ca = ["--tls-ca", text(&ca)];
    let as_user = [&tls_ca[..], &["--token-file", &user]].concat();
    let mut stranger = site.start_worker("stranger", &coordinator, &tls_ca);
    assert_eq!(stranger.exit_code("a worker without a token to end"), Some(1));
    assert!(site.log("stranger.log").contains("refuses this worker"), "{}", site.log("stranger.log"));
    let worker = |name: &str, token: &str| {
        site.start_worker(name, &coordinator, &[&tls_ca[..], &["--token-file", token]].concat())
    };
    let mut revoked = worker("revoked", &first);
    until("the first epoch", || {
        coordinator.ask_as(&["status"], &as_user)?["epochs"].as_u64().filter(|&epochs| epochs > 0)
    });
    let as_worker = [&tls_ca[..], &["--token-file", &first]].concat();
    for (verb, flags) in [(["pause"], &as_worker), (["status"], &as_worker), (["status"], &tls_ca.to_vec())] {
        assert_eq!(coordinator.ask_as(&verb, flags), None, "{verb:?} {flags:?}");
    }

    site.token(&["revoke", "first"]);
    assert_eq!(revoked.exit_code("a worker whose token was revoked to end"), Some(1));
    let rescuer = worker("rescuer", &second);
    site.completes(coordinator, [rescuer]);
    drop(knock);
    assert_each_trial_completed_once(&site);
    let listed: serde_json::Value = serde_json::from_str(&site.token(&["list", "--format", "json"])).unwrap();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 2, "{listed:#}");
    let secret = std::fs::read_to_string(&second).unwrap();
    for file in ["coordinator.log", "rescuer.log", "sweep.tokens"] {
        assert!(!site.log(file).contains(secret.trim()), "a secret is in {file}");
    }
}
