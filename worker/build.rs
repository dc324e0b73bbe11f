//! Writes into the worker, its tests and its benchmarks where libtorch lies, so that they start without `LD_LIBRARY_PATH`.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // First beside the binary and in its package's `lib/`, for those who ship a folder; then where it was built against.
    for folder in ["$ORIGIN", "$ORIGIN/../lib"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    if let Some(folder) = libtorch_folder() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}

/// What torch-sys linked against, by its own word or by the variable that it reads.
fn libtorch_folder() -> Option<PathBuf> {
    env::var_os("DEP_TCH_LIBTORCH_LIB")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("LIBTORCH")?).join("lib")))
}
