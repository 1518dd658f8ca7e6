//! How the static program is linked.

#![expect(clippy::disallowed_methods, reason = "the bans are for the program")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What makes it smaller and not every linker or C library knows.
const ARGS: [&str; 2] = [
    // Relocations as a bitmap: 120 kB. The program relocates itself, which glibc knows how to since 2.36.
    "-Wl,-z,pack-relative-relocs",
    // One copy of functions of the same code: 40 kB. Only lld; nothing here compares functions.
    "-Wl,--icf=all",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    // What was built for another machine could not be tried.
    if features.split(',').any(|feature| feature == "crt-static") && env::var("HOST") == env::var("TARGET") {
        ARGS.iter().filter(|arg| works(arg)).for_each(|arg| println!("cargo:rustc-link-arg-bins={arg}"));
    }
}

/// Whether a program that is linked so runs.
fn works(arg: &str) -> bool {
    let Some(dir) = env::var_os("OUT_DIR").map(PathBuf::from) else { return false };
    let (source, program) = (dir.join("try.rs"), dir.join("try"));
    fs::write(&source, "fn main() {}\n").is_ok() && link(&source, &program, arg) && runs(&mut Command::new(program))
}

fn link(source: &Path, program: &Path, arg: &str) -> bool {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    // As the program itself is going to be compiled and linked.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    runs(rustc.args(["--crate-type", "bin", "-C"]).arg(format!("link-arg={arg}")).arg("-o").arg(program).arg(source))
}

fn runs(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
