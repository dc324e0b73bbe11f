use super::*;

fn check(args: &[&str], expected: Result<(), &str>) {
    let parsed = Args::try_parse_from([&["coordinator"], args].concat());
    match (parsed, expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (parsed, expected) => panic!("{args:?}: {parsed:?}, expected {expected:?}"),
    }
}

#[test]
fn commands_are_taken_and_slips_are_named() {
    check(&["start", "--sweep", "s.toml"], Ok(()));
    check(
        &[
            "start",
            "--sweep",
            "s.toml",
            "--set",
            "schedule.epochs=2",
            "--set",
            "data.root=x",
            "--exit-when-done",
        ],
        Ok(()),
    );
    check(&["start"], Err("--sweep <FILE>"));
    check(&["start", "--sweep", "s.toml", "--lease-seconds", "0"], Err("not in 1..=3600"));
    check(&["status", "--coordinator", "http://h:1", "--format", "json"], Ok(()));
    check(&["status", "--coordinator", "h:1"], Err("give it as http://HOST:PORT"));
    check(&["status", "--coordinator", "https://h:1", "--tls-ca", "ca.pem", "--token-file", "t"], Ok(()));
    check(&["status", "--tls-cert", "a.pem"], Err("--tls-key <FILE>"));
    check(&["start", "--sweep", "s.toml", "--tls-cert", "a.pem"], Err("--tls-key <FILE>"));
    check(&["start", "--sweep", "s.toml", "--tls-client-ca", "a.pem"], Err("--tls-cert <FILE>"));
    check(&["token", "new", "--role", "user", "--name", "ann", "--expires", "30d"], Ok(()));
    check(&["token", "new", "--role", "boss"], Err("possible values: worker, user"));
    check(&["token", "new", "--expires", "soon"], Err("for example 30d"));
    check(&["token", "revoke"], Err("<NAME>"));
    check(&["tls", "init", "--dir", "tls"], Err("--host <NAME>"));
    check(&["tls", "init", "--dir", "tls", "--host", "a", "10.0.0.1", "--host", "b"], Ok(()));
    check(&["tls", "client", "--dir", "tls", "--name", "attic"], Ok(()));
    check(&["status", "--format", "xml"], Err("possible values: table, json, csv"));
    check(&["leaderboard", "--top", "0", "--db", "x.redb"], Ok(()));
    check(&["trial", "show", "7"], Ok(()));
    check(&["trial", "replay", "7", "--format", "csv"], Ok(()));
    check(&["trial", "replay"], Err("<N>"));
    check(&["trial", "show", "best"], Err("invalid value 'best'"));
    check(&["export"], Err("--out <DIR>"));
    check(&["export", "--out", "champion", "--db", "x.redb"], Ok(()));
    check(&["predict", "--bundle", "champion", "a.wav", "b.ogg", "--top", "1", "--model", "float"], Ok(()));
    check(&["predict", "--bundle", "champion", "--check", "--format", "json"], Ok(()));
    check(&["predict", "--bundle", "champion"], Err("<CLIP>"));
    check(&["rebuild", "--bundle", "champion", "--data", "x", "--device", "cpu", "--format", "json"], Ok(()));
    check(&["rebuild", "--bundle", "champion", "--device", "tpu"], Err("possible values: cpu, cuda"));
    check(&["verify", "--bundle", "champion", "--format", "csv"], Ok(()));
    check(&["predict", "--bundle", "champion", "a.wav", "--top", "0"], Err("not in 1.."));
    check(
        &["predict", "--bundle", "champion", "a.wav", "--model", "int4"],
        Err("possible values: float, int8, tensorrt"),
    );
    check(&["sweep", "check", "s.toml", "--set", "seed=1"], Ok(()));
    check(&["list", "--format", "csv"], Ok(()));
    check(&["pause"], Ok(()));
    check(&["submit"], Err("<FILE>"));
    check(&["submit", "s.toml", "--set", "weight=3", "--coordinator", "http://h:1"], Ok(()));
    check(&["leaderboard", "--sweep", "grid"], Ok(()));
    check(&["trial", "replay", "7", "--sweep", "grid"], Ok(()));
    check(&["replay"], Ok(()));
    check(&["replay", "x.redb", "--without-search", "--format", "csv"], Ok(()));
    check(&["resume", "grid", "--coordinator", "http://h:1"], Ok(()));
    check(&["cancel"], Err("<NAME>"));
    check(&["db", "check", "--db", "x.redb", "--processed", "features"], Ok(()));
    check(&["db", "export", "--decisions"], Ok(()));
    check(&["db", "gc"], Ok(()));
    check(&["data", "synth", "--clips-per-class", "0"], Err("not in 1..=10000"));
    check(&["data", "prepare", "--data", "a", "--out", "b", "--sweep", "s.toml"], Ok(()));
    check(&["data", "prepare", "--on-bad", "fatal"], Ok(()));
    check(&["data", "inspect", "--data", "a", "--html", "b.html", "--format", "csv"], Ok(()));
    check(&["start", "--sweep", "s.toml", "--on-bad", "ignore"], Err("possible values: skip, fatal"));
    check(&["leaderbord"], Err("similar subcommand exists: 'leaderboard'"));
}

#[test]
fn errors_print_their_causes_once_and_choose_the_exit_code() {
    let sweep =
        earshot_common::sweep::Sweep::parse("name = 1", std::path::Path::new("s.toml"), &[]).unwrap_err();
    let error = anyhow::Error::from(sweep).context("outer");
    assert!(chain(&error).starts_with("outer: caused by s.toml:1: "), "{}", chain(&error));
    assert_eq!(format!("{:?}", exit_code(&error)), format!("{:?}", ExitCode::from(USAGE)));
    let other = anyhow::anyhow!("no");
    assert_eq!(format!("{:?}", exit_code(&other)), format!("{:?}", ExitCode::FAILURE));
}

/// Every file that users are pointed to.
#[test]
fn the_sweeps_that_ship_are_sound() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sweeps");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let sweep = earshot_common::sweep::Sweep::load(&path, &[]).unwrap();
        assert_eq!(Some(sweep.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        names.push((sweep.name.clone(), sweep.trials()));
    }
    names.sort();
    let expected = [
        ("asha", 60),
        ("bayes", 60),
        ("demo", 8),
        ("esc10", 10),
        ("grid", 24),
        ("pareto", 60),
        ("prune", 4),
        ("quantise", 4),
        ("race", 40),
        ("random", 40),
        ("rungs", 60),
        ("sobol", 32),
        ("tpe", 100),
        ("views", 16),
    ];
    assert_eq!(names, expected.map(|(name, trials)| (name.to_owned(), trials)));
}
