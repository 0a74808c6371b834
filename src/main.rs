//! The `millstream` command: sets up logs and threads, and hands the rest to [`millstream::shell`].

use std::process::ExitCode;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    millstream::failpoints::set_from_environment();
    let filter = EnvFilter::builder()
        .with_env_var("MILLSTREAM_LOG")
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).init();

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the threads that queries run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(millstream::shell::main_with_args(std::env::args_os()));
    // What still runs (a read that a second Ctrl-C left behind) must not keep the process alive.
    runtime.shutdown_background();
    code
}
