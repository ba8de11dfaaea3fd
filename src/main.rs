//! The `wayleave` binary: command line in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    wayleave::cli::main()
}
