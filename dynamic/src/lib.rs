//! The demo's REST API: a few random students as JSON, and the name of the server that made them up.
//!
//! It exists to be put behind nginit several times over: every answer carries `X-Server`, so whoever
//! asks can see which copy answered, and `?delay_ms=` makes a request last, so that a graceful stop can
//! be seen to wait for it. It keeps no state and trusts no input.
//!
//! - `announce`: the heartbeat that tells a proxy of it
//! - `cli`: the command line and its environment variables
//! - `api`: paths, answers, headers
//! - `students`: the made-up students
//! - `server`: listening, and stopping without losing a request

mod announce;
mod api;
mod cli;
mod server;
mod students;

pub use announce::{Announce, Url};
pub use cli::Cli;

use anyhow::Context as _;

/// Serves until TERM or INT, then finishes what was asked and returns.
///
/// # Errors
/// When the address cannot be listened on, the name cannot be a header, or requests had to be abandoned.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    // One thread is plenty for a demo, and keeps a copy of it at a few MB.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(server::serve(cli))
}
