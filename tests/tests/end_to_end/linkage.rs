use std::process::Command;

use crate::harness::{binary, run};

/// What the loader finds for this binary, without the addresses, in whose digits `c10` may stand.
fn libraries(name: &str) -> String {
    let found = run(Command::new("ldd").arg(binary(name)).env_remove("LD_LIBRARY_PATH"));
    found.lines().map(|line| line.split(" (0x").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_coordinator_links_no_libtorch_and_the_worker_finds_its_own() {
    let coordinator = libraries("coordinator");
    assert!(!coordinator.contains("torch") && !coordinator.contains("c10"), "{coordinator}");
    let worker = libraries("worker");
    assert!(worker.contains("libtorch_cpu.so") && !worker.contains("not found"), "{worker}");
}
