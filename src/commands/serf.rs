//! The event handler of a Serf agent: what the agent tells goes to the running nginit.

use std::io::{self, Read};
use std::time::Duration;

use super::control;
use crate::admin::Request;
use crate::exit::{Failure, Status};
use crate::inputs::Env;
use crate::serf::{self, LONGEST_INPUT};

/// Longest wait: the agent runs its handlers one by one, so none may keep it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Tells the running nginit what `SERF_EVENT` and the standard input say. Events that are none of
/// ours are none of its business.
///
/// # Errors
/// That this is no event of an agent's, or that nobody answers.
pub fn run(env: &Env) -> Result<Status, Failure> {
    let refuse = |reason: String| Failure::new(Status::Failure, reason);
    let event = env.text("SERF_EVENT");
    let mut input = Vec::new();
    // Without an event, nobody writes there.
    if event.is_some() {
        let longest = u64::try_from(LONGEST_INPUT).unwrap_or(u64::MAX);
        let read = io::stdin().lock().take(longest.saturating_add(1)).read_to_end(&mut input);
        read.map_err(|err| refuse(format!("reading what the agent tells: {err}")))?;
    }
    let Some(event) = serf::command_body(event.as_deref(), &input).map_err(refuse)? else {
        return Ok(Status::Success);
    };
    let told = control::ask(env, &Request::Serf(event), TIMEOUT);
    // Status 2 is for what waits for a reload.
    told.map(|_| Status::Success).map_err(|failure| Failure { status: Status::Failure, ..failure })
}
