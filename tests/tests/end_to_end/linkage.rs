use std::process::Command;

use crate::harness::{binary, run};

fn libraries(name: &str) -> String {
    run(Command::new("ldd").arg(binary(name)).env_remove("LD_LIBRARY_PATH"))
}

#[test]
fn the_coordinator_links_no_libtorch_and_the_worker_finds_its_own() {
    let coordinator = libraries("coordinator");
    assert!(!coordinator.contains("torch") && !coordinator.contains("c10"), "{coordinator}");
    let worker = libraries("worker");
    assert!(worker.contains("libtorch_cpu.so") && !worker.contains("not found"), "{worker}");
}
